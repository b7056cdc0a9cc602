//! What the tables should say, by content: the store's objects to [`Desired`].
//!
//! Nothing here knows an id or what the tables hold now; that is [`crate::plan`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use egress_common::abi::{Address, FrontendKey};
use zerocopy::network_endian::U16;

use crate::object::{Name, Pod};
use crate::policy::{Block, Egress, NamespaceScope, Peer, Peers, Policy, Ports, Rule};
use crate::ports::PortSet;
use crate::ruleset::{PortName, Ruleset, RulesetKey, Target, digest};
use crate::service::{self, Frontend};
use crate::store::Store;
use crate::workload::{self, SubjectKind};

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
    /// The distinct columns: what each ruleset allows towards an address by class. What is not
    /// there is nothing.
    pub columns: Vec<Column>,
    /// Index of [`Desired::columns`] by address. Addresses with an empty column are left out.
    pub peers: BTreeMap<IpAddr, usize>,
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
/// again.
pub fn compile(
    store: &Store,
    subjects: &[Subject<'_>],
    options: &Options,
    previous: &Desired,
) -> Desired {
    let node_rule = own_node_rule(store, options);
    let ruled: Vec<Ruled<'_>> = subjects
        .iter()
        .map(|subject| Ruled {
            subject,
            rules: rules_of(&subject.isolation, node_rule.as_ref()),
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

    let peers = workload::peers(store);
    let classes = Classes::of(store, &peers, &bases);
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

    let mut columns: BTreeMap<Column, usize> = BTreeMap::new();
    for (address, class) in &classes.by_address {
        let Some(by_base) = classes.columns.get(*class) else {
            continue;
        };
        let column: Column = finals
            .iter()
            .filter_map(|(key, (base, _))| Some((*key, by_base.get(base)?.clone())))
            .collect();
        if column.is_empty() {
            continue;
        }
        let next = columns.len();
        desired
            .peers
            .insert(*address, *columns.entry(column).or_insert(next));
    }
    let mut in_order: Vec<(usize, Column)> = columns.into_iter().map(|(c, i)| (i, c)).collect();
    in_order.sort_unstable_by_key(|(index, _)| *index);
    desired.columns = in_order.into_iter().map(|(_, column)| column).collect();

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

/// The distinct rules of policies, and their key.
fn rules_of<'a>(
    isolation: &Isolation<'a>,
    node_rule: Option<&'a Rule>,
) -> Option<(BTreeMap<[u8; 32], &'a Rule>, RulesetKey)> {
    let Isolation::Policies(policies) = isolation else {
        return None;
    };
    let rules: BTreeMap<[u8; 32], &Rule> = policies
        .iter()
        .flat_map(|policy| match &policy.egress {
            Egress::Isolated(rules) => rules.as_slice(),
            Egress::NotMentioned => &[],
        })
        .chain(node_rule)
        .map(|rule| (digest(rule), rule))
        .collect();
    let key = RulesetKey::of(&rules, &BTreeSet::new());
    Some((rules, key))
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

/// What the rulesets in use can tell apart of a pod address: the targets that hold it, and its
/// numbers for the port names in use. Addresses with one signature have one column.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Signature {
    targets: Vec<usize>,
    names: BTreeMap<PortName, BTreeSet<u16>>,
}

/// Columns by base ruleset.
struct Classes {
    by_address: BTreeMap<IpAddr, usize>,
    columns: Vec<BTreeMap<RulesetKey, PortSet>>,
}

impl Classes {
    fn of(
        store: &Store,
        peers: &BTreeMap<IpAddr, &Pod>,
        bases: &BTreeMap<RulesetKey, Arc<Ruleset>>,
    ) -> Self {
        let mut targets: BTreeMap<&Target, usize> = BTreeMap::new();
        let mut names: BTreeSet<&PortName> = BTreeSet::new();
        for term in bases.values().flat_map(|ruleset| &ruleset.classes) {
            let next = targets.len();
            targets.entry(&term.target).or_insert(next);
            names.extend(&term.names);
        }
        let mut signatures: BTreeMap<Signature, usize> = BTreeMap::new();
        let mut columns = Vec::new();
        let mut by_address = BTreeMap::new();
        for (address, pod) in peers {
            let signature = Signature {
                targets: targets
                    .iter()
                    .filter(|(target, _)| holds(store, target, *address, pod))
                    .map(|(_, index)| *index)
                    .collect(),
                names: pod
                    .ports
                    .iter()
                    .filter(|(name, _)| names.contains(name))
                    .map(|(name, numbers)| (name.clone(), numbers.iter().copied().collect()))
                    .collect(),
            };
            let class = if let Some(class) = signatures.get(&signature) {
                *class
            } else {
                let held: BTreeSet<usize> = signature.targets.iter().copied().collect();
                let column = bases
                    .iter()
                    .map(|(key, ruleset)| {
                        (*key, allowed(ruleset, &targets, &held, &signature.names))
                    })
                    .filter(|(_, ports)| !ports.is_nothing())
                    .collect();
                columns.push(column);
                signatures.insert(signature, columns.len() - 1);
                columns.len() - 1
            };
            by_address.insert(*address, class);
        }
        Self {
            by_address,
            columns,
        }
    }

    fn ports(&self, address: IpAddr, base: RulesetKey) -> Option<&PortSet> {
        self.columns
            .get(*self.by_address.get(&address)?)?
            .get(&base)
    }
}

/// Whether a target holds a pod's address.
fn holds(store: &Store, target: &Target, address: IpAddr, pod: &Pod) -> bool {
    match target {
        Target::AnyPod => true,
        Target::Peer(Peer::Block(block)) => {
            block.net.contains(&address)
                && !block.except.iter().any(|except| except.contains(&address))
        }
        Target::Peer(peer @ Peer::Pods { namespaces, .. }) => {
            // The cheap half first.
            !matches!(namespaces, NamespaceScope::Named(name) if *name != pod.name.namespace)
                && workload::peer_matches(store, peer, pod)
        }
    }
}

/// What a ruleset allows towards a pod that is in these targets and has these named ports.
fn allowed(
    ruleset: &Ruleset,
    targets: &BTreeMap<&Target, usize>,
    held: &BTreeSet<usize>,
    named: &BTreeMap<PortName, BTreeSet<u16>>,
) -> PortSet {
    let mut ports = PortSet::nothing();
    for term in &ruleset.classes {
        if targets
            .get(&term.target)
            .is_some_and(|index| held.contains(index))
        {
            ports.extend(&term.ports);
            for name in &term.names {
                // S37, S39, S40: by name and protocol, this pod's own numbers.
                for number in named.get(name).into_iter().flatten() {
                    ports.insert(name.0, *number, *number);
                }
            }
        }
    }
    ports
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
