//! The pure part of egress-agent: Kubernetes objects in, kernel tables out.
//!
//! No I/O, no clock, no threads; the same input gives the same output.

pub mod cidr;
pub mod label;
pub mod object;
pub mod policy;
pub mod service;
pub mod store;
pub mod workload;
