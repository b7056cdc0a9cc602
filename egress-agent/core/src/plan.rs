//! The steps from what the tables say to what they should say.
//!
//! Every packet sees the old or the new policy. The steps come in phases:
//!
//! 1. *prepare*: port sets, new rulesets, class columns, frontend columns. No packet can reach any
//!    of it.
//! 2. *move*: each address and frontend gets its new class by one write. Where rulesets are about to
//!    be left in the same plan, the class is a transitional one: its column says the *old* ports for
//!    those rulesets and the new ports for all others.
//! 3. *flip*: each endpoint by one write. (An endpoint that becomes open or closed, or goes away, is
//!    written before the moves: no table has a say in its verdict.)
//! 4. *settle*: nothing uses the left rulesets any more, so transitional classes that differ only in
//!    those are merged.
//! 5. *release*.
//!
//! Capacity is counted at the peak, before the first step: what does not fit is refused whole.

mod moved;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use egress_common::abi::{
    Address, Config, ENDPOINT_ADDRESSES, ENDPOINT_ISOLATED, ENDPOINT_SPOOF_CHECK, Endpoint,
    FrontendKey, PORTS_EVERYTHING, PORTS_NOTHING, RULESET_DENY,
};
use egress_common::tables::Tables as _;
use zerocopy::network_endian::{U16, U32};

use crate::compile::{
    self, Addresses, Desired, DesiredEndpoint, EndpointRules, address as address_key,
};
use crate::image::{Image, Placed, Step, ip};
use crate::ports::PortSet;
use crate::ruleset::{Ruleset, RulesetKey};

/// Capacities of the tables, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// ENDPOINTS, and the slots.
    pub endpoints: u16,
    /// RULESET_CIDRS.
    pub rulesets: u32,
    /// One trie.
    pub trie: usize,
    /// PEERS.
    pub peers: usize,
    /// RULESET_CLASSES.
    pub classes: usize,
    /// PORTS.
    pub ports: usize,
    /// FRONTENDS.
    pub frontends: usize,
    /// RULESET_FRONTENDS.
    pub frontend_rulesets: usize,
}

impl Limits {
    /// For the host's own evaluation.
    pub const UNLIMITED: Self = Self {
        endpoints: u16::MAX,
        rulesets: u32::MAX,
        trie: usize::MAX,
        peers: usize::MAX,
        classes: usize::MAX,
        ports: usize::MAX,
        frontends: usize::MAX,
        frontend_rulesets: usize::MAX,
    };
}

/// What to do, and what cannot be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// What does not fit. Its pods keep the ruleset they had; those that had none are closed.
    pub refused: Vec<Refusal>,
    /// Slot of each ruleset that is wanted and fits.
    pub rulesets: BTreeMap<RulesetKey, u32>,
    /// Where the addresses are when all steps are taken; `None` where something is refused.
    pub homes: Option<Homes>,
}

/// The class in the tables of each class of a [`Desired`]: every address of the one is in the other, none of
/// any other address. `None`: not in PEERS, or nobody is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Homes(Vec<Option<u32>>);

/// Something that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{map} is full: {need} entries needed, {capacity} there are")]
pub struct Refusal {
    /// The ruleset, or `None`: the whole change.
    pub ruleset: Option<RulesetKey>,
    /// The table that is full.
    pub map: &'static str,
    /// Entries it would hold.
    pub need: usize,
    /// Entries it can hold.
    pub capacity: usize,
}

/// Plans. `have` is what the tables say now, with the answers to what is [`unknown`]. Where every step of the
/// last plan was taken, `homes` is what that plan says, and `want` was compiled of what the last plan wanted,
/// so that only the addresses that moved since need to be looked at.
pub fn plan(have: &Image, want: &Desired, limits: &Limits, homes: Option<&Homes>) -> Plan {
    match homes.and_then(|homes| moved::plan(have, want, limits, homes)) {
        Some(plan) => {
            debug_assert_eq!(plan, plan_of_all(have, want, limits, homes));
            plan
        }
        None => plan_of_all(have, want, limits, homes),
    }
}

/// What only the tables know: whether a ruleset allows an address and port as an ordinary destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The ruleset's slot.
    pub ruleset: u32,
    /// The address and port, which are no frontend yet.
    pub destination: FrontendKey,
    /// The hook of a pod that the ruleset applies to, and that may be asked for all of them.
    pub hook: u64,
}

/// What has to be looked up before a plan and noted in [`Placed::literal`]: what becomes a frontend stays what
/// it was to the pods of a ruleset that an earlier agent built and nobody wants any more, until they leave it.
pub fn unknown(have: &Image, want: &Desired) -> Vec<Unknown> {
    let is_unknown = |slot: u32| {
        let placed = have.rulesets.get(&slot);
        placed.is_some_and(|placed| placed.ruleset.is_none())
    };
    let mut users: BTreeMap<u32, Vec<(u64, &Endpoint)>> = BTreeMap::new();
    for (hook, endpoint) in &have.endpoints {
        let slot = endpoint.ruleset.get();
        if endpoint.isolated() && is_unknown(slot) {
            users.entry(slot).or_default().push((*hook, endpoint));
        }
    }
    let coming = || {
        let keys = want.frontends.keys();
        keys.filter(|key| !have.frontends.contains_key(key))
    };
    let question = |(ruleset, users): (u32, &[(u64, &Endpoint)]), destination: &FrontendKey| {
        // A pod's own addresses are open to it whatever its ruleset says.
        let owns = |endpoint: &Endpoint| endpoint.owns(destination.family, &destination.address);
        let (hook, _) = users.iter().find(|(_, user)| owns(user).is_none())?;
        Some(Unknown {
            ruleset,
            destination: *destination,
            hook: *hook,
        })
    };
    let users = users.iter();
    users
        .flat_map(|(slot, users)| coming().filter_map(|key| question((*slot, users), key)))
        .collect()
}

/// Looks at every class, and at every address that moved.
fn plan_of_all(have: &Image, want: &Desired, limits: &Limits, homes: Option<&Homes>) -> Plan {
    let standing = Standing::of(have, want, homes);
    let mut refused: BTreeMap<RulesetKey, Refusal> = BTreeMap::new();
    for (key, ruleset) in &want.rulesets {
        let need = ruleset.trie.v4().len().max(ruleset.trie.v6().len());
        if need > limits.trie {
            refused.insert(
                *key,
                Refusal {
                    ruleset: Some(*key),
                    map: "RULESET_CIDRS",
                    need,
                    capacity: limits.trie,
                },
            );
        }
    }
    loop {
        let draft = Draft::new(have, want, &standing, &refused, limits);
        let overflow = draft.overflow(limits);
        let (steps, rulesets, homes) = (draft.steps, draft.slots, draft.homes);
        match overflow {
            None => {
                return Plan {
                    steps,
                    rulesets,
                    homes: refused.is_empty().then_some(homes),
                    refused: refused.into_values().collect(),
                };
            }
            Some((overflow, Some(ruleset))) => {
                refused.insert(
                    ruleset,
                    Refusal {
                        ruleset: Some(ruleset),
                        ..overflow
                    },
                );
            }
            Some((overflow, None)) => return refuse_all(have, want, refused, overflow),
        }
    }
}

/// The whole change is refused: endpoints stay as they are; those that should be isolated and are
/// not yet are closed.
fn refuse_all(
    have: &Image,
    want: &Desired,
    refused: BTreeMap<RulesetKey, Refusal>,
    overflow: Refusal,
) -> Plan {
    let mut plan = Plan {
        refused: refused.into_values().chain([overflow]).collect(),
        ..Plan::default()
    };
    let generation = have.config.generation.get().wrapping_add(1);
    let mut slots = Slots::new(have, u16::MAX);
    for (hook, desired) in &want.endpoints {
        let had = have.endpoints.get(hook);
        let isolated = had.is_some_and(|e| e.flags.get() & ENDPOINT_ISOLATED != 0);
        if !isolated && desired.rules != EndpointRules::Open {
            let slot = match had {
                Some(endpoint) => Some(endpoint.slot.get()),
                None => slots
                    .take()
                    .inspect(|slot| plan.steps.push(Step::OpenSlot { slot: *slot })),
            };
            if let Some(slot) = slot {
                plan.steps.push(Step::SetEndpoint {
                    hook: *hook,
                    endpoint: endpoint(desired, RULESET_DENY, slot, generation),
                });
            }
        }
    }
    if !plan.steps.is_empty() {
        plan.steps.insert(0, reserve(have, generation));
    }
    plan
}

/// Writes down that a generation is given out, before anything carries it.
fn reserve(have: &Image, generation: u32) -> Step {
    Step::SetConfig(Config {
        generation: U32::new(generation),
        ..have.config
    })
}

/// The value of an endpoint. Addresses beyond the room for them count as foreign.
pub fn endpoint(desired: &DesiredEndpoint, ruleset: u32, slot: u16, generation: u32) -> Endpoint {
    let mut v4 = [[0; 4]; ENDPOINT_ADDRESSES];
    let mut v6 = [[0; 16]; ENDPOINT_ADDRESSES];
    let (mut v4_len, mut v6_len) = (0_u8, 0_u8);
    for address in &desired.addresses {
        match address {
            IpAddr::V4(a) => {
                if let Some(place) = v4.get_mut(usize::from(v4_len)) {
                    *place = a.octets();
                    v4_len += 1;
                }
            }
            IpAddr::V6(a) => {
                if let Some(place) = v6.get_mut(usize::from(v6_len)) {
                    *place = a.octets();
                    v6_len += 1;
                }
            }
        }
    }
    let isolated = match desired.rules {
        EndpointRules::Open => 0,
        EndpointRules::Closed | EndpointRules::Ruleset(_) => ENDPOINT_ISOLATED,
    };
    let spoof = if desired.spoof_check {
        ENDPOINT_SPOOF_CHECK
    } else {
        0
    };
    Endpoint {
        ruleset: U32::new(ruleset),
        generation: U32::new(generation),
        flags: U32::new(isolated | spoof),
        slot: U16::new(slot),
        v4_len,
        v6_len,
        v4,
        v6,
    }
}

/// The slots that the next new endpoints get, in order.
pub fn next_slots(have: &Image, limits: &Limits, count: usize) -> Vec<u16> {
    let mut slots = Slots::new(have, limits.endpoints);
    std::iter::from_fn(|| slots.take()).take(count).collect()
}

/// Free endpoint slots; one that was just left comes last.
struct Slots {
    taken: BTreeSet<u16>,
    next: u16,
    count: u16,
}

impl Slots {
    fn new(have: &Image, count: u16) -> Self {
        Self {
            taken: have.endpoints.values().map(|e| e.slot.get()).collect(),
            next: have.next.slot,
            count,
        }
    }

    fn take(&mut self) -> Option<u16> {
        let start = if self.next < self.count { self.next } else { 0 };
        let free = (start..self.count)
            .chain(0..start)
            .find(|slot| !self.taken.contains(slot))?;
        self.taken.insert(free);
        self.next = free.saturating_add(1);
        Some(free)
    }
}

/// The writes of endpoints.
#[derive(Debug, Default)]
struct EndpointWrites {
    /// Slots to open.
    opens: Vec<Step>,
    /// Endpoints that no table has a say in any more: open, closed, gone.
    early: Vec<Step>,
    /// The others.
    flips: Vec<Step>,
    /// Slots to close.
    closes: Vec<Step>,
}

/// Whether two values of an endpoint differ in nothing but their generation.
fn same(one: &Endpoint, other: &Endpoint) -> bool {
    Endpoint {
        generation: other.generation,
        ..*one
    } == *other
}

/// Ports id by ruleset slot.
type Column = BTreeMap<u32, u32>;

/// A column by slots and ids.
fn in_slots(
    column: &compile::Column,
    slots: &BTreeMap<RulesetKey, u32>,
    ports: &mut Interner<'_>,
) -> Column {
    let entries = column.iter();
    entries
        .filter_map(|(key, set)| Some((*slots.get(key)?, ports.id(set))))
        .collect()
}

/// Whether an address that goes from one column to another may be denied what it was allowed, by a ruleset
/// that is not left.
fn loses(old: &Column, new: &Column, left: &BTreeSet<u32>) -> bool {
    old.iter().any(|(slot, ports)| {
        !left.contains(slot) && *ports != PORTS_NOTHING && new.get(slot) != Some(ports)
    })
}

/// The addresses that are in one class and should be in one column.
type Group = (Option<u32>, Option<usize>);

/// What a step does to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It enters a class, perhaps from another one.
    Enters(u32),
    /// It leaves PEERS.
    Leaves,
}

impl Fate {
    fn step(self, address: Address) -> Step {
        match self {
            Self::Enters(class) => Step::SetPeer { address, class },
            Self::Leaves => Step::RemovePeer { address },
        }
    }
}

/// A plan on the way, with its use of the tables.
struct Draft<'a> {
    have: &'a Image,
    want: &'a Desired,
    refused: &'a BTreeMap<RulesetKey, Refusal>,
    /// Where addresses are and where they should be.
    standing: &'a Standing,
    steps: Vec<Step>,
    /// The classes that addresses are in at the end.
    used: BTreeSet<u32>,
    /// Where the addresses of each wanted class are at the end.
    homes: Homes,
    /// Wanted rulesets that fit.
    slots: BTreeMap<RulesetKey, u32>,
    /// Of [`Draft::slots`], those that are built by this plan.
    new: BTreeSet<u32>,
    /// Rulesets that no endpoint wants, but whose pods must keep them.
    frozen: BTreeSet<u32>,
    /// Rulesets that are left.
    dying: BTreeSet<u32>,
    /// Rulesets that no slot was left for.
    homeless: usize,
    ports: Interner<'a>,
    peak: Usage,
    /// What each new ruleset adds.
    share: BTreeMap<u32, Usage>,
    endpoints_lost: usize,
}

/// Entries in use.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    peers: usize,
    classes: usize,
    ports: usize,
    frontends: usize,
    frontend_rulesets: usize,
}

/// Ids of port sets.
struct Interner<'a> {
    known: BTreeMap<&'a PortSet, u32>,
    added: BTreeMap<PortSet, u32>,
    next: u32,
}

impl<'a> Interner<'a> {
    fn new(have: &'a Image) -> Self {
        Self {
            known: have.ports.iter().map(|(id, set)| (set, *id)).collect(),
            added: BTreeMap::new(),
            next: have.next.ports,
        }
    }

    fn id(&mut self, set: &PortSet) -> u32 {
        if set.is_nothing() {
            return PORTS_NOTHING;
        }
        if *set == PortSet::Everything {
            return PORTS_EVERYTHING;
        }
        if let Some(id) = set.literal() {
            return id;
        }
        if let Some(id) = self.known.get(set).or_else(|| self.added.get(set)) {
            return *id;
        }
        let id = self.next;
        self.next += 1;
        self.added.insert(set.clone(), id);
        id
    }
}

impl<'a> Draft<'a> {
    fn new(
        have: &'a Image,
        want: &'a Desired,
        standing: &'a Standing,
        refused: &'a BTreeMap<RulesetKey, Refusal>,
        limits: &Limits,
    ) -> Self {
        let mut draft = Self {
            have,
            want,
            refused,
            standing,
            steps: Vec::new(),
            used: BTreeSet::new(),
            homes: Homes(Vec::new()),
            slots: BTreeMap::new(),
            new: BTreeSet::new(),
            frozen: BTreeSet::new(),
            dying: BTreeSet::new(),
            homeless: 0,
            ports: Interner::new(have),
            peak: Usage {
                peers: have.peers.len(),
                classes: have.classes.values().map(BTreeMap::len).sum(),
                ports: have
                    .ports
                    .iter()
                    .map(|(id, set)| set.entries(*id).len())
                    .sum(),
                frontends: have.frontends.len(),
                frontend_rulesets: have.frontend_rulesets.values().map(BTreeSet::len).sum(),
            },
            share: BTreeMap::new(),
            endpoints_lost: 0,
        };
        draft.place_rulesets(limits);
        let built = draft.build_rulesets();
        let (class_entries, moves, settles, peers_changed) = draft.move_peers();
        let (frontend_entries, frontend_moves, frontend_settles) = if standing.only_moved {
            (Vec::new(), Vec::new(), Vec::new())
        } else {
            draft.move_frontends()
        };
        let EndpointWrites {
            opens,
            early,
            flips,
            closes,
        } = if standing.only_moved {
            EndpointWrites::default()
        } else {
            draft.flip(limits)
        };

        // Prepare.
        let generation = have.config.generation.get().wrapping_add(1);
        let mut config = have.config;
        if !(early.is_empty() && flips.is_empty()) {
            config.generation = U32::new(generation);
            draft.steps.push(Step::SetConfig(config));
        }
        let added: Vec<(PortSet, u32)> = draft
            .ports
            .added
            .iter()
            .map(|(s, i)| (s.clone(), *i))
            .collect();
        for (set, id) in added {
            draft.peak.ports += set.entries(id).len();
            draft.steps.push(Step::AddPorts { id, set });
        }
        draft.steps.extend(built);
        draft.steps.extend(class_entries);
        draft.steps.extend(frontend_entries);
        draft.steps.extend(opens);
        draft.steps.extend(early);
        // Move. The epoch follows: a flow that was judged meanwhile carries the old one.
        let frontends_changed = !frontend_moves.is_empty();
        draft.steps.extend(moves);
        draft.steps.extend(frontend_moves);
        if peers_changed || frontends_changed {
            config.epoch = U32::new(config.epoch.get().wrapping_add(1));
            draft.steps.push(Step::SetConfig(config));
        }
        // Flip, settle, release.
        draft.steps.extend(flips);
        draft.steps.extend(settles);
        draft.steps.extend(frontend_settles);
        draft.release();
        draft.steps.extend(closes);
        draft
    }

    /// Which rulesets stay, come and go.
    fn place_rulesets(&mut self, limits: &Limits) {
        let mut users: BTreeMap<u32, Vec<(u64, &Endpoint)>> = BTreeMap::new();
        for (hook, endpoint) in &self.have.endpoints {
            let slot = endpoint.ruleset.get();
            users.entry(slot).or_default().push((*hook, endpoint));
        }
        let placed: BTreeMap<RulesetKey, u32> = self
            .have
            .rulesets
            .iter()
            .map(|(slot, placed)| (placed.key, *slot))
            .collect();
        let mut next = self.have.next.ruleset.max(1);
        // Each slot is tried once, so none is given out twice.
        let mut tried = 1;
        for key in self
            .want
            .rulesets
            .keys()
            .filter(|key| !self.refused.contains_key(key))
        {
            if let Some(slot) = placed.get(key)
                && !self.torn(*slot, key, users.get(slot).into_iter().flatten())
            {
                self.slots.insert(*key, *slot);
                continue;
            }
            let slot = loop {
                if tried >= limits.rulesets {
                    break None;
                }
                tried += 1;
                if next >= limits.rulesets {
                    next = 1;
                }
                let slot = next;
                next += 1;
                if !self.have.rulesets.contains_key(&slot) {
                    break Some(slot);
                }
            };
            match slot {
                Some(slot) => {
                    self.slots.insert(*key, slot);
                    self.new.insert(slot);
                }
                None => self.homeless += 1,
            }
        }
        for (hook, desired) in &self.want.endpoints {
            if let EndpointRules::Ruleset(key) = desired.rules
                && self.refused.contains_key(&key)
                && let Some(had) = self.have.endpoints.get(hook)
                && had.ruleset.get() != RULESET_DENY
            {
                self.frozen.insert(had.ruleset.get());
            }
        }
        let staying: BTreeSet<u32> = self.slots.values().chain(&self.frozen).copied().collect();
        self.frozen
            .retain(|slot| !self.slots.values().any(|kept| kept == slot));
        self.dying = self
            .have
            .rulesets
            .keys()
            .copied()
            .filter(|slot| !staying.contains(slot))
            .collect();
    }

    /// Whether a ruleset that stays must be built anew all the same: an endpoint leaves it while what
    /// it says of some address changes. Until it left, that endpoint must see what the ruleset said;
    /// those that stay must not see it any more.
    fn torn<'e>(
        &self,
        slot: u32,
        key: &RulesetKey,
        users: impl Iterator<Item = &'e (u64, &'e Endpoint)>,
    ) -> bool {
        let mut left = false;
        for (hook, had) in users {
            let Some(desired) = self.want.endpoints.get(hook) else {
                continue;
            };
            match desired.rules {
                // These are written before anything moves.
                EndpointRules::Open | EndpointRules::Closed => {}
                EndpointRules::Ruleset(wanted) if self.refused.contains_key(&wanted) => {
                    return false;
                }
                EndpointRules::Ruleset(wanted) => {
                    left |=
                        wanted != *key || !same(had, &endpoint(desired, slot, had.slot.get(), 0));
                }
            }
        }
        left && (self.says_other_of_peers(slot, key) || self.says_other_of_frontends(slot, key))
    }

    fn says_other_of_peers(&self, slot: u32, key: &RulesetKey) -> bool {
        let nothing = PortSet::nothing();
        let wanted = |column: Option<usize>| -> &PortSet {
            column
                .and_then(|index| self.want.columns.get(index)?.get(key))
                .map_or(&nothing, |ports| &**ports)
        };
        let now = |class: Option<u32>| -> Cow<'_, PortSet> {
            class
                .and_then(|class| self.have.port_set(self.have.class_ports(slot, class)?))
                .unwrap_or(Cow::Borrowed(&nothing))
        };
        self.standing
            .groups
            .iter()
            .any(|(class, column)| *wanted(*column) != *now(*class))
    }

    fn says_other_of_frontends(&self, slot: u32, key: &RulesetKey) -> bool {
        self.have.frontends.len() != self.want.frontends.len()
            || self.want.frontends.iter().any(|(frontend, rulesets)| {
                self.have.frontends.get(frontend).is_none_or(|id| {
                    self.have.frontend_allowed(slot, *id) != rulesets.contains(key)
                })
            })
    }

    fn build_rulesets(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (key, slot) in &self.slots {
            if !self.new.contains(slot) {
                continue;
            }
            let Some(ruleset) = self.want.rulesets.get(key) else {
                continue;
            };
            let sets = ruleset
                .trie
                .sets()
                .iter()
                .map(|set| self.ports.id(set))
                .collect();
            steps.push(Step::BuildRuleset {
                slot: *slot,
                placed: Placed {
                    key: *key,
                    ruleset: Some(ruleset.clone()),
                    sets,
                    literal: BTreeSet::new(),
                },
            });
        }
        steps
    }

    /// Class entries to prepare, moves, settling moves, and whether a flow that is cached may have
    /// lost its permission.
    fn move_peers(&mut self) -> (Vec<Step>, Vec<Step>, Vec<Step>, bool) {
        // Which addresses are in a group is asked only of those that move.
        let groups = &self.standing.groups;

        // A class that nobody is in needs no column.
        let inhabited: BTreeSet<usize> = groups.iter().filter_map(|group| group.1).collect();
        let mut wanted: BTreeMap<usize, Column> = BTreeMap::new();
        for index in inhabited {
            let Some(column) = self.want.columns.get(index) else {
                continue;
            };
            wanted.insert(index, in_slots(column, &self.slots, &mut self.ports));
        }

        let empty = Column::new();
        let mut assigned: BTreeMap<Cow<'_, Column>, u32> = BTreeMap::new();
        let mut extended: BTreeMap<u32, Column> = BTreeMap::new();
        let mut next_class = self.have.next.class;
        let mut entries = Vec::new();
        let mut moves = Vec::new();
        let mut settles = Vec::new();
        let mut changed = false;
        let mut finals: BTreeMap<Cow<'_, Column>, u32> = BTreeMap::new();
        let fresh = |(_, new): &Group| new.and_then(|index| wanted.get(&index)).unwrap_or(&empty);

        // First those that can stay where they are, so that nobody else takes their class.
        let mut homes: BTreeMap<Group, Option<u32>> = BTreeMap::new();
        for group in groups {
            let Some(class) = group.0 else { continue };
            let (column, _) = self.transitional(group.0, fresh(group));
            if column.is_empty() {
                continue;
            }
            let (now, later) = self.split(&column);
            if self.have.classes.get(&class).unwrap_or(&empty) == &*now
                && extended.get(&class).is_none_or(|taken| *taken == later)
            {
                extended.insert(class, later);
                assigned.insert(column.clone(), class);
                homes.insert(*group, Some(class));
            }
        }
        let mut vacant: BTreeMap<&Column, u32> = BTreeMap::new();
        for (class, column) in &self.have.classes {
            if !extended.contains_key(class) {
                vacant.insert(column, *class);
            }
        }
        for group in groups {
            if homes.contains_key(group) {
                continue;
            }
            let (column, _) = self.transitional(group.0, fresh(group));
            if column.is_empty() {
                homes.insert(*group, None);
                continue;
            }
            let class = if let Some(class) = assigned.get(&column) {
                *class
            } else {
                let (now, later) = self.split(&column);
                if let Some(class) = vacant.remove(&*now) {
                    extended.insert(class, later);
                    assigned.insert(column.clone(), class);
                    class
                } else {
                    let class = next_class;
                    next_class += 1;
                    for (ruleset, ports) in &*now {
                        entries.push(Step::SetClass {
                            class,
                            ruleset: *ruleset,
                            ports: *ports,
                        });
                    }
                    self.peak.classes += now.len();
                    extended.insert(class, later);
                    assigned.insert(column.clone(), class);
                    class
                }
            };
            homes.insert(*group, Some(class));
        }
        for (class, later) in &extended {
            for (ruleset, ports) in later {
                entries.push(Step::SetClass {
                    class: *class,
                    ruleset: *ruleset,
                    ports: *ports,
                });
                self.share.entry(*ruleset).or_default().classes += 1;
            }
            self.peak.classes += later.len();
        }

        // What happens to the addresses of a group: in the move, and when they settle.
        let mut fates: BTreeMap<Group, (Option<Fate>, Option<Fate>)> = BTreeMap::new();
        for group in groups {
            let old_class = group.0;
            let home = homes.get(group).copied().flatten();
            let (_, lasting) = self.transitional(old_class, fresh(group));
            let mut fate = (None, None);
            if home != old_class {
                changed |= self.may_lose(old_class, &lasting);
                fate.0 = Some(home.map_or(Fate::Leaves, Fate::Enters));
            }
            if let Some(class) = home {
                if lasting.is_empty() {
                    fate.1 = Some(Fate::Leaves);
                } else {
                    let last = *finals.entry(lasting).or_insert(class);
                    fate.1 = (last != class).then_some(Fate::Enters(last));
                    self.used.insert(last);
                }
            }
            if fate != (None, None) {
                fates.insert(*group, fate);
            }
        }
        let mut arriving = 0;
        let mut meet = |(group, address): (Group, Address)| {
            let Some((moving, settling)) = fates.get(&group) else {
                return;
            };
            moves.extend(moving.map(|fate| fate.step(address)));
            settles.extend(settling.map(|fate| fate.step(address)));
            arriving += usize::from(group.0.is_none() && moving.is_some());
        };
        match &self.standing.moved {
            Some(moved) if self.standing.resting.iter().all(|g| !fates.contains_key(g)) => {
                moved.iter().copied().for_each(&mut meet);
            }
            Some(_) | None if fates.is_empty() => {}
            Some(_) | None => everybody(self.have, self.want).for_each(&mut meet),
        }
        self.peak.peers += arriving;
        self.homes = Homes(
            (0..self.want.columns.len())
                .map(|index| finals.get(wanted.get(&index)?).copied())
                .collect(),
        );
        (entries, moves, settles, changed)
    }

    /// The column of addresses that leave a class for a `fresh` column: until the endpoints are flipped, and
    /// from then on.
    fn transitional<'w>(
        &self,
        old_class: Option<u32>,
        fresh: &'w Column,
    ) -> (Cow<'w, Column>, Cow<'w, Column>) {
        if self.frozen.is_empty() && self.dying.is_empty() {
            return (Cow::Borrowed(fresh), Cow::Borrowed(fresh));
        }
        let old = old_class.and_then(|class| self.have.classes.get(&class));
        let old = || old.into_iter().flatten();
        let mut lasting = fresh.clone();
        lasting.extend(old().filter(|(slot, _)| self.frozen.contains(slot)));
        let mut column = lasting.clone();
        column.extend(old().filter(|(slot, _)| self.dying.contains(slot)));
        (Cow::Owned(column), Cow::Owned(lasting))
    }

    /// A column's part that packets can reach now, and the part of rulesets that are built by this
    /// plan.
    fn split<'c>(&self, column: &'c Column) -> (Cow<'c, Column>, Column) {
        if self.new.is_empty() {
            return (Cow::Borrowed(column), Column::new());
        }
        let (now, later) = column
            .iter()
            .partition(|(slot, _)| !self.new.contains(slot));
        (Cow::Owned(now), later)
    }

    /// Whether an endpoint that keeps its ruleset may now be denied what it was allowed.
    fn may_lose(&self, old_class: Option<u32>, lasting: &Column) -> bool {
        let old = old_class.and_then(|class| self.have.classes.get(&class));
        old.is_some_and(|old| loses(old, lasting, &self.dying))
    }

    fn move_frontends(&mut self) -> (Vec<Step>, Vec<Step>, Vec<Step>) {
        let (mut entries, mut moves, mut settles) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = self.have.next.frontend;
        let keys: BTreeSet<&FrontendKey> = self
            .have
            .frontends
            .keys()
            .chain(self.want.frontends.keys())
            .collect();
        let leaving: Vec<u32> = self.dying.iter().chain(&self.frozen).copied().collect();
        let slots = self.slots.iter();
        let mut coming: Vec<(u32, RulesetKey)> = slots
            .filter(|(_, slot)| self.new.contains(slot))
            .map(|(ruleset, slot)| (*slot, *ruleset))
            .collect();
        coming.sort_unstable();
        for key in keys {
            let had = self.have.frontends.get(key).copied();
            let wanted = self.want.frontends.get(key);
            if let (Some(id), Some(rulesets)) = (had, wanted)
                && self.standing.settled
                && !self.want.judged_anew.contains(key)
            {
                // The last plan left it as it is wanted; only what comes has not said anything of it yet.
                for (ruleset, _) in coming.iter().filter(|(_, key)| rulesets.contains(key)) {
                    entries.push(Step::AllowFrontend {
                        frontend: id,
                        ruleset: *ruleset,
                    });
                    self.share.entry(*ruleset).or_default().frontend_rulesets += 1;
                    self.peak.frontend_rulesets += 1;
                }
                continue;
            }
            if wanted.is_none() && leaving.is_empty() {
                moves.push(Step::RemoveFrontend { key: *key });
                continue;
            }
            let none = BTreeSet::new();
            let old = had
                .and_then(|id| self.have.frontend_rulesets.get(&id))
                .unwrap_or(&none);
            let mut column: BTreeSet<u32> = match wanted {
                Some(rulesets) => rulesets
                    .iter()
                    .filter_map(|r| self.slots.get(r))
                    .copied()
                    .collect(),
                None => self
                    .slots
                    .iter()
                    .filter(|(ruleset, _)| literal(self.want, ruleset, key))
                    .map(|(_, slot)| *slot)
                    .collect(),
            };
            for slot in &leaving {
                let allowed = match had {
                    Some(_) => old.contains(slot),
                    None => literal_now(self.have, *slot, key),
                };
                if allowed {
                    column.insert(*slot);
                }
            }
            let (later, now): (BTreeSet<u32>, BTreeSet<u32>) =
                column.into_iter().partition(|slot| self.new.contains(slot));
            let id = match had {
                Some(id) if *old == now => id,
                _ => {
                    let id = next;
                    next += 1;
                    for ruleset in &now {
                        entries.push(Step::AllowFrontend {
                            frontend: id,
                            ruleset: *ruleset,
                        });
                    }
                    self.peak.frontend_rulesets += now.len();
                    moves.push(Step::SetFrontend {
                        key: *key,
                        frontend: id,
                    });
                    id
                }
            };
            for ruleset in &later {
                entries.push(Step::AllowFrontend {
                    frontend: id,
                    ruleset: *ruleset,
                });
                self.share.entry(*ruleset).or_default().frontend_rulesets += 1;
            }
            self.peak.frontend_rulesets += later.len();
            if had.is_none() {
                self.peak.frontends += 1;
            }
            // While a pod is held back on an old ruleset, the address stays what it was to it.
            if wanted.is_none() && self.frozen.is_empty() {
                settles.push(Step::RemoveFrontend { key: *key });
            }
        }
        (entries, moves, settles)
    }

    /// Endpoint writes.
    fn flip(&mut self, limits: &Limits) -> EndpointWrites {
        let EndpointWrites {
            mut opens,
            mut early,
            mut flips,
            mut closes,
        } = EndpointWrites::default();
        let generation = self.have.config.generation.get().wrapping_add(1);
        let mut slots = Slots::new(self.have, limits.endpoints);
        for (hook, desired) in &self.want.endpoints {
            let had = self.have.endpoints.get(hook);
            let ruleset = match desired.rules {
                EndpointRules::Open | EndpointRules::Closed => RULESET_DENY,
                EndpointRules::Ruleset(key) => match (self.slots.get(&key), had) {
                    (Some(slot), _) => *slot,
                    // Refused: what it had, or nothing.
                    (None, Some(had)) => had.ruleset.get(),
                    (None, None) => RULESET_DENY,
                },
            };
            let slot = if let Some(had) = had {
                had.slot.get()
            } else {
                let Some(slot) = slots.take() else {
                    self.endpoints_lost += 1;
                    continue;
                };
                opens.push(Step::OpenSlot { slot });
                slot
            };
            let value = endpoint(desired, ruleset, slot, generation);
            if had.is_some_and(|had| same(had, &value)) {
                continue;
            }
            let flip = Step::SetEndpoint {
                hook: *hook,
                endpoint: value,
            };
            match desired.rules {
                // Their verdict depends on no table, so they need not wait for the moves.
                EndpointRules::Open | EndpointRules::Closed if had.is_some() => early.push(flip),
                EndpointRules::Open | EndpointRules::Closed | EndpointRules::Ruleset(_) => {
                    flips.push(flip);
                }
            }
        }
        for (hook, had) in &self.have.endpoints {
            if !self.want.endpoints.contains_key(hook) {
                early.push(Step::RemoveEndpoint { hook: *hook });
                closes.push(Step::CloseSlot {
                    slot: had.slot.get(),
                });
            }
        }
        EndpointWrites {
            opens,
            early,
            flips,
            closes,
        }
    }

    /// Deletes what nothing refers to after the steps so far.
    fn release(&mut self) {
        if !self.standing.only_moved {
            self.disallow();
        }
        // Addresses are most of an image, and where they are at the end is known.
        let mut after = Image {
            ports: self.have.ports.clone(),
            rulesets: self.have.rulesets.clone(),
            classes: self.have.classes.clone(),
            ..Image::default()
        };
        for step in &self.steps {
            after.apply(step);
        }
        for (class, column) in &after.classes {
            for ruleset in column.keys() {
                if !self.used.contains(class) || self.dying.contains(ruleset) {
                    self.steps.push(Step::UnsetClass {
                        class: *class,
                        ruleset: *ruleset,
                    });
                }
            }
        }
        for slot in &self.dying {
            self.steps.push(Step::ReleaseRuleset { slot: *slot });
        }
        for step in &self.steps {
            if let Step::UnsetClass { .. } | Step::ReleaseRuleset { .. } = step {
                after.apply(step);
            }
        }
        if !after.knows_its_rulesets() {
            // One whose content is not known may refer to any of them.
            return;
        }
        let mut used: BTreeSet<u32> = after
            .classes
            .values()
            .flat_map(BTreeMap::values)
            .copied()
            .collect();
        for placed in after.rulesets.values() {
            used.extend(&placed.sets);
        }
        for (id, set) in &after.ports {
            if !used.contains(id) {
                self.steps.push(Step::RemovePorts {
                    id: *id,
                    set: set.clone(),
                });
            }
        }
    }

    /// Deletes what is said of frontends that nothing refers to after the steps so far, or by rulesets that
    /// are left.
    fn disallow(&mut self) {
        // What is said of frontends may be much, and little of it changes.
        let mut after = Image {
            frontends: self.have.frontends.clone(),
            ..Image::default()
        };
        for step in &self.steps {
            after.apply(step);
        }
        let used: BTreeSet<u32> = after.frontends.values().copied().collect();
        let mut over: BTreeSet<(u32, u32)> = BTreeSet::new();
        let said = self.have.frontend_rulesets.iter();
        for (frontend, rulesets) in said.chain(&after.frontend_rulesets) {
            if used.contains(frontend) {
                let dying = self.dying.iter().filter(|slot| rulesets.contains(slot));
                over.extend(dying.map(|slot| (*frontend, *slot)));
            } else {
                over.extend(rulesets.iter().map(|slot| (*frontend, *slot)));
            }
        }
        for (frontend, ruleset) in over {
            self.steps
                .push(Step::DisallowFrontend { frontend, ruleset });
        }
    }

    /// The table that would be too full, and the new ruleset that needs most of it.
    fn overflow(&self, limits: &Limits) -> Option<(Refusal, Option<RulesetKey>)> {
        let refusal = |map, need, capacity| Refusal {
            ruleset: None,
            map,
            need,
            capacity,
        };
        let Usage {
            peers,
            classes,
            ports,
            frontends,
            frontend_rulesets,
        } = self.peak;
        let capacity = usize::try_from(limits.rulesets).unwrap_or(usize::MAX);
        if self.homeless > 0 {
            let homeless = self
                .want
                .rulesets
                .keys()
                .find(|key| !self.slots.contains_key(key) && !self.refused.contains_key(key));
            return Some((
                refusal(
                    "RULESETS",
                    self.have.rulesets.len() + self.homeless + self.new.len() + 1,
                    capacity,
                ),
                homeless.copied(),
            ));
        }
        if self.endpoints_lost > 0 {
            let capacity = usize::from(limits.endpoints);
            return Some((
                refusal("ENDPOINTS", capacity + self.endpoints_lost, capacity),
                None,
            ));
        }
        if classes > limits.classes {
            return Some((
                refusal("RULESET_CLASSES", classes, limits.classes),
                self.biggest(|u| u.classes),
            ));
        }
        if ports > limits.ports {
            return Some((refusal("PORTS", ports, limits.ports), self.most_ports()));
        }
        if frontend_rulesets > limits.frontend_rulesets {
            return Some((
                refusal(
                    "RULESET_FRONTENDS",
                    frontend_rulesets,
                    limits.frontend_rulesets,
                ),
                self.biggest(|u| u.frontend_rulesets),
            ));
        }
        if peers > limits.peers {
            return Some((refusal("PEERS", peers, limits.peers), None));
        }
        if frontends > limits.frontends {
            return Some((refusal("FRONTENDS", frontends, limits.frontends), None));
        }
        None
    }

    fn biggest(&self, of: impl Fn(&Usage) -> usize) -> Option<RulesetKey> {
        self.slots
            .iter()
            .filter_map(|(key, slot)| Some((of(self.share.get(slot)?), *key)))
            .filter(|(share, _)| *share > 0)
            .max()
            .map(|(_, key)| key)
    }

    /// The new ruleset that refers to most entries of PORTS.
    fn most_ports(&self) -> Option<RulesetKey> {
        let entries = |ruleset: &Ruleset| -> usize {
            let by_prefix = ruleset.trie.sets().iter();
            let by_class = ruleset.classes.iter().map(|term| &term.ports);
            by_prefix
                .chain(by_class)
                .map(|set| set.entries(0).len())
                .sum()
        };
        self.slots
            .iter()
            .filter(|(_, slot)| self.new.contains(slot))
            .filter_map(|(key, _)| Some((entries(self.want.rulesets.get(key)?), *key)))
            .filter(|(share, _)| *share > 0)
            .max()
            .map(|(_, key)| key)
    }
}

/// Where addresses are, and where they should be.
struct Standing {
    /// Every group that some address is in. Few.
    groups: BTreeSet<Group>,
    /// Those that others are in than `moved`.
    resting: BTreeSet<Group>,
    /// The addresses whose group may be another one than after the last plan, in order. `None`: any may.
    moved: Option<Vec<(Group, Address)>>,
    /// The last plan was carried out whole.
    settled: bool,
    /// Nothing else is another than it was then.
    only_moved: bool,
}

impl Standing {
    fn of(have: &Image, want: &Desired, homes: Option<&Homes>) -> Self {
        let standing = match (homes, &want.moved) {
            (Some(homes), Addresses::Only(moved)) => Self::since(have, want, homes, moved),
            (Some(_), Addresses::All) | (None, _) => Self {
                settled: homes.is_some(),
                ..Self::of_everybody(have, want)
            },
        };
        debug_assert_eq!(
            standing.groups,
            Self::of_everybody(have, want).groups,
            "what the tables say is not what the last plan left"
        );
        standing
    }

    /// Looks at the addresses that moved alone: where the others are was known after the last plan.
    fn since(have: &Image, want: &Desired, Homes(homes): &Homes, moved: &BTreeSet<IpAddr>) -> Self {
        let Moved { groups, resting } = Moved::of(have, want, moved);
        let resting: BTreeSet<Group> = (0..)
            .zip(resting)
            .filter(|(_, members)| *members > 0)
            .map(|(column, _)| (homes.get(column).copied().flatten(), Some(column)))
            .collect();
        let all = resting.iter().chain(groups.iter().map(|(group, _)| group));
        Self {
            groups: all.copied().collect(),
            resting,
            moved: Some(groups),
            settled: true,
            only_moved: want.only_moved,
        }
    }

    fn of_everybody(have: &Image, want: &Desired) -> Self {
        // Most addresses are in one of the last groups.
        const RECENT: usize = 256;
        let mut recent = [None; RECENT];
        let mut groups = BTreeSet::new();
        for (group, _) in everybody(have, want) {
            let place = group.1.map_or(0, |column| column % RECENT);
            let seen = recent.get_mut(place);
            if seen.as_deref() != Some(&Some(group)) {
                groups.insert(group);
                if let Some(seen) = seen {
                    *seen = Some(group);
                }
            }
        }
        Self {
            resting: groups.clone(),
            groups,
            moved: None,
            settled: false,
            only_moved: false,
        }
    }
}

/// Addresses that moved, by the class they are in and the column they should be in.
struct Moved {
    /// In the order of the addresses.
    groups: Vec<(Group, Address)>,
    /// How many others are in each column.
    resting: Vec<usize>,
}

impl Moved {
    fn of(have: &Image, want: &Desired, moved: &BTreeSet<IpAddr>) -> Self {
        let mut resting: Vec<usize> = want.peers.members().collect();
        let mut groups = Vec::new();
        for ip in moved {
            let address = address_key(*ip);
            let column = want.peers.class(*ip);
            if let Some(members) = column.and_then(|column| resting.get_mut(column)) {
                *members -= 1;
            }
            let group = (have.peers.get(&address).copied(), column);
            if group != (None, None) {
                groups.push((group, address));
            }
        }
        Self { groups, resting }
    }
}

/// Every address that is in a class or should be in one, in order.
fn everybody<'a>(
    have: &'a Image,
    want: &'a Desired,
) -> impl Iterator<Item = (Group, Address)> + use<'a> {
    let mut have = have.peers.iter().peekable();
    let mut want = want.peers.iter().peekable();
    std::iter::from_fn(move || {
        let next = want.peek().map(|(ip, _)| address_key(*ip));
        match (have.peek(), next) {
            (Some((had, _)), Some(wanted)) if **had == wanted => {
                let class = have.next().map(|(_, class)| *class);
                Some(((class, want.next().map(|(_, column)| column)), wanted))
            }
            (Some((had, _)), wanted) if wanted.is_none_or(|wanted| **had < wanted) => {
                let (address, class) = have.next()?;
                Some(((Some(*class), None), *address))
            }
            (_, Some(wanted)) => Some(((None, want.next().map(|(_, column)| column)), wanted)),
            (_, None) => None,
        }
    })
}

/// The verdict on a frontend's address and port as an ordinary destination, by content.
fn literal(want: &Desired, ruleset: &RulesetKey, key: &FrontendKey) -> bool {
    let destination = ip(&key.destination());
    let port = key.port.get();
    let by_class = want
        .peers
        .class(destination)
        .and_then(|column| want.columns.get(column)?.get(ruleset))
        .is_some_and(|set| set.contains(key.protocol, port));
    by_class
        || want.rulesets.get(ruleset).is_some_and(|ruleset| {
            ruleset
                .trie
                .lookup(destination)
                .and_then(|set| ruleset.trie.sets().get(usize::try_from(set).ok()?))
                .is_some_and(|set| set.contains(key.protocol, port))
        })
}

/// The same by the tables as they are.
fn literal_now(have: &Image, slot: u32, key: &FrontendKey) -> bool {
    let placed = have.rulesets.get(&slot);
    if placed.is_some_and(|placed| placed.literal.contains(key)) {
        return true;
    }
    let destination = key.destination();
    let by_class = have
        .peer(&destination)
        .and_then(|class| have.class_ports(slot, class));
    by_class
        .into_iter()
        .chain(have.cidr_ports(slot, &destination))
        .filter_map(|ports| have.port_set(ports))
        .any(|set| set.contains(key.protocol, key.port.get()))
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
mod tests;
