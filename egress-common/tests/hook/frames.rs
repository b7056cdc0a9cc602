//! Hand-made packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_common::packet::{Bytes, ETHERTYPE_IPV4, ETHERTYPE_IPV6};

pub(crate) const ICMP: u8 = 1;
pub(crate) const IGMP: u8 = 2;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const NO_NEXT: u8 = 59;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// A frame, from its network header on.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) ethertype: u16,
    pub(crate) gso: bool,
    pub(crate) bytes: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(ethertype: u16, bytes: Vec<u8>) -> Self {
        Self {
            ethertype,
            gso: false,
            bytes,
        }
    }

    pub(crate) fn as_bytes(&self) -> Bytes<'_> {
        Bytes {
            ethertype: self.ethertype,
            gso: self.gso,
            bytes: &self.bytes,
        }
    }

    pub(crate) fn with(mut self, at: usize, byte: u8) -> Self {
        self.bytes[at] = byte;
        self
    }

    pub(crate) fn padded(mut self, count: usize) -> Self {
        self.bytes.extend(std::iter::repeat_n(0xee, count));
        self
    }

    /// The first `length` bytes; the length field says so when `honest`.
    pub(crate) fn cut(mut self, length: usize, honest: bool) -> Self {
        self.bytes.truncate(length);
        if honest && self.ethertype == ETHERTYPE_IPV4 && length >= 4 {
            self.bytes[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
        if honest && self.ethertype == ETHERTYPE_IPV6 && length >= 40 {
            let payload = u16::try_from(length - 40).unwrap();
            self.bytes[4..6].copy_from_slice(&payload.to_be_bytes());
        }
        self
    }
}

/// An IPv4 packet in the making.
#[derive(Clone, Debug)]
pub(crate) struct V4 {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    /// Flags and offset.
    pub(crate) fragment: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl V4 {
    pub(crate) fn build(&self) -> Frame {
        let header = 20 + self.options.len();
        assert_eq!(header % 4, 0, "options come in words");
        let total = u16::try_from(header + self.payload.len()).unwrap_or(0);
        let mut bytes = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        bytes.extend(&self.payload);
        Frame::new(ETHERTYPE_IPV4, bytes)
    }
}

/// An IPv6 packet in the making. `next` is the first header behind the fixed one; `payload` holds
/// the extension headers too.
#[derive(Clone, Debug)]
pub(crate) struct V6 {
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) next: u8,
    pub(crate) hop_limit: u8,
    pub(crate) payload: Vec<u8>,
}

impl V6 {
    pub(crate) fn build(&self) -> Frame {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(u16::try_from(self.payload.len()).unwrap_or(0).to_be_bytes());
        bytes.extend([self.next, self.hop_limit]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.payload);
        Frame::new(ETHERTYPE_IPV6, bytes)
    }
}

pub(crate) fn v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> V4 {
    V4 {
        source,
        destination,
        protocol,
        ttl: 64,
        id: 1,
        fragment: 0,
        options: Vec::new(),
        payload,
    }
}

pub(crate) fn v6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: Vec<u8>) -> V6 {
    V6 {
        source,
        destination,
        next,
        hop_limit: 64,
        payload,
    }
}

/// A packet of either family.
pub(crate) fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Frame {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            v4(source, destination, protocol, payload).build()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            v6(source, destination, protocol, payload).build()
        }
        other => unreachable!("one family each: {other:?}"),
    }
}

/// ICMP or `ICMPv6`, whichever the family has.
pub(crate) fn icmp_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { ICMP } else { ICMPV6 }
}

pub(crate) fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

pub(crate) fn udp(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend([0, 12, 0, 0]);
    bytes.extend(b"data");
    bytes
}

pub(crate) fn sctp(source: u16, destination: u16, chunk: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend([chunk, 0, 0, 4]);
    bytes
}

/// An echo, or another ICMP message with the identifier at its place.
pub(crate) fn icmp(number: u8, id: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number, 0, 0, 0];
    bytes.extend(id.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(body);
    bytes
}

/// An extension header of `8 * (1 + words)` bytes.
pub(crate) fn extension(next: u8, words: u8) -> Vec<u8> {
    let mut bytes = vec![next, words];
    // PadN over the rest.
    let rest = 8 * (usize::from(words) + 1) - 4;
    bytes.extend([1, u8::try_from(rest).unwrap_or(0)]);
    bytes.extend(std::iter::repeat_n(0, rest));
    bytes
}

pub(crate) fn routing(next: u8, segments_left: u8) -> Vec<u8> {
    vec![next, 0, 0, segments_left, 0, 0, 0, 0]
}

/// An authentication header: its length counts words of four bytes less two.
pub(crate) fn authentication(next: u8) -> Vec<u8> {
    let mut bytes = vec![next, 4];
    bytes.extend([0; 22]);
    bytes
}

/// A fragment header; `offset` in bytes.
pub(crate) fn fragment(next: u8, offset: u16, more: bool, id: u32) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend((offset | u16::from(more)).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes
}
