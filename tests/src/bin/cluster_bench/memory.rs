//! What a large cluster costs an agent whose own node is small.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use egress_tests::cluster::Cluster;
use egress_tests::harness::objects::{namespace, policy};
use serde_json::{Value, json};

const NAMESPACES: usize = 20;
const NODES: usize = 100;
const PODS: usize = 10_000;
const POLICIES: usize = 500;

/// Applications of a namespace: what labels and selectors speak of.
const APPS: usize = 25;

/// Nodes that no kubelet is behind, their pods, and policies over them.
pub(crate) fn fill(cluster: &Cluster) -> Result<()> {
    let api = &cluster.api;
    let spaces: Vec<Value> = (0..NAMESPACES)
        .map(|number| namespace(&space(number), &[("team", "a")]))
        .collect();
    api.apply_all(&spaces)?;
    let nodes: Vec<Value> = (0..NODES)
        .map(|number| {
            json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": { "name": format!("far-{number}") },
            })
        })
        .collect();
    api.apply_all(&nodes)?;
    // Their service accounts are made meanwhile.
    thread::sleep(Duration::from_secs(5));
    let pods: Vec<Value> = (0..PODS).map(pod).collect();
    for some in pods.chunks(500) {
        api.apply_all(some)?;
        let statuses: Vec<Value> = some.iter().filter_map(status).collect();
        api.apply_statuses(&statuses)?;
    }
    let policies: Vec<Value> = (0..POLICIES).map(a_policy).collect();
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

fn space(number: usize) -> String {
    format!("far-{}", number % NAMESPACES)
}

fn app(number: usize) -> String {
    format!("app-{}", number / NAMESPACES % APPS)
}

/// As a Deployment's: five kilobytes of it are in the API server.
fn pod(number: usize) -> Value {
    let environment: Vec<Value> = (0..12)
        .map(|at| json!({ "name": format!("SETTING_{at}"), "value": "x".repeat(40) }))
        .collect();
    let container = |name: &str, port: u16| {
        json!({
            "name": name,
            "image": format!("registry.example/team/{name}@sha256:{}", "0".repeat(64)),
            "args": ["--log-level=info", "--listen=:8080", "--config=/etc/service/config.yaml"],
            "env": environment,
            "ports": [{ "name": name, "containerPort": port, "protocol": "TCP" }],
            "resources": {
                "requests": { "cpu": "100m", "memory": "128Mi" },
                "limits": { "memory": "256Mi" },
            },
            "readinessProbe": { "httpGet": { "path": "/ready", "port": port }, "periodSeconds": 5 },
            "livenessProbe": { "httpGet": { "path": "/live", "port": port }, "periodSeconds": 10 },
            "volumeMounts": [{ "name": "config", "mountPath": "/etc/service" }],
        })
    };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": space(number),
            "name": format!("{}-7d9c6b5f4d-{number:05}", app(number)),
            "labels": {
                "app.kubernetes.io/name": app(number),
                "app.kubernetes.io/instance": app(number),
                "app.kubernetes.io/version": "1.2.3",
                "pod-template-hash": "7d9c6b5f4d",
                "tier": if number.is_multiple_of(2) { "front" } else { "back" },
            },
            "annotations": {
                "prometheus.io/scrape": "true",
                "checksum/config": "0".repeat(64),
            },
        },
        "spec": {
            "nodeName": format!("far-{}", number % NODES),
            "automountServiceAccountToken": false,
            "tolerations": [{ "operator": "Exists" }],
            "containers": [container("service", 8080), container("sidecar", 9090)],
            "volumes": [{ "name": "config", "configMap": { "name": "config" } }],
        },
    })
}

fn status(pod: &Value) -> Option<Value> {
    let number: usize = pod
        .pointer("/metadata/name")?
        .as_str()?
        .rsplit('-')
        .next()?
        .parse()
        .ok()?;
    let (high, low) = (number / 250, number % 250 + 1);
    let ips = [
        format!("10.200.{high}.{low}"),
        format!("fd00:200::{high:x}:{low:x}"),
    ];
    let containers = ["service", "sidecar"].map(|name| {
        json!({
            "name": name,
            "image": format!("registry.example/team/{name}:1.2.3"),
            "imageID": format!("registry.example/team/{name}@sha256:{}", "0".repeat(64)),
            "containerID": format!("containerd://{number:064}"),
            "ready": true, "restartCount": 0, "started": true,
            "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } },
        })
    });
    Some(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": pod.pointer("/metadata/namespace")?,
            "name": pod.pointer("/metadata/name")?,
        },
        "status": {
            "phase": "Running",
            "podIP": ips.first()?,
            "podIPs": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
            "containerStatuses": containers,
        },
    }))
}

fn a_policy(number: usize) -> Value {
    let name = "app.kubernetes.io/name";
    policy(
        &space(number),
        &format!("p{number}"),
        &json!({
            "podSelector": { "matchLabels": { name: app(number) } },
            "policyTypes": ["Egress"],
            "egress": [
                {
                    "to": [{ "podSelector": { "matchLabels": { name: app(number + NAMESPACES) } } }],
                    "ports": [{ "port": 8080 }, { "port": "service" }],
                },
                {
                    "to": [
                        { "namespaceSelector": { "matchLabels": { "team": "a" } },
                          "podSelector": { "matchLabels": { "tier": "back" } } },
                        { "ipBlock": { "cidr": format!("198.51.{}.0/24", number % 256) } },
                    ],
                    "ports": [{ "port": 443 }],
                },
            ],
        }),
    )
}
