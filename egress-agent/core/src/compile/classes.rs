//! The classes of pod addresses: what selectors and named ports of all rulesets say of each.
//!
//! An address is asked what the rulesets in use can tell apart of it, its [`Signature`]; addresses with
//! one signature have one column. Most pods are replicas and share their labels and ports, so that
//! few of them are asked, and a pod is asked only of selectors that need one of its labels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::object::Pod;
use crate::policy::{NamespaceScope, Peer};
use crate::ports::PortSet;
use crate::ruleset::{ClassTerm, PortName, Ruleset, RulesetKey, Target};
use crate::store::Store;
use crate::workload;

/// Columns by base ruleset.
pub(super) struct Classes {
    /// The class of each address, in the order of addresses.
    pub(super) by_address: Vec<(IpAddr, usize)>,
    /// By class: what each ruleset allows; what is not there is nothing.
    pub(super) columns: Vec<BTreeMap<RulesetKey, PortSet>>,
}

/// What the rulesets in use can tell apart of a pod address: the targets that hold it, and its
/// numbers for the port names in use.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Signature {
    targets: Vec<usize>,
    names: BTreeMap<PortName, BTreeSet<u16>>,
}

/// Parts of a pod that tell everything of its signature but for the blocks its address is in: its
/// namespace, and where its labels and ports are kept.
type Parts<'a> = (&'a str, usize, usize);

impl Classes {
    pub(super) fn of(store: &Store, bases: &BTreeMap<RulesetKey, Arc<Ruleset>>) -> Self {
        let questions = Questions::of(bases);
        let mut answered: BTreeMap<Parts<'_>, Signature> = BTreeMap::new();
        let mut known: BTreeMap<Parts<'_>, usize> = BTreeMap::new();
        let mut signatures: BTreeMap<Signature, usize> = BTreeMap::new();
        let mut columns = Vec::new();
        let mut class_of = |signature: Signature| {
            let next = columns.len();
            *signatures.entry(signature).or_insert_with_key(|signature| {
                columns.push(questions.column(signature));
                next
            })
        };
        let mut by_address = Vec::new();
        for (address, pod) in workload::peers(store) {
            let parts = (
                pod.name.namespace.as_str(),
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
        Self {
            by_address,
            columns,
        }
    }

    /// What a base ruleset allows towards a pod's address.
    pub(super) fn ports(&self, address: IpAddr, base: RulesetKey) -> Option<&PortSet> {
        let place = self
            .by_address
            .binary_search_by_key(&address, |(address, _)| *address)
            .ok()?;
        let (_, class) = self.by_address.get(place)?;
        self.columns.get(*class)?.get(&base)
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
        let mut numbers: BTreeMap<&Target, usize> = BTreeMap::new();
        let mut questions = Self {
            targets: Vec::new(),
            by_label: BTreeMap::new(),
            others: Vec::new(),
            blocks: Vec::new(),
            names: BTreeSet::new(),
        };
        for (base, ruleset) in bases {
            for term in &ruleset.classes {
                let number = *numbers
                    .entry(&term.target)
                    .or_insert_with(|| questions.add(&term.target));
                if let Some((_, terms)) = questions.targets.get_mut(number) {
                    terms.push((*base, term));
                }
                questions.names.extend(&term.names);
            }
        }
        questions
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
            !matches!(namespaces, NamespaceScope::Named(name) if *name != pod.name.namespace)
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
