//! The transport headers.

use super::{
    Chunk, FAMILY_V4, FAMILY_V6, Frame, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP,
    PROTOCOL_TCP, PROTOCOL_UDP, Packet, Piece, Transport, has_ports, ipv4, ipv6,
};
use crate::event::Reason;

/// TCP flag: the sender is done.
pub const TCP_FIN: u8 = 0x01;
/// TCP flag: opens a connection.
pub const TCP_SYN: u8 = 0x02;
/// TCP flag: refuses or ends a connection.
pub const TCP_RST: u8 = 0x04;
/// TCP flag: set in every segment but the first of a connection.
pub const TCP_ACK: u8 = 0x10;

/// Bytes of a TCP header without options.
pub(super) const TCP_HEADER: u32 = 20;
const TCP_FLAGS_AT: u32 = 13;
const SCTP_HEADER: u32 = 12;
const SCTP_INIT: u8 = 1;

/// What every transport header has at least, and what a first fragment must therefore
/// bring: fragments are cut at multiples of eight bytes.
const LEAST: u32 = 8;

/// Reads the header at [`Packet::transport_at`], inside [`Packet::length`] only.
#[inline(always)]
pub(super) fn read(frame: &impl Frame, packet: &mut Packet) -> Result<(), Reason> {
    let known = match packet.protocol {
        PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP => true,
        PROTOCOL_ICMP => packet.family == FAMILY_V4,
        PROTOCOL_ICMPV6 => packet.family == FAMILY_V6,
        _ => false,
    };
    if !known {
        return Ok(());
    }
    let at = packet.transport_at;
    let room = packet.length - at;
    let needed = match (packet.piece, packet.protocol) {
        (Piece::Whole, PROTOCOL_TCP) => TCP_HEADER,
        (Piece::Whole, PROTOCOL_SCTP) => SCTP_HEADER,
        (Piece::Whole | Piece::First | Piece::Later, _) => LEAST,
    };
    if room < needed {
        return Err(Reason::Malformed);
    }
    let Chunk([a, b, c, d, e, f, _, _]) = load::<8>(frame, at).ok_or(Reason::Malformed)?;
    if has_ports(packet.protocol) {
        packet.source_port = u16::from_be_bytes([a, b]);
        packet.destination_port = u16::from_be_bytes([c, d]);
    }
    packet.transport = match packet.protocol {
        PROTOCOL_TCP if room > TCP_FLAGS_AT => {
            packet.tcp_flags = tcp_flags(frame, at).ok_or(Reason::Malformed)?;
            Transport::Tcp
        }
        PROTOCOL_TCP => Transport::TcpWithoutFlags,
        PROTOCOL_UDP => Transport::Udp,
        PROTOCOL_SCTP if room > SCTP_HEADER => {
            match frame.load::<1>(at + SCTP_HEADER).ok_or(Reason::Malformed)? {
                Chunk([SCTP_INIT]) => Transport::SctpInit,
                Chunk(_) => Transport::Sctp,
            }
        }
        PROTOCOL_SCTP => Transport::Sctp,
        _ => {
            let kind = icmp(packet.family, a);
            if matches!(kind, Transport::EchoRequest | Transport::EchoReply) {
                packet.echo_id = u16::from_be_bytes([e, f]);
            }
            kind
        }
    };
    Ok(())
}

/// `N` bytes at `at`, by the cheap way where the transport header mostly is.
#[inline(always)]
fn load<const N: usize>(frame: &impl Frame, at: u32) -> Option<Chunk<N>> {
    match at {
        ipv4::FIXED => frame.head::<{ ipv4::FIXED }, N>(),
        ipv6::FIXED => frame.head::<{ ipv6::FIXED }, N>(),
        _ => frame.load(at),
    }
}

/// The flags of the TCP header at `at`.
#[inline(always)]
fn tcp_flags(frame: &impl Frame, at: u32) -> Option<u8> {
    let Chunk([flags]) = match at {
        ipv4::FIXED => frame.head::<{ ipv4::FIXED + TCP_FLAGS_AT }, 1>(),
        ipv6::FIXED => frame.head::<{ ipv6::FIXED + TCP_FLAGS_AT }, 1>(),
        _ => frame.load::<1>(at + TCP_FLAGS_AT),
    }?;
    Some(flags)
}

/// What an ICMP type of a family is.
pub(super) fn icmp(family: u8, number: u8) -> Transport {
    match (family, number) {
        (FAMILY_V4, 8) | (FAMILY_V6, 128) => Transport::EchoRequest,
        (FAMILY_V4, 0) | (FAMILY_V6, 129) => Transport::EchoReply,
        (FAMILY_V4, 3 | 11 | 12) | (FAMILY_V6, 1..=4) => Transport::IcmpError,
        (FAMILY_V6, 133 | 134 | 137) => Transport::NeighbourDiscovery,
        (FAMILY_V6, 135) => Transport::NeighbourSolicitation,
        (FAMILY_V6, 136) => Transport::NeighbourAdvertisement,
        (FAMILY_V6, 130..=132 | 143) => Transport::ListenerDiscovery,
        _ => Transport::OtherIcmp,
    }
}
