//! What can go wrong with the kernel, by what failed.

use std::io;
use std::path::PathBuf;

use aya::maps::MapError;

/// The datapath could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The pin root is not on a BPF file system and could not be put on one.
    #[error(
        "{path} is not on a BPF file system and mounting one failed; on the node: mount -t bpf bpf /sys/fs/bpf"
    )]
    Mount {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A folder or pin could not be made or removed.
    #[error("pin {path}")]
    Pin {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another agent runs on this pin root.
    #[error(
        "another agent holds the lock of {path}: stop it first, or give this one its own --pin-root"
    )]
    Locked {
        /// The pin root.
        path: PathBuf,
    },
    /// The object was refused.
    #[error(
        "loading the kernel programs failed; needed: kernel 5.10 or newer with BPF, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (kernel {kernel}, missing: {missing})"
    )]
    Load {
        /// Version of the running kernel.
        kernel: String,
        /// Capabilities this process lacks.
        missing: String,
        /// What aya said, the verifier's log included.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A pinned map is not laid out as this version expects.
    #[error(
        "pinned map {map} has {field} {found}, this version wants {wanted}: run `egress-agent cleanup` or use another --pin-root"
    )]
    Layout {
        /// The map.
        map: String,
        /// What differs.
        field: &'static str,
        /// As pinned.
        found: u32,
        /// As wanted.
        wanted: u32,
    },
    /// A map of the object is missing or of another type.
    #[error("map {map}")]
    Map {
        /// The map.
        map: &'static str,
        /// What aya said.
        #[source]
        source: MapError,
    },
    /// The interfaces here cannot be listed.
    #[error("listing the interfaces that may have filters")]
    Interfaces(#[source] crate::pods::Error),
    /// The type information of inner maps was refused.
    #[error("loading the type information of inner maps")]
    InnerTypes(#[source] io::Error),
    /// The table of flows could not be shared with the kernel.
    #[error("sharing the table of flows with the kernel")]
    Flows {
        /// What failed.
        #[source]
        source: TableError,
    },
    /// Nothing that nobody can guess was to be had.
    #[error("asking the kernel for a random seed")]
    Seed {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The object lacks a map or program.
    #[error("the object has no {0}")]
    Missing(&'static str),
}

/// A read or write of a table failed.
#[derive(Debug, thiserror::Error)]
#[error("map {map}: {op}")]
pub struct TableError {
    /// The table.
    pub map: &'static str,
    /// `update`, `delete`, `lookup`, `create`.
    pub op: &'static str,
    /// What the kernel said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A plan was not carried out to its end.
#[derive(Debug, thiserror::Error)]
#[error("step {done} of {total}: {step}")]
pub struct ApplyError {
    /// Steps that were carried out.
    pub done: usize,
    /// Steps of the plan.
    pub total: usize,
    /// The step that failed.
    pub step: String,
    /// Why.
    #[source]
    pub source: TableError,
}

/// A hook could not be attached or detached.
#[derive(Debug, thiserror::Error)]
#[error("{op} {hook} at {interface}")]
pub struct AttachError {
    /// `attach`, `detach`, `pin`.
    pub op: &'static str,
    /// `from-pod` or `to-pod`.
    pub hook: &'static str,
    /// The interface's name.
    pub interface: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}
