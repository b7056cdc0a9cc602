//! What is known of a cluster between two commands: a folder, and a file in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::addresses::MOST_NODES;
use super::machine::{ControlGroup, Machine};
use crate::workspace::Workspace;

/// The machine that is no node.
pub(super) const CONTROL: &str = "control";

pub(super) fn node_name(index: u8) -> String {
    format!("node-{index}")
}

/// How pods are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Cni {
    /// A veth and a route for each pod
    Ptp,
    /// A bridge on each node
    Bridge,
}

/// Where all of a cluster's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Of the cluster with this name, whether there is one or not.
    pub(super) fn new(workspace: &Workspace, name: &str) -> Result<Self> {
        ensure!(
            !name.is_empty()
                && name.len() <= 30
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
            "{name:?} is no name of a cluster: lower case letters, digits and dashes are"
        );
        Ok(Self(workspace.target.join("cluster/run").join(name)))
    }

    /// Of a path that [`Self::path`] gave out.
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// What one machine calls `/var`, `/opt` and `/etc`.
    pub(super) fn machine(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What every machine sees.
    pub(super) fn shared(&self) -> PathBuf {
        self.0.join("shared")
    }

    /// For people and for tests.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.shared().join("kubeconfig")
    }

    fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }
}

/// A cluster that was started. Other programs read this file, too: tests find the machines'
/// namespaces through it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cluster {
    pub(super) name: String,
    pub(super) folder: Folder,
    pub(super) nodes: u8,
    pub(super) cni: Cni,
    pub(super) programs: PathBuf,
    pub(super) assets: Option<PathBuf>,
    /// Of the API server, on this machine's loopback.
    pub(super) port: u16,
    /// In the order in which they were started.
    pub(super) machines: Vec<Machine>,
}

impl Cluster {
    /// `None` when none was started, or the last one was taken down.
    pub(super) fn load(folder: &Folder) -> Result<Option<Self>> {
        let path = folder.state();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("reading {}", path.display()))
    }

    /// In one step, so that no command ever reads half of it.
    pub(super) fn save(&self) -> Result<()> {
        let path = self.folder.state();
        let part = path.with_extension("part");
        let text = serde_json::to_vec_pretty(self).context("JSON of the state")?;
        fs::write(&part, text)
            .and_then(|()| fs::rename(&part, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    pub(super) fn indices(&self) -> std::ops::Range<u8> {
        0..self.nodes
    }

    pub(super) fn index_of(&self, node: &str) -> Result<u8> {
        self.indices()
            .find(|index| node_name(*index) == node)
            .with_context(|| format!("there is no node {node}"))
    }

    pub(super) fn machine(&self, name: &str) -> Result<&Machine> {
        self.machines
            .iter()
            .find(|machine| machine.name == name)
            .with_context(|| format!("{} has no machine {name}", self.name))
    }

    pub(super) fn control_group(&self, index: u8) -> ControlGroup {
        ControlGroup::new(format!("egress-{}-{}", self.name, node_name(index)))
    }

    /// Every machine that it should have is there.
    pub(super) fn is_whole(&self) -> bool {
        self.machines.len() == usize::from(self.nodes) + 1
            && self.machines.iter().all(Machine::is_alive)
    }
}

/// Clap's way to check a number of nodes.
pub(super) fn number_of_nodes() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=i64::from(MOST_NODES))
}
