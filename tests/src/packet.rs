//! Packets made by hand, byte for byte, for what no socket would send.
//!
//! Everything is plain bytes in network order. Lengths and checksums are right unless a
//! caller overwrites them: a packet that the next kernel would drop anyway shows nothing
//! about a policy.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// IP protocol numbers.
pub mod proto {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// GRE.
    pub const GRE: u8 = 47;
    /// `ICMPv6`.
    pub const ICMPV6: u8 = 58;
    /// IPv6 without a next header.
    pub const NO_NEXT: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Ethertypes.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// VLAN tag (802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// Service VLAN tag (802.1ad).
    pub const QINQ: u16 = 0x88a8;
    /// For local experiments (IEEE 802).
    pub const EXPERIMENTAL: u16 = 0x88b5;
}

/// TCP flag bits.
pub mod flag {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// ACK.
    pub const ACK: u8 = 16;
}

/// Sixteen bytes that no other packet of this machine carries.
pub fn token() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut token = [0xe6; 16];
    let (head, tail) = token.split_at_mut(8);
    if let Some((_, pid)) = head.split_at_mut_checked(4) {
        pid.copy_from_slice(&process::id().to_be_bytes());
    }
    tail.copy_from_slice(&number.to_be_bytes());
    token
}

/// An IPv4 packet.
#[derive(Clone, Debug)]
pub struct Ipv4 {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Identification.
    pub id: u16,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Fragment offset in units of eight bytes.
    pub offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// Options, padded to a multiple of four bytes by [`Ipv4::bytes`].
    pub options: Vec<u8>,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Ipv4 {
    /// A whole packet without options.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            protocol,
            id: 0,
            more_fragments: false,
            offset: 0,
            ttl: 64,
            options: Vec::new(),
            payload,
        }
    }

    /// The packet's bytes, with length and header checksum.
    pub fn bytes(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(self.options.len().next_multiple_of(4), 0);
        let header_len = 20 + options.len();
        let total = header_len + self.payload.len();
        let fragment = self.offset | if self.more_fragments { 0x2000 } else { 0 };
        let mut header = vec![0x40 | byte(header_len / 4), 0];
        header.extend(short(total));
        header.extend(self.id.to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(options);
        let sum = checksum(&[&header]);
        overwrite(&mut header, 10, &sum);
        header.extend(&self.payload);
        header
    }

    /// Cuts the packet into two fragments; the first carries `first` bytes of the payload,
    /// which must be a multiple of eight.
    pub fn fragments(&self, id: u16, first: usize) -> (Self, Self) {
        let (head, tail) = self.payload.split_at(first.min(self.payload.len()));
        let mut one = self.clone();
        one.id = id;
        one.more_fragments = true;
        one.payload = head.to_vec();
        let mut two = self.clone();
        two.id = id;
        two.offset = u16::try_from(first / 8).unwrap_or(u16::MAX);
        two.payload = tail.to_vec();
        (one, two)
    }
}

/// An IPv6 packet; extension headers are part of the payload.
#[derive(Clone, Debug)]
pub struct Ipv6 {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// What the payload starts with.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// What follows the fixed header.
    pub payload: Vec<u8>,
}

impl Ipv6 {
    /// A whole packet.
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            next_header,
            hop_limit: 64,
            payload,
        }
    }

    /// The packet's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(short(self.payload.len()));
        bytes.extend([self.next_header, self.hop_limit]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.payload);
        bytes
    }

    /// Puts an options-shaped header (hop-by-hop, destination options) of `units` times
    /// eight bytes in front of the payload, filled by one `PadN` option a unit.
    #[must_use]
    pub fn with_options(mut self, kind: u8, units: u8) -> Self {
        let mut header = vec![self.next_header, units.saturating_sub(1), 1, 4, 0, 0, 0, 0];
        for _ in 1..units {
            header.extend([1, 6, 0, 0, 0, 0, 0, 0]);
        }
        header.extend(&self.payload);
        self.payload = header;
        self.next_header = kind;
        self
    }

    /// Puts a routing header of `kind` in front of the payload: `segments_left` of the one
    /// address it names.
    #[must_use]
    pub fn with_routing(mut self, kind: u8, segments_left: u8, via: Ipv6Addr) -> Self {
        let mut header = vec![self.next_header, 2, kind, segments_left, 0, 0, 0, 0];
        header.extend(via.octets());
        header.extend(&self.payload);
        self.payload = header;
        self.next_header = proto::ROUTING;
        self
    }

    /// Cuts the payload into two fragments; the first carries `first` bytes, which must be
    /// a multiple of eight.
    pub fn fragments(&self, id: u32, first: usize) -> (Self, Self) {
        let (head, tail) = self.payload.split_at(first.min(self.payload.len()));
        let offset = u16::try_from(first).unwrap_or(u16::MAX) & !7;
        (
            self.fragment(id, 0, true, head),
            self.fragment(id, offset, false, tail),
        )
    }

    fn fragment(&self, id: u32, offset: u16, more: bool, part: &[u8]) -> Self {
        let mut payload = vec![self.next_header, 0];
        payload.extend((offset | u16::from(more)).to_be_bytes());
        payload.extend(id.to_be_bytes());
        payload.extend(part);
        Self {
            next_header: proto::FRAGMENT,
            payload,
            ..self.clone()
        }
    }
}

/// The two addresses a transport checksum covers.
#[derive(Clone, Copy, Debug)]
pub enum Ends {
    /// IPv4.
    V4(Ipv4Addr, Ipv4Addr),
    /// IPv6.
    V6(Ipv6Addr, Ipv6Addr),
}

impl Ends {
    fn pseudo_header(self, protocol: u8, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::V4(source, destination) => {
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
            }
            Self::V6(source, destination) => {
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
            }
        }
        bytes.extend([0, protocol]);
        bytes.extend(short(length));
        bytes
    }

    /// The IP packet around a payload.
    pub fn packet(self, protocol: u8, payload: Vec<u8>) -> Vec<u8> {
        match self {
            Self::V4(source, destination) => {
                Ipv4::new(source, destination, protocol, payload).bytes()
            }
            Self::V6(source, destination) => {
                Ipv6::new(source, destination, protocol, payload).bytes()
            }
        }
    }

    /// The ethertype of the family.
    pub fn ethertype(self) -> u16 {
        match self {
            Self::V4(..) => ethertype::IPV4,
            Self::V6(..) => ethertype::IPV6,
        }
    }

    /// The other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::V4(source, destination) => Self::V4(destination, source),
            Self::V6(source, destination) => Self::V6(destination, source),
        }
    }
}

/// A UDP header and its data.
pub fn udp(ends: Ends, source_port: u16, destination_port: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source_port.to_be_bytes());
    bytes.extend(destination_port.to_be_bytes());
    bytes.extend(short(8 + data.len()));
    bytes.extend([0, 0]);
    bytes.extend(data);
    let sum = checksum(&[&ends.pseudo_header(proto::UDP, bytes.len()), &bytes]);
    overwrite(&mut bytes, 6, &sum);
    bytes
}

/// A TCP header without options, and its data.
pub fn tcp(ends: Ends, source_port: u16, destination_port: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source_port.to_be_bytes());
    bytes.extend(destination_port.to_be_bytes());
    bytes.extend(0x0102_0304_u32.to_be_bytes());
    bytes.extend(0x0506_0708_u32.to_be_bytes());
    bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(data);
    let sum = checksum(&[&ends.pseudo_header(proto::TCP, bytes.len()), &bytes]);
    overwrite(&mut bytes, 16, &sum);
    bytes
}

/// An SCTP packet with one chunk of `kind` (1 is INIT, 0 DATA). Its checksum is zero: only
/// the end hosts look at it, and none here speaks SCTP.
pub fn sctp(source_port: u16, destination_port: u16, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source_port.to_be_bytes());
    bytes.extend(destination_port.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend([kind, 0]);
    bytes.extend(short(4 + data.len()));
    bytes.extend(data);
    bytes
}

/// An echo request. The checksum of `ICMPv6` is left to the kernel's raw socket; see
/// [`icmpv6_in`] for frames.
pub fn icmp_echo_request(v6: bool, id: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
    icmp(
        v6,
        if v6 { 128 } else { 8 },
        0,
        [id.to_be_bytes(), sequence.to_be_bytes()],
        data,
    )
}

/// An echo reply that nobody may have asked for.
pub fn icmp_echo_reply(v6: bool, id: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
    icmp(
        v6,
        if v6 { 129 } else { 0 },
        0,
        [id.to_be_bytes(), sequence.to_be_bytes()],
        data,
    )
}

/// "Port unreachable", quoting a packet.
pub fn icmp_port_unreachable(v6: bool, quoted: &[u8]) -> Vec<u8> {
    if v6 {
        icmp(true, 1, 4, [[0; 2]; 2], quoted)
    } else {
        icmp(false, 3, 3, [[0; 2]; 2], quoted)
    }
}

/// "Fragmentation needed" or "packet too big", quoting a packet.
pub fn icmp_too_big(v6: bool, mtu: u16, quoted: &[u8]) -> Vec<u8> {
    if v6 {
        icmp(true, 2, 0, [[0; 2], mtu.to_be_bytes()], quoted)
    } else {
        icmp(false, 3, 4, [[0; 2], mtu.to_be_bytes()], quoted)
    }
}

/// Any ICMP message.
pub fn icmp(v6: bool, kind: u8, code: u8, rest: [[u8; 2]; 2], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(rest.concat());
    bytes.extend(data);
    if !v6 {
        let sum = checksum(&[&bytes]);
        overwrite(&mut bytes, 2, &sum);
    }
    bytes
}

/// Sets the checksum of an `ICMPv6` message that goes out in a frame.
pub fn icmpv6_in(ends: Ends, mut message: Vec<u8>) -> Vec<u8> {
    overwrite(&mut message, 2, &[0, 0]);
    let sum = checksum(&[&ends.pseudo_header(proto::ICMPV6, message.len()), &message]);
    overwrite(&mut message, 2, &sum);
    message
}

/// Whether bytes from a raw ICMP socket are an echo reply. IPv4 sockets hand over the IP
/// header, IPv6 sockets do not.
pub fn is_echo_reply(v6: bool, received: &[u8]) -> bool {
    let message = if v6 {
        Some(received)
    } else {
        received
            .first()
            .and_then(|first| received.get(usize::from(first & 15) * 4..))
    };
    message.and_then(|m| m.first()) == Some(if v6 { &129 } else { &0 })
}

/// A GRE header without options, and what it carries.
pub fn gre(ethertype: u16, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(inner);
    bytes
}

/// A VXLAN header, and the frame it carries.
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let mut bytes = vec![8, 0, 0, 0];
    bytes.extend((vni << 8).to_be_bytes());
    bytes.extend(frame);
    bytes
}

/// An Ethernet frame.
pub fn ethernet(destination: [u8; 6], source: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(destination);
    bytes.extend(source);
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What follows a VLAN ethertype: the tag's identifier and the frame's next ethertype.
pub fn vlan(id: u16, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(id.to_be_bytes());
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Overwrites bytes at `at`; what lies outside is left alone.
pub fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + with.len()) {
        place.copy_from_slice(with);
    }
}

/// The internet checksum (RFC 1071) over parts, each padded to an even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0_u32;
    for part in parts {
        let words = part.chunks(2).map(|pair| match *pair {
            [high, low] => u16::from_be_bytes([high, low]),
            [high] => u16::from_be_bytes([high, 0]),
            _ => 0,
        });
        sum = words.fold(sum, |sum, word| sum.wrapping_add(u32::from(word)));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    [high, low]
}

/// A length as two bytes; what does not fit is written as the greatest.
fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

fn byte(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_example_in_rfc_1071() {
        assert_eq!(
            checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]),
            [0x22, 0x0d]
        );
    }

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        let packet = Ipv4::new(
            Ipv4Addr::new(10, 0, 0, 1),
            Ipv4Addr::new(10, 0, 0, 2),
            proto::UDP,
            vec![1, 2, 3],
        );
        let bytes = packet.bytes();
        assert_eq!(bytes.len(), 23);
        assert_eq!(
            bytes.get(..20).map(|header| checksum(&[header])),
            Some([0, 0])
        );
    }

    #[test]
    fn fragments_carry_the_whole_payload() {
        let packet = Ipv6::new(
            Ipv6Addr::LOCALHOST,
            Ipv6Addr::LOCALHOST,
            proto::UDP,
            (0..64).collect(),
        );
        let (one, two) = packet.fragments(7, 16);
        assert_eq!(one.payload.len(), 8 + 16);
        assert_eq!(two.payload.len(), 8 + 48);
        assert_eq!(one.payload.get(..4), Some(&[proto::UDP, 0, 0, 1][..]));
        assert_eq!(two.payload.get(..4), Some(&[proto::UDP, 0, 0, 16][..]));
    }

    #[test]
    fn tokens_differ() {
        assert_ne!(token(), token());
    }
}
