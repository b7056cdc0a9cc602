//! What happens to an agent, to its node and to the API server, while traffic flows.
//!
//! One test at a time: each of them disturbs everybody.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use egress_tests::cluster::{AGNHOST, Namespace, Pod, PodSpec, Stage, install};
use egress_tests::harness::objects::{deny_all, policy, port};
use egress_tests::harness::{Load, Probe, TcpExchange, UdpExchange, until};
use egress_tests::length::times;
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
        install::delete_pods(&stage.cluster)?;
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
        install::upgrade(&stage.cluster)?;
        install::roll_back(&stage.cluster)
    })
}

/// What is known is enforced for as long as nothing else is known, also on pods whose sandbox
/// is made anew, and by an agent that was started meanwhile.
#[test]
#[ignore = "needs a cluster"]
fn without_an_api_server_everything_stays_as_it_is() -> Result<()> {
    let _turn = turn();
    let stage = Stage::with_agent()?;
    let ns = stage.cluster.namespace("apiless", &[])?;
    let [client, server] = pair(&ns)?;
    let [mut phoenix] = ns.pods([PodSpec::new("phoenix")
        .node("node-0")
        .label("role", "client")
        .restarts("Always")])?;
    let control = stage.cluster.control()?;
    let node = stage.cluster.node("node-0")?;
    // Minutes, where there is the time.
    let a_while = Duration::from_secs(u64::from(times(10, 120)));
    under_traffic(&stage, &client, &server, || {
        let held = control.hold("kube-apiserver")?;
        until("the API server is gone", || {
            Ok(stage.cluster.api.get(&install::daemonset()).is_err())
        })?;
        phoenix.begin_again(&node)?;
        stage.soon(&[
            (&phoenix, Probe::tcp(server.v4, PORT), true),
            (&phoenix, Probe::udp(server.v6, PORT), true),
            (&phoenix, Probe::tcp(server.v6, FORBIDDEN), false),
            (&phoenix, Probe::udp(server.v4, FORBIDDEN), false),
        ])?;
        thread::sleep(a_while);
        // The kubelet starts it again, which takes no API server.
        node.output("pkill", &["-KILL", "--exact", "egress-agent"])?;
        thread::sleep(a_while);
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
    // Their first act after every start is to connect; once is enough to be seen.
    let connects = |name: &str| {
        PodSpec::new(name)
            .node("node-0")
            .restarts("OnFailure")
            .runs(
                AGNHOST,
                &["connect", &format!("{}:{PORT}", server.v4), "--timeout=2s"],
            )
            .object()
    };
    let object = connects("client");
    ns.apply(&object)?;
    // Each try is a container, and the kubelet waits longer from one to the next.
    let tried = |times: u64| {
        until("the client has tried", || {
            let pod = ns.get(&object)?.context("the client is gone")?;
            let phase = pod.pointer("/status/phase").and_then(Value::as_str);
            ensure!(phase != Some("Succeeded"), "the client got through");
            let status = pod.pointer("/status/containerStatuses/0");
            let get = |pointer| status.and_then(|status| status.pointer(pointer));
            let ended = get("/state/terminated").is_some()
                || get("/state/waiting/reason") == Some(&json!("CrashLoopBackOff"));
            let restarts = get("/restartCount").and_then(Value::as_u64);
            Ok(ended && restarts.is_some_and(|restarts| restarts + 1 >= times))
        })
    };
    tried(1)?;
    // The same where no policy is.
    let elsewhere = stage.cluster.namespace("elsewhere", &[])?;
    let free = connects("free");
    elsewhere.apply(&free)?;
    until("a pod without a policy has connected", || {
        let pod = elsewhere.get(&free)?.context("it is gone")?;
        Ok(pod.pointer("/status/phase") == Some(&json!("Succeeded")))
    })?;
    stage.cluster.restart("node-0")?;
    tried(2)?;
    install::rolled_out(&stage.cluster)?;
    let [client] = ns.pods([PodSpec::new("later").node("node-0")])?;
    stage.soon(&[(&client, Probe::tcp(server.v4, PORT), false)])?;
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
        install::delete_pods(&stage.cluster)?;
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
