//! Keys and values of the kernel tables.
//!
//! Everything here is compared and copied as memory by the kernel, so every type is
//! plain bytes: no padding ([`IntoBytes`] is derived, which refuses it at compile
//! time), no enum, no `Option`. Multi-byte fields are network byte order wrappers of
//! [`zerocopy::network_endian`], so that neither side can forget a swap; the one
//! exception is counters, which only one machine ever reads.
//!
//! A change of any layout here needs a new [`ABI_VERSION`]: the pins of another
//! version are never read. They enforce beside ours until ours enforce everything, and are
//! removed then.

use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use crate::event::{DROP_REASONS, Reason};

/// Version of the layouts in this module; names the folder of the pins.
pub const ABI_VERSION: u32 = 3;

/// Addresses of one family that an endpoint can have.
///
/// Kubernetes gives a pod at most one of each family (`status.podIPs` validation); the
/// others are room for pods with several interfaces.
pub const ENDPOINT_ADDRESSES: usize = 4;
/// The same, as the type of [`Endpoint::v4_len`].
const ENDPOINT_ADDRESSES_U8: u8 = 4;

/// [`FlowKey::local`] of a flow whose local address is a link-local one: the agent
/// cannot know a pod's `fe80::` addresses, and they all count as the pod's own.
pub const LOCAL_LINK_LOCAL: u8 = 8;

/// Ports id that contains nothing.
pub const PORTS_NOTHING: u32 = 0;
/// Ports id that contains every port of every protocol, ICMP included.
pub const PORTS_EVERYTHING: u32 = 1;
/// First ports id that is free for interned sets.
pub const PORTS_FIRST: u32 = 2;
/// Ports ids from here on say themselves what they contain: see [`literal_ports`].
pub const PORTS_LITERAL: u32 = 1 << 31;

/// The ports id of what one entry of PORTS would say: the ports of a protocol that share the first
/// `length` bits of `port`. Most sets are of one port, and with such an id need no entry and no look-up.
pub const fn literal_ports(protocol: u8, length: u32, port: u16) -> u32 {
    #[expect(clippy::as_conversions, reason = "u32::from is not const")]
    let (protocol, port) = (protocol as u32, port as u32);
    PORTS_LITERAL | protocol << 21 | (length & 31) << 16 | port
}

/// What a ports id says itself: protocol, length, port, as in [`literal_ports`].
#[inline(always)]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "8 and 16 bits are meant"
)]
pub const fn literal_parts(id: u32) -> Option<(u8, u32, u16)> {
    if id & PORTS_LITERAL == 0 {
        return None;
    }
    Some(((id >> 21) as u8, id >> 16 & 31, id as u16))
}

/// Ruleset that allows nothing. It has no entry in any table: an endpoint that points
/// at it is closed. Real rulesets start at 1.
pub const RULESET_DENY: u32 = 0;

/// `family` of IPv4 in keys and records.
pub const FAMILY_V4: u8 = 4;
/// `family` of IPv6 in keys and records.
pub const FAMILY_V6: u8 = 6;

/// An IP address with its family.
///
/// An IPv4 address stands in the first four bytes, the rest is zero. An IPv4-mapped
/// IPv6 address is IPv6 (S94).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Address {
    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The address in network order.
    pub bytes: [u8; 16],
}

/// Key of ENDPOINTS: where a hook is attached. Its low bits name its seat in SEATS.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct HookKey {
    /// The interface index (`ifindex`), or a cgroup id.
    pub hook: U64,
}

/// The endpoint is isolated for egress (S2).
pub const ENDPOINT_ISOLATED: u32 = 1;
/// Frames whose source is not one of the endpoint's addresses are dropped.
pub const ENDPOINT_SPOOF_CHECK: u32 = 2;

/// Seats in SEATS. A power of two; interface indexes are given out in turn, so that few meet.
pub const SEATS: u32 = 16_384;

/// [`Seat::current`] of a seat that nobody has.
pub const SEAT_VACANT: u8 = 0;
/// [`Seat::current`]: the first copy counts.
pub const SEAT_FIRST: u8 = 1;
/// [`Seat::current`]: the second copy counts.
pub const SEAT_SECOND: u8 = 2;

/// Value of SEATS, an array indexed by `hook % SEATS`: an endpoint without a look-up in a hash
/// table. A hook whose seat another one has is in ENDPOINTS.
///
/// The kernel writes an array's value byte by byte while packets read it. So the agent writes the copy
/// that does not count, and then says by one byte that it does.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Seat {
    /// Whose it is.
    pub hook: HookKey,
    /// [`SEAT_VACANT`], [`SEAT_FIRST`], [`SEAT_SECOND`].
    pub current: u8,
    /// Zero.
    pub reserved: [u8; 7],
    /// The endpoint, twice.
    pub copies: [Endpoint; 2],
}

/// Value of ENDPOINTS. One write of it moves a pod from one ruleset to another.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Endpoint {
    /// The ruleset, [`RULESET_DENY`] for none.
    pub ruleset: U32,
    /// Changes with every flip; a flow of another generation is judged again (S54).
    /// Unique over all endpoints there ever were on this node, so that neither a
    /// reused interface index nor a reused slot revives an old flow.
    pub generation: U32,
    /// [`ENDPOINT_ISOLATED`], [`ENDPOINT_SPOOF_CHECK`].
    pub flags: U32,
    /// Small number of this endpoint, index of everything kept per endpoint.
    pub slot: U16,
    /// How many of [`Endpoint::v4`] count.
    pub v4_len: u8,
    /// How many of [`Endpoint::v6`] count.
    pub v6_len: u8,
    /// The pod's IPv4 addresses.
    pub v4: [[u8; 4]; ENDPOINT_ADDRESSES],
    /// The pod's IPv6 addresses.
    pub v6: [[u8; 16]; ENDPOINT_ADDRESSES],
}

/// The one entry of CONFIG.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Config {
    /// Changes when an address left a class or a frontend changed: cached flows of
    /// another epoch are judged again (S54).
    pub epoch: U32,
    /// Highest [`Endpoint::generation`] ever given out; read back after a restart.
    pub generation: U32,
    /// Events one endpoint may send a second; 0 switches events off.
    pub events_per_second: U32,
    /// Zero.
    pub reserved: U32,
    /// Secret of [`FlowHash`](crate::flows::FlowHash), as old as the tables: with another one, no flow
    /// would be found again.
    pub seed: [u8; FLOW_SEED_BYTES],
}

/// Length of [`Config::seed`].
pub const FLOW_SEED_BYTES: usize = 32;

/// Words of 64 bits that PRESENT has for each of PEERS and FRONTENDS: 128 KiB, in which 20,000
/// addresses set one bit in fifty.
pub const PRESENT_WORDS: u32 = 16_384;
/// First word of PRESENT for the addresses in PEERS.
pub const PRESENT_PEERS: u32 = 0;
/// First word of PRESENT for those in FRONTENDS.
pub const PRESENT_FRONTENDS: u32 = PRESENT_WORDS;

/// Where PRESENT says whether an address may be a key of PEERS or FRONTENDS: the word, counted from the
/// table's first, and the bit. One that is not set spares the look-up; several addresses share a bit.
#[inline(always)]
#[expect(clippy::as_conversions, reason = "20 bits")]
pub fn present_bit(address: &[u8; 16]) -> (u32, u32) {
    let [high, low]: [u64; 2] = transmute!(*address);
    let mixed =
        (high ^ low.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let bit = (mixed >> 44) as u32;
    (bit / 64, bit % 64)
}

/// Key of RULESET_CLASSES; the value is a ports id ([`U32`]).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct RulesetClass {
    /// The ruleset.
    pub ruleset: U32,
    /// The class, value of PEERS.
    pub class: U32,
}

/// Data of a PORTS key: bits 0..40 are always compared, then a prefix of the port.
///
/// The LPM key is `{ prefix_len: u32 (host order), data }` as in the kernel's
/// `struct bpf_lpm_trie_key_u8`; `prefix_len` is 40 + the port's prefix length.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct PortsData {
    /// The ports id.
    pub ports: U32,
    /// IP protocol number: 6, 17 or 132.
    pub protocol: u8,
    /// The port, or its leading bits.
    pub port: U16,
}

/// Prefix length of the part of [`PortsData`] that precedes the port, in bits.
pub const PORTS_FIXED_BITS: u32 = 40;

/// Value of every PORTS entry: being there is all it says.
pub const PORTS_PRESENT: u8 = 1;

/// Key of FRONTENDS; the value is a frontend id ([`U32`]).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct FrontendKey {
    /// The virtual address, or a node's.
    pub address: [u8; 16],
    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// The Service's port, or the node port.
    pub port: U16,
}

/// Key of RULESET_FRONTENDS; the value is [`FRONTEND_ALLOW`]. A pair that is not there
/// is denied.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct RulesetFrontend {
    /// The ruleset.
    pub ruleset: U32,
    /// The frontend, value of FRONTENDS.
    pub frontend: U32,
}

/// Value of RULESET_FRONTENDS.
pub const FRONTEND_ALLOW: u32 = 1;

/// Key of a flow in FLOWS (opened by the pod) and in an endpoint's table in INBOUND (opened
/// towards the pod), always seen from the pod. The tables are of [`FlowSet`](crate::flows::FlowSet).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct FlowKey {
    /// [`Endpoint::slot`].
    pub slot: U16,
    /// Which of the endpoint's addresses: 0..=3 IPv4, 4..=7 IPv6, or
    /// [`LOCAL_LINK_LOCAL`]. Says the family too.
    pub local: u8,
    /// IP protocol number: 6, 17, 132, or 1 and 58 for an echo.
    pub protocol: u8,
    /// The pod's port; of an echo its identifier.
    pub local_port: U16,
    /// The other side's port; 0 for an echo.
    pub remote_port: U16,
    /// The other side's address, IPv4 in the first four bytes.
    pub remote: [u8; 16],
}

/// Sets of an endpoint's table in INBOUND: 4,096 flows of each family, 384 KiB, taken when the endpoint is
/// made.
pub const INBOUND_SETS: u32 = 1536;

/// A FIN or RST was seen: the flow expires soon when idle.
pub const FLOW_CLOSING: u32 = 1;

/// What FLOWS and the tables in INBOUND say of a flow.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Flow {
    /// [`Endpoint::generation`] at the time of the verdict. Unused for inbound flows.
    pub generation: U32,
    /// [`Config::epoch`] read before the verdict was reached. Unused for inbound flows.
    pub epoch: U32,
    /// When a packet was last seen, seconds since boot.
    pub seen: U32,
    /// [`FLOW_CLOSING`].
    pub flags: U32,
}

/// Key of FRAGMENTS.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct FragmentKey {
    /// [`Endpoint::slot`].
    pub slot: U16,
    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u8,
    /// IP protocol number of the whole packet.
    pub protocol: u8,
    /// The identification field; 16 bits in IPv4.
    pub id: U32,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

/// Value of FRAGMENTS. Only the first fragment of an allowed packet is recorded; the rest
/// of that packet follows it whatever changes meanwhile (S50).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Fragment {
    /// When the first fragment was seen, seconds since boot.
    pub seen: U32,
}

/// Value of DROP_TOTALS and of ALLOWED, one a CPU: what the node's pods sent, all together.
/// Host byte order.
///
/// DROP_TOTALS is an array indexed by [`DropKind::index`], ALLOWED one of two: IPv4 and IPv6. Neither
/// is ever set back, so that a total goes down only when the tables go.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Counter {
    /// Packets; a GSO frame counts as its segments.
    pub packets: u64,
    /// Bytes of the IP packets.
    pub bytes: u64,
}

/// Index in ALLOWED of IPv4.
pub const ALLOWED_V4: u32 = 0;
/// Index in ALLOWED of IPv6.
pub const ALLOWED_V6: u32 = 1;

/// Value of DROPPED, an array indexed by [`Endpoint::slot`], one a CPU: the drops of one endpoint. Host
/// byte order. Set back before the slot is given to another endpoint.
///
/// There is a place for everything that can be counted: in a table that entries are put into by need,
/// a drop would go uncounted once it is full.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Dropped {
    /// Packets by [`Reason::drop_index`]; a GSO frame counts as its segments.
    pub packets: [u64; DROP_REASONS],
}

/// Entries of DROP_TOTALS: eight reasons, four places for a family and eight for a protocol.
pub const DROP_KINDS: u32 = 256;

/// What the node's drops are told apart by, a [`Counter`] each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropKind {
    /// Why; a reason to drop.
    pub reason: Reason,
    /// [`FAMILY_V4`], [`FAMILY_V6`], or 0 for a frame that is neither.
    pub family: u8,
    /// IP protocol number folded to 1 (ICMP of either family), 6, 17, 132, or 0 for any other.
    pub protocol: u8,
}

/// Value of EVENT_BUDGET, an array indexed by slot: what an endpoint sent this second.
/// Host byte order. CPUs that race may send a few events more than the budget.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EventBudget {
    /// The second, as in [`Flow::seen`].
    pub second: u32,
    /// Events sent in it.
    pub sent: u32,
}

/// Index in EVENTS_LOST (per-CPU array of u64): events over the endpoint's budget.
pub const EVENTS_LOST_BUDGET: u32 = 0;
/// Index in EVENTS_LOST: events that found the ring buffer full.
pub const EVENTS_LOST_FULL: u32 = 1;

const _: () = {
    assert!(ENDPOINT_ADDRESSES == 4 && ENDPOINT_ADDRESSES_U8 == 4);
    assert!(size_of::<EventBudget>() == 8);
    assert!(size_of::<Address>() == 20);
    assert!(size_of::<HookKey>() == 8);
    assert!(size_of::<Endpoint>() == 96);
    assert!(size_of::<Config>() == 48);
    assert!(size_of::<Seat>() == 208);
    assert!(SEATS.is_power_of_two() && PRESENT_WORDS * 64 == 1 << 20);
    assert!(size_of::<PortsData>() == 7);
    assert!(size_of::<FrontendKey>() == 20);
    assert!(size_of::<FlowKey>() == 24);
    assert!(size_of::<Flow>() == 16);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<Fragment>() == 4);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<Dropped>() == 64);
};

// The keys below are made of whole words. The kernel hashes them in words, and a word that was
// just stored in parts has to wait for the stores.

impl FlowKey {
    /// A key of its parts.
    #[inline(always)]
    pub fn new(
        slot: U16,
        (local, protocol): (u8, u8),
        (local_port, remote_port): (u16, u16),
        remote: &[u8; 16],
    ) -> Self {
        let [a, b] = slot.to_bytes();
        let [c, d] = local_port.to_be_bytes();
        let [e, f] = remote_port.to_be_bytes();
        let head = u64::from_ne_bytes([a, b, local, protocol, c, d, e, f]);
        let remote: [u64; 2] = transmute!(*remote);
        let [high, low] = remote;
        transmute!([head, high, low])
    }
}

impl FlowKey {
    /// The key as words.
    #[inline(always)]
    pub fn words(&self) -> [u64; 3] {
        transmute!(*self)
    }

    /// Whether the flow is of IPv4.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.local < ENDPOINT_ADDRESSES_U8
    }
}

impl Seat {
    /// Whose endpoint it is, and what the endpoint is.
    #[inline(always)]
    pub fn endpoint(&self) -> Option<(u64, &Endpoint)> {
        let [first, second] = &self.copies;
        let endpoint = match self.current {
            SEAT_FIRST => first,
            SEAT_SECOND => second,
            _ => return None,
        };
        Some((self.hook.hook.get(), endpoint))
    }
}

impl FrontendKey {
    /// A key of its parts.
    #[inline(always)]
    pub fn new(address: &[u8; 16], family: u8, protocol: u8, port: u16) -> Self {
        let [a, b] = port.to_be_bytes();
        let tail = u32::from_ne_bytes([family, protocol, a, b]);
        let address: [u32; 4] = transmute!(*address);
        let [first, second, third, fourth] = address;
        transmute!([first, second, third, fourth, tail])
    }

    /// Its address, as a destination that is no frontend has it.
    pub const fn destination(&self) -> Address {
        Address {
            family: self.family,
            reserved: [0; 3],
            bytes: self.address,
        }
    }
}

impl Endpoint {
    /// Whether a policy isolates it.
    pub fn isolated(&self) -> bool {
        self.flags.get() & ENDPOINT_ISOLATED != 0
    }

    /// Whether frames with a foreign source are dropped.
    pub fn spoof_check(&self) -> bool {
        self.flags.get() & ENDPOINT_SPOOF_CHECK != 0
    }

    /// Which of its addresses this is, as in [`FlowKey::local`]; `None` when it is another's.
    ///
    /// Link-local addresses are not asked here: a destination in `fe80::/10` is hardly ever
    /// the pod itself. See [`Endpoint::local`].
    pub fn owns(&self, family: u8, bytes: &[u8; 16]) -> Option<u8> {
        // The counter is compared inside, not by `take`: a loop of fixed length unrolls, and
        // the verifier then sees constant offsets only.
        match family {
            FAMILY_V4 => {
                let [a, b, c, d, ..] = *bytes;
                for (index, own) in (0..ENDPOINT_ADDRESSES_U8).zip(&self.v4) {
                    if index < self.v4_len && *own == [a, b, c, d] {
                        return Some(index);
                    }
                }
                None
            }
            FAMILY_V6 => {
                for (index, own) in (0..ENDPOINT_ADDRESSES_U8).zip(&self.v6) {
                    if index < self.v6_len && own == bytes {
                        return Some(ENDPOINT_ADDRESSES_U8 + index);
                    }
                }
                None
            }
            _ => None,
        }
    }

    /// Which of its addresses a packet's near end is: [`Endpoint::owns`], or
    /// [`LOCAL_LINK_LOCAL`] for any address in `fe80::/10`.
    pub fn local(&self, family: u8, bytes: &[u8; 16]) -> Option<u8> {
        if family == FAMILY_V6 && is_link_local(bytes) {
            return Some(LOCAL_LINK_LOCAL);
        }
        self.owns(family, bytes)
    }
}

/// Whether an IPv6 address is in `fe80::/10`.
pub const fn is_link_local(bytes: &[u8; 16]) -> bool {
    let [first, second, ..] = *bytes;
    first == 0xfe && second & 0xc0 == 0x80
}

impl DropKind {
    /// Of a packet that is dropped; folds the protocol.
    #[inline(always)]
    pub const fn new(reason: Reason, family: u8, protocol: u8) -> Self {
        let protocol = match (family, protocol) {
            (FAMILY_V4, 1) | (FAMILY_V6, 58) => 1,
            (FAMILY_V4 | FAMILY_V6, 6 | 17 | 132) => protocol,
            _ => 0,
        };
        Self {
            reason,
            family,
            protocol,
        }
    }

    /// Index in DROP_TOTALS.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        let family = match self.family {
            FAMILY_V4 => 1,
            FAMILY_V6 => 2,
            _ => 0,
        };
        let protocol = match self.protocol {
            1 => 1,
            6 => 2,
            17 => 3,
            132 => 4,
            _ => 0,
        };
        self.reason.drop_index() << 5 | family << 3 | protocol
    }

    /// What an entry of DROP_TOTALS counts; `None` for one that is never written.
    pub fn from_index(index: u32) -> Option<Self> {
        let families = [0, FAMILY_V4, FAMILY_V6];
        let protocols = [0, 1, 6, 17, 132];
        let reason = Reason::from_drop_index(index >> 5)?;
        let kinds = families
            .into_iter()
            .flat_map(|family| protocols.map(|protocol| (family, protocol)));
        kinds
            .map(|(family, protocol)| Self {
                reason,
                family,
                protocol,
            })
            .find(|kind| kind.index() == index)
    }
}

impl Address {
    /// An IPv4 address.
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self {
            family: FAMILY_V4,
            reserved: [0; 3],
            bytes: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        }
    }

    /// An IPv6 address.
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self {
            family: FAMILY_V6,
            reserved: [0; 3],
            bytes: octets,
        }
    }

    /// The four bytes of an IPv4 address.
    pub const fn v4_octets(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.bytes;
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use zerocopy::FromZeros as _;

    use super::*;

    /// Of 20,000 random bits in a table of 2^20, some 200 are of two addresses.
    #[test]
    fn addresses_that_differ_a_little_have_bits_of_their_own() {
        const COUNT: u32 = 20_000;
        let v4 = |number: u32| {
            let mut bytes = [0; 16];
            let address = Ipv4Addr::from_bits(0x0a80_0000 + number);
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        };
        let host = |number: u32| Ipv6Addr::from_bits((0xfd << 120) + u128::from(number)).octets();
        let network = |number: u32| {
            let network = (0xfd << 56) + u64::from(number);
            let both = (u128::from(network) << 64) + 0x1234_5678_9abc_def1;
            Ipv6Addr::from_bits(both).octets()
        };
        for address in [v4, host, network] {
            let bits: BTreeSet<_> = (0..COUNT).map(|n| present_bit(&address(n))).collect();
            assert!(
                bits.iter()
                    .all(|(word, bit)| *word < PRESENT_WORDS && *bit < 64)
            );
            assert!(bits.len() > 19_600, "{}", bits.len());
        }
    }

    #[test]
    fn a_seat_says_the_copy_that_counts() {
        let mut seat = Seat::new_zeroed();
        seat.hook.hook.set(7);
        for (slot, copy) in (1..).zip(&mut seat.copies) {
            copy.slot.set(slot);
        }
        for (current, slot) in [
            (SEAT_VACANT, None),
            (SEAT_FIRST, Some(1)),
            (SEAT_SECOND, Some(2)),
            (3, None),
        ] {
            seat.current = current;
            let said = seat
                .endpoint()
                .map(|(hook, endpoint)| (hook, endpoint.slot.get()));
            assert_eq!(said, slot.map(|slot| (7, slot)));
        }
    }

    #[test]
    fn every_own_address_has_a_number_of_its_own() {
        let mut endpoint = Endpoint::new_zeroed();
        (endpoint.v4_len, endpoint.v6_len) = (4, 4);
        for (number, (v4, v6)) in (1..).zip(endpoint.v4.iter_mut().zip(&mut endpoint.v6)) {
            (*v4, *v6) = ([number; 4], [number; 16]);
        }
        let address = |family, byte| endpoint.owns(family, &[byte; 16]);
        let of_family = |family| (1..=4).map(move |byte| address(family, byte));
        let numbers: std::vec::Vec<_> = of_family(FAMILY_V4).chain(of_family(FAMILY_V6)).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7].map(Some));
    }

    #[test]
    fn an_ipv4_address_is_read_as_it_was_written() {
        assert_eq!(Address::v4([10, 1, 2, 3]).v4_octets(), [10, 1, 2, 3]);
    }
}
