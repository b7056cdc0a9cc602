//! The classes of pod addresses: what selectors and named ports of all rulesets say of each.
//!
//! An address is asked what the rulesets in use can tell apart of it, its [`Signature`]; addresses with
//! one signature have one column. Most pods are replicas and share their labels and ports, so that
//! few of them are asked, and a pod is asked only of selectors that need one of its labels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::touched::Touched;
use crate::object::Pod;
use crate::policy::{NamespaceScope, Peer};
use crate::ports::PortSet;
use crate::ruleset::{ClassTerm, PortName, Ruleset, RulesetKey, Target};
use crate::store::Store;
use crate::workload;

/// Classes beyond twice those there were, until all addresses are asked again.
const FEW: usize = 64;

/// The class of each pod address, and what was asked for it: as long as the same is asked, only
/// addresses that were touched are asked again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classified {
    /// In the order of addresses.
    by_address: Vec<(IpAddr, usize)>,
    /// By class.
    signatures: Vec<Signature>,
    /// How many there were when all were asked; classes that nobody is in any more are not taken away.
    at_first: usize,
    asked: Option<Arc<Asked>>,
}

/// Everything that a signature speaks of.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    targets: Vec<Target>,
    names: Vec<PortName>,
}

/// Columns by base ruleset.
pub(super) struct Classes {
    /// Who is in which class.
    pub(super) peers: Classified,
    /// By class: what each ruleset allows; what is not there is nothing.
    pub(super) columns: Vec<BTreeMap<RulesetKey, PortSet>>,
}

impl Classified {
    /// Every pod address and its class, in order.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, usize)> {
        self.by_address.iter().copied()
    }

    /// The class of an address.
    pub fn class(&self, address: IpAddr) -> Option<usize> {
        let place = self.place(address).ok()?;
        self.by_address.get(place).map(|(_, class)| *class)
    }

    fn place(&self, address: IpAddr) -> Result<usize, usize> {
        self.by_address
            .binary_search_by_key(&address, |(address, _)| *address)
    }

    fn of(store: &Store, questions: &Questions<'_>, previous: &Self, touched: &Touched) -> Self {
        let outgrown = previous.signatures.len() > 2 * previous.at_first + FEW;
        match (touched, &previous.asked) {
            (Touched::Addresses(touched), Some(asked)) if questions.are(asked) && !outgrown => {
                let mut peers = previous.clone();
                peers.ask_again(store, questions, touched);
                peers
            }
            (Touched::Addresses(_) | Touched::Everything, _) => Self::all(store, questions),
        }
    }

    fn all(store: &Store, questions: &Questions<'_>) -> Self {
        let mut answered: BTreeMap<Parts<'_>, Signature> = BTreeMap::new();
        let mut known: BTreeMap<Parts<'_>, usize> = BTreeMap::new();
        let mut signatures: BTreeMap<Signature, usize> = BTreeMap::new();
        let mut class_of = |signature: Signature| {
            let next = signatures.len();
            *signatures.entry(signature).or_insert(next)
        };
        let mut by_address = Vec::new();
        for (address, pod) in workload::peers(store) {
            let parts = (
                &*pod.name.namespace,
                Arc::as_ptr(&pod.labels).addr(),
                Arc::as_ptr(&pod.ports).addr(),
            );
            let class = if questions.blocks.is_empty() {
                *known
                    .entry(parts)
                    .or_insert_with(|| class_of(questions.ask(store, pod)))
            } else {
                let signature = answered
                    .entry(parts)
                    .or_insert_with(|| questions.ask(store, pod));
                class_of(questions.ask_of_blocks(signature, address))
            };
            by_address.push((address, class));
        }
        let mut in_order: Vec<(usize, Signature)> = signatures
            .into_iter()
            .map(|(s, class)| (class, s))
            .collect();
        in_order.sort_unstable_by_key(|(class, _)| *class);
        Self {
            by_address,
            at_first: in_order.len(),
            signatures: in_order.into_iter().map(|(_, s)| s).collect(),
            asked: Some(Arc::new(questions.to_owned())),
        }
    }

    fn ask_again(&mut self, store: &Store, questions: &Questions<'_>, touched: &BTreeSet<IpAddr>) {
        for address in touched {
            let class = workload::peer_at(store, *address).map(|pod| {
                let signature = questions.ask(store, pod);
                let signature = questions.ask_of_blocks(&signature, *address);
                let known = self.signatures.iter().position(|known| *known == signature);
                known.unwrap_or_else(|| {
                    self.signatures.push(signature);
                    self.signatures.len() - 1
                })
            });
            match (self.place(*address), class) {
                (Ok(place), Some(class)) => {
                    if let Some((_, place)) = self.by_address.get_mut(place) {
                        *place = class;
                    }
                }
                (Ok(place), None) => {
                    self.by_address.remove(place);
                }
                (Err(place), Some(class)) => self.by_address.insert(place, (*address, class)),
                (Err(_), None) => {}
            }
        }
    }
}

/// What the rulesets in use can tell apart of a pod address: the targets that hold it, and its
/// numbers for the port names in use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Signature {
    targets: Vec<usize>,
    names: BTreeMap<PortName, BTreeSet<u16>>,
}

/// Parts of a pod that tell everything of its signature but for the blocks its address is in: its
/// namespace, and where its labels and ports are kept.
type Parts<'a> = (&'a str, usize, usize);

impl Classes {
    pub(super) fn of(
        store: &Store,
        bases: &BTreeMap<RulesetKey, Arc<Ruleset>>,
        previous: &Classified,
        touched: &Touched,
    ) -> Self {
        let questions = Questions::of(bases);
        let peers = Classified::of(store, &questions, previous, touched);
        let columns = peers.signatures.iter();
        let columns = columns.map(|signature| questions.column(signature));
        Self {
            columns: columns.collect(),
            peers,
        }
    }

    /// What a base ruleset allows towards a pod's address.
    pub(super) fn ports(&self, address: IpAddr, base: RulesetKey) -> Option<&PortSet> {
        self.columns.get(self.peers.class(address)?)?.get(&base)
    }
}

/// What all rulesets in use ask.
struct Questions<'a> {
    /// By number; who asks for it, and what it allows.
    targets: Vec<(&'a Target, Vec<(RulesetKey, &'a ClassTerm)>)>,
    /// Targets that only pods with a label can meet, by that label.
    by_label: BTreeMap<(&'a str, &'a str), Vec<usize>>,
    /// Targets that any pod may meet.
    others: Vec<usize>,
    /// Targets that are blocks.
    blocks: Vec<usize>,
    names: BTreeSet<&'a PortName>,
}

impl<'a> Questions<'a> {
    fn of(bases: &'a BTreeMap<RulesetKey, Arc<Ruleset>>) -> Self {
        let terms = bases.values().flat_map(|ruleset| &ruleset.classes);
        // In an order that does not depend on who asks.
        let targets: BTreeSet<&Target> = terms.map(|term| &term.target).collect();
        let mut questions = Self {
            targets: Vec::new(),
            by_label: BTreeMap::new(),
            others: Vec::new(),
            blocks: Vec::new(),
            names: BTreeSet::new(),
        };
        let numbers: BTreeMap<&Target, usize> = targets
            .into_iter()
            .map(|target| (target, questions.add(target)))
            .collect();
        for (base, ruleset) in bases {
            for term in &ruleset.classes {
                let number = numbers.get(&term.target);
                if let Some((_, terms)) = number.and_then(|n| questions.targets.get_mut(*n)) {
                    terms.push((*base, term));
                }
                questions.names.extend(&term.names);
            }
        }
        questions
    }

    /// Whether the same was asked before.
    fn are(&self, asked: &Asked) -> bool {
        let targets = self.targets.iter().map(|(target, _)| *target);
        targets.eq(&asked.targets) && self.names.iter().copied().eq(&asked.names)
    }

    fn to_owned(&self) -> Asked {
        Asked {
            targets: self.targets.iter().map(|(t, _)| (*t).clone()).collect(),
            names: self.names.iter().map(|name| (*name).clone()).collect(),
        }
    }

    fn add(&mut self, target: &'a Target) -> usize {
        let number = self.targets.len();
        self.targets.push((target, Vec::new()));
        match target {
            Target::AnyPod => self.others.push(number),
            Target::Peer(Peer::Block(_)) => self.blocks.push(number),
            Target::Peer(Peer::Pods { pods, .. }) => match pods.needed() {
                Some((key, values)) => {
                    for value in values {
                        let label = (key, value.as_str());
                        self.by_label.entry(label).or_default().push(number);
                    }
                }
                None => self.others.push(number),
            },
        }
        number
    }

    /// What can be told of a pod but for its address.
    fn ask(&self, store: &Store, pod: &Pod) -> Signature {
        let labels = pod.labels.iter();
        let labelled = labels.filter_map(|(key, value)| self.by_label.get(&(&**key, &**value)));
        let mut targets: Vec<usize> = labelled
            .flatten()
            .chain(&self.others)
            .copied()
            .filter(|number| {
                let target = self.targets.get(*number);
                target.is_some_and(|(target, _)| means(store, target, pod))
            })
            .collect();
        targets.sort_unstable();
        Signature {
            targets,
            names: pod
                .ports
                .iter()
                .filter(|(name, _)| self.names.contains(name))
                .map(|(name, numbers)| (name.clone(), numbers.iter().copied().collect()))
                .collect(),
        }
    }

    /// Adds the blocks that hold the address.
    fn ask_of_blocks(&self, signature: &Signature, address: IpAddr) -> Signature {
        let mut signature = signature.clone();
        let within = self.blocks.iter().filter(|number| {
            let target = self.targets.get(**number);
            target.is_some_and(|(target, _)| holds(target, address))
        });
        signature.targets.extend(within);
        signature.targets.sort_unstable();
        signature
    }

    /// What each ruleset allows towards a pod of this signature.
    fn column(&self, signature: &Signature) -> BTreeMap<RulesetKey, PortSet> {
        let mut column: BTreeMap<RulesetKey, PortSet> = BTreeMap::new();
        let targets = signature.targets.iter();
        let terms = targets.filter_map(|number| self.targets.get(*number));
        for (base, term) in terms.flat_map(|(_, terms)| terms) {
            let ports = column.entry(*base).or_insert_with(PortSet::nothing);
            ports.extend(&term.ports);
            for name in &term.names {
                // S37, S39, S40: by name and protocol, this pod's own numbers.
                for number in signature.names.get(name).into_iter().flatten() {
                    ports.insert(name.0, *number, *number);
                }
            }
        }
        column.retain(|_, ports| !ports.is_nothing());
        column
    }
}

/// Whether a target means a pod, wherever it is.
fn means(store: &Store, target: &Target, pod: &Pod) -> bool {
    match target {
        Target::AnyPod => true,
        Target::Peer(Peer::Block(_)) => false,
        Target::Peer(peer @ Peer::Pods { namespaces, .. }) => {
            // The cheap half first.
            !matches!(namespaces, NamespaceScope::Named(name) if **name != *pod.name.namespace)
                && workload::peer_matches(store, peer, pod)
        }
    }
}

/// Whether a target is a block that holds an address.
fn holds(target: &Target, address: IpAddr) -> bool {
    match target {
        Target::Peer(Peer::Block(block)) => {
            block.net.contains(&address)
                && !block.except.iter().any(|except| except.contains(&address))
        }
        Target::AnyPod | Target::Peer(Peer::Pods { .. }) => false,
    }
}
