//! A real Kubernetes, and pods in it, for tests.
//!
//! `cargo xtask cluster up` starts it; `EGRESS_CLUSTER` names the folder where it says what
//! it started. Nothing of it is imitated. Two shortcuts keep a test short: the API server is
//! asked through [`Api`] rather than by `kubectl`, and traffic is sent and answered by the
//! test itself, on sockets that it makes in a pod's network namespace. Where a container's
//! own first act matters, the container acts.

mod agent;
mod api;
mod dns;
pub mod install;
mod machine;
mod namespace;
mod pod;
mod sandbox;
mod stage;
mod traffic;

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

pub use api::Api;
pub use dns::resolve;
pub use machine::{Held, Machine};
pub use namespace::Namespace;
pub use pod::{Pod, PodSpec};
pub use stage::Stage;
pub use traffic::{Case, soon};

/// Image of a container that does nothing.
pub const PAUSE: &str = "egress-agent.test/pause:1";

/// Image of Kubernetes' own test servers and clients.
pub const AGNHOST: &str = "egress-agent.test/agnhost:1";

/// containerd's own client, as a node has it.
const CTR: &str = "/opt/cluster/bin/ctr";

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    /// Its API server.
    pub api: Api,
    names: Vec<String>,
}

impl Cluster {
    /// The one that `EGRESS_CLUSTER` names.
    pub fn given() -> Result<Self> {
        let folder = PathBuf::from(env::var_os("EGRESS_CLUSTER").context(
            "EGRESS_CLUSTER names no cluster: `cargo xtask test` does, or target/cluster/run/NAME after `cargo xtask cluster up`",
        )?);
        Ok(Self {
            api: Api::new(&folder.join("shared/kubeconfig"))?,
            names: machine::names(&folder)?,
            folder,
        })
    }

    /// The machine with the control plane, where the world outside is.
    pub fn control(&self) -> Result<Machine> {
        self.machine("control")
    }

    /// A node as its Node object is called.
    pub fn node(&self, name: &str) -> Result<Machine> {
        self.machine(name)
    }

    /// Names of the nodes, in order.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.names
            .iter()
            .map(String::as_str)
            .filter(|name| *name != "control")
    }

    /// A new namespace, whose name starts with `name` and is unique.
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<Namespace<'_>> {
        Namespace::new(self, name, labels)
    }

    /// For programs that take a file.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("shared/kubeconfig")
    }

    /// Ends a node and starts it again, as a power cut would.
    pub fn restart(&self, node: &str) -> Result<()> {
        let xtask = env::var_os("EGRESS_XTASK").context("EGRESS_XTASK names no xtask")?;
        let name = self
            .folder
            .file_name()
            .context("a cluster without a name")?;
        let output = Command::new(xtask)
            .args(["cluster", "--name"])
            .arg(name)
            .args(["restart", node])
            .output()
            .context("running xtask")?;
        ensure!(
            output.status.success(),
            "restarting {node}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn machine(&self, name: &str) -> Result<Machine> {
        Machine::load(&self.folder, name)
    }
}
