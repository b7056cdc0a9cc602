//! Policies that come from the API server, and the traffic of pods that a kubelet started.

use anyhow::Result;
use egress_tests::cluster::{Cluster, PodSpec, expect};
use egress_tests::harness::Probe;
use egress_tests::harness::objects::deny_all;

const PORT: u16 = 8080;

/// The negative control of everything else here: nobody but the agent enforces policies.
#[test]
#[ignore = "needs a cluster"]
fn without_an_agent_a_policy_stops_nothing() -> Result<()> {
    let cluster = Cluster::given()?;
    let ns = cluster.namespace("control", &[])?;
    let [client, mut server] = ns.pods([PodSpec::new("client"), PodSpec::new("server")])?;
    server.serve(&[PORT])?;
    ns.apply(&deny_all(ns.name()))?;
    expect(&[
        (&client, Probe::tcp(server.v4, PORT), true),
        (&client, Probe::tcp(server.v6, PORT), true),
        (&client, Probe::udp(server.v4, PORT), true),
        (&client, Probe::ping(server.v6), true),
    ])
}
