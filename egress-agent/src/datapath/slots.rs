//! The inner maps: what stands in the slots of RULESET_CIDRS and INBOUND.
//!
//! The kernel waits for a grace period after each call that puts a map into a map of maps, some
//! milliseconds on a quiet machine and far more on a busy one (`maybe_wait_bpf_programs`; from 6.8 on
//! once a batch, before that for each entry). So maps are put in place before they are needed, by
//! a thread of their own, and where that was not foreseen, for many slots by one call.
//!
//! A slot is filled only after a call that put empty maps there has returned: whoever still read what
//! the slot held before has ended by then.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya_obj::generated::bpf_map_type;
use egress_common::abi::{FLOW_SEED_BYTES, Flow, FlowKey, INBOUND_SETS};
use egress_common::flows::FlowSet;

use super::error::{SetupError, TableError};
use super::flows::FlowTable;
use super::inner::InnerTypes;
use super::sys;
use super::tables::failed;

/// `BPF_F_NO_PREALLOC`, which LPM tries demand.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1024;
/// Slots that one call fills: each takes two descriptors until then, of the 1,024 that a process
/// usually may have.
pub(super) const TOGETHER: usize = 64;

/// What stands in the slots, and what is known of it.
pub(super) struct Slots {
    outer: Arc<Outer>,
    /// Tries that stand in a slot, empty, waiting for a ruleset.
    spare: BTreeMap<u32, Tries>,
    /// Slots that still hold the tries of a ruleset that nobody uses any more.
    left: BTreeSet<u32>,
    /// Slots that were left and have been emptied, until [`Slots::stock`] tells.
    emptied: Vec<u32>,
    /// Empty tables of slots that no endpoint uses yet.
    ready: BTreeMap<u16, FlowTable>,
    /// Tables of inbound flows of new endpoints, until older flows are noted in them.
    opened: BTreeMap<u16, FlowTable>,
    /// Puts more in place.
    stocking: Option<JoinHandle<Result<Stock, TableError>>>,
}

/// The tries of a ruleset: IPv4, IPv6.
pub(super) type Tries = (MapData, MapData);

/// Empty maps that were put in place.
struct Stock {
    tries: BTreeMap<u32, Tries>,
    tables: BTreeMap<u16, FlowTable>,
}

/// Maps of maps.
struct Outer {
    cidrs_v4: MapData,
    cidrs_v6: MapData,
    inbound: MapData,
    /// Capacity of one trie.
    trie_entries: u32,
    /// What inner maps need to be ones.
    inner_types: InnerTypes,
}

impl Slots {
    pub(super) fn take(
        ebpf: &mut Ebpf,
        trie_entries: u32,
        left: BTreeSet<u32>,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            outer: Arc::new(Outer {
                cidrs_v4: take(ebpf, "RULESET_CIDRS_V4")?,
                cidrs_v6: take(ebpf, "RULESET_CIDRS_V6")?,
                inbound: take(ebpf, "INBOUND")?,
                trie_entries,
                inner_types: InnerTypes::load().map_err(SetupError::InnerTypes)?,
            }),
            spare: BTreeMap::new(),
            left,
            emptied: Vec::new(),
            ready: BTreeMap::new(),
            opened: BTreeMap::new(),
            stocking: None,
        })
    }

    /// The empty tries that stand in a slot, for a ruleset to be put there. Where there are none, those of
    /// the slots that are needed `next` are put in place along with them.
    pub(super) fn tries(
        &mut self,
        slot: u32,
        next: impl Iterator<Item = u32>,
    ) -> Result<Tries, TableError> {
        if !self.spare.contains_key(&slot) {
            // It may be this slot that is being filled.
            self.finish_stocking()?;
        }
        if !self.spare.contains_key(&slot) {
            let others = next.filter(|next| *next != slot && !self.spare.contains_key(next));
            let slots: BTreeSet<u32> = [slot].into_iter().chain(others).take(TOGETHER).collect();
            let tries = self.outer.place_tries(&slots)?;
            self.take_over(tries);
        }
        self.spare
            .remove(&slot)
            .ok_or_else(|| failed("RULESET_CIDRS_V4", "update", "the slot was not filled"))
    }

    /// Nobody uses the ruleset in a slot any more.
    pub(super) fn leave(&mut self, slot: u32) {
        self.left.insert(slot);
    }

    /// A new endpoint has an empty table for its inbound flows. Where there is none, the same for the
    /// slots that are opened `next`.
    pub(super) fn open(
        &mut self,
        slot: u16,
        next: impl Iterator<Item = u16>,
    ) -> Result<(), TableError> {
        if !self.ready.contains_key(&slot) {
            self.finish_stocking()?;
        }
        if !self.ready.contains_key(&slot) {
            let others = next.filter(|next| *next != slot && !self.ready.contains_key(next));
            let slots: BTreeSet<u16> = [slot].into_iter().chain(others).take(TOGETHER).collect();
            self.ready.extend(self.outer.place_tables(&slots)?);
        }
        if let Some(table) = self.ready.remove(&slot) {
            self.opened.insert(slot, table);
        }
        Ok(())
    }

    /// An endpoint is gone. The slot's next user gets another table.
    pub(super) fn close(&mut self, slot: u16) {
        self.opened.remove(&slot);
        self.ready.remove(&slot);
    }

    /// Notes flows that were opened towards an endpoint before its hooks were there. What the hooks
    /// have noted since [`Slots::open`] is newer and stays.
    pub(super) fn seed(
        &mut self,
        slot: u16,
        flows: &[(FlowKey, Flow)],
        seed: &[u8; FLOW_SEED_BYTES],
    ) {
        if let Some(table) = self.opened.remove(&slot) {
            for (key, flow) in flows {
                table.add_inbound(key, flow, seed);
            }
        }
    }

    /// Whether there is nothing to be put in place: these free slots have empty tries and tables, and
    /// none still holds the tries of a ruleset that was left.
    pub(super) fn are_stocked(&self, rulesets: &[u32], endpoints: &[u16]) -> bool {
        self.stocking.is_none()
            && self.left.is_empty()
            && rulesets.iter().all(|slot| self.spare.contains_key(slot))
            && endpoints.iter().all(|slot| self.ready.contains_key(slot))
    }

    /// Takes over what the thread has put in place and starts it again for what is missing; does not wait.
    /// Returns the slots that were left and are empty now.
    pub(super) fn stock(
        &mut self,
        rulesets: &[u32],
        endpoints: &[u16],
    ) -> Result<Vec<u32>, TableError> {
        if self
            .stocking
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            return Ok(Vec::new());
        }
        self.finish_stocking()?;
        // A spare is held by descriptors: only those that are next.
        self.spare.retain(|slot, _| rulesets.contains(slot));
        self.ready.retain(|slot, _| endpoints.contains(slot));
        let missing = rulesets
            .iter()
            .filter(|slot| !self.spare.contains_key(slot));
        let tries: BTreeSet<u32> = self.left.iter().chain(missing).copied().collect();
        let tries: BTreeSet<u32> = tries.into_iter().take(TOGETHER).collect();
        let tables = endpoints
            .iter()
            .filter(|slot| !self.ready.contains_key(slot));
        let tables: BTreeSet<u16> = tables.copied().take(TOGETHER).collect();
        if !(tries.is_empty() && tables.is_empty()) {
            let outer = Arc::clone(&self.outer);
            let thread = thread::Builder::new().name("slots".to_owned());
            let stocking = thread.spawn(move || {
                Ok(Stock {
                    tries: outer.place_tries(&tries)?,
                    tables: outer.place_tables(&tables)?,
                })
            });
            self.stocking = Some(stocking.map_err(|e| failed("RULESET_CIDRS_V4", "update", e))?);
        }
        Ok(std::mem::take(&mut self.emptied))
    }

    /// Waits for the thread, if there is one.
    fn finish_stocking(&mut self) -> Result<(), TableError> {
        let Some(thread) = self.stocking.take() else {
            return Ok(());
        };
        let Stock { tries, tables } = thread
            .join()
            .map_err(|_panic| failed("RULESET_CIDRS_V4", "update", "the thread panicked"))??;
        self.take_over(tries);
        self.ready.extend(tables);
        Ok(())
    }

    fn take_over(&mut self, tries: BTreeMap<u32, Tries>) {
        for (slot, tries) in tries {
            if self.left.remove(&slot) {
                self.emptied.push(slot);
            }
            self.spare.insert(slot, tries);
        }
    }
}

impl Outer {
    fn place_tries(&self, slots: &BTreeSet<u32>) -> Result<BTreeMap<u32, Tries>, TableError> {
        let trie = |outer, name, key| {
            let lpm = bpf_map_type::BPF_MAP_TYPE_LPM_TRIE;
            self.new_inner((outer, name), lpm, (key, 4), self.trie_entries, NO_PREALLOC)
        };
        let mut tries = BTreeMap::new();
        for slot in slots {
            let v4 = trie("RULESET_CIDRS_V4", "cidrs_v4", 8)?;
            let v6 = trie("RULESET_CIDRS_V6", "cidrs_v6", 20)?;
            tries.insert(*slot, (v4, v6));
        }
        let v4 = tries.iter().map(|(slot, (v4, _))| (*slot, v4));
        place("RULESET_CIDRS_V4", &self.cidrs_v4, v4)?;
        let v6 = tries.iter().map(|(slot, (_, v6))| (*slot, v6));
        place("RULESET_CIDRS_V6", &self.cidrs_v6, v6)?;
        Ok(tries)
    }

    fn place_tables(&self, slots: &BTreeSet<u16>) -> Result<BTreeMap<u16, FlowTable>, TableError> {
        let array = bpf_map_type::BPF_MAP_TYPE_ARRAY;
        let set = u32::try_from(size_of::<FlowSet>()).unwrap_or(u32::MAX);
        let mut maps = BTreeMap::new();
        for slot in slots {
            let name = ("INBOUND", "inbound");
            let map = self.new_inner(name, array, (4, set), INBOUND_SETS, MMAPABLE)?;
            maps.insert(*slot, map);
        }
        let entries = maps.iter().map(|(slot, map)| (u32::from(*slot), map));
        place("INBOUND", &self.inbound, entries)?;
        maps.into_iter()
            .map(|(slot, map)| Ok((slot, FlowTable::map("INBOUND", map.fd(), INBOUND_SETS)?)))
            .collect()
    }

    /// A map to stand in a slot of `outer`.
    fn new_inner(
        &self,
        (outer, name): (&'static str, &str),
        map_type: bpf_map_type,
        sizes: (u32, u32),
        entries: u32,
        flags: u32,
    ) -> Result<MapData, TableError> {
        let map = self
            .inner_types
            .create_map(name, map_type, sizes, entries, flags)
            .map_err(|e| failed(outer, "create", e))?;
        MapData::from_fd(map).map_err(|e| failed(outer, "create", e))
    }
}

/// Puts maps into slots, by one call where the kernel takes it (5.17), and waits for a grace period.
fn place<'a>(
    name: &'static str,
    outer: &MapData,
    entries: impl Iterator<Item = (u32, &'a MapData)>,
) -> Result<(), TableError> {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for (slot, map) in entries {
        keys.extend(slot.to_ne_bytes());
        values.extend(map.fd().as_fd().as_raw_fd().to_ne_bytes());
    }
    let outer = outer.fd().as_fd();
    sys::update_all(outer, (&keys, 4), (&values, 4)).map_err(|e| failed(name, "update", e))
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, SetupError> {
    match ebpf.take_map(name) {
        Some(Map::ArrayOfMaps(map)) => Ok(map),
        Some(_) | None => Err(SetupError::Missing(name)),
    }
}
