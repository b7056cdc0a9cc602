//! What a large cluster costs an agent whose own node is small.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use egress_tests::cluster::Cluster;
use egress_tests::crowd;
use serde_json::Value;

const PODS: usize = 10_000;
const POLICIES: usize = 500;

/// Nodes that no kubelet is behind, their pods, and policies over them.
pub(crate) fn fill(cluster: &Cluster) -> Result<()> {
    let api = &cluster.api;
    let spaces: Vec<Value> = (0..crowd::NAMESPACES).map(crowd::namespace).collect();
    api.apply_all(&spaces)?;
    let nodes: Vec<Value> = (0..crowd::NODES).map(crowd::node).collect();
    api.apply_all(&nodes)?;
    // Their service accounts are made meanwhile.
    thread::sleep(Duration::from_secs(5));
    let numbers: Vec<usize> = (0..PODS).collect();
    for some in numbers.chunks(500) {
        let pods: Vec<Value> = some.iter().copied().map(crowd::pod).collect();
        api.apply_all(&pods)?;
        let statuses: Vec<Value> = some.iter().copied().map(crowd::status).collect();
        api.apply_statuses(&statuses)?;
    }
    let policies: Vec<Value> = (0..POLICIES).map(crowd::policy).collect();
    api.apply_all(&policies)
}

/// Resident now, and at most so far.
pub(crate) fn of_agent(cluster: &Cluster) -> Result<String> {
    // What was only needed at the start has gone by then.
    thread::sleep(Duration::from_secs(20));
    let node = cluster.node("node-0")?;
    let pid = node.output("pgrep", &["--exact", "egress-agent"])?;
    let status = node.output("cat", &[&format!("/proc/{}/status", pid.trim())])?;
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).with_context(|| format!("no {name}"))
    };
    Ok(format!(
        "{} resident, at most {}",
        line("VmRSS:")?,
        line("VmHWM:")?
    ))
}
