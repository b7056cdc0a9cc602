//! The classes of pod addresses: what selectors and named ports of all rulesets say of each.
//!
//! An address is asked what the rulesets in use can tell apart of it, its [`Signature`]; addresses with
//! one signature have one column. Most pods are replicas and share their labels and ports, so that
//! few of them are asked, and a pod is asked only of selectors that need one of its labels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Column;
use super::touched::Addresses;
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
    by_address: BTreeMap<IpAddr, usize>,
    classes: Vec<Class>,
    /// How many there were when all were asked; classes that nobody is in any more are not taken away.
    at_first: usize,
    asked: Option<Arc<Questions>>,
}

/// The addresses that gave the same answers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Class {
    signature: Signature,
    members: usize,
}

impl Classified {
    /// Every pod address and its class, in order.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, usize)> {
        let all = self.by_address.iter();
        all.map(|(address, class)| (*address, *class))
    }

    /// The class of an address.
    pub fn class(&self, address: IpAddr) -> Option<usize> {
        self.by_address.get(&address).copied()
    }

    /// How many addresses are in each class.
    pub fn members(&self) -> impl Iterator<Item = usize> {
        self.classes.iter().map(|class| class.members)
    }

    /// Asks what these rulesets ask, and of whom it has to. Says at which addresses the class may be
    /// another one than before.
    pub(super) fn ask(
        &mut self,
        store: &Store,
        bases: &BTreeMap<RulesetKey, Arc<Ruleset>>,
        touched: &Addresses,
    ) -> Addresses {
        let known = self.asked.as_ref().filter(|asked| asked.are_of(bases));
        let questions = known.map_or_else(|| Arc::new(Questions::of(bases)), Arc::clone);
        let kept = self
            .asked
            .as_ref()
            .is_some_and(|asked| Arc::ptr_eq(asked, &questions) || asked.ask_the_same(&questions));
        self.asked = Some(questions);
        if kept && self.ask_again(store, touched) {
            return touched.clone();
        }
        self.ask_all(store);
        Addresses::All
    }

    /// Asks the touched addresses alone, as far as that is possible. Says whether it was.
    pub(super) fn ask_again(&mut self, store: &Store, touched: &Addresses) -> bool {
        let outgrown = self.classes.len() > 2 * self.at_first + FEW;
        let (Addresses::Only(touched), Some(questions), false) =
            (touched, self.asked.clone(), outgrown)
        else {
            return false;
        };
        for address in touched {
            let class = workload::peer_at(store, *address).map(|pod| {
                let signature = questions.ask(store, pod);
                let signature = questions.ask_of_blocks(&signature, *address);
                let mut known = self.classes.iter();
                let known = known.position(|known| known.signature == signature);
                known.unwrap_or_else(|| {
                    let members = 0;
                    self.classes.push(Class { signature, members });
                    self.classes.len() - 1
                })
            });
            let before = match class {
                Some(class) => self.by_address.insert(*address, class),
                None => self.by_address.remove(address),
            };
            if let Some(left) = before.and_then(|before| self.classes.get_mut(before)) {
                left.members -= 1;
            }
            if let Some(entered) = class.and_then(|class| self.classes.get_mut(class)) {
                entered.members += 1;
            }
        }
        true
    }

    fn ask_all(&mut self, store: &Store) {
        let questions = self.asked.clone().unwrap_or_default();
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
        let mut members = vec![0; signatures.len()];
        for (_, class) in &by_address {
            if let Some(members) = members.get_mut(*class) {
                *members += 1;
            }
        }
        let mut in_order: Vec<(usize, Signature)> = signatures
            .into_iter()
            .map(|(s, class)| (class, s))
            .collect();
        in_order.sort_unstable_by_key(|(class, _)| *class);
        let classes = in_order.into_iter().zip(members);
        let classes = classes.map(|((_, signature), members)| Class { signature, members });
        self.classes = classes.collect();
        self.at_first = self.classes.len();
        self.by_address = by_address.into_iter().collect();
    }

    /// What each base ruleset allows towards the addresses of a class, from the `first` class on.
    pub(super) fn columns(&self, first: usize) -> Vec<Column> {
        let Some(questions) = &self.asked else {
            return Vec::new();
        };
        let classes = self.classes.iter().skip(first);
        let columns = classes.map(|class| questions.column(&class.signature));
        columns.collect()
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

/// What all rulesets in use ask.
#[derive(Debug, Default, PartialEq, Eq)]
struct Questions {
    /// Who asks.
    bases: BTreeMap<RulesetKey, Arc<Ruleset>>,
    /// By number, in an order that does not depend on who asks.
    targets: Vec<Asked>,
    /// Targets that only pods with a label can meet, by that label's key and value.
    by_label: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
    /// Targets that any pod may meet.
    others: Vec<usize>,
    /// Targets that are blocks.
    blocks: Vec<usize>,
    names: BTreeSet<PortName>,
}

/// A target, and what is allowed towards it.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    target: Target,
    terms: Vec<(RulesetKey, Arc<ClassTerm>)>,
}

impl Questions {
    fn of(bases: &BTreeMap<RulesetKey, Arc<Ruleset>>) -> Self {
        let mut targets: BTreeMap<&Target, Vec<(RulesetKey, Arc<ClassTerm>)>> = BTreeMap::new();
        let mut questions = Self {
            bases: bases.clone(),
            ..Self::default()
        };
        for (base, ruleset) in bases {
            for term in &ruleset.classes {
                let terms = targets.entry(&term.target).or_default();
                terms.push((*base, Arc::clone(term)));
                questions.names.extend(term.names.iter().cloned());
            }
        }
        for (target, terms) in targets {
            questions.add(target.clone(), terms);
        }
        questions
    }

    /// Whether these are the ones who ask.
    fn are_of(&self, bases: &BTreeMap<RulesetKey, Arc<Ruleset>>) -> bool {
        self.bases.keys().eq(bases.keys())
    }

    /// Whether the answers to the one are those to the other, whoever asks.
    fn ask_the_same(&self, other: &Self) -> bool {
        let mine = self.targets.iter().map(|asked| &asked.target);
        let others = other.targets.iter().map(|asked| &asked.target);
        mine.eq(others) && self.names == other.names
    }

    fn add(&mut self, target: Target, terms: Vec<(RulesetKey, Arc<ClassTerm>)>) {
        let number = self.targets.len();
        match &target {
            Target::AnyPod => self.others.push(number),
            Target::Peer(Peer::Block(_)) => self.blocks.push(number),
            Target::Peer(Peer::Pods { pods, .. }) => match pods.needed() {
                Some((key, values)) => {
                    let by_value = self.by_label.entry(key.to_owned()).or_default();
                    for value in values {
                        by_value.entry(value.clone()).or_default().push(number);
                    }
                }
                None => self.others.push(number),
            },
        }
        self.targets.push(Asked { target, terms });
    }

    /// What can be told of a pod but for its address.
    fn ask(&self, store: &Store, pod: &Pod) -> Signature {
        let labels = pod.labels.iter();
        let labelled = labels.filter_map(|(key, value)| {
            let by_value = self.by_label.get(key.as_str())?;
            by_value.get(value.as_str())
        });
        let mut targets: Vec<usize> = labelled
            .flatten()
            .chain(&self.others)
            .copied()
            .filter(|number| {
                let target = self.targets.get(*number);
                target.is_some_and(|asked| means(store, &asked.target, pod))
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
            target.is_some_and(|asked| holds(&asked.target, address))
        });
        signature.targets.extend(within);
        signature.targets.sort_unstable();
        signature
    }

    /// What each ruleset allows towards a pod of this signature.
    fn column(&self, signature: &Signature) -> Column {
        let mut column: BTreeMap<RulesetKey, PortSet> = BTreeMap::new();
        let targets = signature.targets.iter();
        let terms = targets.filter_map(|number| self.targets.get(*number));
        for (base, term) in terms.flat_map(|asked| &asked.terms) {
            let ports = column.entry(*base).or_insert_with(PortSet::nothing);
            ports.extend(&term.ports);
            for name in &term.names {
                // S37, S39, S40: by name and protocol, this pod's own numbers.
                for number in signature.names.get(name).into_iter().flatten() {
                    ports.insert(name.0, *number, *number);
                }
            }
        }
        let mut distinct: BTreeSet<Arc<PortSet>> = BTreeSet::new();
        let column = column.into_iter().filter(|(_, ports)| !ports.is_nothing());
        let column = column.map(|(base, ports)| {
            let shared = distinct.get(&ports).cloned().unwrap_or_else(|| {
                let ports = Arc::new(ports);
                distinct.insert(Arc::clone(&ports));
                ports
            });
            (base, shared)
        });
        column.collect()
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
