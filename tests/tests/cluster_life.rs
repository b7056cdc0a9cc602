//! What happens to an agent, to its node and to the API server, while traffic flows.
//!
//! One test at a time: each of them disturbs everybody.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use egress_tests::cluster::{AGNHOST, Namespace, Pod, PodSpec, Stage, install};
use egress_tests::harness::objects::{deny_all, egress, policy, port};
use egress_tests::harness::{Load, Probe, TcpExchange, UdpExchange, until};
use serde_json::{Value, json};

const PORT: u16 = 8080;
const FORBIDDEN: u16 = 9090;

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed has left nothing half-way that the next one relies on.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two pods on one node; the client may ask the server on one port.
fn pair(ns: &Namespace<'_>) -> Result<[Pod; 2]> {
    let [client, mut server] = ns.pods([
        PodSpec::new("client")
            .node("node-0")
            .label("role", "client"),
        PodSpec::new("server")
            .node("node-0")
            .label("role", "server"),
    ])?;
    server.serve(&[PORT, FORBIDDEN])?;
    ns.apply(&policy(
        ns.name(),
        "p",
        &json!({
            "podSelector": { "matchLabels": { "role": "client" } },
            "policyTypes": ["Egress"],
            "egress": [{
                "to": [{ "podSelector": {} }],
                "ports": [port(PORT, "TCP"), port(PORT, "UDP")],
            }],
        }),
    ))?;
    Ok([client, server])
}

/// What is allowed and open stays open, and of what is forbidden nothing arrives.
fn under_traffic(
    stage: &Stage,
    client: &Pod,
    server: &Pod,
    action: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let forbidden = [
        (client, Probe::tcp(server.v4, FORBIDDEN), false),
        (client, Probe::udp(server.v6, FORBIDDEN), false),
    ];
    stage.soon(&forbidden)?;
    let mut tcp = TcpExchange::open(&client.ns, SocketAddr::new(server.v4.into(), PORT))?;
    let mut udp = UdpExchange::open(&client.ns, SocketAddr::new(server.v6.into(), PORT))?;
    let before = server.received(FORBIDDEN);
    let load = Load::start(
        &client.ns,
        SocketAddr::new(server.v4.into(), FORBIDDEN),
        100,
    )?;
    let done = action();
    let sent = load.stop()?;
    done?;
    let leaked = server.received(FORBIDDEN) - before;
    ensure!(
        leaked == 0,
        "{leaked} of {sent} forbidden datagrams arrived"
    );
    ensure!(sent > 100, "only {sent} datagrams were sent");
    ensure!(tcp.alive()?, "{tcp:?} was cut");
    ensure!(udp.alive()?, "{udp:?} was cut");
    stage.soon(&forbidden)?;
    stage.soon(&[
        (client, Probe::tcp(server.v6, PORT), true),
        (client, Probe::udp(server.v4, PORT), true),
    ])?;
    Ok(())
}

#[test]
#[ignore = "needs a cluster"]
fn an_agent_that_is_deleted_is_missed_by_nobody() -> Result<()> {
    let _turn = turn();
    let stage = Stage::with_agent()?;
    let ns = stage.cluster.namespace("deleted", &[])?;
    let [client, server] = pair(&ns)?;
    under_traffic(&stage, &client, &server, || {
        for pod in install::pods(&stage.cluster)? {
            stage.cluster.api.delete(&named(&pod)?)?;
        }
        thread::sleep(Duration::from_secs(1));
        install::rolled_out(&stage.cluster)
    })
}

#[test]
#[ignore = "needs a cluster"]
fn an_upgrade_changes_no_verdict_and_cuts_no_connection() -> Result<()> {
    let _turn = turn();
    let stage = Stage::with_agent()?;
    let ns = stage.cluster.namespace("upgrade", &[])?;
    let [client, server] = pair(&ns)?;
    under_traffic(&stage, &client, &server, || {
        stage.cluster.run(
            "kubectl",
            &[
                "--namespace",
                install::NAMESPACE,
                "rollout",
                "restart",
                "daemonset/egress-agent",
            ],
        )?;
        install::rolled_out(&stage.cluster)
    })
}

/// S65: what is known is enforced for as long as nothing else is; also by an agent that was
/// started meanwhile.
#[test]
#[ignore = "needs a cluster"]
fn without_an_api_server_everything_stays_as_it_is() -> Result<()> {
    let _turn = turn();
    let stage = Stage::with_agent()?;
    let ns = stage.cluster.namespace("apiless", &[])?;
    let [client, server] = pair(&ns)?;
    let control = stage.cluster.control()?;
    let node = stage.cluster.node("node-0")?;
    under_traffic(&stage, &client, &server, || {
        let held = control.hold("kube-apiserver")?;
        thread::sleep(Duration::from_secs(10));
        // The kubelet starts it again, which takes no API server.
        node.output("pkill", &["-KILL", "--exact", "egress-agent"])?;
        thread::sleep(Duration::from_secs(10));
        drop(held);
        until("the API server answers", || {
            Ok(stage.cluster.api.get(&install::daemonset()).is_ok())
        })?;
        install::rolled_out(&stage.cluster)
    })?;
    // And what comes afterwards is heard of.
    ns.apply(&policy(
        ns.name(),
        "p",
        &json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [] }),
    ))?;
    stage.soon(&[(&client, Probe::tcp(server.v4, PORT), false)])?;
    Ok(())
}

/// Everything that an agent keeps on its node is gone after a restart of the node but the
/// cluster's own objects, and no pod starts before they are enforced.
#[test]
#[ignore = "needs a cluster"]
fn a_node_that_restarts_enforces_before_its_pods_start() -> Result<()> {
    let _turn = turn();
    let stage = Stage::with_agent()?;
    let ns = stage.cluster.namespace("restart", &[])?;
    let [mut server] = ns.pods([PodSpec::new("server").node("node-1")])?;
    server.serve(&[PORT])?;
    ns.apply(&deny_all(ns.name()))?;
    // Its first act after every start is to connect; once is enough to be seen.
    let spec = PodSpec::new("client").node("node-0").runs(
        AGNHOST,
        &["connect", &format!("{}:{PORT}", server.v4), "--timeout=2s"],
    );
    let mut object = spec.object();
    if let Some(Value::Object(inner)) = object.get_mut("spec") {
        inner.insert("restartPolicy".into(), "OnFailure".into());
    }
    ns.apply(&object)?;
    let restarts = |least: u64| {
        until("the client has tried", || {
            let pod = ns.get(&object)?.context("the client is gone")?;
            let phase = pod.pointer("/status/phase").and_then(Value::as_str);
            ensure!(phase != Some("Succeeded"), "the client got through");
            let count = pod.pointer("/status/containerStatuses/0/restartCount");
            Ok(count.and_then(Value::as_u64) >= Some(least))
        })
    };
    restarts(1)?;
    stage.cluster.restart("node-0")?;
    restarts(3)?;
    install::rolled_out(&stage.cluster)?;
    let [client] = ns.pods([PodSpec::new("later").node("node-0")])?;
    stage.soon(&[(&client, Probe::tcp(server.v4, PORT), false)])?;
    Ok(())
}

#[test]
#[ignore = "needs a cluster"]
fn a_thousand_policies_at_once_are_all_enforced() -> Result<()> {
    let _turn = turn();
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

/// What it may not read, it says; and it lets nothing go for that.
#[test]
#[ignore = "needs a cluster"]
fn a_missing_permission_is_named_and_opens_nothing() -> Result<()> {
    let _turn = turn();
    let stage = Stage::with_agent()?;
    let ns = stage.cluster.namespace("permission", &[])?;
    let [client, server] = pair(&ns)?;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": "egress-agent-system:egress-agent" },
    });
    let whole = stage.cluster.api.get(&role)?.context("no ClusterRole")?;
    let mut rules = whole.get("rules").cloned().context("no rules")?;
    for rule in rules.as_array_mut().into_iter().flatten() {
        let of_policies = rule.pointer("/resources/0") == Some(&json!("networkpolicies"));
        if let (true, Value::Object(rule)) = (of_policies, rule) {
            rule.insert("verbs".into(), json!(["list"]));
        }
    }
    let with = |rules: &Value| {
        let mut role = role.clone();
        if let Value::Object(role) = &mut role {
            role.insert("rules".into(), rules.clone());
        }
        role
    };
    under_traffic(&stage, &client, &server, || {
        stage.cluster.api.apply(&with(&rules))?;
        for pod in install::pods(&stage.cluster)? {
            stage.cluster.api.delete(&named(&pod)?)?;
        }
        let told = until("the agent says what it may not do", || {
            let log = stage.cluster.run(
                "kubectl",
                &[
                    "--namespace",
                    install::NAMESPACE,
                    "logs",
                    "--selector=app.kubernetes.io/component=agent",
                    "--container=agent",
                    "--tail=-1",
                ],
            );
            Ok(log.is_ok_and(|log| {
                log.lines()
                    .any(|line| line.contains("networkpolicies") && line.contains("watch"))
            }))
        });
        stage
            .cluster
            .api
            .apply(&with(whole.get("rules").context("no rules")?))?;
        told?;
        install::rolled_out(&stage.cluster)
    })
}

/// A pod that takes over the address of one that is gone is judged as itself.
#[test]
#[ignore = "needs a cluster"]
fn an_address_that_is_used_again_means_its_new_pod() -> Result<()> {
    let _turn = turn();
    let stage = Stage::with_agent()?;
    let ns = stage.cluster.namespace("reuse", &[])?;
    let [client, mut old] = ns.pods([
        PodSpec::new("client")
            .node("node-0")
            .label("role", "client"),
        PodSpec::new("old").node("node-1").label("role", "server"),
    ])?;
    ns.apply(&policy(
        ns.name(),
        "p",
        &json!({
            "podSelector": { "matchLabels": { "role": "client" } },
            "policyTypes": ["Egress"],
            "egress": [{ "to": [{ "podSelector": { "matchLabels": { "role": "server" } } }] }],
        }),
    ))?;
    old.serve(&[PORT])?;
    stage.soon(&[(&client, Probe::tcp(old.v4, PORT), true)])?;
    let address = old.v4;
    let gone = PodSpec::new("old").object();
    ns.delete(&gone)?;
    drop(old);
    until("the old pod is gone", || Ok(ns.get(&gone)?.is_none()))?;
    stage.cluster.node("node-1")?.next_address(address)?;
    let [mut new] = ns.pods([PodSpec::new("new").node("node-1")])?;
    ensure!(new.v4 == address, "{} instead of {address}", new.v4);
    new.serve(&[PORT])?;
    stage.soon(&[(&client, Probe::tcp(new.v4, PORT), false)])?;
    // And it is isolated by what selects it, not by what selected the other one.
    stage.soon(&[(&new, Probe::ping(client.v4), true)])?;
    Ok(())
}

/// S56: a policy that is known holds before the first container starts.
#[test]
#[ignore = "needs a cluster"]
fn no_first_packet_of_a_hundred_pods_gets_out() -> Result<()> {
    let _turn = turn();
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
    for ten in pods.chunks(10) {
        for pod in ten {
            ns.apply(&pod.object())?;
        }
        for pod in ten {
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

/// What is needed to delete an object.
fn named(object: &Value) -> Result<Value> {
    let part = |pointer: &str| {
        object
            .pointer(pointer)
            .cloned()
            .with_context(|| format!("no {pointer}"))
    };
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": part("/metadata/namespace")?, "name": part("/metadata/name")? },
    }))
}
