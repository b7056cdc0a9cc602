//! The programs, loaded, with small tables.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, ArrayOfMaps, HashMap, LpmTrie, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::tc::{TcAttachOptions, qdisc_add_clsact};
use aya::programs::{LinkOrder, ProgramType, SchedClassifier, TcAttachType};
use aya::sys::is_helper_supported;
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions};
use aya_obj::generated::{bpf_func_id, bpf_map_type};
use egress_agent::datapath::InnerTypes;
use egress_common::abi::{
    ALLOWED_V4, ALLOWED_V6, Address, Config, DROP_KINDS, DropKind, ENDPOINT_ADDRESSES,
    ENDPOINT_ISOLATED, ENDPOINT_SPOOF_CHECK, Endpoint, FRONTEND_ALLOW, FrontendKey, HookKey,
    INBOUND_SETS, PORTS_FIRST, PORTS_FIXED_BITS, PORTS_PRESENT, PRESENT_WORDS, PortsData,
    RulesetClass, RulesetFrontend, SEAT_FIRST, SEAT_SECOND, SEATS, Seat,
};
use egress_common::event::{DROP_REASONS, Reason, Record};
use egress_common::flows::FlowSet;
use zerocopy::network_endian::U32;
use zerocopy::{FromBytes as _, Immutable, IntoBytes};

use crate::frames::{ACK, Ethernet, POD6, SYN, TCP, tcp};

pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/egress-ebpf"));

/// Test runs happen on the loopback interface unless told otherwise.
const LOOPBACK: u64 = 1;
const RULESET: u32 = 1;
pub(crate) const SLOT: u16 = 2;
/// How many slots there are.
pub(crate) const SLOTS: u16 = 4096;
pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const RING_BYTES: u32 = 64 << 10;

/// `BPF_F_NO_PREALLOC`
const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`
const MMAPABLE: u32 = 1024;
/// Sets of FLOWS.
const FLOW_SETS: u32 = 300;

/// Offsets in `struct __sk_buff`, an interface of the kernel that does not change.
mod sk_buff {
    pub(super) const SIZE: usize = 192;
    pub(super) const GSO_SEGS: usize = 164;
    pub(super) const GSO_SIZE: usize = 176;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Drop,
}

type Trie<const N: usize> = LpmTrie<MapData, [u8; N], [u8; 4]>;

pub(crate) struct Machine {
    ebpf: Ebpf,
    v4: Trie<4>,
    v6: Trie<16>,
    /// Kept open; the kernel's table holds it too.
    _inbound: MapData,
    hook: u64,
    slot: u16,
    /// The endpoint is in ENDPOINTS, for another has its seat.
    crowded: bool,
    generation: u32,
    config: Config,
    next_ports: u32,
    next_class: u32,
}

/// Kernels before 5.11 refuse a program that calls for it.
pub(crate) fn has_coarse_clock() -> bool {
    is_helper_supported(
        ProgramType::SchedClassifier,
        bpf_func_id::BPF_FUNC_ktime_get_coarse_ns,
    )
    .unwrap()
}

fn raw<const N: usize>(value: &(impl IntoBytes + Immutable)) -> [u8; N] {
    value.as_bytes().try_into().unwrap()
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with_clock(has_coarse_clock())
    }

    pub(crate) fn with_clock(coarse: bool) -> Self {
        Self::with(coarse, 0)
    }

    /// One that tells of so many new flows a second.
    pub(crate) fn with_flow_events(count: u32) -> Self {
        Self::with(has_coarse_clock(), count)
    }

    fn with(coarse: bool, flow_events: u32) -> Self {
        let coarse = u8::from(coarse);
        let mut loader = EbpfLoader::new();
        let ticks = ticks_per_second();
        loader.override_global("COARSE_CLOCK", &coarse, true);
        loader.override_global("FLOW_EVENTS", &flow_events, true);
        loader.override_global("TICKS_PER_SECOND", &ticks, true);
        loader.override_global("FLOW_SETS", &FLOW_SETS, true);
        for (map, entries) in [
            ("ENDPOINTS", 16),
            ("FLOWS", FLOW_SETS),
            ("EVENTS", RING_BYTES),
        ] {
            loader.map_max_entries(map, entries);
        }
        let mut ebpf = loader.load(OBJECT).unwrap();
        for name in ["from_pod", "to_pod", "ask", "empty"] {
            program(&mut ebpf, name).load().unwrap();
        }
        // Every address may be in any table: the agent's bits are shown by the traffic tests.
        let present = ebpf.map_mut("PRESENT").unwrap();
        let mut present: Array<_, u64> = present.try_into().unwrap();
        for word in 0..2 * PRESENT_WORDS {
            present.set(word, u64::MAX, 0).unwrap();
        }
        let types = InnerTypes::load().unwrap();
        let inner = |name, kind, sizes, entries, flags| {
            MapData::from_fd(types.create_map(name, kind, sizes, entries, flags).unwrap()).unwrap()
        };
        let trie = bpf_map_type::BPF_MAP_TYPE_LPM_TRIE;
        let v4 = inner("cidrs_v4", trie, (8, 4), 1024, NO_PREALLOC);
        let v4: Trie<4> = Map::from_map_data(v4).unwrap().try_into().unwrap();
        let v6 = inner("cidrs_v6", trie, (20, 4), 1024, NO_PREALLOC);
        let v6: Trie<16> = Map::from_map_data(v6).unwrap().try_into().unwrap();
        let array = bpf_map_type::BPF_MAP_TYPE_ARRAY;
        let set = u32::try_from(size_of::<FlowSet>()).unwrap();
        let inbound = inner("inbound", array, (4, set), INBOUND_SETS, MMAPABLE);
        let outer = ebpf.map_mut("RULESET_CIDRS_V4").unwrap();
        let mut outer: ArrayOfMaps<_, Trie<4>> = outer.try_into().unwrap();
        outer.set(RULESET, &v4, 0).unwrap();
        let outer = ebpf.map_mut("RULESET_CIDRS_V6").unwrap();
        let mut outer: ArrayOfMaps<_, Trie<16>> = outer.try_into().unwrap();
        outer.set(RULESET, &v6, 0).unwrap();
        let outer = ebpf.map_mut("INBOUND").unwrap();
        let mut outer: ArrayOfMaps<_, MapData> = outer.try_into().unwrap();
        outer.set(u32::from(SLOT), &inbound, 0).unwrap();
        Self {
            ebpf,
            v4,
            v6,
            _inbound: inbound,
            hook: LOOPBACK,
            slot: SLOT,
            crowded: false,
            generation: 0,
            config: Config::default(),
            next_ports: PORTS_FIRST,
            next_class: 1,
        }
    }

    /// A policy isolates the pod.
    pub(crate) fn isolate(&mut self) {
        self.flip(ENDPOINT_ISOLATED | ENDPOINT_SPOOF_CHECK);
    }

    /// No policy does.
    pub(crate) fn open(&mut self) {
        self.flip(ENDPOINT_SPOOF_CHECK);
    }

    fn flip(&mut self, flags: u32) {
        self.generation += 1;
        let mut v4 = [[0; 4]; ENDPOINT_ADDRESSES];
        v4[0] = POD.octets();
        let mut v6 = [[0; 16]; ENDPOINT_ADDRESSES];
        v6[0] = POD6.octets();
        let endpoint = Endpoint {
            ruleset: RULESET.into(),
            generation: self.generation.into(),
            flags: flags.into(),
            slot: self.slot.into(),
            v4_len: 1,
            v6_len: 1,
            v4,
            v6,
        };
        let key = HookKey {
            hook: self.hook.into(),
        };
        if self.crowded {
            self.insert::<8, 96>("ENDPOINTS", &key, &endpoint);
            return;
        }
        let current = if self.generation.is_multiple_of(2) {
            SEAT_FIRST
        } else {
            SEAT_SECOND
        };
        self.sit(current, endpoint);
    }

    /// Has the endpoint's seat say so; the copy that does not count is one of a closed endpoint.
    fn sit(&mut self, current: u8, endpoint: Endpoint) {
        let other = Endpoint {
            ruleset: 0.into(),
            flags: ENDPOINT_ISOLATED.into(),
            ..endpoint
        };
        let seat = Seat {
            hook: HookKey {
                hook: self.hook.into(),
            },
            current,
            reserved: [0; 7],
            copies: if current == SEAT_FIRST {
                [endpoint, other]
            } else {
                [other, endpoint]
            },
        };
        let index = u32::try_from(self.hook).unwrap() % SEATS;
        let map = self.ebpf.map_mut("SEATS").unwrap();
        let mut map: Array<_, [u8; size_of::<Seat>()]> = map.try_into().unwrap();
        map.set(index, raw(&seat), 0).unwrap();
    }

    /// The pod's endpoint gets another slot; only [`SLOT`] has a table of inbound flows.
    pub(crate) fn move_to(&mut self, slot: u16) {
        self.slot = slot;
        self.isolate();
    }

    /// Another endpoint, of a closed pod, takes the seat before the pod comes.
    pub(crate) fn take_the_seat(&mut self) {
        self.isolate();
        let index = u32::try_from(self.hook).unwrap() % SEATS;
        let map = self.ebpf.map_mut("SEATS").unwrap();
        let mut map: Array<_, [u8; size_of::<Seat>()]> = map.try_into().unwrap();
        let mut seat: Seat = zerocopy::transmute!(map.get(&index, 0).unwrap());
        seat.hook.hook += u64::from(SEATS);
        map.set(index, raw(&seat), 0).unwrap();
        self.crowded = true;
    }

    /// Every flow that the pod opened, by when it was seen.
    pub(crate) fn seen_outbound(&self) -> Vec<u32> {
        let map = self.ebpf.map("FLOWS").unwrap();
        let map: Array<_, [u64; 32]> = map.try_into().unwrap();
        // The second word of a way of IPv4 (`egress_common::flows`).
        let sets = map.iter().take(usize::try_from(FLOW_SETS / 3).unwrap());
        sets.flat_map(|set| {
            let words = set.unwrap();
            words
                .chunks(4)
                .filter(|way| way[0] != 0)
                .map(|way| u32::try_from(way[1] >> 32).unwrap())
                .collect::<Vec<_>>()
        })
        .collect()
    }

    fn insert<const K: usize, const V: usize>(
        &mut self,
        map: &str,
        key: &(impl IntoBytes + Immutable),
        value: &(impl IntoBytes + Immutable),
    ) {
        let map = self.ebpf.map_mut(map).unwrap();
        let mut map: HashMap<_, [u8; K], [u8; V]> = map.try_into().unwrap();
        map.insert(raw::<K>(key), raw::<V>(value), 0).unwrap();
    }

    pub(crate) fn allow_block(&mut self, network: Ipv4Addr, prefix: u32, protocol: u8, port: u16) {
        let ports = self.intern(protocol, port);
        let key = Key::new(prefix, network.octets());
        self.v4.insert(&key, raw::<4>(&U32::new(ports)), 0).unwrap();
    }

    pub(crate) fn allow_block6(&mut self, network: Ipv6Addr, prefix: u32, protocol: u8, port: u16) {
        let ports = self.intern(protocol, port);
        let key = Key::new(prefix, network.octets());
        self.v6.insert(&key, raw::<4>(&U32::new(ports)), 0).unwrap();
    }

    pub(crate) fn forget_block(&mut self, network: Ipv4Addr, prefix: u32) {
        self.v4.remove(&Key::new(prefix, network.octets())).unwrap();
    }

    /// A new set with one port.
    fn intern(&mut self, protocol: u8, port: u16) -> u32 {
        self.next_ports += 1;
        self.add_ports(protocol, port, 16);
        self.next_ports
    }

    /// More ports of the set made last: those that share so many leading bits.
    pub(crate) fn add_ports(&mut self, protocol: u8, port: u16, bits: u32) {
        let map = self.ebpf.map_mut("PORTS").unwrap();
        let mut map: LpmTrie<_, [u8; 7], u8> = map.try_into().unwrap();
        let data = PortsData {
            ports: self.next_ports.into(),
            protocol,
            port: port.into(),
        };
        let key = Key::new(PORTS_FIXED_BITS + bits, raw::<7>(&data));
        map.insert(&key, PORTS_PRESENT, 0).unwrap();
    }

    pub(crate) fn allow_class(&mut self, peer: IpAddr, protocol: u8, port: u16) {
        self.next_class += 1;
        let class = self.next_class;
        let ports = self.intern(protocol, port);
        self.insert::<20, 4>("PEERS", &address(peer), &U32::new(class));
        let key = RulesetClass {
            ruleset: RULESET.into(),
            class: class.into(),
        };
        self.insert::<8, 4>("RULESET_CLASSES", &key, &U32::new(ports));
    }

    pub(crate) fn frontend(&mut self, at: IpAddr, protocol: u8, port: u16, allowed: bool) {
        let Address { bytes, family, .. } = address(at);
        let key = FrontendKey {
            address: bytes,
            family,
            protocol,
            port: port.into(),
        };
        let frontend = u32::from(port);
        self.insert::<20, 4>("FRONTENDS", &key, &U32::new(frontend));
        if allowed {
            let key = RulesetFrontend {
                ruleset: RULESET.into(),
                frontend: frontend.into(),
            };
            self.insert::<8, 4>("RULESET_FRONTENDS", &key, &U32::new(FRONTEND_ALLOW));
        }
    }

    pub(crate) fn next_epoch(&mut self) {
        self.config.epoch += 1;
        self.write_config();
    }

    /// Flows are named under a secret, as the agent's are.
    pub(crate) fn keep_a_secret(&mut self) {
        self.config.seed = *b"nobody outside knows this secret";
        self.write_config();
    }

    pub(crate) fn events_per_second(&mut self, count: u32) {
        self.config.events_per_second = count.into();
        self.write_config();
    }

    fn write_config(&mut self) {
        let map = self.ebpf.map_mut("CONFIG").unwrap();
        let mut map: Array<_, [u8; 48]> = map.try_into().unwrap();
        map.set(0, raw::<48>(&self.config), 0).unwrap();
    }

    /// Has the pod send a frame.
    pub(crate) fn send(&mut self, frame: &Ethernet) -> Verdict {
        self.run("from_pod", frame, None, 1).0
    }

    /// The same, so many times.
    pub(crate) fn send_repeatedly(&mut self, frame: &Ethernet, count: u32) {
        self.run("from_pod", frame, None, count);
    }

    /// The same, of a frame that the device will segment.
    pub(crate) fn send_gso(&mut self, frame: &Ethernet, segments: u32, size: u32) -> Verdict {
        let mut context = [0; sk_buff::SIZE];
        put(&mut context, sk_buff::GSO_SEGS, segments);
        put(&mut context, sk_buff::GSO_SIZE, size);
        self.run("from_pod", frame, Some(&context), 1).0
    }

    /// Attaches the program to an interface, whose endpoint is the pod from then on. The link ends with
    /// the machine.
    pub(crate) fn attach(&mut self, interface: &str, index: u32) {
        self.hook = index.into();
        self.isolate();
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let program = program(&mut self.ebpf, "from_pod");
        if program
            .attach_with_options(interface, TcAttachType::Ingress, options)
            .is_err()
        {
            // Before 6.6.
            qdisc_add_clsact(interface).unwrap();
            program.attach(interface, TcAttachType::Ingress).unwrap();
        }
    }

    /// Has a frame arrive for the pod, which drops nothing.
    pub(crate) fn deliver(&mut self, frame: &Ethernet) {
        assert_eq!(self.run("to_pod", frame, None, 1).0, Verdict::Pass);
    }

    /// Nanoseconds a frame.
    pub(crate) fn cost(&mut self, name: &str, frame: &Ethernet, repeat: u32) -> u128 {
        self.run(name, frame, None, repeat).1.as_nanos()
    }

    /// Nanoseconds a frame of flows that are not known: every source port once.
    pub(crate) fn cost_of_new_flows(&mut self, count: u32) -> u128 {
        let mut spent = Duration::ZERO;
        for flow in 0..count {
            let [port @ .., _, _] = (flow << 8).to_be_bytes();
            let port = u16::from_be_bytes(port);
            let port = port.wrapping_add(u16::try_from(flow % 65_536).unwrap());
            let flags = if flow % 2 == 0 { SYN } else { SYN | ACK };
            let frame = Ethernet::v4(POD, PEER, TCP, tcp(port, 443, flags));
            spent += self.run("from_pod", &frame, None, 1).1;
        }
        (spent / count).as_nanos()
    }

    fn run(
        &mut self,
        name: &str,
        frame: &Ethernet,
        context: Option<&[u8]>,
        repeat: u32,
    ) -> (Verdict, Duration) {
        let result = program(&mut self.ebpf, name)
            .test_run(TestRunOptions {
                data_in: Some(&frame.0),
                ctx_in: context,
                repeat,
                ..TestRunOptions::default()
            })
            .unwrap();
        let verdict = match result.return_value.cast_signed() {
            -1 => Verdict::Pass,
            2 => Verdict::Drop,
            other => unreachable!("{name} returned {other}"),
        };
        (verdict, result.duration)
    }

    /// `None` before 5.16, which does not tell.
    pub(crate) fn verified_instructions(&mut self, name: &str) -> Option<u32> {
        let info = program(&mut self.ebpf, name).info().unwrap();
        info.verified_instruction_count()
    }

    /// Packets and bytes dropped for a reason, over all CPUs, protocols and families.
    pub(crate) fn dropped(&self, reason: Reason) -> (u64, u64) {
        let totals = self.drop_totals().into_iter();
        totals
            .filter(|((of, _, _), _)| *of == reason)
            .fold((0, 0), |sum, (_, (packets, bytes))| {
                (sum.0 + packets, sum.1 + bytes)
            })
    }

    /// Packets and bytes dropped, by all that they are told apart by: reason, protocol, family.
    pub(crate) fn drop_totals(&self) -> BTreeMap<(Reason, u8, u8), (u64, u64)> {
        let kinds = (0..DROP_KINDS).filter_map(|at| Some((at, DropKind::from_index(at)?)));
        kinds
            .map(|(at, kind)| {
                let counted = self.counter("DROP_TOTALS", at);
                ((kind.reason, kind.protocol, kind.family), counted)
            })
            .filter(|(_, counted)| *counted != (0, 0))
            .collect()
    }

    /// Packets dropped of a slot's endpoint, by reason.
    pub(crate) fn dropped_of(&self, slot: u16) -> BTreeMap<Reason, u64> {
        let map = self.ebpf.map("DROPPED").unwrap();
        let map: PerCpuArray<_, [u64; DROP_REASONS]> = map.try_into().unwrap();
        let values = map.get(&slot.into(), 0).unwrap();
        (0..)
            .zip(0..DROP_REASONS)
            .map(|(place, at)| {
                let packets: u64 = values.iter().map(|counts| counts[at]).sum();
                (Reason::from_drop_index(place).unwrap(), packets)
            })
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }

    /// Packets and bytes that passed, of a family.
    pub(crate) fn allowed(&self, family: u8) -> (u64, u64) {
        let index = if family == 6 { ALLOWED_V6 } else { ALLOWED_V4 };
        self.counter("ALLOWED", index)
    }

    /// Packets and bytes of a counter, over all CPUs.
    fn counter(&self, map: &str, index: u32) -> (u64, u64) {
        let map = self.ebpf.map(map).unwrap();
        let map: PerCpuArray<_, [u64; 2]> = map.try_into().unwrap();
        let values = map.get(&index, 0).unwrap();
        values
            .iter()
            .fold((0, 0), |sum, value| (sum.0 + value[0], sum.1 + value[1]))
    }

    /// Events lost to the budget, and to a full ring buffer.
    pub(crate) fn lost(&self) -> [u64; 2] {
        let map = self.ebpf.map("EVENTS_LOST").unwrap();
        let map: PerCpuArray<_, u64> = map.try_into().unwrap();
        [0, 1].map(|index| map.get(&index, 0).unwrap().iter().sum())
    }

    /// Records of new flows that were lost.
    pub(crate) fn flows_lost(&self) -> u64 {
        let map = self.ebpf.map("FLOW_EVENTS_LOST").unwrap();
        let map: PerCpuArray<_, u64> = map.try_into().unwrap();
        map.get(&0, 0).unwrap().iter().sum()
    }

    /// Takes what is in the ring buffer.
    pub(crate) fn events(&mut self) -> Vec<Record> {
        let map = self.ebpf.map_mut("EVENTS").unwrap();
        let mut ring = RingBuf::try_from(map).unwrap();
        let mut records = Vec::new();
        while let Some(item) = ring.next() {
            records.push(Record::read_from_bytes(&item).unwrap());
        }
        records
    }
}

/// The kernel's `HZ`.
fn ticks_per_second() -> u32 {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    u32::try_from(1_000_000_000 / tick.tv_nsec).unwrap()
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}

fn put(context: &mut [u8], at: usize, value: u32) {
    context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}
