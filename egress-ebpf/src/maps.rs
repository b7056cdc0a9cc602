//! The maps, and the traits of `egress_common::tables` over them.
//!
//! Names and layouts are DESIGN.md's and `egress_common::abi`'s. The sizes are defaults; the
//! loader may override them (`EbpfLoader::map_max_entries`), inner maps may have any size.

#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value a key would be copied to where it need not be aligned"
)]
#![expect(
    clippy::as_conversions,
    reason = "the verifier's numbers are of 64 bits: sizes of tables and indices of arrays"
)]

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use egress_common::abi::{
    Address, Config, Counter, DROP_KINDS, DropKind, Dropped, Endpoint, EventBudget, FAMILY_V4,
    FRONTEND_ALLOW, Fragment, FragmentKey, FrontendKey, HookKey, INBOUND_SETS, PORTS_FIXED_BITS,
    PRESENT_FRONTENDS, PRESENT_PEERS, PRESENT_WORDS, PortsData, RulesetClass, RulesetFrontend,
    SEATS as SEAT_COUNT, Seat, present_bit,
};
use egress_common::event::Record;
use egress_common::flows::{FlowSet, Place};
use egress_common::hook::Scratch;
use egress_common::tables::{Aligned, State, Tables};
use zerocopy::network_endian::{U32, U64};

use crate::clock;
use crate::skb::Buffer;

/// Endpoints a node can have: its slots.
const SLOTS: usize = 4096;
/// Rulesets that can exist at once.
const RULESETS: usize = 4096;
const NO_PREALLOC: usize = 1;
/// The agent maps the tables of flows into its memory, and their sets begin cache lines.
const MMAPABLE: usize = 1024;
const _: () = assert!(BPF_F_NO_PREALLOC == 1 && BPF_F_MMAPABLE == 1024);

#[btf_map]
static SEATS: Array<Seat, { SEAT_COUNT as usize }> = Array::new();

/// Endpoints whose seat another one has.
#[btf_map]
static ENDPOINTS: HashMap<HookKey, Endpoint, SLOTS> = HashMap::new();

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();

#[btf_map]
static PEERS: HashMap<Address, U32, 262_144, NO_PREALLOC> = HashMap::new();

/// Bits: which addresses may be in PEERS and in FRONTENDS.
#[btf_map]
static PRESENT: Array<u64, { 2 * PRESENT_WORDS as usize }> = Array::new();

#[btf_map]
static RULESET_CLASSES: HashMap<RulesetClass, U32, 262_144, NO_PREALLOC> = HashMap::new();

#[btf_map]
static PORTS: LpmTrie<PortsData, u8, 262_144> = LpmTrie::new();

#[btf_map]
static RULESET_CIDRS_V4: ArrayOfMaps<LpmTrie<[u8; 4], U32, 1024>, RULESETS> = ArrayOfMaps::new();

#[btf_map]
static RULESET_CIDRS_V6: ArrayOfMaps<LpmTrie<[u8; 16], U32, 1024>, RULESETS> = ArrayOfMaps::new();

/// Content address of the ruleset in each slot. No program reads it: it tells a new agent which
/// rulesets it need not build again.
#[btf_map]
static RULESET_KEYS: Array<[u8; 32], RULESETS> = Array::new();

#[btf_map]
static FRONTENDS: HashMap<FrontendKey, U32, 65_536, NO_PREALLOC> = HashMap::new();

#[btf_map]
static RULESET_FRONTENDS: HashMap<RulesetFrontend, U32, 262_144, NO_PREALLOC> = HashMap::new();

#[btf_map]
static FLOWS: Array<FlowSet, 98_304, MMAPABLE> = Array::new();

/// How many sets FLOWS has; the loader says.
#[unsafe(no_mangle)]
static FLOW_SETS: Global<u32> = Global::new(98_304);

#[btf_map]
static INBOUND: ArrayOfMaps<Array<FlowSet, { INBOUND_SETS as usize }, MMAPABLE>, SLOTS> =
    ArrayOfMaps::new();

#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, Fragment, 8192> = LruHashMap::new();

/// Drops of each endpoint: a cache line a slot and CPU, 256 KiB a CPU.
#[btf_map]
static DROPPED: PerCpuArray<Dropped, SLOTS> = PerCpuArray::new();

/// Drops of all of them: 4 KiB a CPU.
#[btf_map]
static DROP_TOTALS: PerCpuArray<Counter, { DROP_KINDS as usize }> = PerCpuArray::new();

#[btf_map]
static ALLOWED: PerCpuArray<Counter, 2> = PerCpuArray::new();

/// 1 MiB: 14,563 records of 64 bytes with their headers.
#[btf_map]
pub(crate) static EVENTS: RingBuf<Record, { 1 << 20 }> = RingBuf::new();

/// Records by endpoint.
pub(crate) type Budgets = Array<EventBudget, SLOTS>;

#[btf_map]
pub(crate) static EVENT_BUDGET: Budgets = Array::new();

#[btf_map]
pub(crate) static EVENTS_LOST: PerCpuArray<u64, 2> = PerCpuArray::new();

/// What a program needs while it runs, instead of stack.
#[repr(C)]
pub(crate) struct Memory {
    pub(crate) scratch: Scratch,
    pub(crate) buffer: Buffer,
}

/// What each endpoint sent this second of records of new flows. Like those below not pinned: a new
/// agent begins anew.
#[btf_map]
pub(crate) static FLOW_BUDGET: Budgets = Array::new();

/// Records of new flows that were over the budget, or found the ring buffer full.
#[btf_map]
pub(crate) static FLOW_EVENTS_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Whose memory it is.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Use {
    /// A program on a tc hook, which runs with bottom halves off: no two at once on a CPU.
    Hook = 0,
    /// `ask`, which the agent runs, one at a time. A hook may interrupt it.
    Ask = 1,
}

/// Not pinned: nothing in it outlives a run of a program.
#[btf_map]
static MEMORY: PerCpuArray<Memory, 2> = PerCpuArray::new();

/// This CPU's memory for a use. It is always there, which the verifier does not know.
#[inline(always)]
pub(crate) fn memory(of: Use) -> Option<&'static mut Memory> {
    let memory = MEMORY.get_ptr_mut(of as u32)?;
    // SAFETY: each program asks once, and no two with the same use run on a CPU at once, so this is
    // the only reference.
    Some(unsafe { &mut *memory })
}

/// All of them.
///
/// Keys and values are put on the stack aligned, see `egress_common::packet::Chunk`.
pub(crate) struct Maps;

/// A key whose long field stands four bytes behind its start: put so that this field is aligned.
#[repr(C, align(8))]
struct Shifted<T> {
    padding: [u8; 4],
    key: T,
}

impl<T> Shifted<T> {
    #[inline(always)]
    fn new(key: T) -> Self {
        Self {
            padding: [0; 4],
            key,
        }
    }
}

/// A PORTS key, `Key<PortsData>` and a byte behind it, as words: the port stands at an odd offset,
/// where the stack takes single bytes only.
#[repr(C, align(8))]
struct PortsKey([u32; 3]);

impl PortsKey {
    #[inline(always)]
    fn new(ports: u32, protocol: u8, port: u16) -> Self {
        const { assert!(size_of::<Key<PortsData>>() == 11) };
        let [high, low] = port.to_be_bytes();
        Self([
            PORTS_FIXED_BITS + 16,
            ports.to_be(),
            u32::from_ne_bytes([protocol, high, low, 0]),
        ])
    }

    #[inline(always)]
    fn as_key(&self) -> &Key<PortsData> {
        // SAFETY: a key is 11 bytes without padding and without alignment, at the start of these
        // 12, and any bytes are a valid one.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }
}

/// Whether an address may be in the table whose part of PRESENT begins at a word.
#[inline(always)]
fn may_be_in(table: u32, address: &[u8; 16]) -> bool {
    let (word, bit) = present_bit(address);
    match PRESENT.get(table + word) {
        Some(bits) => bits >> bit & 1 == 1,
        // There is a word for every address, which the verifier does not know.
        None => true,
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn peer(&self, address: &Address) -> Option<u32> {
        if !may_be_in(PRESENT_PEERS, &address.bytes) {
            return None;
        }
        // SAFETY: nothing in a program writes PEERS, and the value is copied at once; a slot that
        // the agent reuses meanwhile reads as the old class or the new one.
        unsafe { PEERS.get(address) }.map(|class| class.get())
    }

    #[inline(always)]
    fn class_ports(&self, ruleset: u32, class: u32) -> Option<u32> {
        let key = Aligned(RulesetClass {
            ruleset: U32::new(ruleset),
            class: U32::new(class),
        });
        // SAFETY: as in `peer`.
        unsafe { RULESET_CLASSES.get(&key.0) }.map(|ports| ports.get())
    }

    #[inline(always)]
    fn cidr_ports(&self, ruleset: u32, address: &Address) -> Option<u32> {
        let ports = if address.family == FAMILY_V4 {
            let key = Aligned(Key::new(32, address.v4_octets()));
            RULESET_CIDRS_V4.get(ruleset)?.get(&key.0)?
        } else {
            let key = Shifted::new(Key::new(128, address.bytes));
            RULESET_CIDRS_V6.get(ruleset)?.get(&key.key)?
        };
        Some(ports.get())
    }

    #[inline(always)]
    fn ports_contain(&self, ports: u32, protocol: u8, port: u16) -> bool {
        PORTS
            .get(PortsKey::new(ports, protocol, port).as_key())
            .is_some()
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<u32> {
        if !may_be_in(PRESENT_FRONTENDS, &key.address) {
            return None;
        }
        // SAFETY: as in `peer`.
        unsafe { FRONTENDS.get(key) }.map(|frontend| frontend.get())
    }

    #[inline(always)]
    fn frontend_allowed(&self, ruleset: u32, frontend: u32) -> bool {
        let key = Aligned(RulesetFrontend {
            ruleset: U32::new(ruleset),
            frontend: U32::new(frontend),
        });
        // SAFETY: as in `peer`.
        unsafe { RULESET_FRONTENDS.get(&key.0) }
            .is_some_and(|verdict| verdict.get() == FRONTEND_ALLOW)
    }
}

impl State for Maps {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    fn endpoint(&self, hook: u64) -> Option<&Endpoint> {
        if let Some((whose, endpoint)) = SEATS
            .get(hook as u32 & (SEAT_COUNT - 1))
            .and_then(Seat::endpoint)
            && whose == hook
        {
            return Some(endpoint);
        }
        let key = Aligned(HookKey {
            hook: U64::new(hook),
        });
        // SAFETY: no program writes ENDPOINTS.
        unsafe { ENDPOINTS.get(&key.0) }
    }

    #[inline(always)]
    fn config(&self) -> Config {
        CONFIG.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        clock::seconds()
    }

    #[inline(always)]
    fn outbound(&self, place: &Place) -> Option<&FlowSet> {
        FLOWS.get(place.index(FLOW_SETS.load()))
    }

    #[inline(always)]
    fn inbound(&self, place: &Place) -> Option<&FlowSet> {
        INBOUND
            .get(u32::from(place.key().slot.get()))?
            .get(place.index(INBOUND_SETS))
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        // SAFETY: the value is copied before anything is inserted.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        let fragment = Aligned(*fragment);
        let _failed = FRAGMENTS.insert(key, &fragment.0, 0).is_err();
    }
}

/// Adds to this CPU's counters of a drop: the node's, and its endpoint's.
#[inline(always)]
pub(crate) fn count_drop(slot: u32, kind: DropKind, packets: u64, bytes: u64) {
    if let Some(total) = DROP_TOTALS.get_ptr_mut(kind.index()) {
        add(total, packets, bytes);
    }
    if let Some(dropped) = DROPPED.get_ptr_mut(slot) {
        // SAFETY: as in `add`.
        let Dropped { packets: counts } = unsafe { &mut *dropped };
        if let Some(count) = counts.get_mut(kind.reason.drop_index() as usize) {
            *count += packets;
        }
    }
}

/// Adds to this CPU's counter of passes.
#[inline(always)]
pub(crate) fn count_pass(index: u32, packets: u64, bytes: u64) {
    if let Some(counter) = ALLOWED.get_ptr_mut(index) {
        add(counter, packets, bytes);
    }
}

#[inline(always)]
fn add(counter: *mut Counter, packets: u64, bytes: u64) {
    // SAFETY: the pointer is this CPU's value, which no other CPU and no other program on this
    // CPU touches while this one runs with bottom halves off.
    let counter = unsafe { &mut *counter };
    counter.packets += packets;
    counter.bytes += bytes;
}
