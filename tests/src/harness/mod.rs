//! A node, its pods and the outside world, as network namespaces.
//!
//! [`World`] is the stage: a "host" namespace that stands for the node and runs the real
//! agent, an "outside" namespace with addresses to talk to, and a namespace a pod. Nothing
//! of the machine's own network is touched, so worlds can stand side by side.
//!
//! What a test does on it: `probe` sends real traffic, [`raw`] sends hand-made
//! frames, [`Manifests`] edits what the agent reads, [`Agent`] starts and kills it. Every
//! wait has a deadline and something it waits *for*; nothing sleeps and hopes.

mod agent;
mod cni;
pub(crate) mod echo;
mod folder;
pub mod gate;
mod load;
mod manifests;
mod metrics;
mod netns;
pub mod objects;
pub(crate) mod pod;
pub(crate) mod probe;
pub mod prometheus;
pub mod raw;
mod traffic;
mod wait;
mod wire;
mod world;

pub use agent::{Agent, Answer, binary};
pub use cni::{Answered, Plugin};
pub use echo::Echo;
pub use gate::Gate;
pub use load::Load;
pub use manifests::Manifests;
pub use metrics::Metrics;
pub use netns::{NetNs, ip_batch, report};
pub use pod::{Pod, PodSpec};
pub use probe::{Outcome, Probe, TcpExchange, UdpExchange};
pub use traffic::Traffic;
pub use wait::{DEADLINE, until};
pub use wire::{Inbound, Wire, fence_rule};
pub use world::{NODE, NODE_V4, NODE_V6, OUTSIDE, Outside, World, on_world};
