//! The cluster in which the statements are tested.
//!
//! | namespace | labels | pod a | pod b | pod c |
//! | --- | --- | --- | --- | --- |
//! | x | ns=x | 10.1.0.1, `fd01::1` | 10.1.0.2, `fd01::2` | 10.1.0.3, `fd01::3` |
//! | y | ns=y, team= | 10.2.0.1, `fd02::1` | 10.2.0.2, `fd02::2` | 10.2.0.3, `fd02::3` |
//! | z | (none seen) | 10.3.0.1, `fd03::1` | 10.3.0.2, `fd03::2` | 10.3.0.3, `fd03::3` |
//!
//! Each pod is labelled `pod=a` (b, c); `tier=` is on b and c only. Each declares the ports
//! `web` 80/TCP, `alt` 81/TCP and `dns` 53/UDP. All run on node n1 (192.168.0.1, `fd99::1`);
//! node n2 is 192.168.0.2.

use std::net::{IpAddr, SocketAddr};

use egress_oracle::{Answer, Oracle, Protocol};
use serde_json::{Value, json};

/// An address that belongs to nothing.
pub(crate) const OUTSIDE: &str = "203.0.113.9";

#[derive(Clone)]
pub(crate) struct World(Vec<Value>);

impl World {
    pub(crate) fn new() -> Self {
        let mut objects = vec![
            namespace("x", json!({"ns": "x"})),
            namespace("y", json!({"ns": "y", "team": ""})),
            node("n1", &["192.168.0.1", "fd99::1"]),
            node("n2", &["192.168.0.2"]),
        ];
        for (number, namespace) in ["x", "y", "z"].into_iter().enumerate() {
            for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
                let (network, host) = (number + 1, index + 1);
                let mut labels = json!({"pod": name});
                if name != "a" {
                    merge(&mut labels, json!({"tier": ""}));
                }
                objects.push(pod(
                    &format!("{namespace}/{name}"),
                    &[
                        &format!("10.{network}.0.{host}"),
                        &format!("fd0{network}::{host}"),
                    ],
                    json!({"metadata": {"labels": labels}}),
                ));
            }
        }
        Self(objects)
    }

    /// With one more object.
    pub(crate) fn with(mut self, object: Value) -> Self {
        self.0.push(object);
        self
    }

    /// With one more policy.
    pub(crate) fn policy(self, name: &str, spec: Value) -> Self {
        self.with(policy(name, spec))
    }

    /// With changes merged into the object of this kind and `NS/NAME`.
    pub(crate) fn change(mut self, kind: &str, name: &str, changes: Value) -> Self {
        let (namespace, name) = name.split_once('/').unwrap();
        let object = self
            .0
            .iter_mut()
            .find(|object| {
                object.get("kind") == Some(&json!(kind))
                    && object.pointer("/metadata/name") == Some(&json!(name))
                    && object.pointer("/metadata/namespace") == Some(&json!(namespace))
            })
            .unwrap();
        merge(object, changes);
        self
    }

    /// The answer for `10.1.0.1:80/TCP`, `[fd01::1]:80/TCP` or `10.1.0.1/ICMP`.
    pub(crate) fn ask(&self, from: &str, to: &str) -> Answer {
        let (address, protocol, port) = destination(to);
        Oracle::new(&self.0).verdict(from.split_once('/').unwrap(), address, protocol, port)
    }

    /// Whether `x/a` may send there.
    pub(crate) fn allows(&self, to: &str) -> bool {
        self.ask("x/a", to).allow
    }

    /// Whether any policy isolates the pod.
    pub(crate) fn isolated(&self, pod: &str) -> bool {
        !self.ask(pod, "203.0.113.9:9/TCP").isolated_by.is_empty()
    }

    /// A table of destinations for `x/a`: + is allowed, - is denied.
    #[track_caller]
    pub(crate) fn table(&self, rows: &[&str]) {
        for row in rows {
            let (sign, to) = row.split_once(' ').unwrap();
            assert_eq!(self.allows(to), sign == "+", "x/a to {to}");
        }
    }
}

/// The world with one policy for `x`'s pods that has these egress rules.
pub(crate) fn egress(rules: Value) -> World {
    World::new().policy("x/p", json!({"policyTypes": ["Egress"], "egress": rules}))
}

/// The world with one policy for `x`'s pods, one rule, one peer.
pub(crate) fn to(peer: Value) -> World {
    egress(json!([{"to": [peer]}]))
}

/// The world with one policy for `x`'s pods, one rule, these ports.
pub(crate) fn ports(ports: Value) -> World {
    egress(json!([{"ports": ports}]))
}

/// An answer of the whole: allowed, by which policies isolated, by which allowed.
pub(crate) fn answer(allow: bool, isolated_by: &[&str], allowed_by: &[&str]) -> Answer {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Answer {
        allow,
        isolated_by: owned(isolated_by),
        allowed_by: owned(allowed_by),
    }
}

pub(crate) fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

pub(crate) fn node(name: &str, addresses: &[&str]) -> Value {
    let addresses: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"addresses": addresses}})
}

pub(crate) fn pod(name: &str, addresses: &[&str], changes: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    let addresses: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "ports": [
            {"name": "web", "containerPort": 80},
            {"name": "alt", "containerPort": 81, "protocol": "TCP"},
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"containerPort": 99},
        ]}]},
        "status": {"phase": "Running", "podIPs": addresses},
    });
    merge(&mut pod, changes);
    pod
}

pub(crate) fn policy(name: &str, spec: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// A Service of namespace y.
pub(crate) fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "y", "name": name}, "spec": spec})
}

/// A slice of a Service of namespace y.
pub(crate) fn slice(service: &str, ports: Value, endpoints: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "y", "name": format!("{service}-1"),
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints})
}

/// Objects are merged, null removes, everything else replaces.
pub(crate) fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, change) in changes {
                if change.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), change);
                }
            }
        }
        (into, change) => *into = change,
    }
}

fn destination(text: &str) -> (IpAddr, Protocol, u16) {
    let (address, protocol) = text.split_once('/').unwrap();
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        "ICMP" => Protocol::Icmp,
        number => Protocol::Other(number.parse().unwrap()),
    };
    match address.parse::<SocketAddr>() {
        Ok(address) => (address.ip(), protocol, address.port()),
        Err(_) => (address.parse().unwrap(), protocol, 0),
    }
}
