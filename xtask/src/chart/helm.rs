//! Helm, as it renders the chart without a cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cluster;
use crate::process;
use crate::workspace::Workspace;

/// Kubernetes' version as the templates see it, where no cluster can be asked. A helm that was
/// built from source takes a very old one otherwise.
const KUBERNETES: &str = "1.33.0";

/// A helm that was found.
#[derive(Clone, Debug)]
pub(super) struct Helm {
    program: PathBuf,
}

impl Helm {
    /// On `PATH`, or the one that clusters are built with.
    pub(super) fn find(workspace: &Workspace) -> Result<Option<Self>> {
        let program = match process::find("helm") {
            Some(program) => Some(program),
            None => cluster::program(workspace, "helm")?,
        };
        Ok(program.map(|program| Self { program }))
    }

    /// Fails on everything that `helm lint` has to say.
    pub(super) fn lint(&self, chart: &Path) -> Result<()> {
        let mut command = Command::new(&self.program);
        command
            .args(["lint", "--strict", "--quiet", "--kube-version", KUBERNETES])
            .arg(chart);
        process::output(&mut command).map(drop)
    }

    /// The chart's objects, as text.
    pub(super) fn template(
        &self,
        chart: &Path,
        namespace: &str,
        options: &[&str],
    ) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .args(["template", "egress-agent"])
            .arg(chart)
            .args(["--namespace", namespace, "--kube-version", KUBERNETES])
            .args(options);
        process::output(&mut command)
    }
}
