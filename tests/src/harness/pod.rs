//! Pods: what a test says of them, and what they are on the stage.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use serde_json::{Value, json};

use super::echo::serve;
use super::{Echo, NODE, NetNs, objects};

/// What rules can select a pod by, wherever it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traits {
    labels: Vec<(String, String)>,
    ports: Vec<Value>,
}

/// A pod as a test describes it.
#[derive(Clone, Debug)]
pub struct PodSpec {
    namespace: String,
    name: String,
    traits: Traits,
}

/// A pod: a namespace, two addresses, a manifest.
#[derive(Debug)]
pub struct Pod {
    /// Its network namespace; the interface is `eth0`.
    pub ns: NetNs,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Name of its interface on the host.
    pub host_interface: String,
    number: u8,
    spec: PodSpec,
    servers: Vec<Echo>,
}

impl Traits {
    /// Sets a label, also one that is there.
    pub(crate) fn label(&mut self, key: &str, value: &str) {
        self.labels.retain(|(have, _)| have != key);
        self.labels.push((key.to_owned(), value.to_owned()));
    }

    /// Adds a named container port.
    pub(crate) fn port(&mut self, name: &str, number: u16, protocol: &str) {
        self.ports
            .push(json!({ "name": name, "containerPort": number, "protocol": protocol }));
    }

    /// `metadata.labels`.
    pub(crate) fn labels(&self) -> Value {
        let labels: Vec<(&str, &str)> = self
            .labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        objects::map(&labels)
    }

    /// `ports` of its container.
    pub(crate) fn ports(&self) -> &[Value] {
        &self.ports
    }
}

impl PodSpec {
    /// A pod without labels and declared ports.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            traits: Traits::default(),
        }
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.traits.label(key, value);
        self
    }

    /// With a named container port.
    #[must_use]
    pub fn port(mut self, name: &str, number: u16, protocol: &str) -> Self {
        self.traits.port(name, number, protocol);
        self
    }
}

impl Pod {
    /// The pod with this number of its world; not wired to anything yet.
    pub(super) fn new(ns: NetNs, number: u8, spec: PodSpec) -> Self {
        Self {
            ns,
            v4: Ipv4Addr::new(10, 244, 0, number),
            v6: Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, u16::from(number)),
            host_interface: format!("v{number}"),
            number,
            spec,
            servers: Vec::new(),
        }
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }

    /// `NS/NAME`.
    pub fn reference(&self) -> String {
        format!("{}/{}", self.spec.namespace, self.spec.name)
    }

    /// Its namespace and its name.
    pub fn reference_parts(&self) -> (&str, &str) {
        (&self.spec.namespace, &self.spec.name)
    }

    /// Its manifest as the API has it before its first container starts: nobody says where it
    /// is, nor what its addresses are (S58).
    pub fn manifest_before_start(&self) -> Value {
        let mut manifest = self.manifest();
        for (part, key) in [("/metadata", "annotations"), ("", "status")] {
            if let Some(fields) = manifest.pointer_mut(part).and_then(Value::as_object_mut) {
                fields.remove(key);
            }
        }
        manifest
    }

    /// The name of its manifest.
    pub fn file(&self) -> String {
        format!("pod-{}-{}.json", self.spec.namespace, self.spec.name)
    }

    /// Its manifest: running on [`NODE`], in its namespace.
    pub fn manifest(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": self.spec.namespace,
                "name": self.spec.name,
                "uid": format!("00000000-0000-4000-8000-0000000000{:02x}", self.number),
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": self.spec.traits.labels(),
                "annotations": { "egress-agent.dev/netns": self.ns.name() },
            },
            "spec": {
                "nodeName": NODE,
                "containers": [{ "name": "main", "image": "none", "ports": self.spec.traits.ports() }],
            },
            "status": {
                "phase": "Running",
                "podIP": self.v4,
                "podIPs": [{ "ip": self.v4 }, { "ip": self.v6 }],
            },
        })
    }

    /// Changes a label; [`Pod::manifest`] says so from now on.
    pub fn relabel(&mut self, key: &str, value: &str) {
        self.spec = self.spec.clone().label(key, value);
    }

    /// Serves TCP and UDP on `ports` of both addresses.
    pub fn serve(&mut self, ports: &[u16]) -> Result<()> {
        for address in [IpAddr::from(self.v4), self.v6.into()] {
            serve(&self.ns, &mut self.servers, address, ports)?;
        }
        Ok(())
    }

    /// The host's end of its veth, as frames name it.
    pub fn gateway_mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, self.number, 1]
    }

    /// Its own end.
    pub fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, self.number, 2]
    }
}
