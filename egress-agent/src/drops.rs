//! Drops as they happen, attributed.
//!
//! Records are for people: the kernel limits their rate and may lose some. Totals are in
//! [`crate::metrics`].

mod log;
mod record;
mod text;

pub use log::{DropLog, Followed, REMEMBERED};
pub use record::{Clocks, DropRecord};
pub use text::render;
