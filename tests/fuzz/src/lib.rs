//! What is read from strangers: any bytes must be read, and some things must hold whatever they
//! are. The inputs that are worth keeping are in `corpus/`, a folder a target; `cargo test` replays
//! them, `cargo xtask fuzz TARGET` looks for more.
#![expect(
    clippy::panic,
    reason = "a panic is how a target says that something does not hold"
)]

mod manifests;
mod network;
mod objects;
mod packet;
mod record;
mod result;
pub mod second;

/// Something that reads bytes of a stranger.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its folder in `corpus/`.
    pub name: &'static str,
    /// Reads the bytes. Panics when something does not hold.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 6] = [
    // Frames past the hooks: whatever passes is what a policy allows, read by another parser.
    Target {
        name: "packet",
        run: packet::run,
    },
    // A file in the manifests' folder.
    Target {
        name: "manifests",
        run: manifests::run,
    },
    // Objects, and the oracle's opinion of them.
    Target {
        name: "objects",
        run: objects::run,
    },
    // What the kernel's ring holds.
    Target {
        name: "record",
        run: record::run,
    },
    // What a container runtime hands the plugin, and what a CNI wrote for the runtime.
    Target {
        name: "network",
        run: network::run,
    },
    // What libcni keeps of a sandbox.
    Target {
        name: "result",
        run: result::run,
    },
];

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

pub use packet::{Fate, Hook, POD_V4, POD_V6, SERVER_V4, SERVER_V6};
