//! Pods and namespaces: who is subject, who is peer, and whose an address is
//! (sections H and E).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::Protocol;
use crate::address::parse_address;
use crate::json::{Fields, Unreadable, below, field, labels, list, port_number, text};
use crate::objects::{Kind, Named, Objects};

/// The labels of the namespaces that are known.
#[derive(Debug)]
pub(crate) struct Namespaces(BTreeMap<String, BTreeMap<String, String>>);

impl Namespaces {
    /// Two different objects of one name leave it unseen (S96, S90).
    pub(crate) fn read(objects: &Objects) -> Self {
        Self(
            objects
                .of(Kind::Namespace)
                .filter_map(|named| {
                    let mut labels =
                        labels(&below(named.single()?, "metadata").ok()?, "labels").ok()?;
                    // S25, S96: as the API server writes it, whatever the object says.
                    labels.insert("kubernetes.io/metadata.name".to_owned(), named.name.clone());
                    Some((named.name.clone(), labels))
                })
                .collect(),
        )
    }

    /// Nothing for a namespace that is not seen yet (S66, S90).
    pub(crate) fn labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.0.get(name)
    }
}

/// A pod.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) node: String,
    pub(crate) phase: Phase,
    pub(crate) terminating: bool,
    pub(crate) host_network: bool,
    /// How many different objects of this name there are (S96).
    versions: usize,
    /// The Ready condition, where there is one.
    pub(crate) ready: Option<bool>,
    /// RFC 3339 in UTC, as the API writes it: ordered as text.
    created: String,
    uid: String,
    ports: Vec<ContainerPort>,
}

/// As much of a pod's phase as matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Pending, Unknown, or not said.
    NotRunning,
    Running,
    /// Succeeded or Failed: its addresses are released (S62).
    Finished,
}

#[derive(Debug)]
struct ContainerPort {
    name: String,
    protocol: Protocol,
    number: u16,
}

impl Pod {
    /// S59, S62, S87, S88: pods on the host network and finished ones are neither subject
    /// nor peer.
    pub(crate) fn counts(&self) -> bool {
        !self.host_network && self.phase != Phase::Finished
    }

    /// There is a different object of this name (S96): what this one says is a guess.
    pub(crate) fn contradicted(&self) -> bool {
        self.versions > 1
    }

    fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// The numbers this pod has for a name (S37): one protocol (S39), each container, sidecars
    /// too (S43, S44).
    pub(crate) fn numbers(&self, name: &str, protocol: Protocol) -> Vec<u16> {
        self.ports
            .iter()
            .filter(|port| port.name == name && port.protocol == protocol)
            .map(|port| port.number)
            .collect()
    }

    fn read(named: &Named, pod: &Fields) -> Result<Self, Unreadable> {
        let metadata = below(pod, "metadata")?;
        let spec = below(pod, "spec")?;
        let status = below(pod, "status")?;
        Ok(Self {
            namespace: named.namespace.clone(),
            name: named.name.clone(),
            labels: labels(&metadata, "labels")?,
            addresses: addresses(&status)?,
            node: text(&spec, "nodeName")?.unwrap_or_default().to_owned(),
            phase: match text(&status, "phase")? {
                Some("Running") => Phase::Running,
                Some("Succeeded" | "Failed") => Phase::Finished,
                _ => Phase::NotRunning,
            },
            terminating: field(&metadata, "deletionTimestamp").is_some(),
            host_network: field(&spec, "hostNetwork") == Some(&Value::Bool(true)),
            versions: named.versions.len(),
            ready: ready(&status)?,
            created: text(&metadata, "creationTimestamp")?
                .unwrap_or_default()
                .to_owned(),
            uid: text(&metadata, "uid")?.unwrap_or_default().to_owned(),
            // Known by nobody for a contradicted pod.
            ports: match named.single() {
                Some(_) => container_ports(&spec)?,
                None => Vec::new(),
            },
        })
    }
}

/// The pods, each as every object of its name describes it.
#[derive(Debug)]
pub(crate) struct Pods(Vec<Pod>);

impl Pods {
    pub(crate) fn read(objects: &Objects) -> Self {
        Self(
            objects
                .of(Kind::Pod)
                .flat_map(|named| {
                    let read = |version| Pod::read(named, version).ok();
                    named.versions.iter().filter_map(read)
                })
                .collect(),
        )
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pod> {
        self.0.iter()
    }

    /// A pod that can be read.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.iter()
            .find(|pod| pod.is(namespace, name) && !pod.contradicted())
    }

    /// Whether the pod has different objects, all of which can be read, and this holds for each.
    pub(crate) fn all_versions(
        &self,
        (namespace, name): (&str, &str),
        holds: impl Fn(&Pod) -> bool,
    ) -> bool {
        let versions = || self.iter().filter(|pod| pod.is(namespace, name));
        versions().any(Pod::contradicted)
            && versions().all(|pod| pod.versions == versions().count() && holds(pod))
    }

    /// Whether the pod has different objects, and this holds for one of them.
    pub(crate) fn any_version(
        &self,
        (namespace, name): (&str, &str),
        holds: impl Fn(&Pod) -> bool,
    ) -> bool {
        let mut versions = self.iter().filter(|pod| pod.is(namespace, name));
        versions.any(|pod| pod.contradicted() && holds(pod))
    }

    /// Whether there is such a pod, contradicted or not.
    pub(crate) fn has(&self, namespace: &str, name: &str) -> bool {
        self.iter().any(|pod| pod.is(namespace, name))
    }

    /// Whose address this is. Of two pods with one address: the running one, the newer, the
    /// one with the greater uid (S65, S89), and where all that is equal, the greater name.
    /// Nobody's that could be known, if it may be that of a contradicted pod.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<&Pod> {
        let claimants = || {
            self.iter()
                .filter(|pod| pod.counts() && pod.addresses.contains(&address))
        };
        if claimants().any(Pod::contradicted) {
            return None;
        }
        claimants().max_by_key(|pod| {
            (
                pod.phase == Phase::Running,
                &pod.created,
                &pod.uid,
                &pod.namespace,
                &pod.name,
            )
        })
    }
}

/// S28: all of `status.podIPs`; an object that has only the older `podIP` has one address.
fn addresses(status: &Fields) -> Result<Vec<IpAddr>, Unreadable> {
    let mut addresses = Vec::new();
    for entry in list(status, "podIPs")? {
        let entry = entry.as_object().ok_or(Unreadable)?;
        addresses.push(address(text(entry, "ip")?.ok_or(Unreadable)?)?);
    }
    if let (Some(ip), true) = (text(status, "podIP")?, addresses.is_empty()) {
        addresses.push(address(ip)?);
    }
    Ok(addresses)
}

fn address(text: &str) -> Result<IpAddr, Unreadable> {
    parse_address(text).ok_or(Unreadable)
}

fn ready(status: &Fields) -> Result<Option<bool>, Unreadable> {
    for condition in list(status, "conditions")? {
        let condition = condition.as_object().ok_or(Unreadable)?;
        if text(condition, "type")? == Some("Ready") {
            return Ok(Some(text(condition, "status")? == Some("True")));
        }
    }
    Ok(None)
}

/// The named ports of containers, and of init containers that keep running (S43).
fn container_ports(spec: &Fields) -> Result<Vec<ContainerPort>, Unreadable> {
    let mut ports = Vec::new();
    for (kind, always) in [("containers", true), ("initContainers", false)] {
        for container in list(spec, kind)? {
            let container = container.as_object().ok_or(Unreadable)?;
            if always || text(container, "restartPolicy")? == Some("Always") {
                for port in list(container, "ports")? {
                    ports.extend(container_port(port.as_object().ok_or(Unreadable)?)?);
                }
            }
        }
    }
    Ok(ports)
}

/// Nothing when the port has no name.
fn container_port(port: &Fields) -> Result<Option<ContainerPort>, Unreadable> {
    let name = match text(port, "name")? {
        None | Some("") => return Ok(None),
        Some(name) => name.to_owned(),
    };
    let number = field(port, "containerPort")
        .and_then(port_number)
        .ok_or(Unreadable)?;
    let protocol = transport(text(port, "protocol")?).ok_or(Unreadable)?;
    Ok(Some(ContainerPort {
        name,
        protocol,
        number,
    }))
}

/// S46, S16: TCP, UDP and SCTP only; absent is TCP.
pub(crate) fn transport(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}
