//! The maps by name and type. Keys and values go in and out as the bytes of
//! [`egress_common::abi`]'s types.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, IterableMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use egress_common::abi::{
    ALLOWED_V4, ALLOWED_V6, Address, Config, Counter, DROP_KINDS, DropKind, Dropped, FrontendKey,
    HookKey, PortsData, RulesetClass, RulesetFrontend,
};
use egress_core::trie::Trie;
use zerocopy::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::endpoints::Endpoints;
use super::error::{SetupError, TableError};
use super::flows::FlowMap;
use super::present::Present;
use super::slots::{Slots, Tries};
use super::sys;

/// Entries written by one batch call: 16,384 keys of 20 bytes keep the kernel's copy at 320 KiB.
const BATCH: usize = 16_384;

/// In RULESET_KEYS: nothing is in this slot.
pub(super) const FREE: [u8; 32] = [0; 32];
/// In RULESET_KEYS: what is in this slot is nobody's, and still has to be taken out. No digest is this.
pub(super) const LEFT: [u8; 32] = [0xff; 32];

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
    pub(super) flows: FlowMap,
    /// RULESET_CIDRS and INBOUND.
    pub(super) slots: Slots,
}

/// The counters, read by whoever scrapes.
pub(super) struct CounterTables {
    dropped: PerCpuArray<MapData, [u8; 64]>,
    drop_totals: PerCpuArray<MapData, [u8; 16]>,
    allowed: PerCpuArray<MapData, [u8; 16]>,
    lost: PerCpuArray<MapData, u64>,
    flows_lost: PerCpuArray<MapData, u64>,
}

impl Tables {
    pub(super) fn take(
        ebpf: &mut Ebpf,
        trie_entries: u32,
        flow_sets: u32,
    ) -> Result<Self, SetupError> {
        let map = ebpf.take_map("FLOWS");
        let Some(Map::Array(map)) = map else {
            return Err(SetupError::Missing("FLOWS"));
        };
        let flows = FlowMap::new(map, flow_sets);
        // That it cannot be mapped should not show only when it is wanted.
        flows
            .table()
            .map_err(|source| SetupError::Flows { source })?;
        let rulesets = take(ebpf, "RULESET_KEYS")?;
        let left = left(&rulesets).map_err(|source| SetupError::Map {
            map: "RULESET_KEYS",
            source,
        })?;
        let slots = Slots::take(ebpf, trie_entries, left)?;
        Ok(Self {
            endpoints: Endpoints::take(ebpf)?,
            config: take(ebpf, "CONFIG")?,
            peers: Hash::take(ebpf, "PEERS")?,
            present: Present::take(ebpf)?,
            ruleset_classes: Hash::take(ebpf, "RULESET_CLASSES")?,
            ports: take(ebpf, "PORTS")?,
            rulesets,
            frontends: Hash::take(ebpf, "FRONTENDS")?,
            ruleset_frontends: Hash::take(ebpf, "RULESET_FRONTENDS")?,
            flows,
            slots,
        })
    }

    /// Fills the tries of a slot that no endpoint uses.
    pub(super) fn build((v4, v6): &Tries, trie: &Trie, sets: &[u32]) -> Result<(), TableError> {
        fill(v4, "RULESET_CIDRS_V4", trie.v4(), sets)?;
        fill(v6, "RULESET_CIDRS_V6", trie.v6(), sets)
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
        let keys = values(&self.rulesets).map_err(|e| failed("RULESET_KEYS", "lookup", e))?;
        let used = (0..)
            .zip(keys)
            .filter(|(_, key)| *key != FREE && *key != LEFT);
        Ok(used.collect())
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

    /// Writes entries by one call. After an error some may be written.
    pub(super) fn set_all<A: IntoBytes + Immutable, B: IntoBytes + Immutable>(
        &mut self,
        entries: &[(A, B)],
    ) -> io::Result<()> {
        let keys: Vec<u8> = entries.iter().flat_map(|(key, _)| raw::<K>(key)).collect();
        let values: Vec<u8> = entries
            .iter()
            .flat_map(|(_, value)| raw::<V>(value))
            .collect();
        let count = u32::try_from(entries.len()).map_err(io::Error::other)?;
        let map = IterableMap::map(&self.map).fd();
        sys::update_batch(map.as_fd(), &keys, &values, count).map_err(|(_, error)| error)
    }

    /// Deletes entries by one call. After an error some may be gone.
    pub(super) fn remove_all<A: IntoBytes + Immutable>(&mut self, keys: &[A]) -> io::Result<()> {
        let bytes: Vec<u8> = keys.iter().flat_map(raw::<K>).collect();
        let count = u32::try_from(keys.len()).map_err(io::Error::other)?;
        sys::delete_batch(IterableMap::map(&self.map).fd().as_fd(), &bytes, count)
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
        let entry = |key: &[u8; K], value: &[u8; V]| match (
            A::read_from_bytes(key),
            B::read_from_bytes(value),
        ) {
            (Ok(key), Ok(value)) => Ok((key, value)),
            _ => Err(failed(self.name, "iterate", MapError::KeyNotFound)),
        };
        match sys::read_all(IterableMap::map(&self.map).fd().as_fd(), K, V) {
            Ok((keys, values)) => {
                let entries = keys.as_chunks().0.iter().zip(values.as_chunks().0);
                entries.map(|(key, value)| entry(key, value)).collect()
            }
            Err(error) => {
                tracing::debug!(%error, map = self.name, "a batch was refused, reading one by one");
                let entries = self.map.iter().map(|one| {
                    let (key, value) = one.map_err(|e| failed(self.name, "iterate", e))?;
                    entry(&key, &value)
                });
                entries.collect()
            }
        }
    }
}

impl CounterTables {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, SetupError> {
        Ok(Self {
            dropped: take(ebpf, "DROPPED")?,
            drop_totals: take(ebpf, "DROP_TOTALS")?,
            allowed: take(ebpf, "ALLOWED")?,
            lost: take(ebpf, "EVENTS_LOST")?,
            flows_lost: take(ebpf, "FLOW_EVENTS_LOST")?,
        })
    }

    /// DROP_TOTALS, summed over CPUs; what was never met is left out.
    pub(super) fn drop_totals(&self) -> Result<Vec<(DropKind, Counter)>, TableError> {
        let mut totals = Vec::new();
        for (index, kind) in (0..DROP_KINDS).filter_map(|i| Some((i, DropKind::from_index(i)?))) {
            let values = self
                .drop_totals
                .get(&index, 0)
                .map_err(|e| failed("DROP_TOTALS", "lookup", e))?;
            let total = sum(values.iter());
            if total.packets > 0 {
                totals.push((kind, total));
            }
        }
        Ok(totals)
    }

    /// DROPPED of one slot, summed over CPUs.
    pub(super) fn dropped(&self, slot: u16) -> Result<Dropped, TableError> {
        let values = self
            .dropped
            .get(&u32::from(slot), 0)
            .map_err(|e| failed("DROPPED", "lookup", e))?;
        let mut total = Dropped::default();
        for bytes in values.iter() {
            let counts: Dropped = zerocopy::transmute!(*bytes);
            for (sum, packets) in total.packets.iter_mut().zip(counts.packets) {
                *sum += packets;
            }
        }
        Ok(total)
    }

    /// ALLOWED, summed over CPUs: IPv4, IPv6.
    pub(super) fn allowed(&self) -> Result<[Counter; 2], TableError> {
        let at = |index: u32| {
            let values = self
                .allowed
                .get(&index, 0)
                .map_err(|e| failed("ALLOWED", "lookup", e))?;
            Ok::<_, TableError>(sum(values.iter()))
        };
        Ok([at(ALLOWED_V4)?, at(ALLOWED_V6)?])
    }

    /// Sets the drops of a slot back to nothing.
    pub(super) fn clear(&mut self, slot: u16) -> Result<(), TableError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, e)| failed("DROPPED", "update", e))?;
        PerCpuValues::try_from(vec![[0; 64]; cpus])
            .map_err(MapError::from)
            .and_then(|zeroes| self.dropped.set(u32::from(slot), zeroes, 0))
            .map_err(|e| failed("DROPPED", "update", e))
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

/// The slots that an agent left, and did not empty any more.
fn left(rulesets: &Array<MapData, [u8; 32]>) -> Result<BTreeSet<u32>, MapError> {
    let keys = (0..).zip(values(rulesets)?);
    let left = keys.filter(|(_, key)| *key == LEFT);
    Ok(left.map(|(slot, _)| slot).collect())
}

/// The values of an array, by index.
pub(super) fn values<const N: usize>(
    array: &Array<MapData, [u8; N]>,
) -> Result<Vec<[u8; N]>, MapError> {
    match sys::read_all(IterableMap::map(array).fd().as_fd(), 4, N) {
        Ok((_, values)) => Ok(values.as_chunks().0.to_vec()),
        Err(error) => {
            tracing::debug!(%error, "a batch was refused, reading one by one");
            array.iter().collect()
        }
    }
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
        // No batches of tries before 5.16, and ENOMEM for large ones from some kernels.
        sys::update_all(trie.fd().as_fd(), (keys, A + 4), (values, 4))
            .map_err(|e| failed(name, "update", e))?;
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
