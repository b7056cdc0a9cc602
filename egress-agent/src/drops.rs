//! Drops as they happen, attributed.
//!
//! Records are for people: the kernel limits their rate and may lose some. Totals are in
//! [`crate::metrics`].

mod events;
mod filter;
mod log;
mod record;
mod text;

pub use events::publish;
pub use filter::{NotTo, To};
pub use log::{DropLog, Followed, REMEMBERED};
pub(crate) use record::Key;
pub use record::{Clocks, DropRecord};
pub use text::{render, render_wrapped};
