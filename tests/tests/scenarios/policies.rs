//! Selectors, blocks and ports.

use anyhow::{Context as _, Result, ensure};
use egress_tests::cluster::{PodSpec, Stage, resolve};
use egress_tests::harness::objects::{deny_all, egress, policy, port, to_blocks};
use egress_tests::harness::{Echo, Probe, TcpExchange, UdpExchange, until};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};

const PORT: u16 = 8080;
const OTHER: u16 = 9090;

/// Addresses outside of the cluster; see docs/cluster.md.
const OUTSIDE: [&str; 4] = ["198.51.100.1", "198.51.100.2", "2001:db8::1", "2001:db8::2"];

/// Cluster DNS.
const DNS: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];

/// S2, S21: the policy's selector chooses who is isolated, its peers' who may be asked.
pub(crate) fn selectors_choose_pods_and_peers(stage: &Stage) -> Result<()> {
    let ns = stage.cluster.namespace("selectors", &[])?;
    let [client, free, mut right, mut wrong] = ns.pods([
        PodSpec::new("client").label("role", "client"),
        PodSpec::new("free").label("role", "free"),
        PodSpec::new("right").label("role", "server"),
        PodSpec::new("wrong").label("role", "other"),
    ])?;
    for server in [&mut right, &mut wrong] {
        server.serve(&[PORT, OTHER])?;
    }
    ns.apply(&policy(
        ns.name(),
        "p",
        &json!({
            "podSelector": { "matchLabels": { "role": "client" } },
            "policyTypes": ["Egress"],
            "egress": [{
                "to": [{ "podSelector": { "matchLabels": { "role": "server" } } }],
                "ports": [port(PORT, "TCP"), port(OTHER, "UDP")],
            }],
        }),
    ))?;
    stage.soon(&[
        (&client, Probe::tcp(right.v4, PORT), true),
        (&client, Probe::tcp(right.v6, PORT), true),
        (&client, Probe::udp(right.v4, OTHER), true),
        (&client, Probe::tcp(right.v4, OTHER), false),
        (&client, Probe::udp(right.v6, PORT), false),
        (&client, Probe::tcp(wrong.v4, PORT), false),
        (&client, Probe::ping(right.v4), false),
        (&free, Probe::tcp(wrong.v4, PORT), true),
        (&free, Probe::tcp(right.v6, OTHER), true),
    ])?;
    // Nobody's policy any more once it is gone.
    ns.delete(&policy(ns.name(), "p", &json!({})))?;
    stage.soon(&[
        (&client, Probe::tcp(wrong.v4, PORT), true),
        (&client, Probe::ping(right.v4), true),
    ])?;
    Ok(())
}

/// S27: a namespace is selected by the labels that it has now.
pub(crate) fn a_namespace_that_is_relabelled_changes_what_it_selects(stage: &Stage) -> Result<()> {
    let here = stage.cluster.namespace("relabel", &[])?;
    let there = stage.cluster.namespace("relabelled", &[("team", "a")])?;
    let [client] = here.pods([PodSpec::new("client")])?;
    let [mut server] = there.pods([PodSpec::new("server")])?;
    server.serve(&[PORT])?;
    here.apply(&egress(
        here.name(),
        "p",
        &json!([{ "to": [{ "namespaceSelector": { "matchLabels": { "team": "a" } } }] }]),
    ))?;
    let cases = |open| {
        [
            (&client, Probe::tcp(server.v4, PORT), open),
            (&client, Probe::tcp(server.v6, PORT), open),
        ]
    };
    stage.soon(&cases(true))?;
    there.relabel(&[("team", "b")])?;
    stage.soon(&cases(false))?;
    there.relabel(&[("team", "a")])?;
    stage.soon(&cases(true))?;
    Ok(())
}

/// S68: the resolver is asked by its Service's address, and allowed by its pods' labels.
pub(crate) fn default_deny_leaves_cluster_dns_when_that_is_allowed(stage: &Stage) -> Result<()> {
    let ns = stage.cluster.namespace("dns", &[])?;
    let [client, mut server] = ns.pods([PodSpec::new("client"), PodSpec::new("server")])?;
    server.serve(&[PORT])?;
    let name = "kubernetes.default.svc.cluster.local";
    for server in DNS {
        let server = server.parse()?;
        until("cluster DNS answers at all", || {
            Ok(resolve(&client.ns, server, name)?.is_some())
        })?;
    }
    ns.apply(&deny_all(ns.name()))?;
    stage.soon(&[(&client, Probe::tcp(server.v4, PORT), false)])?;
    for server in DNS {
        let answer = resolve(&client.ns, server.parse()?, name)?;
        ensure!(
            answer.is_none() == stage.is_enforced(),
            "{server} answers {answer:?}"
        );
    }
    ns.apply(&egress(
        ns.name(),
        "dns",
        &json!([{
            "to": [{
                "namespaceSelector": {
                    "matchLabels": { "kubernetes.io/metadata.name": "kube-system" },
                },
                "podSelector": { "matchLabels": { "k8s-app": "kube-dns" } },
            }],
            "ports": [port(53, "UDP"), port(53, "TCP")],
        }]),
    ))?;
    until("cluster DNS answers", || {
        Ok(resolve(&client.ns, DNS[0].parse()?, name)?.is_some())
    })?;
    let answer = resolve(&client.ns, DNS[0].parse()?, name)?.context("it answered before")?;
    ensure!(answer == ["10.96.0.1".parse::<IpAddr>()?], "{answer:?}");
    stage.soon(&[(&client, Probe::tcp(server.v4, PORT), false)])?;
    Ok(())
}

/// S31: 0.0.0.0/0 allows no IPv6, nor ::/0 IPv4.
pub(crate) fn a_block_of_one_family_says_nothing_of_the_other(stage: &Stage) -> Result<()> {
    let ns = stage.cluster.namespace("families", &[])?;
    let [client, mut server] = ns.pods([PodSpec::new("client"), PodSpec::new("server")])?;
    server.serve(&[PORT])?;
    for (block, v4, v6) in [("0.0.0.0/0", true, false), ("::/0", false, true)] {
        ns.apply(&egress(
            ns.name(),
            "p",
            &json!([to_blocks(&[block], &json!([port(PORT, "TCP")]))]),
        ))?;
        stage.soon(&[
            (&client, Probe::tcp(server.v4, PORT), v4),
            (&client, Probe::tcp(server.v6, PORT), v6),
            (&client, Probe::udp(server.v4, PORT), false),
        ])?;
    }
    Ok(())
}

/// S37, S38: a name in a rule is looked up in the pod that is asked.
pub(crate) fn named_ports_are_those_of_the_pod_that_is_asked(stage: &Stage) -> Result<()> {
    let ns = stage.cluster.namespace("named", &[])?;
    let [client, mut one, mut two] = ns.pods([
        PodSpec::new("client"),
        PodSpec::new("one").port("web", PORT, "TCP"),
        PodSpec::new("two").port("web", OTHER, "TCP"),
    ])?;
    for server in [&mut one, &mut two] {
        server.serve(&[PORT, OTHER])?;
    }
    ns.apply(&egress(
        ns.name(),
        "p",
        &json!([{ "to": [{ "podSelector": {} }], "ports": [{ "port": "web" }] }]),
    ))?;
    stage.soon(&[
        (&client, Probe::tcp(one.v4, PORT), true),
        (&client, Probe::tcp(one.v6, OTHER), false),
        (&client, Probe::tcp(two.v6, OTHER), true),
        (&client, Probe::tcp(two.v4, PORT), false),
    ])?;
    Ok(())
}

/// S54: what is open when a policy changes is judged by the new one.
pub(crate) fn an_edit_cuts_and_readmits_what_is_open(stage: &Stage) -> Result<()> {
    let ns = stage.cluster.namespace("edit", &[])?;
    let [client, mut server] = ns.pods([
        PodSpec::new("client").label("role", "client"),
        PodSpec::new("server"),
    ])?;
    server.serve(&[PORT])?;
    let mut tcp = TcpExchange::open(&client.ns, SocketAddr::new(server.v4.into(), PORT))?;
    let mut udp = UdpExchange::open(&client.ns, SocketAddr::new(server.v6.into(), PORT))?;
    // Opened by the other side: answers are nobody's egress (S52).
    let _inside = Echo::tcp(&client.ns, SocketAddr::new(client.v4.into(), OTHER))?;
    let mut inbound = TcpExchange::open(&server.ns, SocketAddr::new(client.v4.into(), OTHER))?;
    ns.apply(&policy(
        ns.name(),
        "deny",
        &json!({
            "podSelector": { "matchExpressions": [
                { "key": "role", "operator": "In", "values": ["client", "other"] },
            ] },
            "policyTypes": ["Egress"],
            "egress": [],
        }),
    ))?;
    stage.soon(&[(&client, Probe::tcp(server.v4, PORT), false)])?;
    if stage.is_enforced() {
        until("the datagrams are cut", || udp.cut())?;
        until("the connection is cut", || tcp.cut())?;
    }
    ensure!(inbound.alive()?, "{inbound:?} after the policy");
    ns.delete(&policy(ns.name(), "deny", &json!({})))?;
    stage.soon(&[(&client, Probe::tcp(server.v4, PORT), true)])?;
    ensure!(tcp.alive()?, "{tcp:?} after the policy was deleted");
    ensure!(udp.alive()?, "{udp:?} after the policy was deleted");
    ensure!(inbound.alive()?, "{inbound:?} after the policy was deleted");
    Ok(())
}

/// S30: the exceptions of a block are no part of it.
pub(crate) fn blocks_reach_outside_but_for_their_exceptions(stage: &Stage) -> Result<()> {
    let ns = stage.cluster.namespace("outside", &[])?;
    let [client] = ns.pods([PodSpec::new("client")])?;
    let outside = stage.cluster.control()?.network()?;
    let mut servers = Vec::new();
    // A port of this test's own: others serve outside, too.
    let port_here = 7001;
    for address in OUTSIDE {
        servers.push(Echo::tcp(
            &outside,
            SocketAddr::new(address.parse()?, port_here),
        )?);
    }
    ns.apply(&egress(
        ns.name(),
        "p",
        &json!([{ "to": [
            { "ipBlock": { "cidr": "198.51.100.0/24", "except": ["198.51.100.2/32"] } },
            { "ipBlock": { "cidr": "2001:db8::/64", "except": ["2001:db8::2/128"] } },
        ] }]),
    ))?;
    let [near, far, near_v6, far_v6] = OUTSIDE;
    stage.soon(&[
        (
            &client,
            Probe::tcp(near.parse::<IpAddr>()?, port_here),
            true,
        ),
        (
            &client,
            Probe::tcp(far.parse::<IpAddr>()?, port_here),
            false,
        ),
        (
            &client,
            Probe::tcp(near_v6.parse::<IpAddr>()?, port_here),
            true,
        ),
        (
            &client,
            Probe::tcp(far_v6.parse::<IpAddr>()?, port_here),
            false,
        ),
    ])?;
    Ok(())
}

/// Pods of other nodes are peers as those of the own one, and each node judges its own pods.
pub(crate) fn pods_on_two_nodes_are_told_apart_on_both(stage: &Stage) -> Result<()> {
    let nodes: Vec<&str> = stage.cluster.nodes().collect();
    let [first, second, ..] = *nodes else {
        anyhow::bail!("one node only: {nodes:?}");
    };
    let ns = stage.cluster.namespace("nodes", &[])?;
    let [mut here, mut there, mut other] = ns.pods([
        PodSpec::new("here").node(first).label("peer", "yes"),
        PodSpec::new("there").node(second).label("peer", "yes"),
        PodSpec::new("other").node(second),
    ])?;
    for pod in [&mut here, &mut there, &mut other] {
        pod.serve(&[PORT])?;
    }
    ns.apply(&policy(
        ns.name(),
        "p",
        &json!({
            "podSelector": { "matchLabels": { "peer": "yes" } },
            "policyTypes": ["Egress"],
            "egress": [{ "to": [{ "podSelector": { "matchLabels": { "peer": "yes" } } }] }],
        }),
    ))?;
    stage.soon(&[
        (&here, Probe::tcp(there.v4, PORT), true),
        (&there, Probe::tcp(here.v6, PORT), true),
        (&here, Probe::udp(other.v4, PORT), false),
        (&here, Probe::tcp(other.v6, PORT), false),
        (&there, Probe::tcp(other.v4, PORT), false),
        (&other, Probe::tcp(here.v4, PORT), true),
        (&other, Probe::tcp(there.v6, PORT), true),
    ])?;
    Ok(())
}
