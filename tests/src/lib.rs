//! Stage and tools of the tests: namespaces with real traffic, hand-made packets.

pub mod cluster;
pub mod crowd;
pub mod harness;
pub mod length;
pub mod packet;
pub mod parity;
