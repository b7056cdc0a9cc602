//! How near one peer or one port entry comes to a destination.
//!
//! Both enums are in order of nearness: of several entries that fail, the one that failed last is the
//! one that its author most likely meant.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::check::Transport;
use crate::label::Selector;
use crate::object::{Labels, Name, Pod};
use crate::policy::{Block, NamespaceScope, Peer, Port, Protocol};
use crate::store::Store;
use crate::workload;

/// What a rule is held against: an address, whose it is, and the protocol and port.
#[derive(Debug)]
pub(super) struct Flow<'a> {
    pub(super) store: &'a Store,
    pub(super) address: IpAddr,
    /// The pod that selectors and port names mean there.
    pub(super) pod: Result<&'a Pod, NoPod>,
    pub(super) transport: Transport,
}

/// Why selectors and port names mean no pod at an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoPod {
    /// The pod there cannot be read.
    Unreadable(Name),
    /// The pod there is on the host network (S60, S87).
    HostNetwork(Name),
    /// The pod there has finished (S62).
    Finished(Name),
    /// No pod that is known has it.
    Unknown,
}

/// How near a peer comes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerFit {
    /// It means the destination.
    Matches,
    /// The block covers the address, and this `except` takes it out (S30).
    Except(IpNet),
    /// Namespace fits, but not the pod's labels (S21, S24).
    PodLabels {
        /// The pod at the address.
        pod: Name,
        /// The terms that it does not meet.
        unmet: Selector,
        /// What it has of the labels that these speak of.
        has: Labels,
    },
    /// The pod's namespace was not seen yet: no `namespaceSelector` matches it (S66, S90).
    NamespaceUnknown(String),
    /// The labels of the pod's namespace cannot be read.
    NamespaceUnreadable(String),
    /// The namespace's labels do not fit (S20, S25).
    NamespaceLabels {
        /// The namespace of the pod at the address.
        namespace: String,
        /// The terms that it does not meet.
        unmet: Selector,
    },
    /// The pod is in another namespace than the policy, whose pods alone a `podSelector` means (S19).
    OtherNamespace {
        /// The pod at the address.
        pod: Name,
        /// The namespace that is meant.
        wanted: String,
    },
    /// It means pods, and there is none (S22).
    NoPod(NoPod),
    /// The block is of the other family (S31).
    OtherFamily,
    /// The block does not cover the address.
    Outside,
}

/// How near a port entry comes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortFit {
    /// It means the destination's port.
    Matches,
    /// The pod has the name at other numbers (S37, S38).
    NameNumber {
        /// The pod at the address.
        pod: Name,
        /// Its numbers for the name.
        numbers: Vec<u16>,
    },
    /// The pod has the name for another protocol (S39).
    NameProtocol {
        /// The pod at the address.
        pod: Name,
        /// The protocol it has it for.
        has: Protocol,
    },
    /// The pod declares no port of the name (S40).
    NoName(Name),
    /// A name means pods' ports, and there is no pod (S41, S42).
    NoPod(NoPod),
    /// Another number (S35, S36).
    Number,
    /// Another protocol (S47, S48).
    Protocol,
    /// ICMP has no port: only a rule without `ports` matches (S49, S95).
    Portless,
}

/// How near a peer comes (S19–S34).
pub(super) fn peer(flow: &Flow<'_>, peer: &Peer) -> PeerFit {
    let (namespaces, pods) = match peer {
        Peer::Block(block) => return in_block(flow.address, block),
        Peer::Pods { namespaces, pods } => (namespaces, pods),
    };
    let pod = match &flow.pod {
        Ok(pod) => pod,
        Err(why) => return PeerFit::NoPod(why.clone()),
    };
    if workload::peer_matches(flow.store, peer, pod) {
        return PeerFit::Matches;
    }
    let namespace = &*pod.name.namespace;
    match namespaces {
        NamespaceScope::Named(wanted) if wanted != namespace => {
            return PeerFit::OtherNamespace {
                pod: pod.name.clone(),
                wanted: wanted.clone(),
            };
        }
        NamespaceScope::Named(_) => {}
        NamespaceScope::Matching(selector) => match flow.store.namespace(namespace) {
            None => return PeerFit::NamespaceUnknown(namespace.to_owned()),
            Some(seen) => match &seen.labels {
                None => return PeerFit::NamespaceUnreadable(namespace.to_owned()),
                Some(labels) if !selector.matches(labels) => {
                    return PeerFit::NamespaceLabels {
                        namespace: namespace.to_owned(),
                        unmet: selector.unmet(labels),
                    };
                }
                Some(_) => {}
            },
        },
    }
    let unmet = pods.unmet(&pod.labels);
    PeerFit::PodLabels {
        pod: pod.name.clone(),
        has: unmet
            .named(&pod.labels)
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        unmet,
    }
}

fn in_block(address: IpAddr, block: &Block) -> PeerFit {
    if address.is_ipv4() != matches!(block.net, IpNet::V4(_)) {
        PeerFit::OtherFamily
    } else if !block.net.contains(&address) {
        PeerFit::Outside
    } else {
        let hole = block.except.iter().find(|except| except.contains(&address));
        hole.map_or(PeerFit::Matches, |except| PeerFit::Except(*except))
    }
}

/// How near a port entry comes (S35–S48).
pub(super) fn port(flow: &Flow<'_>, port: &Port) -> PortFit {
    let Transport::Port(protocol, number) = flow.transport else {
        return PortFit::Portless;
    };
    let (wanted, name) = match port {
        Port::Range {
            protocol: wanted, ..
        } if *wanted != protocol => return PortFit::Protocol,
        Port::Range { from, to, .. } if (*from..=*to).contains(&number) => return PortFit::Matches,
        Port::Range { .. } => return PortFit::Number,
        Port::Named { protocol, name } => (*protocol, name),
    };
    let pod = match &flow.pod {
        Ok(pod) => pod,
        Err(why) => return PortFit::NoPod(why.clone()),
    };
    let numbers = |protocol| pod.ports.get(&(protocol, name.clone()));
    if wanted != protocol {
        return PortFit::Protocol;
    }
    match numbers(wanted) {
        Some(numbers) if numbers.contains(&number) => PortFit::Matches,
        Some(numbers) => PortFit::NameNumber {
            pod: pod.name.clone(),
            numbers: numbers.clone(),
        },
        None => {
            let other = Protocol::ALL
                .into_iter()
                .find(|protocol| numbers(*protocol).is_some());
            match other {
                Some(has) => PortFit::NameProtocol {
                    pod: pod.name.clone(),
                    has,
                },
                None => PortFit::NoName(pod.name.clone()),
            }
        }
    }
}

impl PeerFit {
    /// Which part failed, as a name for programs; `None` when none did.
    pub const fn failed(&self) -> Option<&'static str> {
        Some(match self {
            Self::Matches => return None,
            Self::Except(_) => "except",
            Self::PodLabels { .. } => "pod-labels",
            Self::NamespaceUnknown(_) => "namespace-unknown",
            Self::NamespaceUnreadable(_) => "namespace-unreadable",
            Self::NamespaceLabels { .. } => "namespace-labels",
            Self::OtherNamespace { .. } => "namespace",
            Self::NoPod(_) => "no-pod",
            Self::OtherFamily => "family",
            Self::Outside => "cidr",
        })
    }
}

impl PortFit {
    /// Which part failed, as a name for programs; `None` when none did.
    pub const fn failed(&self) -> Option<&'static str> {
        Some(match self {
            Self::Matches => return None,
            Self::NameNumber { .. } => "port-name-number",
            Self::NameProtocol { .. } => "port-name-protocol",
            Self::NoName(_) => "port-name-unknown",
            Self::NoPod(_) => "no-pod",
            Self::Number => "port",
            Self::Protocol => "protocol",
            Self::Portless => "portless",
        })
    }
}

impl fmt::Display for NoPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(pod) => write!(f, "pod {pod} there cannot be read"),
            Self::HostNetwork(pod) => {
                write!(f, "pod {pod} there is on the host network")
            }
            Self::Finished(pod) => write!(f, "pod {pod} there has finished"),
            Self::Unknown => f.write_str("no known pod has this address"),
        }
    }
}

impl fmt::Display for PeerFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matches => f.write_str("matches"),
            Self::Except(net) => write!(f, "except {net} takes it out"),
            Self::PodLabels { pod, unmet, has } => {
                write!(f, "pod {pod} does not have {unmet}")?;
                let mut separator = " (it has ";
                for (key, value) in has {
                    write!(f, "{separator}{key}={value}")?;
                    separator = ",";
                }
                if has.is_empty() {
                    Ok(())
                } else {
                    f.write_str(")")
                }
            }
            Self::NamespaceUnknown(namespace) => {
                write!(
                    f,
                    "namespace {namespace} is not known, so no selector means it"
                )
            }
            Self::NamespaceUnreadable(namespace) => {
                write!(f, "the labels of namespace {namespace} cannot be read")
            }
            Self::NamespaceLabels { namespace, unmet } => {
                write!(f, "namespace {namespace} does not have {unmet}")
            }
            Self::OtherNamespace { pod, wanted } => {
                write!(
                    f,
                    "pod {pod} is not in namespace {wanted}, whose pods alone are meant"
                )
            }
            Self::NoPod(why) => write!(f, "{why}"),
            Self::OtherFamily => f.write_str("the other address family"),
            Self::Outside => f.write_str("does not cover the address"),
        }
    }
}

impl fmt::Display for PortFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matches => f.write_str("matches"),
            Self::NameNumber { pod, numbers } => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                write!(f, "pod {pod} has it at {}", numbers.join(", "))
            }
            Self::NameProtocol { pod, has } => write!(f, "pod {pod} has it for {has}"),
            Self::NoName(pod) => write!(f, "pod {pod} declares no port of this name"),
            Self::NoPod(why) => write!(f, "{why}"),
            Self::Number => f.write_str("another port"),
            Self::Protocol => f.write_str("another protocol"),
            Self::Portless => f.write_str("ICMP needs a rule without ports"),
        }
    }
}
