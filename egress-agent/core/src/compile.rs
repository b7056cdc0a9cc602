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
use crate::ruleset::{Ruleset, RulesetKey};
use crate::service::{self, Frontend};
use crate::store::Store;
use crate::workload::{self, SubjectKind};

mod classes;
mod touched;

pub use self::classes::Classified;
pub use self::touched::{Addresses, Touched};

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
    /// As the last compilation said of this hook, which [`stands`](Desired::stands).
    AsBefore,
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
    /// The addresses whose class may be another one than the compilation before this one said.
    pub moved: Addresses,
    /// All else is as the compilation before this one said.
    pub only_moved: bool,
    /// Service frontends, each with the rulesets that allow it.
    pub frontends: BTreeMap<FrontendKey, BTreeSet<RulesetKey>>,
    /// Frontends some of whose backends are allowed and some denied: denied as a whole (S84).
    pub mixed: BTreeMap<FrontendKey, Mixed>,
    /// The frontends of which rulesets may say something else than in the compilation before this one.
    pub judged_anew: BTreeSet<FrontendKey>,
    /// Each ruleset's own frontends, and what it is without (S85).
    finals: BTreeMap<RulesetKey, (RulesetKey, BTreeSet<FrontendKey>)>,
    /// The rulesets that differ from one without own frontends (S85) in these alone.
    variants: BTreeMap<RulesetKey, Vec<RulesetKey>>,
    /// What was judged.
    judged: BTreeMap<FrontendKey, Frontend>,
    /// What stands behind it.
    backends: BTreeSet<IpAddr>,
}

/// A frontend that is denied because its backends differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mixed {
    /// Its Service.
    pub service: Name,
    /// The rulesets under which they differ.
    pub rulesets: BTreeSet<RulesetKey>,
}

/// What each ruleset allows towards the addresses of one class. Rulesets of a column share equal sets.
pub type Column = BTreeMap<RulesetKey, Arc<PortSet>>;

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

/// Compiles. Of `previous`, what the last compilation of this store said, is taken over instead of being
/// made again: rulesets with the same content, the classes of addresses that were not touched since, and
/// verdicts of rulesets that were there on frontends behind which nothing is another.
pub fn compile(
    store: &Store,
    subjects: &[Subject<'_>],
    options: &Options,
    mut previous: Desired,
    touched: &Touched,
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
    let as_before = subjects
        .iter()
        .filter(|subject| matches!(subject.isolation, Isolation::AsBefore));
    for subject in as_before {
        if let Some(key) = previous.ruleset(subject.hook)
            && let Some((base, _)) = previous.finals.get(&key)
            && let Some(ruleset) = previous.rulesets.get(&key)
        {
            bases.entry(*base).or_insert_with(|| Arc::clone(ruleset));
        }
    }
    for (rules, base) in ruled.iter().filter_map(|r| r.rules.as_ref()) {
        bases.entry(*base).or_insert_with(|| {
            previous
                .rulesets
                .get(base)
                .cloned()
                .unwrap_or_else(|| Ruleset::build(rules.values().copied()))
        });
    }

    let mut peers = std::mem::take(&mut previous.peers);
    let moved = peers.ask(store, &bases, &touched.addresses);
    let columns = peers.columns(0);
    let frontends = service::frontends(store, &options.node);
    let judge = Judge {
        bases: &bases,
        peers: &peers,
        columns: &columns,
    };
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
            (Isolation::AsBefore, _) => {
                if let Some(key) = previous.ruleset(subject.hook)
                    && let Some(known) = previous.finals.get(&key)
                {
                    finals.entry(key).or_insert_with(|| known.clone());
                }
                // One of which nothing was said is unknown, and closed.
                let before = previous.endpoints.remove(&subject.hook);
                let before = before.unwrap_or_else(|| DesiredEndpoint {
                    addresses: subject.addresses.clone(),
                    rules: EndpointRules::Closed,
                    spoof_check: !options.no_spoof_check,
                });
                desired.endpoints.insert(subject.hook, before);
                continue;
            }
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

    for (key, (base, _)) in &finals {
        desired.variants.entry(*base).or_default().push(*key);
    }
    let gone = previous.rulesets.keys();
    let gone: Vec<&RulesetKey> = gone.filter(|key| !finals.contains_key(key)).collect();
    let (all, new): (Vec<_>, Vec<_>) = (
        finals.iter().collect(),
        finals
            .iter()
            .filter(|(key, _)| !previous.rulesets.contains_key(key))
            .collect(),
    );
    for frontend in frontends {
        let key = frontend_key(&frontend);
        let (mut allowed, mut mixed) = (BTreeSet::new(), BTreeSet::new());
        let known = previous.judged.get(&key) == Some(&frontend) && !moved.any_behind(&frontend);
        if known {
            allowed = previous.frontends.remove(&key).unwrap_or_default();
            mixed = previous.mixed.remove(&key).map_or(mixed, |m| m.rulesets);
            for ruleset in &gone {
                allowed.remove(*ruleset);
                mixed.remove(*ruleset);
            }
        } else {
            desired.judged_anew.insert(key);
        }
        for (ruleset, (base, own)) in if known { &new } else { &all } {
            let judgement = if own.contains(&key) {
                Judgement::Allowed
            } else {
                judge.frontend(*base, &frontend, &BTreeSet::new())
            };
            match judgement {
                Judgement::Allowed => allowed.insert(**ruleset),
                Judgement::Mixed => mixed.insert(**ruleset),
                Judgement::Denied => false,
            };
        }
        if !mixed.is_empty() {
            let (service, rulesets) = (frontend.service.clone(), mixed);
            desired.mixed.insert(key, Mixed { service, rulesets });
        }
        desired.frontends.insert(key, allowed);
        desired.judged.insert(key, frontend);
    }
    desired.add_columns(columns);
    desired.backends = behind.into_keys().collect();
    desired.finals = finals;
    desired.moved = moved;
    desired.peers = peers;
    desired
}

impl Desired {
    /// Follows a change that touched nothing but addresses of pods: what [`compile`] would say of the same
    /// subjects now. Says false, and changes nothing, where more may follow from it.
    pub fn follow(&mut self, store: &Store, touched: &Touched) -> bool {
        let Touched {
            addresses,
            isolated,
            services: _,
            node: _,
        } = touched;
        if !isolated.is_empty() || !self.stands(touched) || !self.peers.ask_again(store, addresses)
        {
            return false;
        }
        self.add_columns(self.peers.columns(self.columns.len()));
        self.moved = addresses.clone();
        self.only_moved = true;
        self.judged_anew.clear();
        true
    }

    /// Whether a subject that no policy isolates, or did, which changed, may be
    /// [`Isolation::AsBefore`] after this.
    pub fn stands(&self, touched: &Touched) -> bool {
        let served = match &touched.addresses {
            Addresses::Only(addresses) => !addresses.is_disjoint(&self.backends),
            Addresses::All => !self.backends.is_empty(),
        };
        !(served || touched.services || touched.node)
    }

    /// The ruleset of a hook, if it has one.
    fn ruleset(&self, hook: u64) -> Option<RulesetKey> {
        match self.endpoints.get(&hook)?.rules {
            EndpointRules::Open | EndpointRules::Closed => None,
            EndpointRules::Ruleset(key) => Some(key),
        }
    }

    /// Adds columns by ruleset without own frontends.
    fn add_columns(&mut self, columns: Vec<Column>) {
        let variants = &self.variants;
        self.columns.extend(columns.into_iter().map(|column| {
            let rulesets = column.into_iter().flat_map(|(base, ports)| {
                let variants = variants.get(&base).into_iter().flatten();
                variants.map(move |ruleset| (*ruleset, Arc::clone(&ports)))
            });
            rulesets.collect()
        }));
    }
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
    let rules = policies.iter().flat_map(|policy| match &policy.egress {
        Egress::Isolated(rules) => rules.as_slice(),
        Egress::NotMentioned => &[],
    });
    let rules = node_rule.into_iter().chain(rules);
    let distinct: BTreeMap<[u8; 32], &Rule> = rules.map(|rule| (rule.digest(), rule)).collect();
    let key = RulesetKey::of(&distinct, &BTreeSet::new());
    Some((distinct, key))
}

/// With `--allow-own-node`: everything towards the own node's addresses (S73).
fn own_node_rule(store: &Store, options: &Options) -> Option<Rule> {
    let node = store
        .node(&options.node)
        .filter(|_| options.allow_own_node)?;
    let peers = node.addresses.iter().map(|address| {
        Peer::Block(Block {
            net: (*address).into(),
            except: BTreeSet::new(),
        })
    });
    Some(Rule::new(Peers::Only(peers.collect()), Ports::Any))
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
    peers: &'a Classified,
    columns: &'a [Column],
}

impl Judge<'_> {
    fn allows(&self, base: RulesetKey, address: IpAddr, protocol: u8, port: u16) -> bool {
        let class = self.peers.class(address);
        let by_class = class.and_then(|class| self.columns.get(class)?.get(&base));
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

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
mod tests;
