//! The cluster with an agent, and the same cluster without.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::traffic::{self, Case};
use super::{Cluster, install};

/// A cluster in a known state. Every scenario runs in both: what a policy stops with an agent
/// has to flow without, or the test would pass wherever traffic is lost for another reason.
#[derive(Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    enforced: bool,
}

impl Stage {
    /// Nobody enforces policies.
    pub fn without_agent() -> Result<Self> {
        let cluster = Cluster::given()?;
        ensure!(
            !install::is_installed(&cluster)?,
            "an agent is installed, and this is the negative control"
        );
        Ok(Self {
            cluster,
            enforced: false,
        })
    }

    /// The agent does; it is installed if it is not there.
    pub fn with_agent() -> Result<Self> {
        let cluster = Cluster::given()?;
        install::by_helm(&cluster)?;
        Ok(Self {
            cluster,
            enforced: true,
        })
    }

    /// Whether there is somebody to enforce.
    pub fn is_enforced(&self) -> bool {
        self.enforced
    }

    /// Waits until each probe is answered, or with an agent not answered where the case says
    /// so; and returns how long that took.
    pub fn soon(&self, cases: &[Case<'_>]) -> Result<Duration> {
        let cases: Vec<Case<'_>> = cases
            .iter()
            .map(|(pod, probe, open)| (*pod, *probe, *open || !self.enforced))
            .collect();
        traffic::soon(&cases)
    }
}
