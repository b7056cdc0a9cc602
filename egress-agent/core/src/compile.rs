//! What the tables should say, by content: the store's objects to [`Desired`].
//!
//! Nothing here knows an id or what the tables hold now; that is [`crate::plan`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use egress_common::abi::{Address, FrontendKey};
use zerocopy::network_endian::U16;

use crate::object::{Name, Pod};
use crate::policy::{Block, Egress, Peer, Peers, Policy, Ports, Rule};
use crate::ports::PortSet;
use crate::ruleset::{Ruleset, RulesetKey, digest};
use crate::service::{self, Frontend};
use crate::store::Store;
use crate::workload::{self, SubjectKind};

mod classes;
mod touched;

use self::classes::Classes;
pub use self::classes::Classified;
pub use self::touched::Touched;

/// Whose packets are judged.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// Where they pass: the interface index of the hook.
    pub hook: u64,
    /// The pod's addresses (S71: never a translated one).
    pub addresses: BTreeSet<IpAddr>,
    /// What isolates it.
    pub isolation: Isolation<'a>,
}

/// Whether and by what a subject is isolated.
#[derive(Clone, Debug)]
pub enum Isolation<'a> {
    /// By nothing: it sends anywhere (S1).
    None,
    /// By these policies; the union of their rules is allowed (S10).
    Policies(Vec<&'a Policy>),
    /// It could not be read: nothing is allowed.
    Closed,
}

impl<'a> Isolation<'a> {
    /// What holds for a pod that these policies isolate; `None` for a pod that is not enforced
    /// (S87, S88).
    pub fn of(pod: &Pod, policies: Vec<&'a Policy>) -> Option<Self> {
        match workload::subject(pod) {
            SubjectKind::HostNetwork | SubjectKind::Finished => None,
            SubjectKind::Unreadable => Some(Self::Closed),
            SubjectKind::Enforced if policies.is_empty() => Some(Self::None),
            SubjectKind::Enforced => Some(Self::Policies(policies)),
        }
    }
}

/// Choices of the operator.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The node whose pods are judged (S84, S86).
    pub node: String,
    /// Traffic to the own node's addresses is always allowed (S73).
    pub allow_own_node: bool,
    /// Packets from addresses that are not the endpoint's pass on to the policy.
    pub no_spoof_check: bool,
}

/// What the tables should say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// By hook.
    pub endpoints: BTreeMap<u64, DesiredEndpoint>,
    /// Every ruleset that an endpoint uses.
    pub rulesets: BTreeMap<RulesetKey, Arc<Ruleset>>,
    /// What each ruleset allows towards an address, by the address's class. What is not there is
    /// nothing; columns may be equal, or empty.
    pub columns: Vec<Column>,
    /// The class of each pod address.
    pub peers: Classified,
    /// Service frontends, each with the rulesets that allow it.
    pub frontends: BTreeMap<FrontendKey, BTreeSet<RulesetKey>>,
    /// Frontends some of whose backends are allowed and some denied: denied as a whole (S84).
    pub mixed: BTreeMap<FrontendKey, Mixed>,
}

/// A frontend that is denied because its backends differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mixed {
    /// Its Service.
    pub service: Name,
    /// The rulesets under which they differ.
    pub rulesets: BTreeSet<RulesetKey>,
}

/// What each ruleset allows towards the addresses of one class.
pub type Column = BTreeMap<RulesetKey, PortSet>;

/// What an endpoint should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredEndpoint {
    /// The addresses that count as its own.
    pub addresses: BTreeSet<IpAddr>,
    /// Which rules hold.
    pub rules: EndpointRules,
    /// Drop what has another source.
    pub spoof_check: bool,
}

/// Which rules hold for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointRules {
    /// Not isolated.
    Open,
    /// Isolated, and nothing is allowed.
    Closed,
    /// Isolated by a ruleset.
    Ruleset(RulesetKey),
}

/// A subject's rules on the way.
struct Ruled<'a> {
    subject: &'a Subject<'a>,
    /// Distinct rules by digest, and the key they have without own frontends.
    rules: Option<(BTreeMap<[u8; 32], &'a Rule>, RulesetKey)>,
}

/// Compiles. Rulesets of `previous` with the same content are taken over instead of being built
/// again; so are the classes of addresses that were not touched since `previous` was compiled of
/// this store.
pub fn compile(
    store: &Store,
    subjects: &[Subject<'_>],
    options: &Options,
    previous: &Desired,
    touched: &Touched,
) -> Desired {
    let node_rule = own_node_rule(store, options).map(|rule| (digest(&rule), rule));
    let node_rule = node_rule.as_ref().map(|(digest, rule)| (*digest, rule));
    let mut digests = Digests::new();
    let ruled: Vec<Ruled<'_>> = subjects
        .iter()
        .map(|subject| Ruled {
            subject,
            rules: rules_of(&subject.isolation, node_rule, &mut digests),
        })
        .collect();

    let mut bases: BTreeMap<RulesetKey, Arc<Ruleset>> = BTreeMap::new();
    for (rules, base) in ruled.iter().filter_map(|r| r.rules.as_ref()) {
        bases.entry(*base).or_insert_with(|| {
            previous
                .rulesets
                .get(base)
                .cloned()
                .unwrap_or_else(|| Ruleset::build(rules.values().copied()))
        });
    }

    let classes = Classes::of(store, &bases, &previous.peers, touched);
    let frontends = service::frontends(store, &options.node);
    let judge = Judge {
        bases: &bases,
        classes: &classes,
    };
    let judged = judge_frontends(&frontends, &bases, &judge);
    let mut behind: BTreeMap<IpAddr, Vec<usize>> = BTreeMap::new();
    for (index, frontend) in frontends.iter().enumerate() {
        for backend in &frontend.backends {
            behind.entry(backend.address).or_default().push(index);
        }
    }

    let mut desired = Desired::default();
    // Final key → the key without own frontends, and those frontends.
    let mut finals: BTreeMap<RulesetKey, (RulesetKey, BTreeSet<FrontendKey>)> = BTreeMap::new();
    for Ruled { subject, rules } in &ruled {
        let endpoint_rules = match (&subject.isolation, rules) {
            (Isolation::None, _) => EndpointRules::Open,
            (Isolation::Closed, _) | (Isolation::Policies(_), None) => EndpointRules::Closed,
            (Isolation::Policies(_), Some((rules, base))) => {
                let own: BTreeSet<FrontendKey> = subject
                    .addresses
                    .iter()
                    .filter_map(|address| behind.get(address))
                    .flatten()
                    .filter_map(|index| frontends.get(*index))
                    .filter(|frontend| {
                        judge.frontend(*base, frontend, &BTreeSet::new()) != Judgement::Allowed
                            && judge.frontend(*base, frontend, &subject.addresses)
                                == Judgement::Allowed
                    })
                    .map(frontend_key)
                    .collect();
                let key = if own.is_empty() {
                    *base
                } else {
                    RulesetKey::of(rules, &own)
                };
                finals.entry(key).or_insert((*base, own));
                EndpointRules::Ruleset(key)
            }
        };
        desired.endpoints.insert(
            subject.hook,
            DesiredEndpoint {
                addresses: subject.addresses.clone(),
                rules: endpoint_rules,
                spoof_check: !options.no_spoof_check,
            },
        );
    }
    for (key, (base, _)) in &finals {
        if let Some(ruleset) = bases.get(base) {
            desired.rulesets.insert(*key, Arc::clone(ruleset));
        }
    }

    let mut of_base: BTreeMap<RulesetKey, Vec<RulesetKey>> = BTreeMap::new();
    for (key, (base, _)) in &finals {
        of_base.entry(*base).or_default().push(*key);
    }
    desired.columns = classes
        .columns
        .iter()
        .map(|by_base| {
            let columns = by_base.iter().flat_map(|(base, ports)| {
                let keys = of_base.get(base).into_iter().flatten();
                keys.map(move |key| (*key, ports.clone()))
            });
            columns.collect()
        })
        .collect();

    for (frontend, by_base) in frontends.iter().zip(&judged) {
        let key = frontend_key(frontend);
        let with = |wanted: Judgement| {
            finals
                .iter()
                .filter(move |(_, (base, own))| {
                    let judgement = by_base.get(base).copied().unwrap_or(Judgement::Denied);
                    let judgement = if own.contains(&key) {
                        Judgement::Allowed
                    } else {
                        judgement
                    };
                    judgement == wanted
                })
                .map(|(ruleset, _)| *ruleset)
                .collect::<BTreeSet<_>>()
        };
        let rulesets = with(Judgement::Mixed);
        if !rulesets.is_empty() {
            let service = frontend.service.clone();
            desired.mixed.insert(key, Mixed { service, rulesets });
        }
        desired.frontends.insert(key, with(Judgement::Allowed));
    }
    desired.peers = classes.peers;
    desired
}

/// Key of an address in PEERS and elsewhere.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => Address::v4(v4.octets()),
        IpAddr::V6(v6) => Address::v6(v6.octets()),
    }
}

/// Key of a frontend in FRONTENDS.
pub fn frontend_key(frontend: &Frontend) -> FrontendKey {
    let Address { family, bytes, .. } = address(frontend.address);
    FrontendKey {
        address: bytes,
        family,
        protocol: frontend.protocol.number(),
        port: U16::new(frontend.port),
    }
}

/// The digests of a policy's rules, in their order.
type Digests<'a> = BTreeMap<&'a Name, Vec<[u8; 32]>>;

/// The distinct rules of policies, and their key.
fn rules_of<'a>(
    isolation: &Isolation<'a>,
    node_rule: Option<([u8; 32], &'a Rule)>,
    digests: &mut Digests<'a>,
) -> Option<(BTreeMap<[u8; 32], &'a Rule>, RulesetKey)> {
    let Isolation::Policies(policies) = isolation else {
        return None;
    };
    let mut distinct: BTreeMap<[u8; 32], &Rule> = node_rule.into_iter().collect();
    for policy in policies {
        let rules = match &policy.egress {
            Egress::Isolated(rules) => rules.as_slice(),
            Egress::NotMentioned => &[],
        };
        let digests = digests
            .entry(&policy.name)
            .or_insert_with(|| rules.iter().map(digest).collect());
        distinct.extend(digests.iter().copied().zip(rules));
    }
    let key = RulesetKey::of(&distinct, &BTreeSet::new());
    Some((distinct, key))
}

/// With `--allow-own-node`: everything towards the own node's addresses (S73).
fn own_node_rule(store: &Store, options: &Options) -> Option<Rule> {
    let node = store
        .node(&options.node)
        .filter(|_| options.allow_own_node)?;
    Some(Rule {
        to: Peers::Only(
            node.addresses
                .iter()
                .map(|address| {
                    Peer::Block(Block {
                        net: (*address).into(),
                        except: BTreeSet::new(),
                    })
                })
                .collect(),
        ),
        ports: Ports::Any,
    })
}

/// Of a frontend (S84).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Allowed,
    Mixed,
    Denied,
}

/// Judges a destination before there are tables.
struct Judge<'a> {
    bases: &'a BTreeMap<RulesetKey, Arc<Ruleset>>,
    classes: &'a Classes,
}

impl Judge<'_> {
    fn allows(&self, base: RulesetKey, address: IpAddr, protocol: u8, port: u16) -> bool {
        let by_class = self.classes.ports(address, base);
        by_class.is_some_and(|ports| ports.contains(protocol, port))
            || self.bases.get(&base).is_some_and(|ruleset| {
                ruleset
                    .trie
                    .lookup(address)
                    .and_then(|set| ruleset.trie.sets().get(usize::try_from(set).ok()?))
                    .is_some_and(|ports| ports.contains(protocol, port))
            })
    }

    /// S84: allowed when at least one backend is, and none is denied; `own` addresses count as
    /// allowed (S85).
    fn frontend(&self, base: RulesetKey, frontend: &Frontend, own: &BTreeSet<IpAddr>) -> Judgement {
        let protocol = frontend.protocol.number();
        let mut any = (false, false);
        for backend in &frontend.backends {
            if own.contains(&backend.address)
                || self.allows(base, backend.address, protocol, backend.port)
            {
                any.0 = true;
            } else {
                any.1 = true;
            }
        }
        match any {
            (true, false) => Judgement::Allowed,
            (true, true) => Judgement::Mixed,
            (false, _) => Judgement::Denied,
        }
    }
}

fn judge_frontends(
    frontends: &[Frontend],
    bases: &BTreeMap<RulesetKey, Arc<Ruleset>>,
    judge: &Judge<'_>,
) -> Vec<BTreeMap<RulesetKey, Judgement>> {
    let none = BTreeSet::new();
    frontends
        .iter()
        .map(|frontend| {
            bases
                .keys()
                .map(|base| (*base, judge.frontend(*base, frontend, &none)))
                .collect()
        })
        .collect()
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
mod tests;
