//! What the kernel's tables say, as it is told.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Verdict;

/// The tables behind one interface of the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// The interface, on the agent's side.
    pub interface: String,
    /// What stands for the pod there; absent, and everything passes, when nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Each address that is asked about.
    pub lookups: Vec<Lookup>,
}

/// What stands for a pod in the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its place in everything that is kept by endpoint.
    pub slot: u16,
    /// Changes with every flip to another ruleset.
    pub generation: u32,
    /// It is isolated.
    pub isolated: bool,
    /// Its ruleset; 0 allows nothing.
    pub ruleset: u32,
}

/// What was looked up for an address, in order; what is absent was not found, or was not needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookup {
    /// The address.
    pub address: IpAddr,
    /// The verdict on a new flow.
    pub verdict: Verdict,
    /// Its reason.
    pub reason: String,
    /// FRONTENDS: the frontend at the address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<u32>,
    /// PEERS: the class of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<u32>,
    /// RULESET_CLASSES: what the ruleset allows towards the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_ports: Option<PortsEntry>,
    /// RULESET_CIDRS: the longest prefix that covers the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// What the ruleset allows by that prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_ports: Option<PortsEntry>,
    /// FLOWS: flows that the pod has open to there, some of many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<FlowEntry>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_flows: usize,
}

/// An interned set of ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortsEntry {
    /// Its id.
    pub id: u32,
    /// What it holds, in words.
    pub ports: String,
}

/// A flow that the pod has open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowEntry {
    /// The pod's port; of an echo its identifier.
    pub local_port: u16,
    /// Seconds since its last packet.
    pub idle_seconds: u32,
    /// The verdict on it is one of the present policies: it passes without being judged again (S54).
    pub current: bool,
    /// One side has closed it.
    pub closing: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "how serde calls it")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}
