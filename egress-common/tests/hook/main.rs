//! The hooks over tables in memory: what docs/semantics.md says of packets, statement by statement.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod ask;
mod flows;
mod fragments;
mod frames;
mod headers;
mod icmp;
mod neighbours;
mod outcome;
mod policy;
mod world;
