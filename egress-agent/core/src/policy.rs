//! A `NetworkPolicy`, parsed once: inside the core a port is in range, a network is
//! masked, and "absent" and "empty" are different types.
//!
//! Source: networking/v1 `NetworkPolicySpec`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::label::Selector;
use crate::object::{Name, Problem};

mod describe;
pub(crate) mod parse;
mod rule;
mod selector;

/// One policy, egress side only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Namespace and name.
    pub name: Name,
    /// Which pods it selects.
    pub subject: Subject,
    /// What it says of egress.
    pub egress: Egress,
    /// What could not be read; what they name is closed.
    pub problems: Vec<Problem>,
    /// Where that leaves gaps in [`Policy::egress`].
    pub omitted: Omitted,
    /// Nothing of it could be used: it isolates [`Policy::subject`] and allows nothing (S91).
    pub unreadable: bool,
}

/// The pods a policy selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Whose pods.
    pub namespace: SubjectNamespace,
    /// Which of them: those that any of these selects (S7: absent is empty is all). There
    /// is more than one only where two objects of one name contradict each other (S96).
    pub pods: BTreeSet<Selector>,
}

/// The namespace of a policy's subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectNamespace {
    /// The policy's own (S2).
    Own,
    /// Every namespace: the object could not be read far enough to know its own.
    Unknown,
}

/// Whether, and for what, a policy isolates its subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Egress {
    /// `policyTypes` does not contain Egress (S2, S3, S5).
    NotMentioned,
    /// Isolated; an empty list of rules allows nothing (S4).
    Isolated(Vec<Rule>),
}

/// What the lists of a policy lack because it could not be read. With it the position of a rule, a
/// peer or a port entry tells its index in the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Omitted {
    /// In `egress`.
    pub rules: Gaps,
    /// In `to` and in `ports` of a rule, by the rule's position; empty gaps are left out.
    pub entries: BTreeMap<usize, (Gaps, Gaps)>,
}

/// Indexes of entries that were left out of a list, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps(Vec<usize>);

/// One egress rule: peers and ports must both match (S12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    to: Peers,
    ports: Ports,
    digest: [u8; 32],
}

/// `to` of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peers {
    /// Absent or empty: any destination (S13).
    Any,
    /// One of these (S14). Empty when none could be read: nothing matches.
    Only(Vec<Peer>),
}

/// One readable peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods by selector (S19–S23).
    Pods {
        /// In which namespaces.
        namespaces: NamespaceScope,
        /// Which pods of them.
        pods: Selector,
    },
    /// `ipBlock` (S29–S34).
    Block(Block),
}

/// In which namespaces a peer's pods are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceScope {
    /// The namespace of this name: no `namespaceSelector` was given (S19).
    Named(String),
    /// Namespaces by label (S20, S25). Not even the empty selector matches a namespace
    /// that was not seen yet (S90).
    Matching(Selector),
}

/// `ipBlock`: masked networks (S33).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// `cidr`
    pub net: IpNet,
    /// `except`: a hole in this block only (S30), subtracted wherever it lies (S93).
    pub except: BTreeSet<IpNet>,
}

/// `ports` of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Absent or empty: everything, ICMP and other protocols included (S13, S95).
    Any,
    /// One of these (S14). Empty when none could be read: nothing matches (S92).
    Only(Vec<Port>),
}

/// One readable port entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// Destination ports `from..=to` (S35, S36); no `port` is 0..=65535 (S15).
    Range {
        /// Transport protocol (S16: absent is TCP).
        protocol: Protocol,
        /// First port.
        from: u16,
        /// Last port, not below `from`.
        to: u16,
    },
    /// A name, looked up in each destination pod (S37).
    Named {
        /// Transport protocol.
        protocol: Protocol,
        /// The container port's name.
        name: String,
    },
}

/// A transport protocol that policies know (S46).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// 6
    Tcp,
    /// 17
    Udp,
    /// 132
    Sctp,
}

/// A policy of which nothing can be used: it isolates `subject` and allows nothing (S91).
///
/// For everything that must close: an object that cannot be read, a file that does not
/// parse and never did, two different objects of one name (S96).
pub fn unreadable(name: Name, subject: Subject, problems: Vec<Problem>) -> Policy {
    Policy {
        name,
        subject,
        egress: Egress::Isolated(Vec::new()),
        problems,
        omitted: Omitted::default(),
        unreadable: true,
    }
}

impl Rule {
    /// A rule of these peers and ports.
    pub fn new(to: Peers, ports: Ports) -> Self {
        let digest = digest(&(&to, &ports));
        Self { to, ports, digest }
    }

    /// `to`
    pub const fn to(&self) -> &Peers {
        &self.to
    }

    /// `ports`
    pub const fn ports(&self) -> &Ports {
        &self.ports
    }

    /// SHA-256 of what it says, once for all rulesets it is part of.
    ///
    /// It follows Rust's `Hash` of the types: equal within one build.
    pub const fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

fn digest(value: &impl Hash) -> [u8; 32] {
    struct Into256(Sha256);
    impl Hasher for Into256 {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut hasher = Into256(Sha256::new());
    value.hash(&mut hasher);
    hasher.0.finalize().into()
}

impl Gaps {
    /// Notes the next entry that was left out.
    pub(crate) fn push(&mut self, index: usize) {
        self.0.push(index);
    }

    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Index in the object of what stands at this position of the list that was read.
    pub fn index(&self, position: usize) -> usize {
        self.0.iter().fold(position, |index, gap| {
            if *gap <= index {
                index.saturating_add(1)
            } else {
                index
            }
        })
    }
}

impl Subject {
    /// The pods of the policy's own namespace that the selector selects.
    pub fn own(pods: Selector) -> Self {
        Self {
            namespace: SubjectNamespace::Own,
            pods: BTreeSet::from([pods]),
        }
    }

    /// Every pod there: what a policy may select whose selector is not known (S91).
    pub fn every_pod(namespace: SubjectNamespace) -> Self {
        Self {
            namespace,
            pods: BTreeSet::from([Selector::default()]),
        }
    }

    /// What either selects.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let namespace = match (self.namespace, other.namespace) {
            (SubjectNamespace::Own, SubjectNamespace::Own) => SubjectNamespace::Own,
            (SubjectNamespace::Unknown, _) | (_, SubjectNamespace::Unknown) => {
                SubjectNamespace::Unknown
            }
        };
        Self {
            namespace,
            pods: self.pods.union(&other.pods).cloned().collect(),
        }
    }
}

impl Protocol {
    /// Every protocol, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The API's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The protocol of the API's name; any other text, also in lower case, is none (S79).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.name() == name)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
