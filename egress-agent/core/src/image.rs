//! What the tables say, by id: a mirror of the kernel's maps.
//!
//! The agent keeps one and changes it by the very steps that it carries out; `check` fills one
//! from nothing. Both decide over it with the code that runs in the kernel.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use egress_common::abi::{
    Address, Config, Endpoint, FAMILY_V4, FrontendKey, PORTS_EVERYTHING, PORTS_FIRST, PORTS_NOTHING,
};
use egress_common::tables::Tables;

use crate::ports::PortSet;
use crate::ruleset::{Ruleset, RulesetKey};

/// The tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// CONFIG.
    pub config: Config,
    /// ENDPOINTS.
    pub endpoints: BTreeMap<u64, Endpoint>,
    /// PORTS, by interned id.
    pub ports: BTreeMap<u32, PortSet>,
    /// RULESETS and RULESET_CIDRS.
    pub rulesets: BTreeMap<u32, Placed>,
    /// RULESET_CLASSES: class → ruleset → ports id.
    pub classes: BTreeMap<u32, BTreeMap<u32, u32>>,
    /// PEERS.
    pub peers: BTreeMap<Address, u32>,
    /// FRONTENDS.
    pub frontends: BTreeMap<FrontendKey, u32>,
    /// RULESET_FRONTENDS: frontend → the rulesets that allow it.
    pub frontend_rulesets: BTreeMap<u32, BTreeSet<u32>>,
    /// Ids never given out yet.
    pub next: NextIds,
}

/// The lowest ids that were never given out: ids are not reused while a reader can hold them, and
/// there are enough never to reuse them at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextIds {
    /// Ports id.
    pub ports: u32,
    /// Class.
    pub class: u32,
    /// Frontend.
    pub frontend: u32,
    /// Where the search for a free ruleset begins: slots are reused, as late as possible.
    pub ruleset: u32,
    /// Where the search for a free endpoint slot begins.
    pub slot: u16,
}

impl Default for NextIds {
    fn default() -> Self {
        Self {
            ports: PORTS_FIRST,
            class: 1,
            frontend: 1,
            ruleset: 1,
            slot: 0,
        }
    }
}

/// A ruleset in the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its content's address.
    pub key: RulesetKey,
    /// Its content; not known of one that an earlier agent built until it is compiled again.
    pub ruleset: Option<Arc<Ruleset>>,
    /// Ports id of each of the trie's sets.
    pub sets: Vec<u32>,
    /// What the tables answered to [`crate::plan::unknown`]: where the content is not known, what becomes a
    /// frontend and is allowed as an ordinary destination.
    pub literal: BTreeSet<FrontendKey>,
}

/// One change of the tables: one write that packets can notice, or many that none can reach.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Writes CONFIG.
    SetConfig(Config),
    /// Writes a port set under an id that nothing refers to yet.
    AddPorts {
        /// The id.
        id: u32,
        /// The set.
        set: PortSet,
    },
    /// Fills the tries of a ruleset that no endpoint uses yet.
    BuildRuleset {
        /// Where.
        slot: u32,
        /// What.
        placed: Placed,
    },
    /// Writes one entry of RULESET_CLASSES.
    SetClass {
        /// The class.
        class: u32,
        /// The ruleset.
        ruleset: u32,
        /// The ports id.
        ports: u32,
    },
    /// Writes one entry of RULESET_FRONTENDS.
    AllowFrontend {
        /// The frontend.
        frontend: u32,
        /// The ruleset.
        ruleset: u32,
    },
    /// Makes an endpoint slot's own tables.
    OpenSlot {
        /// The slot.
        slot: u16,
    },
    /// Moves an address into a class.
    SetPeer {
        /// The address.
        address: Address,
        /// The class.
        class: u32,
    },
    /// Takes an address out of PEERS.
    RemovePeer {
        /// The address.
        address: Address,
    },
    /// Makes an address and port a frontend, or another one.
    SetFrontend {
        /// Where.
        key: FrontendKey,
        /// The frontend.
        frontend: u32,
    },
    /// Makes an address and port literal.
    RemoveFrontend {
        /// Where.
        key: FrontendKey,
    },
    /// Writes an endpoint: the flip.
    SetEndpoint {
        /// The hook.
        hook: u64,
        /// The value.
        endpoint: Endpoint,
    },
    /// Takes an endpoint away.
    RemoveEndpoint {
        /// The hook.
        hook: u64,
    },
    /// Deletes one entry of RULESET_CLASSES that nothing can reach any more.
    UnsetClass {
        /// The class.
        class: u32,
        /// The ruleset.
        ruleset: u32,
    },
    /// Deletes the entries of a frontend that nothing refers to any more.
    DisallowFrontend {
        /// The frontend.
        frontend: u32,
        /// The ruleset.
        ruleset: u32,
    },
    /// Empties the tries of a ruleset that no endpoint uses any more.
    ReleaseRuleset {
        /// Which.
        slot: u32,
    },
    /// Deletes a port set that nothing refers to any more.
    RemovePorts {
        /// The id.
        id: u32,
        /// The set.
        set: PortSet,
    },
    /// Drops an endpoint slot's own tables.
    CloseSlot {
        /// The slot.
        slot: u16,
    },
}

impl Image {
    /// What the tables say after one more step.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::SetConfig(config) => self.config = *config,
            Step::AddPorts { id, set } => {
                self.ports.insert(*id, set.clone());
                self.next.ports = self.next.ports.max(id.saturating_add(1));
            }
            Step::BuildRuleset { slot, placed } => {
                self.rulesets.insert(*slot, placed.clone());
                self.next.ruleset = slot.saturating_add(1);
            }
            Step::SetClass {
                class,
                ruleset,
                ports,
            } => {
                self.classes
                    .entry(*class)
                    .or_default()
                    .insert(*ruleset, *ports);
                self.next.class = self.next.class.max(class.saturating_add(1));
            }
            Step::AllowFrontend { frontend, ruleset } => {
                self.frontend_rulesets
                    .entry(*frontend)
                    .or_default()
                    .insert(*ruleset);
                self.next.frontend = self.next.frontend.max(frontend.saturating_add(1));
            }
            Step::OpenSlot { slot } => self.next.slot = slot.saturating_add(1),
            Step::CloseSlot { slot: _ } => {}
            Step::SetPeer { address, class } => {
                self.peers.insert(*address, *class);
                self.next.class = self.next.class.max(class.saturating_add(1));
            }
            Step::RemovePeer { address } => {
                self.peers.remove(address);
            }
            Step::SetFrontend { key, frontend } => {
                self.frontends.insert(*key, *frontend);
                self.next.frontend = self.next.frontend.max(frontend.saturating_add(1));
            }
            Step::RemoveFrontend { key } => {
                self.frontends.remove(key);
            }
            Step::SetEndpoint { hook, endpoint } => {
                self.endpoints.insert(*hook, *endpoint);
            }
            Step::RemoveEndpoint { hook } => {
                self.endpoints.remove(hook);
            }
            Step::UnsetClass { class, ruleset } => {
                if let Some(column) = self.classes.get_mut(class) {
                    column.remove(ruleset);
                    if column.is_empty() {
                        self.classes.remove(class);
                    }
                }
            }
            Step::DisallowFrontend { frontend, ruleset } => {
                if let Some(rulesets) = self.frontend_rulesets.get_mut(frontend) {
                    rulesets.remove(ruleset);
                    if rulesets.is_empty() {
                        self.frontend_rulesets.remove(frontend);
                    }
                }
            }
            Step::ReleaseRuleset { slot } => {
                self.rulesets.remove(slot);
            }
            Step::RemovePorts { id, set: _ } => {
                self.ports.remove(id);
            }
        }
    }

    /// Gives rulesets that an earlier agent built the content they have by their key. One whose port
    /// sets are not all there is not what its key says, and will be built again.
    pub fn recognise(&mut self, rulesets: &BTreeMap<RulesetKey, Arc<Ruleset>>) {
        let ids: BTreeMap<&PortSet, u32> = self.ports.iter().map(|(id, set)| (set, *id)).collect();
        for placed in self
            .rulesets
            .values_mut()
            .filter(|placed| placed.ruleset.is_none())
        {
            let Some(ruleset) = rulesets.get(&placed.key) else {
                continue;
            };
            let sets: Option<Vec<u32>> = ruleset
                .trie
                .sets()
                .iter()
                .map(|set| match set {
                    PortSet::Everything => Some(PORTS_EVERYTHING),
                    set @ PortSet::Ranges(_) if set.is_nothing() => Some(PORTS_NOTHING),
                    set @ PortSet::Ranges(_) => set.literal().or_else(|| ids.get(set).copied()),
                })
                .collect();
            match sets {
                Some(sets) => {
                    placed.sets = sets;
                    placed.ruleset = Some(Arc::clone(ruleset));
                }
                None => placed.key = RulesetKey([0; 32]),
            }
        }
    }

    /// Whether the content of every ruleset is known.
    pub fn knows_its_rulesets(&self) -> bool {
        self.rulesets
            .values()
            .all(|placed| placed.ruleset.is_some())
    }

    /// Notes what the tables answered to [`crate::plan::unknown`]: rulesets and what they allow as an ordinary
    /// destination. Earlier answers are forgotten.
    pub fn note(&mut self, literal: impl IntoIterator<Item = (u32, FrontendKey)>) {
        for placed in self.rulesets.values_mut() {
            placed.literal.clear();
        }
        for (ruleset, destination) in literal {
            if let Some(placed) = self.rulesets.get_mut(&ruleset) {
                placed.literal.insert(destination);
            }
        }
    }

    /// What a ports id contains.
    pub fn port_set(&self, id: u32) -> Option<Cow<'_, PortSet>> {
        match id {
            PORTS_NOTHING => Some(Cow::Owned(PortSet::nothing())),
            PORTS_EVERYTHING => Some(Cow::Owned(PortSet::Everything)),
            _ => match PortSet::from_literal(id) {
                Some(set) => Some(Cow::Owned(set)),
                None => self.ports.get(&id).map(Cow::Borrowed),
            },
        }
    }

    /// The slot of a ruleset.
    pub fn slot_of(&self, key: &RulesetKey) -> Option<u32> {
        self.rulesets
            .iter()
            .find(|(_, placed)| placed.key == *key)
            .map(|(slot, _)| *slot)
    }
}

impl Tables for Image {
    fn peer(&self, address: &Address) -> Option<u32> {
        self.peers.get(address).copied()
    }

    fn class_ports(&self, ruleset: u32, class: u32) -> Option<u32> {
        self.classes.get(&class)?.get(&ruleset).copied()
    }

    fn cidr_ports(&self, ruleset: u32, address: &Address) -> Option<u32> {
        let placed = self.rulesets.get(&ruleset)?;
        let set = placed.ruleset.as_ref()?.trie.lookup(ip(address))?;
        placed.sets.get(usize::try_from(set).ok()?).copied()
    }

    fn ports_contain(&self, ports: u32, protocol: u8, port: u16) -> bool {
        self.port_set(ports)
            .is_some_and(|set| set.contains(protocol, port))
    }

    fn frontend(&self, key: &FrontendKey) -> Option<u32> {
        self.frontends.get(key).copied()
    }

    fn frontend_allowed(&self, ruleset: u32, frontend: u32) -> bool {
        self.frontend_rulesets
            .get(&frontend)
            .is_some_and(|rulesets| rulesets.contains(&ruleset))
    }
}

/// The address of a key.
pub fn ip(address: &Address) -> IpAddr {
    if address.family == FAMILY_V4 {
        Ipv4Addr::from(address.v4_octets()).into()
    } else {
        Ipv6Addr::from(address.bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(key: u8) -> Placed {
        Placed {
            key: RulesetKey([key; 32]),
            ruleset: None,
            sets: Vec::new(),
            literal: BTreeSet::new(),
        }
    }

    #[test]
    fn each_table_says_what_steps_have_written_there_and_nothing_else() {
        let address = Address::v4([10, 0, 0, 1]);
        let other = Address::v4([10, 0, 0, 2]);
        let key = FrontendKey::new(&address.bytes, address.family, 6, 80);
        let set = PortSet::nothing();
        let steps = [
            Step::AddPorts { id: 70_000, set },
            Step::BuildRuleset {
                slot: 3,
                placed: placed(3),
            },
            Step::BuildRuleset {
                slot: 4,
                placed: placed(4),
            },
            Step::SetClass {
                class: 5,
                ruleset: 3,
                ports: 70_000,
            },
            Step::AllowFrontend {
                frontend: 6,
                ruleset: 3,
            },
            Step::SetPeer { address, class: 5 },
            Step::SetFrontend { key, frontend: 6 },
        ];
        let mut image = Image::default();
        for step in &steps {
            image.apply(step);
        }
        assert_eq!((image.peer(&address), image.peer(&other)), (Some(5), None));
        assert_eq!(image.class_ports(3, 5), Some(70_000));
        assert_eq!(
            (image.class_ports(4, 5), image.class_ports(3, 6)),
            (None, None)
        );
        assert_eq!(image.frontend(&key), Some(6));
        assert!(
            image.frontend_allowed(3, 6)
                && !image.frontend_allowed(4, 6)
                && !image.frontend_allowed(3, 5)
        );
        assert_eq!(image.slot_of(&RulesetKey([4; 32])), Some(4));
        assert_eq!(image.slot_of(&RulesetKey([5; 32])), None);
        let nothing = Some(PortSet::nothing());
        assert_eq!(image.port_set(PORTS_NOTHING).map(Cow::into_owned), nothing);
        assert_eq!(image.port_set(70_000).map(Cow::into_owned), nothing);
        assert_eq!(image.port_set(70_001), None);
        assert_eq!(
            image.next,
            NextIds {
                ports: 70_001,
                class: 6,
                frontend: 7,
                ruleset: 5,
                slot: 0
            }
        );
    }

    #[test]
    fn answers_are_of_the_last_time_they_were_asked_for() {
        let key = |port| FrontendKey::new(&[0; 16], FAMILY_V4, 6, port);
        let mut image = Image::default();
        image.rulesets.insert(3, placed(3));
        image.note([(3, key(80)), (4, key(80))]);
        image.note([(3, key(81))]);
        let said: Vec<_> = image
            .rulesets
            .values()
            .map(|placed| placed.literal.clone())
            .collect();
        assert_eq!(said, [BTreeSet::from([key(81)])]);
    }
}
