//! The cluster that the tests run in.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::state::{Cni, Folder, node_name};
use super::{Up, lock, node, up};
use crate::build;
use crate::image;
use crate::process;
use crate::workspace::Workspace;

/// Besides whatever else runs here.
const NAME: &str = "test";

/// A cluster of two nodes, new, that goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Testbed {
    folder: Folder,
    programs: OsString,
}

impl Testbed {
    pub(crate) fn start(workspace: &Workspace) -> Result<Self> {
        let folder = Folder::new(workspace, NAME)?;
        let _lock = lock(&folder)?;
        let image = agent_image(workspace)?;
        // One that was left over has seen other tests.
        up::down(&folder)?;
        let how = Up {
            nodes: 2,
            cni: Cni::Ptp,
        };
        let cluster = up::up(workspace, NAME, &folder, &how)?;
        let testbed = Self {
            folder,
            programs: cluster.programs.clone().into(),
        };
        for index in cluster.indices() {
            node::import(cluster.machine(&node_name(index))?, &image)?;
        }
        Ok(testbed)
    }

    /// Tells test programs where it is, and where kubectl and helm are.
    pub(crate) fn tell(&self, command: &mut Command) -> Result<()> {
        let own = env::current_exe().context("finding this program's file")?;
        let path = command
            .get_envs()
            .find_map(|(name, value)| (name == "PATH").then_some(value?))
            .map_or_else(|| env::var_os("PATH").unwrap_or_default(), OsString::from);
        let path = [self.programs.clone().into()]
            .into_iter()
            .chain(env::split_paths(&path));
        let path = env::join_paths(path).context("a folder with a colon in its name")?;
        command
            .env("EGRESS_CLUSTER", self.folder.path())
            .env("EGRESS_XTASK", own)
            .env("KUBECONFIG", self.folder.kubeconfig())
            .env("PATH", path);
        Ok(())
    }
}

/// Measures an agent, in a cluster for nothing else.
pub(super) fn bench(workspace: &Workspace) -> Result<()> {
    build::release(workspace)?;
    let testbed = Testbed::start(workspace)?;
    let mut cargo = workspace.cargo();
    cargo
        .args(["run", "--package", "egress-tests", "--features", "cluster"])
        .args(["--bin", "cluster_bench"])
        .env("EGRESS_AGENT_BIN", workspace.released("egress-agent"));
    testbed.tell(&mut cargo)?;
    process::run(&mut cargo)
}

/// The image that `EGRESS_AGENT_IMAGE` names, or one that is made now.
fn agent_image(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(given) = env::var_os("EGRESS_AGENT_IMAGE") {
        return Ok(given.into());
    }
    let folder = workspace.target.join("cluster");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let output = folder.join("egress-agent.tar");
    image::make_default(workspace, output.clone())?;
    Ok(output)
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if let Err(error) = up::down(&self.folder) {
            println!("taking the cluster down: {error:#}");
        }
    }
}
