//! The pure part of egress-agent: Kubernetes objects in, kernel tables out.
//!
//! No I/O, no clock, no threads; the same input gives the same output.

pub mod check;
pub mod cidr;
pub mod compile;
pub mod explain;
pub mod image;
pub mod label;
pub mod object;
pub mod plan;
pub mod policy;
pub mod ports;
pub mod ruleset;
pub mod service;
pub mod store;
pub mod trie;
pub mod workload;

#[cfg(test)]
mod fixture;
