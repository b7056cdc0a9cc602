//! What every egress verdict must be: Kubernetes objects and a new connection in, verdict out.
//!
//! This is the specification in executable form, written from the numbered statements (S1…)
//! alone. It interprets the objects' JSON as it stands, over and over, and keeps nothing
//! compiled: slow, and easy to hold beside the text. It shares neither code nor ideas with
//! the agent, and must not depend on it: two readings of one text that agree are worth more
//! than one reading tested against itself.
//!
//! One habit runs through it: a part that cannot be read is an `Unreadable` error, and
//! each unit that the specification lets fail on its own (port entry, peer, rule, policy)
//! turns that error into "matches nothing" (S91–S93).
//!
//! Not covered, because no flow has state here: replies, fragments, related ICMP errors
//! (S50–S55), and the messages that always pass (neighbour discovery, MLD, IGMP: S49, S97).

mod address;
mod json;
mod objects;
mod pod;
mod policy;
mod selector;
mod service;

use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

pub use address::{parse_address, parse_cidr};

use objects::Objects;
use pod::{Namespaces, Phase, Pod, Pods};
use policy::Policy;
use service::{Backends, Services};

/// The protocol of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
    /// `ICMP` towards an IPv4 address, `ICMPv6` towards an IPv6 one: an echo request.
    Icmp,
    /// Any other IP protocol, by number.
    Other(u8),
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("TCP"),
            Self::Udp => f.write_str("UDP"),
            Self::Sctp => f.write_str("SCTP"),
            Self::Icmp => f.write_str("ICMP"),
            Self::Other(number) => write!(f, "{number}"),
        }
    }
}

/// What must happen to a new connection, and which policies say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether the connection may be opened.
    pub allow: bool,
    /// The policies that isolate the pod, `NS/NAME`, sorted.
    pub isolated_by: Vec<String>,
    /// Those of [`Self::isolated_by`] that would allow it if they were the only policy.
    ///
    /// May be empty although [`Self::allow`] is set: one policy may allow one endpoint of a
    /// Service, another policy the other endpoint; and a pod's own address needs no policy.
    pub allowed_by: Vec<String>,
}

/// Where a connection goes, after any rewriting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Destination {
    address: IpAddr,
    protocol: Protocol,
    /// Without meaning unless the protocol is TCP, UDP or SCTP.
    port: u16,
}

/// The objects of a cluster, ready to be asked.
#[derive(Debug)]
pub struct Oracle {
    namespaces: Namespaces,
    pods: Pods,
    services: Services,
    policies: Vec<Policy>,
}

impl Oracle {
    /// Takes decoded manifests, in any order. Kinds that do not matter here are ignored, and
    /// so is a `NetworkPolicy` of another API group (S96).
    #[must_use]
    pub fn new(objects: &[Value]) -> Self {
        let objects = Objects::sort(objects);
        Self {
            namespaces: Namespaces::read(&objects),
            pods: Pods::read(&objects),
            services: Services::read(&objects),
            policies: Policy::read(&objects),
        }
    }

    /// Whether this pod may open this connection.
    ///
    /// A pod that is not there, or cannot be read, may send nothing; [`Self::knows`] tells them apart
    /// from those that policies deny.
    #[must_use]
    pub fn verdict(
        &self,
        (namespace, name): (&str, &str),
        to: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Answer {
        let Some(pod) = self.pods.find(namespace, name) else {
            return Answer {
                allow: self.allows_contradicted((namespace, name), to),
                isolated_by: Vec::new(),
                allowed_by: Vec::new(),
            };
        };
        let to = Destination {
            address: to,
            protocol,
            port,
        };
        let isolating: Vec<&Policy> = self
            .policies
            .iter()
            .filter(|policy| policy.isolates(pod))
            .collect();
        if pod.addresses.contains(&to.address) {
            // S75: before any Service, because it never leaves the pod's network namespace.
            // No policy could say otherwise, so none is what allows it.
            return Answer {
                allow: true,
                isolated_by: isolating.iter().map(ToString::to_string).collect(),
                allowed_by: Vec::new(),
            };
        }
        Answer {
            // S1: a pod that nothing isolates sends anywhere.
            allow: isolating.is_empty() || self.allows(&isolating, pod, to),
            isolated_by: isolating.iter().map(ToString::to_string).collect(),
            allowed_by: isolating
                .iter()
                .filter(|policy| self.allows(&[policy], pod, to))
                .map(ToString::to_string)
                .collect(),
        }
    }

    /// Whether there is one pod of this name that can be read. The policies of an answer mean nothing
    /// where there is none.
    #[must_use]
    pub fn knows(&self, (namespace, name): (&str, &str)) -> bool {
        self.pods.find(namespace, name).is_some()
    }

    /// S96: a pod with different objects of its name may send nothing, but for what holds whichever of
    /// them is true: that it is no subject (S87, S88). Its own addresses are what any of them says: S75
    /// is not for a policy to take away, and either object alone would give it its addresses.
    fn allows_contradicted(&self, name: (&str, &str), to: IpAddr) -> bool {
        self.pods
            .any_version(name, |pod| pod.addresses.contains(&to))
            || self.pods.all_versions(name, |pod| pod.host_network)
            || self
                .pods
                .all_versions(name, |pod| pod.phase == Phase::Finished)
    }

    /// Whether the union of these policies (S10) allows what `pod` sends.
    fn allows(&self, policies: &[&Policy], pod: &Pod, to: Destination) -> bool {
        match self.services.behind(to, &pod.node, &self.pods) {
            Backends::Closed => false,
            // S86: what no Service declares is judged as the literal address, and so is what
            // has no usable endpoint (S69, S84).
            Backends::Usable(endpoints) if endpoints.is_empty() => {
                self.allows_after_rewriting(policies, pod, to)
            }
            // S84: at least one allowed and none denied.
            Backends::Usable(endpoints) => endpoints.iter().all(|endpoint| {
                let to = Destination {
                    address: endpoint.address,
                    port: endpoint.port,
                    ..to
                };
                self.allows_after_rewriting(policies, pod, to)
            }),
        }
    }

    /// Whether the union of these policies (S10) allows a packet as it leaves the node
    /// (S35, S68, S72).
    fn allows_after_rewriting(&self, policies: &[&Policy], pod: &Pod, to: Destination) -> bool {
        // S85: the pod behind its own Service.
        pod.addresses.contains(&to.address)
            || policies
                .iter()
                .any(|policy| policy.allows(to, self.pods.owner(to.address), &self.namespaces))
    }
}
