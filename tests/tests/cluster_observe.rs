//! What others see of an agent in a cluster: Prometheus, and the API server.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use egress_tests::cluster::{PodSpec, Stage, install};
use egress_tests::harness::objects::deny_all;
use egress_tests::harness::prometheus::Prometheus;
use egress_tests::harness::{Probe, until};
use serde_json::{Value, json};

/// What the agent lists and watches: daemonsets only the one that it is of.
const KINDS: [&str; 7] = [
    "daemonsets",
    "endpointslices",
    "namespaces",
    "networkpolicies",
    "nodes",
    "pods",
    "services",
];

/// One test at a time: one of them starts agents anew.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
#[ignore = "needs a cluster"]
fn promtool_accepts_what_a_node_serves() -> Result<()> {
    let _turn = turn();
    let stage = Stage::with_agent()?;
    let text = stage.cluster.node("node-0")?.scrape()?;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting promtool")?;
    promtool
        .stdin
        .take()
        .context("promtool's input")?
        .write_all(text.as_bytes())?;
    let output = promtool.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    for name in [
        "egress_pods",
        "egress_policies",
        "egress_watch_last_event_timestamp_seconds",
    ] {
        ensure!(text.contains(&format!("# TYPE {name} ")), "no {name}");
    }
    Ok(())
}

/// Every agent that the chart's Service names, read as its ServiceMonitor has it.
#[test]
#[ignore = "needs a cluster and Prometheus"]
fn prometheus_and_promtool_see_every_agent_and_no_alert() -> Result<()> {
    let _turn = turn();
    let stage = Stage::with_agent()?;
    let cluster = &stage.cluster;
    install::rolled_out(cluster)?;
    let slices = cluster.api.list(
        &json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": { "namespace": install::NAMESPACE },
        }),
        "kubernetes.io/service-name=egress-agent-metrics",
    )?;
    let mut agents = Vec::new();
    for slice in &slices {
        let port = slice.pointer("/ports/0/port").and_then(Value::as_u64);
        let port = u16::try_from(port.context("a slice without a port")?)?;
        let endpoints = slice.get("endpoints").and_then(Value::as_array);
        for endpoint in endpoints.into_iter().flatten() {
            let text = |pointer| endpoint.pointer(pointer).and_then(Value::as_str);
            let address = text("/addresses/0").context("no address")?;
            let node = text("/nodeName").context("no node")?;
            agents.push((SocketAddr::new(address.parse()?, port), node));
        }
    }
    ensure!(agents.len() == cluster.nodes().count(), "{agents:?}");

    let folder = tempfile::tempdir()?;
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart/files/rules.yaml");
    let network = cluster.control()?.network()?;
    let prometheus = Prometheus::start(&network, folder.path(), &rules, &agents)?;
    let number = |expression: &str| -> Result<Option<String>> {
        let samples = prometheus.query(&network, expression)?;
        let value = samples
            .first()
            .and_then(|sample| sample.pointer("/value/1"));
        Ok(value.and_then(Value::as_str).map(String::from))
    };
    for (expression, expected) in [
        ("count(count by (node) (egress_build_info))", "2"),
        ("count(egress_watch_last_event_timestamp_seconds)", "12"),
        ("sum(egress_pods{state=\"not-found\"}) or vector(0)", "0"),
        ("sum(egress_pods) > bool 0", "1"),
    ] {
        let mut last = None;
        until(expression, || {
            last = number(expression)?;
            Ok(last.as_deref() == Some(expected))
        })
        .with_context(|| format!("{last:?} instead of {expected}"))?;
    }
    // What others did to the API server a moment ago may still be pending.
    let firing = "ALERTS{alertname!=\"EgressDropSurge\", alertstate=\"firing\"}";
    let alerts = prometheus.query(&network, firing)?;
    ensure!(alerts.is_empty(), "alerts in a healthy cluster: {alerts:?}");
    Ok(())
}

/// Off unless it is asked for; then the pod's author sees what was dropped, and why, without a right on
/// the node.
#[test]
#[ignore = "needs a cluster"]
fn drops_are_events_of_their_pod_where_that_is_switched_on() -> Result<()> {
    let _turn = turn();
    let stage = Stage::with_agent()?;
    let cluster = &stage.cluster;
    let ns = cluster.namespace("events", &[])?;
    let [client, server] = ns.pods([PodSpec::new("client"), PodSpec::new("server")])?;
    ns.apply(&deny_all(ns.name()))?;
    let blocked = [(&client, Probe::tcp(server.v4, 8080), false)];
    stage.soon(&blocked)?;
    let events = || -> Result<Vec<Value>> {
        let like = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": { "namespace": ns.name() },
        });
        let mut events = cluster.api.list(&like, "")?;
        events.retain(|event| event.get("reportingController") == Some(&json!("egress-agent")));
        Ok(events)
    };
    let before = events()?;
    ensure!(before.is_empty(), "switched off: {before:?}");
    install::upgrade_with(cluster, "dropEvents=true")?;
    let told = until("the drop is an Event", || {
        stage.soon(&blocked)?;
        let events = events()?;
        let Some(event) = events.first() else {
            return Ok(false);
        };
        ensure!(
            event.pointer("/regarding/kind") == Some(&json!("Pod"))
                && event.pointer("/regarding/name") == Some(&json!("client"))
                && event.get("type") == Some(&json!("Warning")),
            "{event:#}"
        );
        let note = event.get("note").and_then(Value::as_str);
        let note = note.context("an Event without a note")?;
        ensure!(
            note.contains(&server.v4.to_string()) && note.contains("deny-all"),
            "{note}"
        );
        Ok(true)
    });
    install::roll_back(cluster)?;
    told
}

/// One list and one watch a kind, and then silence: nobody polls.
#[test]
#[ignore = "needs a cluster"]
fn the_api_server_is_asked_once_a_kind() -> Result<()> {
    let _turn = turn();
    let stage = Stage::with_agent()?;
    let cluster = &stage.cluster;
    install::delete_pods(cluster)?;
    install::rolled_out(cluster)?;
    let uids: Vec<String> = install::pods(cluster)?
        .iter()
        .filter_map(|pod| pod.pointer("/metadata/uid")?.as_str().map(String::from))
        .collect();
    ensure!(uids.len() == cluster.nodes().count(), "{uids:?}");

    let requests = || -> Result<BTreeMap<(String, String), Vec<String>>> {
        let path = cluster.control()?.path("/var/log/audit.log");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut requests = BTreeMap::<_, Vec<String>>::new();
        for line in text.lines() {
            let event: Value = serde_json::from_str(line)?;
            let text = |pointer| event.pointer(pointer).and_then(Value::as_str);
            // A watch is heard of twice: when it begins, and when it ends.
            let long = text("/verb") == Some("watch");
            let stage = if long {
                "ResponseStarted"
            } else {
                "ResponseComplete"
            };
            let uid = event.pointer("/user/extra/authentication.kubernetes.io~1pod-uid/0");
            let (Some(uid), Some(resource), Some(verb), true) = (
                uid.and_then(Value::as_str),
                text("/objectRef/resource"),
                text("/verb"),
                text("/stage") == Some(stage),
            ) else {
                continue;
            };
            if uids.iter().any(|one| one == uid) {
                let of_kind = (uid.to_owned(), resource.to_owned());
                requests.entry(of_kind).or_default().push(verb.to_owned());
            }
        }
        Ok(requests)
    };
    let first = requests()?;
    for uid in &uids {
        for kind in KINDS {
            let verbs = first.get(&(uid.clone(), kind.to_owned()));
            let verbs = verbs.with_context(|| format!("nobody has asked for {kind}"))?;
            ensure!(
                verbs.len() <= 2
                    && verbs
                        .iter()
                        .all(|verb| ["list", "watch"].contains(&&**verb)),
                "{kind}: {verbs:?}"
            );
        }
    }
    ensure!(first.len() == uids.len() * KINDS.len(), "{first:?}");
    thread::sleep(Duration::from_secs(15));
    let later = requests()?;
    ensure!(later == first, "{first:?}, and then {later:?}");
    Ok(())
}
