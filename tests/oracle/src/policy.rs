//! One `NetworkPolicy`: whom it isolates (sections A, K) and what it allows (sections B–F).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

use crate::address::parse_cidr;
use crate::json::{Fields, Unreadable, field, list, only, port_number, text, texts};
use crate::objects::{Kind, Objects};
use crate::pod::{Namespaces, Pod, transport};
use crate::selector::selects;
use crate::{Destination, Protocol};

/// A policy, by name.
#[derive(Debug)]
pub(crate) struct Policy {
    namespace: String,
    name: String,
    /// Several when there are different objects of this name (S96).
    versions: Vec<Fields>,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Policy {
    /// All policies, ordered as `NS/NAME` are.
    pub(crate) fn read(objects: &Objects) -> Vec<Self> {
        let mut policies: Vec<Self> = objects
            .of(Kind::NetworkPolicy)
            .map(|named| Self {
                namespace: named.namespace.clone(),
                name: named.name.clone(),
                versions: named.versions.clone(),
            })
            .collect();
        policies.sort_by_key(Self::to_string);
        policies
    }

    /// S2: a pod of its own namespace that it selects, if it is about egress.
    pub(crate) fn isolates(&self, pod: &Pod) -> bool {
        pod.counts()
            && pod.namespace == self.namespace
            && match self.versions.as_slice() {
                [version] => version_isolates(version, pod),
                // S96: unreadable, so whatever any of them may select.
                versions => versions
                    .iter()
                    .any(|version| spec(version).map_or(true, |spec| selects_pod(spec, pod))),
            }
    }

    /// Whether it allows this on its own. Means something for a pod that it isolates.
    pub(crate) fn allows(
        &self,
        to: Destination,
        pod: Option<&Pod>,
        namespaces: &Namespaces,
    ) -> bool {
        // S96: two that contradict each other allow nothing.
        let [version] = self.versions.as_slice() else {
            return false;
        };
        rules(version).is_ok_and(|rules| {
            // S10: any rule.
            rules.iter().any(|rule| {
                rule_matches(rule, &self.namespace, to, pod, namespaces).unwrap_or(false)
            })
        })
    }
}

fn version_isolates(policy: &Fields, pod: &Pod) -> bool {
    match spec(policy) {
        Ok(spec) => spec.is_some_and(is_about_egress) && selects_pod(spec, pod),
        // Nothing is known of it but its namespace.
        Err(Unreadable) => true,
    }
}

fn selects_pod(spec: Option<&Fields>, pod: &Pod) -> bool {
    match spec.and_then(|spec| field(spec, "podSelector")) {
        // S7
        None => true,
        // S91: one that cannot be compiled may mean any pod.
        Some(selector) => selects(selector, &pod.labels).unwrap_or(true),
    }
}

/// Nothing for a policy without a `spec`: it has the defaults of every field, which is to
/// say nothing about egress (S3).
fn spec(policy: &Fields) -> Result<Option<&Fields>, Unreadable> {
    match field(policy, "spec") {
        None => Ok(None),
        Some(spec) => spec.as_object().map(Some).ok_or(Unreadable),
    }
}

/// The egress rules, if the spec can be relied on: every field known, the kinds of policy
/// known (S79), the selector compiled (S91).
fn rules(policy: &Fields) -> Result<&[Value], Unreadable> {
    let Some(spec) = spec(policy)? else {
        return Ok(&[]);
    };
    check_fields(spec)?;
    policy_types(spec)?;
    if let Some(selector) = field(spec, "podSelector") {
        selects(selector, &BTreeMap::new())?;
    }
    list(spec, "egress")
}

/// S2–S6. A policy that does not say so in a way that can be read is about egress, unless
/// it says that it is about something else.
fn is_about_egress(spec: &Fields) -> bool {
    match policy_types(spec).as_deref() {
        // S3, S81: with rules for egress it is. Something unreadable in their place, or a
        // field that nobody knows, may be one.
        Ok([]) => {
            check_fields(spec).is_err()
                || list(spec, "egress").map_or(true, |rules| !rules.is_empty())
        }
        // S5, S6
        Ok(types) => types.contains(&"Egress"),
        Err(Unreadable) => true,
    }
}

/// An unknown field may be one that narrows what the others say (S80).
fn check_fields(spec: &Fields) -> Result<(), Unreadable> {
    let known = ["podSelector", "policyTypes", "ingress", "egress"];
    if spec.keys().all(|name| known.contains(&name.as_str())) {
        Ok(())
    } else {
        Err(Unreadable)
    }
}

fn policy_types(spec: &Fields) -> Result<Vec<&str>, Unreadable> {
    let types = texts(spec, "policyTypes")?;
    if types
        .iter()
        .all(|kind| matches!(*kind, "Ingress" | "Egress"))
    {
        Ok(types)
    } else {
        Err(Unreadable)
    }
}

/// S12–S14: `to` and `ports`, each entry of one with each entry of the other; an absent or
/// empty list restricts nothing. An entry that cannot be read matches nothing (S92, S93).
fn rule_matches(
    rule: &Value,
    namespace: &str,
    to: Destination,
    pod: Option<&Pod>,
    namespaces: &Namespaces,
) -> Result<bool, Unreadable> {
    let rule = only(rule, &["to", "ports"])?;
    let peers = list(rule, "to")?;
    let ports = list(rule, "ports")?;
    let peers_match = peers.is_empty()
        || peers.iter().any(|peer| {
            peer_matches(peer, namespace, to.address, pod, namespaces).unwrap_or(false)
        });
    let ports_match = ports.is_empty()
        || ports
            .iter()
            .any(|port| port_matches(port, to, pod).unwrap_or(false));
    Ok(peers_match && ports_match)
}

/// A block of addresses, or pods. `pod` is whose address the destination is.
fn peer_matches(
    peer: &Value,
    namespace: &str,
    to: IpAddr,
    pod: Option<&Pod>,
    namespaces: &Namespaces,
) -> Result<bool, Unreadable> {
    let peer = only(peer, &["podSelector", "namespaceSelector", "ipBlock"])?;
    match (
        field(peer, "ipBlock"),
        field(peer, "podSelector"),
        field(peer, "namespaceSelector"),
    ) {
        (Some(block), None, None) => block_matches(block, to),
        // S93
        (None, None, None) | (Some(_), _, _) => Err(Unreadable),
        (None, pods, of) => {
            // S22, S28, S60: selectors match pods and nothing else.
            let Some(pod) = pod else {
                return Ok(false);
            };
            // S23: an absent selector is no part of the peer.
            let pod_matches = pods.map_or(Ok(true), |selector| selects(selector, &pod.labels))?;
            let namespace_matches = match (of, namespaces.labels(&pod.namespace)) {
                // S19: the policy's own namespace.
                (None, _) => pod.namespace == namespace,
                // S20, S25
                (Some(selector), Some(labels)) => selects(selector, labels)?,
                // S66, S90
                (Some(_), None) => false,
            };
            // S21
            Ok(pod_matches && namespace_matches)
        }
    }
}

/// S29–S34: in the block and in none of its exceptions (S93: also those that are no subset).
fn block_matches(block: &Value, to: IpAddr) -> Result<bool, Unreadable> {
    let block = only(block, &["cidr", "except"])?;
    let cidr = parse_cidr(text(block, "cidr")?.unwrap_or_default()).ok_or(Unreadable)?;
    let mut matches = cidr.contains(&to);
    for except in texts(block, "except")? {
        matches &= !parse_cidr(except).ok_or(Unreadable)?.contains(&to);
    }
    Ok(matches)
}

/// S15, S16, S35–S48, S92. A packet without ports matches no entry (S49, S95).
fn port_matches(entry: &Value, to: Destination, pod: Option<&Pod>) -> Result<bool, Unreadable> {
    let entry = only(entry, &["protocol", "port", "endPort"])?;
    let protocol = transport(text(entry, "protocol")?).ok_or(Unreadable)?;
    let number_matches = match (field(entry, "port"), field(entry, "endPort")) {
        // S15
        (None, None) => true,
        // S37, S38, S41, S42: the destination pod's own number.
        (Some(Value::String(name)), None) => {
            pod.is_some_and(|pod| pod.numbers(name, protocol).contains(&to.port))
        }
        (Some(first), last) => {
            let first = port_number(first).ok_or(Unreadable)?;
            let last = last.map_or(Some(first), port_number).ok_or(Unreadable)?;
            // S36, S45
            if last < first {
                return Err(Unreadable);
            }
            (first..=last).contains(&to.port)
        }
        // S45
        (None, Some(_)) => return Err(Unreadable),
    };
    let carries_ports = match to.protocol {
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => true,
        Protocol::Icmp | Protocol::Other(_) => false,
    };
    Ok(carries_ports && to.protocol == protocol && number_matches)
}
