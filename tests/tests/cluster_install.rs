//! The agent comes into a cluster and leaves it again, by each way that the README has.

use std::fs;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use egress_tests::cluster::{Cluster, Machine, PodSpec, Stage, install, soon};
use egress_tests::harness::objects::deny_all;
use egress_tests::harness::{Probe, until};
use serde_json::json;

const PORT: u16 = 8080;

#[test]
#[ignore = "needs a cluster"]
fn helm_installs_everything_and_takes_everything_away() -> Result<()> {
    let come = |cluster: &Cluster| {
        install::by_helm(cluster)?;
        install::helm_test(cluster)
    };
    comes_and_goes(come, install::helm_uninstall)
}

#[test]
#[ignore = "needs a cluster"]
fn kubectl_applies_everything_and_deletes_everything() -> Result<()> {
    comes_and_goes(install::by_manifest, install::delete_manifest)
}

/// One at a time: there is one agent a cluster.
fn comes_and_goes(
    come: impl FnOnce(&Cluster) -> Result<()>,
    go: impl FnOnce(&Cluster) -> Result<()>,
) -> Result<()> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::without_agent()?;
    let cluster = &stage.cluster;
    let ns = cluster.namespace("install", &[])?;
    let [old, mut server] = ns.pods([
        PodSpec::new("old").node("node-0"),
        PodSpec::new("server").node("node-1"),
    ])?;
    server.serve(&[PORT])?;
    ns.apply(&deny_all(ns.name()))?;
    let asks = |pod, open| {
        [
            (pod, Probe::tcp(server.v4, PORT), open),
            (pod, Probe::udp(server.v6, PORT), open),
        ]
    };
    soon(&asks(&old, true)).context("before there is an agent")?;

    come(cluster)?;
    soon(&asks(&old, false)).context("a pod that is older than the agent")?;
    let [new] = ns.pods([PodSpec::new("new").node("node-0")])?;
    soon(&asks(&new, false)).context("a pod that is younger than the agent")?;

    go(cluster)?;
    for pod in [&old, &new] {
        soon(&asks(pod, true)).context("after the agent has gone")?;
    }
    for node in cluster.nodes() {
        nothing_is_left(&cluster.node(node)?).with_context(|| node.to_owned())?;
    }
    ensure!(!install::is_installed(cluster)?, "the DaemonSet is left");
    for kind in ["ClusterRole", "ClusterRoleBinding"] {
        let object = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": { "name": format!("{}:{}", install::NAMESPACE, install::NAME) },
        });
        ensure!(cluster.api.get(&object)?.is_none(), "a {kind} is left");
    }
    // Nobody waits for an agent that is not there.
    ns.pods([PodSpec::new("last").node("node-0")])?;
    Ok(())
}

/// Neither the plugin, nor its place in the network, nor what held policies in the kernel.
fn nothing_is_left(node: &Machine) -> Result<()> {
    until("the agent has ended", || {
        Ok(!node.path("/run/egress-agent/agent.sock").exists())
    })?;
    let plugin = node.path("/opt/cni/bin/egress-agent-cni");
    ensure!(!plugin.exists(), "{} is left", plugin.display());
    let networks = names(node, "/etc/cni/net.d")?;
    ensure!(networks == ["10-pods.conflist"], "{networks:?}");
    let network = fs::read_to_string(node.path("/etc/cni/net.d/10-pods.conflist"))?;
    ensure!(!network.contains("egress-agent"), "{network}");
    let pins = node.path("/sys/fs/bpf/egress");
    ensure!(!pins.exists(), "{} is left", pins.display());
    let run = names(node, "/run/egress-agent")?;
    ensure!(run.is_empty(), "in /run/egress-agent: {run:?}");
    Ok(())
}

fn names(node: &Machine, folder: &str) -> Result<Vec<String>> {
    let path = node.path(folder);
    let entries = fs::read_dir(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}
