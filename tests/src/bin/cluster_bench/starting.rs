//! What our plugin adds to the start of a pod: from its start to its end, by a clock around it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use egress_tests::cluster::{Cluster, PodSpec};
use egress_tests::harness::objects::deny_all;

/// The chart's value that puts the plugin beside the clock, which has its name where the runtime
/// looks.
pub(crate) const BESIDE: &str = "--set=cni.binDir=/opt/cni/egress-agent";

const CLOCK: &str = "/opt/cni/bin/egress-agent-cni";

const TIMES: &str = "/run/cni-add.nanoseconds";

const NODE: &str = "node-0";

const PODS: usize = 50;

/// Before the agent is installed.
pub(crate) fn put_clock(cluster: &Cluster) -> Result<()> {
    let script = format!(
        "#!/bin/sh\nbegun=$(date +%s%N)\n/opt/cni/egress-agent/egress-agent-cni\nresult=$?\n\
         ended=$(date +%s%N)\n\
         [ \"$CNI_COMMAND\" != ADD ] || [ $result != 0 ] || echo $((ended - begun)) >> {TIMES}\n\
         exit $result\n"
    );
    for node in cluster.nodes() {
        let path = cluster.node(node)?.path(CLOCK);
        fs::write(&path, &script)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// One pod after the other, each isolated before it starts.
pub(crate) fn run(cluster: &Cluster) -> Result<Vec<Duration>> {
    let ns = cluster.namespace("starting", &[])?;
    ns.apply(&deny_all(ns.name()))?;
    let path = cluster.node(NODE)?.path(TIMES);
    // The first ones find pages and caches cold.
    for number in 0..PODS {
        ns.pods([PodSpec::new(&format!("p{number}")).node(NODE)])?;
    }
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.lines()
        .map(|line| Ok(Duration::from_nanos(line.parse()?)))
        .collect()
}
