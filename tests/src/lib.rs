//! Stage and tools of the tests: namespaces with real traffic, hand-made packets.

pub mod harness;
pub mod packet;
