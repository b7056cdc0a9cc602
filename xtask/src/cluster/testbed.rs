//! The cluster that the tests run in.

use std::env;
use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::state::{Cni, Folder};
use super::{Up, lock, up};
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
        // One that was left over has seen other tests.
        up::down(&folder)?;
        let how = Up {
            nodes: 2,
            cni: Cni::Ptp,
        };
        let cluster = up::up(workspace, NAME, &folder, &how)?;
        Ok(Self {
            folder,
            programs: cluster.programs.into(),
        })
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

impl Drop for Testbed {
    fn drop(&mut self) {
        if let Err(error) = up::down(&self.folder) {
            println!("taking the cluster down: {error:#}");
        }
    }
}
