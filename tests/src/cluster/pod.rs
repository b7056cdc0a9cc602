//! A pod in the cluster: what a test asks for, and where it is found.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Machine, Namespace, PAUSE};
use crate::harness::{Echo, NetNs, objects, until};

/// Where the network library of the container runtime remembers what it did.
const RESULTS: &str = "/var/lib/cni/results";

/// A pod as a test describes it.
#[derive(Clone, Debug)]
pub struct PodSpec {
    name: String,
    labels: Vec<(String, String)>,
    ports: Vec<Value>,
    node: Option<String>,
    image: &'static str,
    arguments: Vec<String>,
}

/// A pod that runs.
#[derive(Debug)]
pub struct Pod {
    /// Its network namespace.
    pub ns: NetNs,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Where it runs.
    pub node: String,
    name: String,
    /// By port, twice two of each: TCP and UDP, on both addresses.
    servers: Vec<(u16, Echo)>,
}

impl PodSpec {
    /// One that does nothing by itself.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: Vec::new(),
            ports: Vec::new(),
            node: None,
            image: PAUSE,
            arguments: Vec::new(),
        }
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.retain(|(have, _)| have != key);
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With a named container port.
    #[must_use]
    pub fn port(mut self, name: &str, number: u16, protocol: &str) -> Self {
        self.ports
            .push(json!({ "name": name, "containerPort": number, "protocol": protocol }));
        self
    }

    /// On this node, whatever the scheduler thinks.
    #[must_use]
    pub fn node(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// With a container that runs this.
    #[must_use]
    pub fn runs(mut self, image: &'static str, arguments: &[&str]) -> Self {
        self.image = image;
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self
    }

    /// Its object. It ends at once when it is deleted, and is not started again.
    pub fn object(&self) -> Value {
        let Self {
            name,
            labels,
            ports,
            node,
            image,
            arguments,
        } = self;
        let labels: Vec<(&str, &str)> = labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "labels": objects::map(&labels) },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "containers": [{
                    "name": "main",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "args": arguments,
                    "ports": ports,
                }],
            },
        });
        if let (Some(node), Some(Value::Object(spec))) = (node, object.get_mut("spec")) {
            spec.insert("nodeName".into(), node.clone().into());
        }
        object
    }
}

impl Pod {
    /// Waits until it runs, and finds where.
    pub(super) fn running(namespace: &Namespace<'_>, spec: PodSpec) -> Result<Self> {
        let object = spec.object();
        let mut last = Value::Null;
        until("the pod runs", || {
            last = namespace.get(&object)?.context("the pod is gone")?;
            Ok(last.pointer("/status/phase") == Some(&Value::from("Running")))
        })
        .with_context(|| format!("{last:#}"))?;
        let text = |pointer| last.pointer(pointer).and_then(Value::as_str);
        let uid = text("/metadata/uid").context("no uid")?;
        let node = text("/spec/nodeName").context("no node")?.to_owned();
        let mut addresses = Vec::new();
        for entry in last
            .pointer("/status/podIPs")
            .and_then(Value::as_array)
            .context("no addresses")?
        {
            let address = entry.get("ip").and_then(Value::as_str);
            addresses.push(address.context("no address")?.parse::<IpAddr>()?);
        }
        let v4 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        let v6 = addresses.iter().find_map(|address| match address {
            IpAddr::V6(v6) => Some(*v6),
            IpAddr::V4(_) => None,
        });
        let machine = namespace.cluster.node(&node)?;
        Ok(Self {
            ns: network(&machine, uid)?,
            v4: v4.context("no IPv4 address")?,
            v6: v6.context("no IPv6 address")?,
            node,
            name: spec.name,
            servers: Vec::new(),
        })
    }

    /// Its name in the API.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Both addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Serves TCP and UDP on `ports` of both addresses.
    pub fn serve(&mut self, ports: &[u16]) -> Result<()> {
        for address in self.addresses() {
            for port in ports {
                let at = SocketAddr::new(address, *port);
                self.servers.push((*port, Echo::tcp(&self.ns, at)?));
                self.servers.push((*port, Echo::udp(&self.ns, at)?));
            }
        }
        Ok(())
    }

    /// What arrived on a port so far: datagrams, and reads of connections.
    pub fn received(&self, port: u16) -> u64 {
        let here = self.servers.iter().filter(|(at, _)| *at == port);
        here.map(|(_, server)| server.received()).sum()
    }
}

/// The network namespace of the pod with this uid, which the container runtime keeps by a
/// file in the machine's `/run`.
fn network(machine: &Machine, uid: &str) -> Result<NetNs> {
    let folder = machine.path(RESULTS);
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let Ok(text) = fs::read(&path) else {
            // Deleted just now; it is another pod's.
            continue;
        };
        let Ok(result) = serde_json::from_slice::<Value>(&text) else {
            continue;
        };
        let of_pod = result
            .get("cniArgs")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .any(|pair| {
                pair.get(0).and_then(Value::as_str) == Some("K8S_POD_UID")
                    && pair.get(1).and_then(Value::as_str) == Some(uid)
            });
        if of_pod && let Some(inside) = result.get("netns").and_then(Value::as_str) {
            // `/var/run` is a link that would lead to this machine's `/run`.
            let inside = inside.replacen("/var/run/", "/run/", 1);
            let name = Path::new(&inside).file_name().unwrap_or_default();
            return NetNs::at(&name.to_string_lossy(), machine.path(&inside));
        }
    }
    anyhow::bail!("no network of pod {uid} in {}", folder.display())
}
