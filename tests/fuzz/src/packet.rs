//! Frames past the hooks of one isolated pod, in any order, in both directions.
//!
//! The pod may send TCP to port 443, UDP to 53 and SCTP to 132 of one server, and may answer who
//! asks. Whatever passes must be one of these as [`second`] reads it, or one of the messages that
//! always pass (S49, S97).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_common::abi::{
    Address, Config, ENDPOINT_ADDRESSES, ENDPOINT_ISOLATED, ENDPOINT_SPOOF_CHECK, Endpoint,
    Fragment, FragmentKey, FrontendKey, PORTS_FIRST,
};
use egress_common::event::{Action, Reason};
use egress_common::flows::{FlowSet, Place};
use egress_common::hook::{self, Scratch};
use egress_common::packet::Bytes;
use egress_common::tables::{State, Tables};

use crate::second::{self, Position, Read};

/// The pod.
pub const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
/// The pod's other address.
pub const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
/// The one server that it may talk to.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Its other address.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

const HOOK: u64 = 7;
const ICMP: u8 = 1;
const IGMP: u8 = 2;
const ICMPV6: u8 = 58;
/// Protocol and port that the pod may send to.
const OPEN: [(u8, u16); 3] = [(6, 443), (17, 53), (132, 132)];
const ARP: u16 = 0x0806;

/// What came of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Whether it passed.
    pub passed: bool,
    /// Why.
    pub reason: Reason,
}

/// Reads `direction ethertype length frame` until the bytes end.
pub(crate) fn run(mut bytes: &[u8]) {
    let hook = Hook::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let [direction, kind_high, kind_low, length_high, length_low] = *head;
        let length = usize::from(u16::from_be_bytes([length_high, length_low])).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        let ethertype = u16::from_be_bytes([kind_high, kind_low]);
        if direction & 1 == 0 {
            hook.send(ethertype, frame);
        } else {
            hook.deliver(ethertype, frame);
        }
        bytes = rest;
    }
}

/// The two hooks of the pod.
#[derive(Debug)]
pub struct Hook {
    memory: Memory,
    seen: RefCell<Seen>,
}

/// What [`second`] has read so far.
#[derive(Debug, Default)]
struct Seen {
    /// Protocol, peer, the peer's port, the pod's: of what arrived.
    arrived: BTreeSet<(u8, IpAddr, u16, u16)>,
    /// Peers that something arrived from at all.
    peers: BTreeSet<IpAddr>,
    /// Peers that the pod has sent something to that passed.
    sent: BTreeSet<IpAddr>,
    /// First fragments that passed: peer, identification, protocol.
    begun: BTreeSet<(IpAddr, u32)>,
}

impl Hook {
    /// Nothing has been sent yet.
    pub fn new() -> Self {
        Self {
            memory: Memory::new(),
            seen: RefCell::default(),
        }
    }

    /// The pod sends a frame, counted from its network header.
    ///
    /// # Panics
    ///
    /// When it passes and must not.
    pub fn send(&self, ethertype: u16, bytes: &[u8]) -> Fate {
        let frame = Bytes {
            ethertype,
            gso: false,
            bytes,
        };
        let reason = hook::from_pod(&self.memory, HOOK, &frame, &mut { Scratch::EMPTY }).reason;
        let passed = reason.action() == Action::Pass;
        if passed && ethertype != ARP {
            let read = second::read(ethertype, bytes)
                .unwrap_or_else(|| panic!("passed as {reason:?}, but nobody can read it"));
            self.judge(&read, reason);
        } else if passed {
            assert_eq!(reason, Reason::Neighbour, "ARP");
        }
        Fate { passed, reason }
    }

    /// A frame arrives for the pod; nothing is ever dropped there.
    pub fn deliver(&self, ethertype: u16, bytes: &[u8]) {
        let frame = Bytes {
            ethertype,
            gso: false,
            bytes,
        };
        hook::to_pod(&self.memory, HOOK, &frame, &mut { Scratch::EMPTY });
        if let Some(read) = second::read(ethertype, bytes) {
            let mut seen = self.seen.borrow_mut();
            seen.peers.insert(read.source);
            if let Some((theirs, ours)) = read.ports {
                seen.arrived
                    .insert((read.protocol, read.source, theirs, ours));
            }
        }
    }

    /// Panics unless what passed may pass.
    fn judge(&self, read: &Read, reason: Reason) {
        let mut seen = self.seen.borrow_mut();
        let own = |address: IpAddr| address == POD_V4 || address == POD_V6;
        let link_local = |address: IpAddr| matches!(address, IpAddr::V6(a) if a.segments().first().is_some_and(|s| s & 0xffc0 == 0xfe80));
        assert!(
            own(read.source) || link_local(read.source) || reason == Reason::Neighbour,
            "spoofed and passed as {reason:?}: {read:?}"
        );
        let server = read.destination == SERVER_V4 || read.destination == SERVER_V6;
        let later = matches!(read.fragment, Some((_, Position::Later)));
        let fine = match reason {
            Reason::Allowed | Reason::Established if later => read
                .fragment
                .is_some_and(|(id, _)| seen.begun.contains(&(read.destination, id))),
            Reason::Reply if later => read
                .fragment
                .is_some_and(|(id, _)| seen.begun.contains(&(read.destination, id))),
            Reason::Allowed | Reason::Established => {
                server
                    && read
                        .ports
                        .is_some_and(|(_, port)| OPEN.contains(&(read.protocol, port)))
            }
            Reason::Reply => match read.protocol {
                ICMP | ICMPV6 => seen.peers.contains(&read.destination),
                _ => read.ports.is_some_and(|(ours, theirs)| {
                    seen.arrived
                        .contains(&(read.protocol, read.destination, theirs, ours))
                }),
            },
            // About something that came from there, or that was sent there.
            Reason::Related => {
                matches!(read.protocol, ICMP | ICMPV6)
                    && (seen.peers.contains(&read.destination)
                        || seen.sent.contains(&read.destination))
            }
            Reason::Neighbour => always_passes(read),
            Reason::OwnAddress => own(read.destination),
            Reason::NoEndpoint
            | Reason::NotIsolated
            | Reason::NoRule
            | Reason::Frontend
            | Reason::Spoofed
            | Reason::NotIp
            | Reason::Malformed
            | Reason::ExtensionHeaders
            | Reason::SourceRoute
            | Reason::Fragment => false,
        };
        assert!(fine, "passed as {reason:?}: {read:?}");
        seen.sent.insert(read.destination);
        if let Some((id, Position::First)) = read.fragment {
            seen.begun.insert((read.destination, id));
        }
    }
}

impl Default for Hook {
    fn default() -> Self {
        Self::new()
    }
}

/// S49, S97: neighbour discovery and MLD on the link, IGMP on the link.
fn always_passes(read: &Read) -> bool {
    match (read.destination, read.protocol) {
        (IpAddr::V6(to), ICMPV6) => {
            let [first, second, ..] = to.octets();
            let on_link = first == 0xfe && second & 0xc0 == 0x80 || (first, second) == (0xff, 0x02);
            let kind = read.kind.map_or(0, |(kind, _)| kind);
            on_link && matches!(kind, 130..=137 | 143)
        }
        (IpAddr::V4(to), IGMP) => {
            let [a, b, c, _] = to.octets();
            (224..=239).contains(&a) && read.hops == 1 || (a, b, c) == (224, 0, 0)
        }
        _ => false,
    }
}

/// Tables and state in memory.
#[derive(Debug)]
struct Memory {
    endpoint: Endpoint,
    outbound: Vec<FlowSet>,
    inbound: Vec<FlowSet>,
    fragments: RefCell<BTreeMap<FragmentKey, Fragment>>,
}

impl Memory {
    fn new() -> Self {
        let (mut v4, mut v6) = ([[0; 4]; ENDPOINT_ADDRESSES], [[0; 16]; ENDPOINT_ADDRESSES]);
        for (place, own) in v4.iter_mut().zip([POD_V4]) {
            *place = own.octets();
        }
        for (place, own) in v6.iter_mut().zip([POD_V6]) {
            *place = own.octets();
        }
        Self {
            endpoint: Endpoint {
                ruleset: 1.into(),
                generation: 41.into(),
                flags: (ENDPOINT_ISOLATED | ENDPOINT_SPOOF_CHECK).into(),
                slot: 3.into(),
                v4_len: 1,
                v6_len: 1,
                v4,
                v6,
            },
            outbound: flows(),
            inbound: flows(),
            fragments: RefCell::default(),
        }
    }
}

/// Sets of a table of flows. What they have no room for is judged again, which never opens anything.
const SETS: u32 = 48;

fn flows() -> Vec<FlowSet> {
    (0..SETS).map(|_| FlowSet::default()).collect()
}

fn set<'a>(sets: &'a [FlowSet], place: &Place) -> Option<&'a FlowSet> {
    sets.get(usize::try_from(place.index(SETS)).ok()?)
}

impl Tables for Memory {
    fn peer(&self, _: &Address) -> Option<u32> {
        None
    }

    fn class_ports(&self, _: u32, _: u32) -> Option<u32> {
        None
    }

    fn cidr_ports(&self, _: u32, address: &Address) -> Option<u32> {
        let server = *address == Address::v4(SERVER_V4.octets())
            || *address == Address::v6(SERVER_V6.octets());
        server.then_some(PORTS_FIRST)
    }

    fn ports_contain(&self, _: u32, protocol: u8, port: u16) -> bool {
        OPEN.contains(&(protocol, port))
    }

    fn frontend(&self, _: &FrontendKey) -> Option<u32> {
        None
    }

    fn frontend_allowed(&self, _: u32, _: u32) -> bool {
        false
    }
}

impl State for Memory {
    fn endpoint(&self, hook: u64) -> Option<&Endpoint> {
        (hook == HOOK).then_some(&self.endpoint)
    }

    fn config(&self) -> Config {
        Config::default()
    }

    fn now(&self) -> u32 {
        864_000
    }

    fn outbound(&self, place: &Place) -> Option<&FlowSet> {
        set(&self.outbound, place)
    }

    fn inbound(&self, place: &Place) -> Option<&FlowSet> {
        set(&self.inbound, place)
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.fragments.borrow().get(key).copied()
    }

    fn set_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        self.fragments.borrow_mut().insert(*key, *fragment);
    }
}
