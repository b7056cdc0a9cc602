//! The packet that an ICMP error quotes.

use zerocopy::transmute;

use super::transport::icmp;
use super::{
    FAMILY_V4, FAMILY_V6, Frame, Icmp, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Packet, Piece, Transport,
    has_ports, ipv4, ipv6,
};

/// Bytes of an ICMP header; what it quotes stands behind.
const ICMP_HEADER: u32 = 8;

/// The quoted packet, as far as it names a flow. Its lengths are those of the packet that
/// was sent, of which the quote is only the start, so they are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Its source address.
    pub source: [u8; 16],
    /// Its destination address.
    pub destination: [u8; 16],
    /// Its protocol.
    pub protocol: u8,
    /// Its source port; of an echo 0.
    pub source_port: u16,
    /// Its destination port; of an echo the identifier, which stands at the pod's end.
    pub destination_port: u16,
    /// It is an echo, and this is its kind.
    pub echo: Option<Icmp>,
}

/// Reads what the ICMP error in `packet` quotes. `None` when the packet is no ICMP error,
/// or the quote names no flow: a protocol without ports, a later fragment, too short.
#[inline(never)]
pub fn quote(frame: &impl Frame, packet: &Packet) -> Option<Quote> {
    let (
        Transport::Icmp {
            kind: Icmp::Error, ..
        },
        Piece::Whole | Piece::First,
    ) = (packet.transport, packet.piece)
    else {
        return None;
    };
    let start = packet.transport_at + ICMP_HEADER;
    let (source, destination, protocol, at) = match packet.family {
        FAMILY_V4 => {
            let header: ipv4::Header = transmute!(frame.load::<20>(start)?);
            if header.is_later() {
                return None;
            }
            let at = start + header.header_length()?;
            (
                ipv4::widen(header.source),
                ipv4::widen(header.destination),
                header.protocol,
                at,
            )
        }
        FAMILY_V6 => {
            let header: ipv6::Header = transmute!(frame.load::<40>(start)?);
            if !header.is_version_6() {
                return None;
            }
            let at = start + ipv6::FIXED;
            if at > packet.length {
                return None;
            }
            let mut chain = ipv6::Chain::new(at, packet.length, header.next);
            ipv6::walk(frame, &mut chain).ok()?;
            if matches!(chain.piece, Piece::Later) {
                return None;
            }
            (header.source, header.destination, chain.next, chain.at)
        }
        _ => return None,
    };
    // Eight bytes of the transport header is what RFC 792 promises.
    if at + 8 > packet.length {
        return None;
    }
    let [a, b, c, d, e, f, _, _] = frame.load::<8>(at)?;
    if has_ports(protocol) {
        return Some(Quote {
            source,
            destination,
            protocol,
            source_port: u16::from_be_bytes([a, b]),
            destination_port: u16::from_be_bytes([c, d]),
            echo: None,
        });
    }
    if !matches!(
        (packet.family, protocol),
        (FAMILY_V4, PROTOCOL_ICMP) | (FAMILY_V6, PROTOCOL_ICMPV6)
    ) {
        return None;
    }
    let id = u16::from_be_bytes([e, f]);
    let echo = icmp(packet.family, a);
    matches!(echo, Icmp::EchoRequest | Icmp::EchoReply).then_some(Quote {
        source,
        destination,
        protocol,
        source_port: 0,
        destination_port: id,
        echo: Some(echo),
    })
}
