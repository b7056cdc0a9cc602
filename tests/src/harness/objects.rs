//! Kubernetes objects as the tests write them: plain JSON, nothing filled in behind the
//! reader's back.

use std::net::IpAddr;

use serde_json::{Value, json};

/// A Namespace with labels.
pub fn namespace(name: &str, labels: &[(&str, &str)]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name, "labels": map(labels) },
    })
}

/// A `NetworkPolicy` with whatever `spec`.
pub fn policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": namespace, "name": name },
        "spec": spec,
    })
}

/// A `NetworkPolicy` that isolates every pod of the namespace for egress and allows `rules`.
pub fn egress(namespace: &str, name: &str, rules: &Value) -> Value {
    policy(
        namespace,
        name,
        &json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": rules }),
    )
}

/// A `NetworkPolicy` that isolates every pod of the namespace and allows nothing (S4).
pub fn deny_all(namespace: &str) -> Value {
    egress(namespace, "deny-all", &json!([]))
}

/// A rule towards address blocks, on ports (`[]`: a rule without ports).
pub fn to_blocks(blocks: &[&str], ports: &Value) -> Value {
    let peers: Vec<Value> = blocks
        .iter()
        .map(|block| json!({ "ipBlock": { "cidr": block } }))
        .collect();
    json!({ "to": peers, "ports": ports })
}

/// One entry of a rule's ports.
pub fn port(number: u16, protocol: &str) -> Value {
    json!({ "port": number, "protocol": protocol })
}

/// A Service with a cluster address and one port, for pods with labels.
pub fn service(
    namespace: &str,
    name: &str,
    address: IpAddr,
    port: u16,
    target: u16,
    selector: &[(&str, &str)],
) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": namespace, "name": name },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "selector": map(selector),
            "ports": [{ "port": port, "targetPort": target, "protocol": "TCP" }],
        },
    })
}

/// Labels as an object.
pub fn map(pairs: &[(&str, &str)]) -> Value {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Value::from(*value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
