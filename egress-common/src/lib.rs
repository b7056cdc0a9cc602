//! What the kernel programs and the agent share.
//!
//! The same code is compiled for BPF and for the host, so `check` and `explain`
//! give the kernel's own answer.
//!
//! * [`abi`]: keys and values of the kernel tables.
//! * [`event`]: the drop record, and the one list of reasons.
//! * [`flows`]: the tables of flows.
//! * [`packet`]: bytes to [`packet::Packet`].
//! * [`tables`]: what a decision reads and writes, as two traits.
//! * [`decide`]: the policy verdict of one flow.
//! * [`hook`]: the two hooks, from a frame to a [`event::Reason`].
#![no_std]

pub mod abi;
pub mod decide;
pub mod event;
pub mod flows;
pub mod hook;
pub mod packet;
pub mod tables;
