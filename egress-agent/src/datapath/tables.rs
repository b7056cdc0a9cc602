//! The maps by name and type. Keys and values go in and out as the bytes of
//! [`egress_common::abi`]'s types.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use aya_obj::generated::bpf_map_type;
use egress_common::abi::{
    Address, Config, Counter, CounterKey, FLOW_SEED_BYTES, Flow, FlowKey, FrontendKey, HookKey,
    INBOUND_SETS, PortsData, RulesetClass, RulesetFrontend,
};
use egress_common::flows::FlowSet;
use egress_core::trie::Trie;
use zerocopy::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::endpoints::Endpoints;
use super::error::{SetupError, TableError};
use super::flows::FlowTable;
use super::inner::InnerTypes;
use super::present::Present;
use super::sys;

/// `BPF_F_NO_PREALLOC`, which LPM tries demand.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1024;
/// Entries written by one batch call: 16,384 keys of 20 bytes keep the kernel's copy at 320 KiB.
const BATCH: usize = 16_384;

/// A hash map.
pub(super) struct Hash<const K: usize, const V: usize> {
    name: &'static str,
    map: HashMap<MapData, [u8; K], [u8; V]>,
}

/// Every map that the agent reads or writes.
pub(super) struct Tables {
    pub(super) endpoints: Endpoints,
    pub(super) config: Array<MapData, [u8; 48]>,
    pub(super) peers: Hash<20, 4>,
    pub(super) present: Present,
    pub(super) ruleset_classes: Hash<8, 4>,
    pub(super) ports: LpmTrie<MapData, [u8; 7], u8>,
    pub(super) rulesets: Array<MapData, [u8; 32]>,
    pub(super) frontends: Hash<20, 4>,
    pub(super) ruleset_frontends: Hash<8, 4>,
    /// Flows that pods opened.
    pub(super) flows: FlowTable,
    cidrs_v4: ArrayOfMaps<MapData>,
    cidrs_v6: ArrayOfMaps<MapData>,
    inbound: ArrayOfMaps<MapData>,
    /// Tries that stand in a slot, empty, waiting for a ruleset.
    spare: BTreeMap<u32, (MapData, MapData)>,
    /// Tables of inbound flows that were made just now, until older flows are noted in them.
    opened: BTreeMap<u16, FlowTable>,
    /// Empty tables of slots that no endpoint uses yet.
    ready: BTreeMap<u16, FlowTable>,
    /// Capacity of one trie.
    trie_entries: u32,
    /// What inner maps need to be ones.
    inner_types: InnerTypes,
}

/// The counters, read by whoever scrapes.
pub(super) struct CounterTables {
    pub(super) counters: PerCpuHashMap<MapData, [u8; 8], [u8; 16]>,
    pub(super) allowed: PerCpuArray<MapData, [u8; 16]>,
    pub(super) lost: PerCpuArray<MapData, u64>,
    pub(super) flows_lost: PerCpuArray<MapData, u64>,
}

impl Tables {
    pub(super) fn take(
        ebpf: &mut Ebpf,
        trie_entries: u32,
        flow_sets: u32,
    ) -> Result<Self, SetupError> {
        let map = ebpf.map("FLOWS").ok_or(SetupError::Missing("FLOWS"))?;
        let flows = if let Map::Array(map) = map {
            FlowTable::map("FLOWS", map.fd(), flow_sets)
        } else {
            Err(failed("FLOWS", "open", format!("{map:?} is no array")))
        };
        let flows = flows.map_err(|source| SetupError::Flows { source })?;
        Ok(Self {
            endpoints: Endpoints::take(ebpf)?,
            config: take(ebpf, "CONFIG")?,
            peers: Hash::take(ebpf, "PEERS")?,
            present: Present::take(ebpf)?,
            ruleset_classes: Hash::take(ebpf, "RULESET_CLASSES")?,
            ports: take(ebpf, "PORTS")?,
            rulesets: take(ebpf, "RULESET_KEYS")?,
            frontends: Hash::take(ebpf, "FRONTENDS")?,
            ruleset_frontends: Hash::take(ebpf, "RULESET_FRONTENDS")?,
            flows,
            cidrs_v4: take(ebpf, "RULESET_CIDRS_V4")?,
            cidrs_v6: take(ebpf, "RULESET_CIDRS_V6")?,
            inbound: take(ebpf, "INBOUND")?,
            spare: BTreeMap::new(),
            opened: BTreeMap::new(),
            ready: BTreeMap::new(),
            trie_entries,
            inner_types: InnerTypes::load().map_err(SetupError::InnerTypes)?,
        })
    }

    /// Fills the tries of a slot that no endpoint uses. Without a spare pair in the slot this waits
    /// for a grace period of the kernel.
    pub(super) fn build(&mut self, slot: u32, trie: &Trie, sets: &[u32]) -> Result<(), TableError> {
        let spare = self.spare.remove(&slot);
        let stands = spare.is_some();
        let (v4, v6) = match spare {
            Some(pair) => pair,
            None => self.new_pair()?,
        };
        fill(&v4, "RULESET_CIDRS_V4", trie.v4(), sets)?;
        fill(&v6, "RULESET_CIDRS_V6", trie.v6(), sets)?;
        if stands {
            return Ok(());
        }
        self.place(slot, &v4, &v6)
    }

    /// Puts empty tries where a ruleset was; they are spares from then on.
    pub(super) fn release(&mut self, slot: u32) -> Result<(), TableError> {
        let (v4, v6) = self.new_pair()?;
        self.place(slot, &v4, &v6)?;
        self.spare.insert(slot, (v4, v6));
        Ok(())
    }

    /// Makes sure that so many of the free slots from `from` on hold spares.
    pub(super) fn prepare(
        &mut self,
        free: impl Iterator<Item = u32>,
        count: usize,
    ) -> Result<(), TableError> {
        for slot in free.take(count) {
            if !self.spare.contains_key(&slot) {
                self.release(slot)?;
            }
        }
        Ok(())
    }

    fn new_pair(&self) -> Result<(MapData, MapData), TableError> {
        let trie = |outer, name, key| {
            self.new_inner(
                (outer, name),
                bpf_map_type::BPF_MAP_TYPE_LPM_TRIE,
                (key, 4),
                self.trie_entries,
                NO_PREALLOC,
            )
        };
        Ok((
            trie("RULESET_CIDRS_V4", "cidrs_v4", 8)?,
            trie("RULESET_CIDRS_V6", "cidrs_v6", 20)?,
        ))
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

    fn place(&mut self, slot: u32, v4: &MapData, v6: &MapData) -> Result<(), TableError> {
        self.cidrs_v4
            .set(slot, v4, 0)
            .map_err(|e| failed("RULESET_CIDRS_V4", "update", e))?;
        self.cidrs_v6
            .set(slot, v6, 0)
            .map_err(|e| failed("RULESET_CIDRS_V6", "update", e))
    }

    /// A table for an endpoint's inbound flows, in place of the one of the slot's last user. Without
    /// one made ready this waits for a grace period of the kernel.
    pub(super) fn open_slot(&mut self, slot: u16) -> Result<(), TableError> {
        let table = match self.ready.remove(&slot) {
            Some(table) => table,
            None => self.new_inbound(slot)?,
        };
        self.opened.insert(slot, table);
        Ok(())
    }

    /// Makes sure that these slots, which no endpoint uses, have empty tables, and no others.
    pub(super) fn make_ready(&mut self, slots: &[u16]) -> Result<(), TableError> {
        self.ready.retain(|slot, _| slots.contains(slot));
        for slot in slots {
            if !self.ready.contains_key(slot) {
                let map = self.new_inbound(*slot)?;
                self.ready.insert(*slot, map);
            }
        }
        Ok(())
    }

    /// Whether all of these slots have empty tables.
    pub(super) fn are_ready(&self, slots: &[u16]) -> bool {
        slots.iter().all(|slot| self.ready.contains_key(slot))
    }

    /// Notes flows that were opened towards an endpoint before its hooks were there. What the hooks
    /// have noted since [`Tables::open_slot`] is newer and stays.
    pub(super) fn seed_inbound(
        &mut self,
        slot: u16,
        flows: &[(FlowKey, Flow)],
        seed: &[u8; FLOW_SEED_BYTES],
    ) {
        if let Some(table) = self.opened.remove(&slot) {
            for (key, flow) in flows {
                table.add(key, flow, seed);
            }
        }
    }

    /// Nothing is older than the hooks of a slot that was just opened.
    pub(super) fn seed_nothing(&mut self, slot: u16) {
        self.opened.remove(&slot);
    }

    /// An empty table takes the place of one that nobody uses any more: the slot's next user must
    /// not see these flows.
    pub(super) fn close_slot(&mut self, slot: u16) -> Result<(), TableError> {
        self.opened.remove(&slot);
        self.ready.remove(&slot);
        drop(self.new_inbound(slot)?);
        Ok(())
    }

    fn new_inbound(&mut self, slot: u16) -> Result<FlowTable, TableError> {
        let set = u32::try_from(size_of::<FlowSet>()).unwrap_or(u32::MAX);
        let map = self.new_inner(
            ("INBOUND", "inbound"),
            bpf_map_type::BPF_MAP_TYPE_ARRAY,
            (4, set),
            INBOUND_SETS,
            MMAPABLE,
        )?;
        self.inbound
            .set(u32::from(slot), &map, 0)
            .map_err(|e| failed("INBOUND", "update", e))?;
        FlowTable::map("INBOUND", map.fd(), INBOUND_SETS)
    }

    pub(super) fn config(&self) -> Result<Config, TableError> {
        let bytes = self
            .config
            .get(&0, 0)
            .map_err(|e| failed("CONFIG", "lookup", e))?;
        Ok(zerocopy::transmute!(bytes))
    }

    pub(super) fn set_config(&mut self, config: &Config) -> Result<(), TableError> {
        self.config
            .set(0, raw::<48>(config), 0)
            .map_err(|e| failed("CONFIG", "update", e))
    }

    pub(super) fn set_ports(&mut self, entries: &[(u32, PortsData)]) -> Result<(), TableError> {
        for (length, data) in entries {
            self.ports
                .insert(&Key::new(*length, raw(data)), 1, 0)
                .map_err(|e| failed("PORTS", "update", e))?;
        }
        Ok(())
    }

    pub(super) fn remove_ports(&mut self, entries: &[(u32, PortsData)]) -> Result<(), TableError> {
        for (length, data) in entries {
            absent_is_fine(self.ports.remove(&Key::new(*length, raw(data))))
                .map_err(|e| failed("PORTS", "delete", e))?;
        }
        Ok(())
    }

    pub(super) fn port_entries(&self) -> Result<Vec<(u32, PortsData)>, TableError> {
        self.ports
            .keys()
            .map(|key| {
                let key = key.map_err(|e| failed("PORTS", "iterate", e))?;
                let data: [u8; 7] = key.data();
                Ok((key.prefix_len(), zerocopy::transmute!(data)))
            })
            .collect()
    }

    pub(super) fn ruleset_keys(&self) -> Result<Vec<(u32, [u8; 32])>, TableError> {
        (0..self.rulesets.len())
            .map(|slot| {
                let key = self
                    .rulesets
                    .get(&slot, 0)
                    .map_err(|e| failed("RULESET_KEYS", "lookup", e))?;
                Ok((slot, key))
            })
            .filter(|entry| !matches!(entry, Ok((_, key)) if *key == [0; 32]))
            .collect()
    }

    pub(super) fn set_ruleset_key(&mut self, slot: u32, key: [u8; 32]) -> Result<(), TableError> {
        self.rulesets
            .set(slot, key, 0)
            .map_err(|e| failed("RULESET_KEYS", "update", e))
    }
}

impl<const K: usize, const V: usize> Hash<K, V> {
    pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, SetupError> {
        Ok(Self {
            name,
            map: take(ebpf, name)?,
        })
    }

    pub(super) fn set(
        &mut self,
        key: &(impl IntoBytes + Immutable),
        value: &(impl IntoBytes + Immutable),
    ) -> Result<(), TableError> {
        self.map
            .insert(raw::<K>(key), raw::<V>(value), 0)
            .map_err(|e| failed(self.name, "update", e))
    }

    /// Whether there is an entry.
    pub(super) fn has(&self, key: &(impl IntoBytes + Immutable)) -> Result<bool, TableError> {
        match self.map.get(&raw::<K>(key), 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(failed(self.name, "lookup", error)),
        }
    }

    /// Deletes; what is not there is deleted already.
    pub(super) fn remove(&mut self, key: &(impl IntoBytes + Immutable)) -> Result<(), TableError> {
        absent_is_fine(self.map.remove(&raw::<K>(key))).map_err(|e| failed(self.name, "delete", e))
    }

    pub(super) fn entries<A: FromBytes, B: FromBytes>(&self) -> Result<Vec<(A, B)>, TableError> {
        self.map
            .iter()
            .map(|entry| {
                let (key, value) = entry.map_err(|e| failed(self.name, "iterate", e))?;
                match (A::read_from_bytes(&key), B::read_from_bytes(&value)) {
                    (Ok(key), Ok(value)) => Ok((key, value)),
                    _ => Err(failed(self.name, "iterate", MapError::KeyNotFound)),
                }
            })
            .collect()
    }
}

impl CounterTables {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, SetupError> {
        Ok(Self {
            counters: take(ebpf, "COUNTERS")?,
            allowed: take(ebpf, "ALLOWED")?,
            lost: take(ebpf, "EVENTS_LOST")?,
            flows_lost: take(ebpf, "FLOW_EVENTS_LOST")?,
        })
    }

    /// COUNTERS, summed over CPUs.
    pub(super) fn drops(&self) -> Result<Vec<(CounterKey, Counter)>, TableError> {
        self.counters
            .iter()
            .map(|entry| {
                let (key, values) = entry.map_err(|e| failed("COUNTERS", "iterate", e))?;
                Ok((zerocopy::transmute!(key), sum(values.iter())))
            })
            .collect()
    }

    /// ALLOWED of one slot: IPv4, IPv6.
    pub(super) fn allowed(&self, slot: u16) -> Result<[Counter; 2], TableError> {
        let at = |index: u32| {
            let values = self
                .allowed
                .get(&index, 0)
                .map_err(|e| failed("ALLOWED", "lookup", e))?;
            Ok::<_, TableError>(sum(values.iter()))
        };
        let first = u32::from(slot) * 2;
        Ok([at(first)?, at(first + 1)?])
    }

    /// How many slots there are.
    pub(super) fn slots(&self) -> u16 {
        u16::try_from(self.allowed.len() / 2).unwrap_or(u16::MAX)
    }

    /// Sets the counters of a slot back to nothing.
    pub(super) fn clear(&mut self, slot: u16) -> Result<(), TableError> {
        for (key, _) in self.drops()? {
            if key.slot.get() == slot {
                absent_is_fine(self.counters.remove(&raw(&key)))
                    .map_err(|e| failed("COUNTERS", "delete", e))?;
            }
        }
        for index in [u32::from(slot) * 2, u32::from(slot) * 2 + 1] {
            let cpus = aya::util::nr_cpus().map_err(|(_, e)| failed("ALLOWED", "update", e))?;
            let zeroes = aya::maps::PerCpuValues::try_from(vec![[0; 16]; cpus])
                .map_err(|e| failed("ALLOWED", "update", e))?;
            self.allowed
                .set(index, zeroes, 0)
                .map_err(|e| failed("ALLOWED", "update", e))?;
        }
        Ok(())
    }

    /// Events lost to the rate limit, and to a full ring.
    pub(super) fn lost(&self) -> Result<(u64, u64), TableError> {
        let at = |index: u32| {
            let values = self
                .lost
                .get(&index, 0)
                .map_err(|e| failed("EVENTS_LOST", "lookup", e))?;
            Ok::<u64, TableError>(values.iter().sum())
        };
        Ok((at(0)?, at(1)?))
    }

    /// Records of new flows that were lost, for either reason.
    pub(super) fn flows_lost(&self) -> Result<u64, TableError> {
        let values = self
            .flows_lost
            .get(&0, 0)
            .map_err(|e| failed("FLOW_EVENTS_LOST", "lookup", e))?;
        Ok(values.iter().sum())
    }
}

fn sum<'a>(values: impl Iterator<Item = &'a [u8; 16]>) -> Counter {
    values.fold(Counter::default(), |total, bytes| {
        let counter: Counter = zerocopy::transmute!(*bytes);
        Counter {
            packets: total.packets + counter.packets,
            bytes: total.bytes + counter.bytes,
        }
    })
}

/// Fills a trie in key order: one batch where the kernel takes them, single writes for the rest.
fn fill<const A: usize>(
    trie: &MapData,
    name: &'static str,
    entries: impl ExactSizeIterator<Item = ([u8; A], u8, u32)>,
    sets: &[u32],
) -> Result<(), TableError> {
    let mut keys: Vec<u8> = Vec::with_capacity(entries.len() * (A + 4));
    let mut values: Vec<u8> = Vec::with_capacity(entries.len() * 4);
    for (address, length, set) in entries {
        let ports = usize::try_from(set)
            .ok()
            .and_then(|set| sets.get(set))
            .copied();
        keys.extend(u32::from(length).to_ne_bytes());
        keys.extend(address);
        values.extend(U32::new(ports.unwrap_or(egress_common::abi::PORTS_NOTHING)).as_bytes());
    }
    for (keys, values) in keys.chunks(BATCH * (A + 4)).zip(values.chunks(BATCH * 4)) {
        let count = u32::try_from(values.len() / 4).unwrap_or(u32::MAX);
        let Err((written, error)) = sys::update_batch(trie.fd().as_fd(), keys, values, count)
        else {
            continue;
        };
        // No batches of tries before 5.16, and ENOMEM for large ones from some kernels.
        tracing::debug!(map = name, written, %error, "batch refused, writing one by one");
        for (key, value) in keys.chunks(A + 4).zip(values.chunks(4)) {
            sys::update_one(trie.fd().as_fd(), key, value)
                .map_err(|e| failed(name, "update", e))?;
        }
    }
    Ok(())
}

pub(super) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, SetupError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(SetupError::Missing(name))?;
    T::try_from(map).map_err(|source| SetupError::Map { map: name, source })
}

/// The bytes of a key or value. Sizes are checked by the compiler's constants at each use's type;
/// a wrong one is a bug that the first write would show.
fn raw<const N: usize>(value: &(impl IntoBytes + Immutable)) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(value.as_bytes());
    bytes
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

pub(super) fn failed(
    map: &'static str,
    op: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> TableError {
    TableError {
        map,
        op,
        source: source.into(),
    }
}

const _: () = {
    assert!(size_of::<HookKey>() == 8);
    assert!(size_of::<Address>() == 20 && size_of::<FrontendKey>() == 20);
    assert!(size_of::<RulesetClass>() == 8 && size_of::<RulesetFrontend>() == 8);
};
