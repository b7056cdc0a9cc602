//! Frames with an Ethernet header.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;
const DESTINATION_OPTIONS: u8 = 60;

pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

pub(crate) const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
pub(crate) const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 10);

const ETHERNET: usize = 14;

/// A frame as it is on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Ethernet(pub(crate) Vec<u8>);

impl Ethernet {
    fn new(ethertype: u16, packet: &[u8]) -> Self {
        // Locally administered unicast addresses.
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(packet);
        Self(bytes)
    }

    pub(crate) fn v4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self::v4_with_options(from, to, &[], protocol, payload)
    }

    pub(crate) fn v4_with_options(
        from: Ipv4Addr,
        to: Ipv4Addr,
        options: &[u8],
        protocol: u8,
        payload: Vec<u8>,
    ) -> Self {
        let header = 20 + options.len();
        let total = u16::try_from(header + payload.len()).unwrap();
        let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
        packet.extend(total.to_be_bytes());
        packet.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
        packet.extend(from.octets());
        packet.extend(to.octets());
        packet.extend(options);
        packet.extend(payload);
        Self::new(0x0800, &packet)
    }

    pub(crate) fn v6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: Vec<u8>) -> Self {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        packet.extend([next, 64]);
        packet.extend(from.octets());
        packet.extend(to.octets());
        packet.extend(payload);
        Self::new(0x86dd, &packet)
    }

    /// The same IPv4 packet as a fragment; `offset` in bytes.
    pub(crate) fn fragment(mut self, id: u16, offset: u16, more: bool) -> Self {
        let field = (offset / 8) | (u16::from(more) << 13);
        self.0[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&id.to_be_bytes());
        self.0[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&field.to_be_bytes());
        self
    }

    pub(crate) fn with_ethertype(&self, ethertype: u16) -> Self {
        Self::new(ethertype, self.packet())
    }

    /// From the network header on.
    pub(crate) fn packet(&self) -> &[u8] {
        &self.0[ETHERNET..]
    }
}

pub(crate) fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend([0; 8]);
    bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

pub(crate) fn udp(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend([0, 8, 0, 0]);
    bytes
}

pub(crate) fn icmp_error(number: u8, quoted: &[u8]) -> Vec<u8> {
    [&[number, 0, 0, 0, 0, 0, 0, 0], quoted].concat()
}

/// So many headers of destination options in front of a payload: the first header's number, and
/// the bytes.
pub(crate) fn chain(headers: usize, last: u8, payload: Vec<u8>) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for index in 0..headers {
        let next = if index + 1 == headers {
            last
        } else {
            DESTINATION_OPTIONS
        };
        bytes.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    bytes.extend(payload);
    (
        if headers == 0 {
            last
        } else {
            DESTINATION_OPTIONS
        },
        bytes,
    )
}
