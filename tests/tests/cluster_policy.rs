//! What policies and Services mean, and how many of them there may be.

mod scenarios;

use anyhow::{Context as _, Result, ensure};
use egress_tests::cluster::{AGNHOST, Namespace, PodSpec, Stage};
use egress_tests::harness::objects::{deny_all, egress, port};
use egress_tests::harness::{Probe, until};
use serde_json::{Value, json};

const PORT: u16 = 8080;
const FORBIDDEN: u16 = 9090;

scenarios!(Stage::with_agent());

#[test]
#[ignore = "needs a cluster"]
fn a_thousand_policies_at_once_are_all_enforced() -> Result<()> {
    let stage = Stage::with_agent()?;
    let ns = stage.cluster.namespace("thousand", &[])?;
    let [client, mut server] = ns.pods([PodSpec::new("client"), PodSpec::new("server")])?;
    let ports = [20_000, 20_500, 20_999];
    server.serve(&ports)?;
    server.serve(&[FORBIDDEN])?;
    let policies: Vec<Value> = (0..1_000_u16)
        .map(|number| {
            egress(
                ns.name(),
                &format!("p{number}"),
                &json!([{
                    "to": [{ "podSelector": {} }],
                    "ports": [port(20_000 + number, "TCP")],
                }]),
            )
        })
        .collect();
    stage.cluster.api.apply_all(&policies)?;
    let mut cases = vec![(&client, Probe::tcp(server.v4, FORBIDDEN), false)];
    cases.extend(ports.map(|port| (&client, Probe::tcp(server.v6, port), true)));
    stage.soon(&cases)?;
    let machine = stage.cluster.node(&client.node)?;
    let enforced = machine
        .metrics()?
        .sum("egress_policies", &[("state", "enforced")]);
    ensure!(enforced >= 1_000.0, "{enforced} policies are enforced");
    Ok(())
}

/// S56: a policy that is known holds before the first container starts.
#[test]
#[ignore = "needs a cluster"]
fn no_first_packet_of_a_hundred_pods_gets_out() -> Result<()> {
    let stage = Stage::with_agent()?;
    let ns = stage.cluster.namespace("first", &[])?;
    let elsewhere = stage.cluster.namespace("elsewhere", &[])?;
    let [mut server] = elsewhere.pods([PodSpec::new("server")])?;
    server.serve(&[PORT])?;
    let connects = |name: &str| {
        PodSpec::new(name).runs(
            AGNHOST,
            &["connect", &format!("{}:{PORT}", server.v4), "--timeout=1s"],
        )
    };
    let phase = |ns: &Namespace<'_>, spec: &PodSpec| -> Result<Option<String>> {
        let pod = ns.get(&spec.object())?.context("a pod is gone")?;
        let phase = pod.pointer("/status/phase").and_then(Value::as_str);
        Ok(phase
            .filter(|phase| ["Succeeded", "Failed"].contains(phase))
            .map(String::from))
    };
    // The same pod where no policy is.
    let free = connects("free");
    elsewhere.apply(&free.object())?;
    until("a pod without a policy has connected", || {
        Ok(phase(&elsewhere, &free)?.as_deref() == Some("Succeeded"))
    })?;

    ns.apply(&deny_all(ns.name()))?;
    let pods: Vec<PodSpec> = (0..100)
        .map(|number| connects(&format!("client-{number}")))
        .collect();
    for some in pods.chunks(20) {
        for pod in some {
            ns.apply(&pod.object())?;
        }
        for pod in some {
            let mut ended = None;
            until("the pod has tried", || {
                ended = phase(&ns, pod)?;
                Ok(ended.is_some())
            })?;
            ensure!(ended.as_deref() == Some("Failed"), "{pod:?}: {ended:?}");
        }
    }
    Ok(())
}
