//! A second reading of a packet: as its receiver would read it, leniently, and sharing nothing with
//! `egress-common`. What a hook lets pass must be allowed as *this* reads it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a receiver makes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Who sent it.
    pub source: IpAddr,
    /// Who gets it.
    pub destination: IpAddr,
    /// The protocol behind all extension headers.
    pub protocol: u8,
    /// Identification and position, of a fragment.
    pub fragment: Option<(u32, Position)>,
    /// The first two shorts of the transport header, as far as they are there.
    pub ports: Option<(u16, u16)>,
    /// The first two bytes of it: type and code of ICMP.
    pub kind: Option<(u8, u8)>,
    /// TTL or hop limit.
    pub hops: u8,
}

/// Which fragment of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// It begins with the transport header.
    First,
    /// It does not.
    Later,
}

/// Reads an IP packet; nothing when no receiver would take it for one.
pub fn read(ethertype: u16, bytes: &[u8]) -> Option<Read> {
    match ethertype {
        0x0800 => v4(bytes),
        0x86dd => v6(bytes),
        _ => None,
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn v4(bytes: &[u8]) -> Option<Read> {
    let first = *bytes.first()?;
    if first >> 4 != 4 {
        return None;
    }
    let header = usize::from(first & 15).checked_mul(4)?;
    let length = usize::from(short(bytes, 2)?);
    if header < 20 || length < header {
        return None;
    }
    let bytes = bytes.get(..length)?;
    let address = |at: usize| {
        let octets: &[u8; 4] = bytes.get(at..)?.first_chunk()?;
        Some(IpAddr::V4(Ipv4Addr::from(*octets)))
    };
    let word = short(bytes, 6)?;
    let (more, offset) = (word & 0x2000 != 0, word & 0x1fff);
    let position = match (more, offset) {
        (false, 0) => None,
        (true, 0) => Some(Position::First),
        _ => Some(Position::Later),
    };
    let payload = bytes.get(header..)?;
    Some(behind(
        Read {
            source: address(12)?,
            destination: address(16)?,
            protocol: *bytes.get(9)?,
            fragment: position.map(|position| (u32::from(short(bytes, 4).unwrap_or(0)), position)),
            ports: None,
            kind: None,
            hops: *bytes.get(8)?,
        },
        payload,
    ))
}

fn v6(bytes: &[u8]) -> Option<Read> {
    if bytes.first()? >> 4 != 6 {
        return None;
    }
    let length = usize::from(short(bytes, 4)?).checked_add(40)?;
    let address = |at: usize| {
        let octets: &[u8; 16] = bytes.get(at..)?.first_chunk()?;
        Some(IpAddr::V6(Ipv6Addr::from(*octets)))
    };
    let mut read = Read {
        source: address(8)?,
        destination: address(24)?,
        protocol: *bytes.get(6)?,
        fragment: None,
        ports: None,
        kind: None,
        hops: *bytes.get(7)?,
    };
    let mut rest = bytes.get(40..length)?;
    loop {
        let words = match read.protocol {
            0 | 43 | 60 => usize::from(*rest.get(1)?).checked_add(1)?.checked_mul(8)?,
            51 => usize::from(*rest.get(1)?).checked_add(2)?.checked_mul(4)?,
            44 => {
                let word = short(rest, 2)?;
                let id = u32::from_be_bytes(*rest.get(4..)?.first_chunk()?);
                read.fragment = match (word & 1 != 0, word & 0xfff8) {
                    (false, 0) => read.fragment,
                    (true, 0) => Some((id, Position::First)),
                    _ => Some((id, Position::Later)),
                };
                8
            }
            _ => return Some(behind(read, rest)),
        };
        let next = *rest.first()?;
        let was_later = matches!(read.fragment, Some((_, Position::Later)));
        read.protocol = next;
        rest = rest.get(words..)?;
        if was_later {
            // What follows is the middle of something.
            return Some(read);
        }
    }
}

fn behind(mut read: Read, payload: &[u8]) -> Read {
    if !matches!(read.fragment, Some((_, Position::Later))) {
        read.ports = short(payload, 0).zip(short(payload, 2));
        read.kind = payload.first().copied().zip(payload.get(1).copied());
    }
    read
}
