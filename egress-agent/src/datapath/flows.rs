//! The tables of flows, as memory that is shared with the kernel programs.

use std::os::fd::AsFd;

use aya::maps::MapData;
use egress_common::abi::{FLOW_SEED_BYTES, Flow, FlowKey};
use egress_common::flows::{FlowSet, Place, find_in_two, put_in_two};

use super::error::TableError;
use super::sys::Shared;
use super::tables::failed;

/// FLOWS. All pages of a map that is mapped count as the process' own memory, and it is wanted seldom:
/// it is mapped only as long as somebody reads or writes flows.
#[derive(Debug)]
pub(super) struct FlowMap {
    map: MapData,
    sets: u32,
}

impl FlowMap {
    /// FLOWS, of so many sets.
    pub(super) const fn new(map: MapData, sets: u32) -> Self {
        Self { map, sets }
    }

    /// Its table, until that is dropped.
    pub(super) fn table(&self) -> Result<FlowTable, TableError> {
        FlowTable::map("FLOWS", self.map.fd(), self.sets)
    }
}

/// FLOWS, or an endpoint's table in INBOUND.
#[derive(Debug)]
pub(super) struct FlowTable {
    memory: Shared,
}

impl FlowTable {
    /// The table that a map of so many sets is.
    pub(super) fn map(name: &'static str, map: impl AsFd, sets: u32) -> Result<Self, TableError> {
        let memory = Shared::new(map, sets).map_err(|e| failed(name, "map", e))?;
        Ok(Self { memory })
    }

    /// Notes a flow that a pod opened, unless there is an entry for it: that is newer.
    pub(super) fn add(&self, key: &FlowKey, flow: &Flow, seed: &[u8; FLOW_SEED_BYTES]) {
        let place = Place::of(*key, seed);
        if let Some(set) = self.set(&place)
            && set.find(&place).is_none()
        {
            set.put(&place, flow);
        }
    }

    /// Notes a flow towards a pod, unless there is an entry for it: that is newer.
    pub(super) fn add_inbound(&self, key: &FlowKey, flow: &Flow, seed: &[u8; FLOW_SEED_BYTES]) {
        let place = Place::of(*key, seed);
        if find_in_two(&place, |place| self.set(place)).is_none() {
            put_in_two(&place, flow, |place| self.set(place));
        }
    }

    /// Forgets every flow.
    pub(super) fn clear(&self) {
        self.memory.sets().iter().for_each(FlowSet::clear);
    }

    /// Visits every flow.
    pub(super) fn for_each(
        &self,
        seed: &[u8; FLOW_SEED_BYTES],
        mut visit: impl FnMut(&FlowKey, &Flow),
    ) {
        for (is_v4, set) in self.sets() {
            set.for_each(is_v4, seed, &mut visit);
        }
    }

    /// How many flows there are.
    pub(super) fn count(&self) -> usize {
        self.sets().map(|(is_v4, set)| set.count(is_v4)).sum()
    }

    /// The sets, and whether they are of IPv4: the first third is.
    fn sets(&self) -> impl Iterator<Item = (bool, &FlowSet)> {
        let sets = self.memory.sets();
        let v4 = sets.len() / 3;
        (0..).zip(sets).map(move |(index, set)| (index < v4, set))
    }

    fn set(&self, place: &Place) -> Option<&FlowSet> {
        let sets = self.memory.sets();
        let index = place.index(u32::try_from(sets.len()).ok()?);
        sets.get(usize::try_from(index).ok()?)
    }
}
