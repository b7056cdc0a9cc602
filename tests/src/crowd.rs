//! The objects of a large cluster, by number: what an agent hears of although none of it is on its node.

use serde_json::{Value, json};

use crate::harness::objects;

/// Namespaces that the pods are of.
pub const NAMESPACES: usize = 20;

/// Nodes that the pods are on.
pub const NODES: usize = 100;

/// Applications of a namespace: what labels and selectors speak of.
const APPS: usize = 25;

/// The label of a pod that says its application.
pub const APP: &str = "app.kubernetes.io/name";

/// A namespace.
pub fn namespace(number: usize) -> Value {
    objects::namespace(&space(number), &[("team", "a")])
}

/// A node.
pub fn node(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": format!("far-{number}") },
    })
}

/// As a Deployment's: five kilobytes of it are in the API server. It has no address yet.
pub fn pod(number: usize) -> Value {
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
            "name": name(number),
            "labels": {
                APP: app(number),
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

/// The pod with its status.
pub fn status(number: usize) -> Value {
    let (high, low) = (number / 250, number % 250 + 1);
    let ips = [
        format!("10.{}.{}.{low}", 200 + high / 256, high % 256),
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
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": space(number), "name": name(number) },
        "status": {
            "phase": "Running",
            "podIP": ips[0],
            "podIPs": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
            "containerStatuses": containers,
        },
    })
}

/// A policy over one application of a namespace.
pub fn policy(number: usize) -> Value {
    objects::policy(
        &space(number),
        &format!("p{number}"),
        &json!({
            "podSelector": { "matchLabels": { APP: app(number) } },
            "policyTypes": ["Egress"],
            "egress": [
                {
                    "to": [{ "podSelector": { "matchLabels": { APP: app(number + NAMESPACES) } } }],
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

/// The namespace of a pod or policy.
pub fn space(number: usize) -> String {
    format!("far-{}", number % NAMESPACES)
}

/// The application of a pod, or that a policy is over.
pub fn app(number: usize) -> String {
    format!("app-{}", number / NAMESPACES % APPS)
}

fn name(number: usize) -> String {
    format!("{}-7d9c6b5f4d-{number:05}", app(number))
}
