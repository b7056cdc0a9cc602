//! Tables and state in memory, with one endpoint.
//!
//! What this cannot show: several CPUs, an agent that writes while a packet is judged.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_common::abi::{
    Address, Config, ENDPOINT_ADDRESSES, ENDPOINT_ISOLATED, ENDPOINT_SPOOF_CHECK, Endpoint,
    Fragment, FragmentKey, FrontendKey, PORTS_EVERYTHING, PORTS_NOTHING,
};
use egress_common::event::Reason;
use egress_common::flows::{FlowSet, Place};
use egress_common::hook::{self, Scratch};
use egress_common::tables::{State, Tables};

use crate::frames::{Frame, ip};

/// Where the endpoint's hooks are.
pub(crate) const HOOK: u64 = 7;
pub(crate) const RULESET: u32 = 1;
pub(crate) const POD4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
pub(crate) const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
/// A destination that nothing allows unless the test does.
pub(crate) const PEER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const OTHER4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
pub(crate) const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9);

/// The pod and a peer, once in each family.
pub(crate) const PAIRS: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(POD4), IpAddr::V4(PEER4)),
    (IpAddr::V6(POD6), IpAddr::V6(PEER6)),
];

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) endpoint: Endpoint,
    config: Cell<Config>,
    now: Cell<u32>,
    peers: BTreeMap<Address, u32>,
    classes: BTreeMap<(u32, u32), u32>,
    cidrs: Vec<(u32, IpAddr, u8, u32)>,
    /// Ports id, protocol, first and last port.
    ports: Vec<(u32, u8, u16, u16)>,
    frontends: BTreeMap<FrontendKey, u32>,
    frontends_allowed: BTreeSet<(u32, u32)>,
    pub(crate) outbound: Flows,
    pub(crate) inbound: Flows,
    pub(crate) fragments: RefCell<BTreeMap<FragmentKey, Fragment>>,
    /// How often a table of flows became another one, while that is watched.
    pub(crate) writes: Cell<u32>,
    watched: bool,
}

/// A table of flows.
#[derive(Debug)]
pub(crate) struct Flows(Vec<FlowSet>);

impl Flows {
    /// Sets: enough for the few flows of a test.
    const SETS: u32 = 24;

    fn new() -> Self {
        Self((0..Self::SETS).map(|_| FlowSet::default()).collect())
    }

    pub(crate) fn len(&self) -> usize {
        let (v4, v6) = self.0.split_at(self.0.len() / 3);
        let count =
            |sets: &[FlowSet], is_v4| sets.iter().map(|set| set.count(is_v4)).sum::<usize>();
        count(v4, true) + count(v6, false)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn clear(&self) {
        self.0.iter().for_each(FlowSet::clear);
    }

    pub(crate) fn set(&self, place: &Place) -> Option<&FlowSet> {
        self.0
            .get(usize::try_from(place.index(Self::SETS)).unwrap())
    }
}

impl World {
    /// A pod that a policy isolates and that nothing is allowed.
    pub(crate) fn isolated() -> Self {
        let mut v4 = [[0; 4]; ENDPOINT_ADDRESSES];
        v4[0] = POD4.octets();
        let mut v6 = [[0; 16]; ENDPOINT_ADDRESSES];
        v6[0] = POD6.octets();
        Self {
            endpoint: Endpoint {
                ruleset: RULESET.into(),
                generation: 41.into(),
                flags: (ENDPOINT_ISOLATED | ENDPOINT_SPOOF_CHECK).into(),
                slot: 3.into(),
                v4_len: 1,
                v6_len: 1,
                v4,
                v6,
            },
            config: Cell::new(Config {
                epoch: 5.into(),
                seed: *b"nobody outside knows this secret",
                ..Config::default()
            }),
            // Ten days of uptime.
            now: Cell::new(864_000),
            peers: BTreeMap::new(),
            classes: BTreeMap::new(),
            cidrs: Vec::new(),
            ports: Vec::new(),
            frontends: BTreeMap::new(),
            frontends_allowed: BTreeSet::new(),
            outbound: Flows::new(),
            inbound: Flows::new(),
            fragments: RefCell::default(),
            writes: Cell::new(0),
            watched: false,
        }
    }

    /// A pod that no policy isolates.
    pub(crate) fn open() -> Self {
        let mut world = Self::isolated();
        world.endpoint.flags = ENDPOINT_SPOOF_CHECK.into();
        world
    }

    /// Counts [`World::writes`].
    pub(crate) fn watched(self) -> Self {
        Self {
            watched: true,
            ..self
        }
    }

    /// Flips the endpoint, as the agent does: a new generation.
    pub(crate) fn flip(&mut self, flags: u32, ruleset: u32) {
        self.endpoint.flags = flags.into();
        self.endpoint.ruleset = ruleset.into();
        self.endpoint.generation = (self.endpoint.generation.get() + 1).into();
    }

    pub(crate) fn isolate(&mut self) {
        self.flip(ENDPOINT_ISOLATED | ENDPOINT_SPOOF_CHECK, RULESET);
    }

    /// An address left a class, or a frontend changed.
    pub(crate) fn next_epoch(&self) {
        let mut config = self.config.get();
        config.epoch = (config.epoch.get() + 1).into();
        self.config.set(config);
    }

    pub(crate) fn earlier(&self, seconds: u32) {
        self.now.set(self.now.get() - seconds);
    }

    pub(crate) fn later(&self, seconds: u32) {
        self.now.set(self.now.get() + seconds);
    }

    /// Allows a port of a protocol towards a network.
    pub(crate) fn allow(mut self, network: IpAddr, prefix: u8, protocol: u8, port: u16) -> Self {
        self.add(network, prefix, protocol, port, port);
        self
    }

    pub(crate) fn add(&mut self, network: IpAddr, prefix: u8, protocol: u8, from: u16, to: u16) {
        // A prefix has one set, the union of what is allowed towards it.
        let known = self
            .cidrs
            .iter()
            .find(|(_, of, length, _)| (*of, *length) == (network, prefix));
        let id = if let Some((_, _, _, id)) = known {
            *id
        } else {
            let id = 100 + u32::try_from(self.cidrs.len()).unwrap();
            self.cidrs.push((RULESET, network, prefix, id));
            id
        };
        self.ports.push((id, protocol, from, to));
    }

    /// Allows towards a network what a ports id says itself.
    pub(crate) fn allow_literal(mut self, network: IpAddr, prefix: u8, id: u32) -> Self {
        self.cidrs.push((RULESET, network, prefix, id));
        self
    }

    /// Allows everything towards a network.
    pub(crate) fn allow_everything(mut self, network: IpAddr, prefix: u8) -> Self {
        self.cidrs
            .push((RULESET, network, prefix, PORTS_EVERYTHING));
        self
    }

    pub(crate) fn allow_all(self) -> Self {
        self.allow_everything(Ipv4Addr::UNSPECIFIED.into(), 0)
            .allow_everything(Ipv6Addr::UNSPECIFIED.into(), 0)
    }

    /// A hole in what [`World::allow_everything`] says.
    pub(crate) fn except(mut self, network: IpAddr, prefix: u8) -> Self {
        self.cidrs.push((RULESET, network, prefix, PORTS_NOTHING));
        self
    }

    pub(crate) fn forget_rules(&mut self) {
        self.cidrs.clear();
        self.ports.clear();
    }

    /// A pod of a class, and one port that the ruleset allows towards the class.
    pub(crate) fn peer(mut self, peer: IpAddr, class: u32, protocol: u8, port: u16) -> Self {
        let id = 500 + class;
        self.peers.insert(address(peer), class);
        self.classes.insert((RULESET, class), id);
        self.ports.push((id, protocol, port, port));
        self
    }

    pub(crate) fn frontend(mut self, at: IpAddr, protocol: u8, port: u16, allowed: bool) -> Self {
        let id = 900 + u32::try_from(self.frontends.len()).unwrap();
        let Address { bytes, family, .. } = address(at);
        let key = FrontendKey {
            address: bytes,
            family,
            protocol,
            port: port.into(),
        };
        self.frontends.insert(key, id);
        if allowed {
            self.frontends_allowed.insert((RULESET, id));
        }
        self
    }

    /// What from-pod says of a frame.
    pub(crate) fn send(&self, frame: &Frame) -> Reason {
        let mut scratch = Scratch::EMPTY;
        self.watch(|| hook::from_pod(self, HOOK, &frame.as_bytes(), &mut scratch).reason)
    }

    /// A frame for the pod.
    pub(crate) fn deliver(&self, frame: &Frame) {
        self.watch(|| {
            hook::to_pod(self, HOOK, &frame.as_bytes(), &mut { Scratch::EMPTY });
        });
    }

    /// From the pod to a peer.
    pub(crate) fn send_to(&self, peer: IpAddr, protocol: u8, payload: Vec<u8>) -> Reason {
        self.send(&ip(pod(peer), peer, protocol, payload))
    }

    /// From a peer to the pod.
    pub(crate) fn deliver_from(&self, peer: IpAddr, protocol: u8, payload: Vec<u8>) {
        self.deliver(&ip(peer, pod(peer), protocol, payload));
    }
}

/// The pod's address of the peer's family.
pub(crate) fn pod(peer: IpAddr) -> IpAddr {
    if peer.is_ipv4() {
        POD4.into()
    } else {
        POD6.into()
    }
}

pub(crate) fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}

fn covers(network: IpAddr, prefix: u8, ip: &Address) -> bool {
    let network = address(network);
    if network.family != ip.family {
        return false;
    }
    let bits = u128::from_be_bytes(network.bytes) ^ u128::from_be_bytes(ip.bytes);
    prefix == 0 || bits >> (128 - u32::from(prefix)) == 0
}

impl Tables for World {
    fn peer(&self, address: &Address) -> Option<u32> {
        self.peers.get(address).copied()
    }

    fn class_ports(&self, ruleset: u32, class: u32) -> Option<u32> {
        self.classes.get(&(ruleset, class)).copied()
    }

    fn cidr_ports(&self, ruleset: u32, address: &Address) -> Option<u32> {
        let covering = self.cidrs.iter().filter(|(of, network, prefix, _)| {
            *of == ruleset && covers(*network, *prefix, address)
        });
        covering
            .max_by_key(|(_, _, prefix, _)| *prefix)
            .map(|(_, _, _, ports)| *ports)
    }

    fn ports_contain(&self, ports: u32, protocol: u8, port: u16) -> bool {
        assert!(ports > PORTS_EVERYTHING, "not to be asked");
        self.ports
            .iter()
            .any(|&(id, of, from, to)| id == ports && of == protocol && (from..=to).contains(&port))
    }

    fn frontend(&self, key: &FrontendKey) -> Option<u32> {
        self.frontends.get(key).copied()
    }

    fn frontend_allowed(&self, ruleset: u32, frontend: u32) -> bool {
        self.frontends_allowed.contains(&(ruleset, frontend))
    }
}

impl World {
    /// Counts a write when the flows are others afterwards.
    fn watch<T>(&self, act: impl FnOnce() -> T) -> T {
        if !self.watched {
            return act();
        }
        let flows = || format!("{:?} {:?}", self.outbound, self.inbound);
        let before = flows();
        let result = act();
        if flows() != before {
            self.writes.set(self.writes.get() + 1);
        }
        result
    }
}

impl State for World {
    fn endpoint(&self, hook: u64) -> Option<&Endpoint> {
        (hook == HOOK).then_some(&self.endpoint)
    }

    fn config(&self) -> Config {
        self.config.get()
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn outbound(&self, place: &Place) -> Option<&FlowSet> {
        self.outbound.set(place)
    }

    fn inbound(&self, place: &Place) -> Option<&FlowSet> {
        self.inbound.set(place)
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.fragments.borrow().get(key).copied()
    }

    fn set_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        self.fragments.borrow_mut().insert(*key, *fragment);
    }
}
