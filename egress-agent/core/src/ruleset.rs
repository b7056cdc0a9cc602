//! Rulesets: the union of the rules of the policies that isolate a pod (S10), addressed by
//! their content, so that pods with equal rules share one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use egress_common::abi::FrontendKey;
use sha2::{Digest as _, Sha256};

use crate::policy::{Block, Peer, Peers, Port, Ports, Protocol, Rule};
use crate::ports::PortSet;
use crate::trie::Trie;

/// Address of a ruleset by content: SHA-256 over the digests of its distinct rules in order, and over
/// the frontends that are allowed because the pod itself is behind them (S85).
///
/// Another build may compute another digest for the same rules ([`Rule::digest`]); the agent then
/// builds the ruleset anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RulesetKey(pub [u8; 32]);

/// A named container port that rules refer to.
pub type PortName = (Protocol, String);

/// A ruleset, ready for the tables.
#[derive(Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// What it says by prefix.
    pub trie: Trie,
    /// What it says by peer selector, and by port name.
    pub classes: Vec<Arc<ClassTerm>>,
}

/// One (peer, ports) of a ruleset that depends on which pod an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassTerm {
    /// Which pod addresses.
    pub target: Target,
    /// Ports allowed by number.
    pub ports: PortSet,
    /// Ports allowed by name: the pod's own numbers for it (S37, S38).
    pub names: BTreeSet<PortName>,
}

/// A set of pod addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Every pod's (S41).
    AnyPod,
    /// Those of pods that a selector matches, or those inside a block (S42).
    Peer(Peer),
}

impl fmt::Display for RulesetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (words, _) = self.0.as_chunks();
        words
            .iter()
            .try_for_each(|word| write!(f, "{:032x}", u128::from_be_bytes(*word)))
    }
}

impl RulesetKey {
    /// The key of a set of rules.
    pub fn of(rules: &BTreeMap<[u8; 32], &Rule>, own_frontends: &BTreeSet<FrontendKey>) -> Self {
        let mut hasher = Sha256::new();
        for digest in rules.keys() {
            hasher.update(digest);
        }
        for frontend in own_frontends {
            hasher.update(zerocopy::IntoBytes::as_bytes(frontend));
        }
        Self(hasher.finalize().into())
    }
}

impl Ruleset {
    /// Compiles rules. Peers and ports of one rule form a product that never crosses rules (S14).
    pub fn build<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Arc<Self> {
        let any = [everywhere_v4(), everywhere_v6()];
        let mut blocks: BTreeMap<PortSet, BTreeSet<&Block>> = BTreeMap::new();
        let mut classes: BTreeMap<Target, (PortSet, BTreeSet<PortName>)> = BTreeMap::new();
        for rule in rules {
            let (numbers, names) = terms(rule.ports());
            let mut class = |target: Target, numbers: &PortSet| {
                if numbers.is_nothing() && names.is_empty() {
                    return;
                }
                let (ports, all_names) = classes
                    .entry(target)
                    .or_insert_with(|| (PortSet::nothing(), BTreeSet::new()));
                ports.extend(numbers);
                all_names.extend(names.iter().cloned());
            };
            match rule.to() {
                Peers::Any => {
                    blocks.entry(numbers).or_default().extend(&any);
                    class(Target::AnyPod, &PortSet::nothing());
                }
                Peers::Only(peers) => {
                    let mut own: BTreeSet<&Block> = BTreeSet::new();
                    for peer in peers {
                        match peer {
                            Peer::Pods { .. } => class(Target::Peer(peer.clone()), &numbers),
                            Peer::Block(block) => {
                                own.insert(block);
                                if !names.is_empty() {
                                    class(Target::Peer(peer.clone()), &PortSet::nothing());
                                }
                            }
                        }
                    }
                    if !own.is_empty() {
                        blocks.entry(numbers).or_default().extend(own);
                    }
                }
            }
        }
        let trie = Trie::build(
            blocks
                .iter()
                .map(|(ports, blocks)| (ports, blocks.iter().copied())),
        );
        let classes = classes
            .into_iter()
            .map(|(target, (ports, names))| {
                Arc::new(ClassTerm {
                    target,
                    ports,
                    names,
                })
            })
            .collect();
        Arc::new(Self { trie, classes })
    }
}

/// Ports by number and by name.
fn terms(ports: &Ports) -> (PortSet, BTreeSet<PortName>) {
    let Ports::Only(list) = ports else {
        return (PortSet::Everything, BTreeSet::new());
    };
    let numbers = list.iter().filter_map(|port| match port {
        Port::Range { protocol, from, to } => Some((*protocol, *from, *to)),
        Port::Named { .. } => None,
    });
    let names = list.iter().filter_map(|port| match port {
        Port::Named { protocol, name } => Some((*protocol, name.clone())),
        Port::Range { .. } => None,
    });
    (numbers.collect(), names.collect())
}

/// `0.0.0.0/0`
fn everywhere_v4() -> Block {
    Block {
        net: ipnet::IpNet::V4(ipnet::Ipv4Net::default()),
        except: BTreeSet::new(),
    }
}

/// `::/0`
fn everywhere_v6() -> Block {
    Block {
        net: ipnet::IpNet::V6(ipnet::Ipv6Net::default()),
        except: BTreeSet::new(),
    }
}
