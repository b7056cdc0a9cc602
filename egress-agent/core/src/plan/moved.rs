//! The plan of a change that moves addresses and does nothing else: what the plan of everything would say, found
//! without looking at any class but those that the addresses leave and enter.
//!
//! Pods elsewhere come, go and are relabelled all the time, and there may be a thousand classes of which hundreds of
//! rulesets say something.
//!
//! It relies on what a plan that was carried out whole leaves: no two classes say the same, in each of them is
//! somebody, and no port set is there that nothing refers to.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use egress_common::abi::Config;
use zerocopy::network_endian::U32;

use super::{Column, Fate, Group, Homes, Interner, Limits, Moved, Plan, in_slots, loses};
use crate::compile::{Addresses, Desired};
use crate::image::{Image, Step};
use crate::ruleset::RulesetKey;

/// The plan, as in [`super::plan`]; `None` where more than that has to be looked at.
pub(super) fn plan(
    have: &Image,
    want: &Desired,
    limits: &Limits,
    Homes(homes): &Homes,
) -> Option<Plan> {
    let Addresses::Only(moved) = &want.moved else {
        return None;
    };
    // To which sets a ruleset of unknown content refers is unknown, too.
    if !want.only_moved || !have.knows_its_rulesets() {
        return None;
    }
    let placed = have.rulesets.iter();
    let slots: BTreeMap<RulesetKey, u32> =
        placed.map(|(slot, placed)| (placed.key, *slot)).collect();
    let Moved { groups, resting } = Moved::of(have, want, moved);

    let mut steps = Vec::new();
    let mut classes = Classes {
        have,
        want,
        homes,
        slots: &slots,
        ports: Interner::new(have),
        made: BTreeMap::new(),
    };
    let empty = Column::new();
    let mut ends: BTreeMap<Group, Option<u32>> = BTreeMap::new();
    let mut lost = false;
    for group in groups
        .iter()
        .map(|(group, _)| *group)
        .collect::<BTreeSet<_>>()
    {
        let (class, column) = classes.of(group.1, &mut steps)?;
        if class != group.0
            && let Some(old) = group.0.and_then(|class| have.classes.get(&class))
        {
            lost |= loses(old, column.as_deref().unwrap_or(&empty), &BTreeSet::new());
        }
        ends.insert(group, class);
    }
    let entries: usize = have.classes.values().map(BTreeMap::len).sum();
    let mut arriving = 0;
    if entries + steps.len() > limits.classes {
        return None;
    }
    for (group, address) in groups {
        let end = ends.get(&group).copied().flatten();
        if end != group.0 {
            steps.push(end.map_or(Fate::Leaves, Fate::Enters).step(address));
            arriving += usize::from(group.0.is_none());
        }
    }
    if have.peers.len() + arriving > limits.peers {
        return None;
    }
    if lost {
        steps.push(Step::SetConfig(Config {
            epoch: U32::new(have.config.epoch.get().wrapping_add(1)),
            ..have.config
        }));
    }

    let mut after: Vec<Option<u32>> = (0..want.columns.len())
        .map(|index| homes.get(index).copied().flatten())
        .zip(&resting)
        .map(|(home, resting)| home.filter(|_| *resting > 0))
        .collect();
    for ((_, column), end) in &ends {
        if let Some(home) = column.and_then(|column| after.get_mut(column)) {
            *home = *end;
        }
    }
    let left: BTreeSet<u32> = ends.keys().filter_map(|(class, _)| *class).collect();
    let left: BTreeMap<u32, &Column> = left
        .into_iter()
        .filter(|class| !after.contains(&Some(*class)))
        .filter_map(|class| Some((class, have.classes.get(&class)?)))
        .collect();
    let stay = have.classes.iter();
    let stay = stay.filter(|(class, _)| !left.contains_key(class));
    let stay = || {
        stay.clone()
            .map(|(_, said)| said)
            .chain(classes.made.keys())
    };
    for (class, said) in &left {
        for (ruleset, ports) in *said {
            if have.ports.contains_key(ports)
                && !stay().any(|said| said.values().any(|other| other == ports))
                && !have
                    .rulesets
                    .values()
                    .any(|placed| placed.sets.contains(ports))
            {
                // Nothing refers to it any more.
                return None;
            }
            steps.push(Step::UnsetClass {
                class: *class,
                ruleset: *ruleset,
            });
        }
    }
    Some(Plan {
        steps,
        refused: Vec::new(),
        rulesets: slots,
        homes: Some(Homes(after)),
    })
}

/// The classes of the tables, and those that are made.
struct Classes<'a> {
    have: &'a Image,
    want: &'a Desired,
    homes: &'a [Option<u32>],
    slots: &'a BTreeMap<RulesetKey, u32>,
    ports: Interner<'a>,
    made: BTreeMap<Column, u32>,
}

/// A class, and what it says; `None` of one that says nothing, whose addresses are not in PEERS.
type Said<'c> = (Option<u32>, Option<Cow<'c, Column>>);

impl Classes<'_> {
    /// The class that says what a column does; makes it by `steps` where there is none. `None` where it
    /// needs a port set that is not there.
    fn of(&mut self, column: Option<usize>, steps: &mut Vec<Step>) -> Option<Said<'_>> {
        let Some(index) = column else {
            return Some((None, None));
        };
        if let Some(class) = self.homes.get(index).copied().flatten() {
            return Some((
                Some(class),
                self.have.classes.get(&class).map(Cow::Borrowed),
            ));
        }
        let column = in_slots(self.want.columns.get(index)?, self.slots, &mut self.ports);
        if !self.ports.added.is_empty() {
            return None;
        }
        if column.is_empty() {
            return Some((None, None));
        }
        let known = self.have.classes.iter().find(|(_, said)| **said == column);
        if let Some((class, said)) = known {
            return Some((Some(*class), Some(Cow::Borrowed(said))));
        }
        let next = self.have.next.class + u32::try_from(self.made.len()).ok()?;
        let class = *self.made.entry(column.clone()).or_insert(next);
        if class == next {
            steps.extend(column.iter().map(|(ruleset, ports)| Step::SetClass {
                class,
                ruleset: *ruleset,
                ports: *ports,
            }));
        }
        Some((Some(class), Some(Cow::Owned(column))))
    }
}
