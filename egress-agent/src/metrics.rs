//! Everything under `/metrics`.
//!
//! Packet counts come from the kernel's counters at the moment of the scrape, never from
//! events, which are rate limited. What there is, by name, is in [`catalogue`].

pub mod catalogue;
mod collectors;
mod counters;
mod kernel;
mod observations;
mod openmetrics;
mod text;

pub use counters::{Counters, Scrape, Series, WorkloadLabels};
pub use kernel::{DropCount, Kernel, ReadError, Readings, SlotDrops};
pub use observations::{Observations, Stage};
pub use openmetrics::open_metrics;
pub use text::render;
