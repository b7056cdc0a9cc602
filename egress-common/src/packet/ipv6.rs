//! The IPv6 header and its chain of extension headers (RFC 8200).

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, transmute_ref};

use super::transport;
use super::{Chunk, Frame, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, Packet, Piece};
use crate::event::Reason;

/// Length of the fixed header.
pub(super) const FIXED: u32 = 40;

/// Extension headers that are walked before giving up. RFC 8200 section 4.1 has seven in
/// its recommended order; Linux walks as many as fit, so a bound of its own is ours to name.
pub const MAX_EXTENSIONS: u32 = 12;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

const OPTION_JUMBO: u8 = 0xc2;

const MORE_FRAGMENTS: u16 = 1;
const FRAGMENT_OFFSET: u16 = 0xfff8;

/// The fixed header.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    version_class: u8,
    class_flow: [u8; 3],
    payload_length: U16,
    pub(super) next: u8,
    pub(super) hop_limit: u8,
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
}

impl Header {
    pub(super) fn is_version_6(&self) -> bool {
        self.version_class >> 4 == 6
    }

    /// [`Header::packet_length`] of a packet that is at least so long and no jumbogram.
    #[inline(always)]
    pub(super) fn plain_length(&self, frame: &impl Frame, length: u32, least: u32) -> Option<u32> {
        let total = match u32::from(self.payload_length.get()) {
            0 if frame.is_gso() => length,
            payload => FIXED + payload,
        };
        (total >= least && total <= length).then_some(total)
    }

    /// Bytes of the packet inside the frame's `length`. A payload length of 0 is what a BIG TCP frame
    /// has, with or without a jumbo option, and what a jumbogram has (RFC 2675).
    #[inline(always)]
    fn packet_length(&self, frame: &impl Frame, length: u32) -> Option<u32> {
        let total = match u32::from(self.payload_length.get()) {
            0 if frame.is_gso() => length,
            0 if self.next == HOP_BY_HOP => jumbo_length(frame)?,
            payload => FIXED + payload,
        };
        (total <= length).then_some(total)
    }
}

/// Length of a jumbogram; `None` when the first hop-by-hop option is not a jumbo option.
/// Linux writes it first; one that stands behind another option is refused.
#[inline(always)]
fn jumbo_length(frame: &impl Frame) -> Option<u32> {
    #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
    #[repr(C)]
    struct Jumbo {
        next: u8,
        words: u8,
        option: u8,
        option_length: u8,
        payload: U32,
    }
    let chunk = frame.head::<FIXED, 8>()?;
    let jumbo: &Jumbo = transmute_ref!(&chunk.0);
    let payload = jumbo.payload.get();
    let valid =
        jumbo.option == OPTION_JUMBO && jumbo.option_length == 4 && payload > u32::from(u16::MAX);
    valid.then_some(FIXED.checked_add(payload)?)
}

#[inline(always)]
pub(super) fn read(frame: &impl Frame, packet: &mut Packet) -> Result<(), Reason> {
    let chunk = frame.head::<0, 40>().ok_or(Reason::Malformed)?;
    let header: &Header = transmute_ref!(&chunk.0);
    packet.protocol = header.next;
    packet.hop_limit = header.hop_limit;
    packet.source = header.source;
    packet.destination = header.destination;
    if !header.is_version_6() {
        return Err(Reason::Malformed);
    }
    packet.length = header
        .packet_length(frame, packet.length)
        .ok_or(Reason::Malformed)?;
    packet.transport_at = FIXED;

    if is_extension(header.next) {
        packet.chain = Chain {
            at: FIXED,
            end: packet.length,
            next: header.next,
            ..Chain::START
        };
        let walked = walk(frame, &mut packet.chain);
        packet.protocol = packet.chain.next;
        packet.transport_at = packet.chain.at;
        packet.piece = packet.chain.piece;
        packet.fragment_id = packet.chain.fragment_id;
        packet.fragment_protocol = packet.chain.fragment_protocol;
        walked?;
        if matches!(packet.piece, Piece::Later) {
            return Ok(());
        }
    }
    transport::read(frame, packet)
}

/// Position in a chain of headers. Alignment and order as in [`Chunk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub(super) struct Chain {
    /// Where the header that [`Chain::next`] names starts.
    pub(super) at: u32,
    /// Nothing at or behind this is read.
    pub(super) end: u32,
    pub(super) fragment_id: u32,
    pub(super) fragment_protocol: u8,
    pub(super) piece: Piece,
    /// A fragment header was seen, atomic or not.
    pub(super) fragmented: bool,
    /// The header at [`Chain::at`].
    pub(super) next: u8,
}

impl Chain {
    /// Before the first header.
    pub(super) const START: Self = Self {
        at: 0,
        end: 0,
        fragment_id: 0,
        fragment_protocol: 0,
        piece: Piece::Whole,
        fragmented: false,
        next: 0,
    };

    /// Steps over a header of `size` bytes.
    fn step(&mut self, next: u8, size: u32) -> Result<(), Reason> {
        self.at += size;
        self.next = next;
        if self.at > self.end {
            return Err(Reason::Malformed);
        }
        Ok(())
    }
}

/// Walks to the upper-layer header, or to a later fragment's payload.
///
/// Hop-by-hop options anywhere but first, and a second fragment header, are errors as in
/// Linux (`ipv6_frag_rcv`: a fragment of a fragment).
#[inline(never)]
pub(super) fn walk(frame: &impl Frame, chain: &mut Chain) -> Result<(), Reason> {
    let first = chain.at;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(chain.next) {
            return Ok(());
        }
        // Every extension header has at least eight bytes.
        if chain.end - chain.at < 8 {
            return Err(Reason::Malformed);
        }
        let Chunk([next, length, reserved_high, segments_left, id @ ..]) =
            frame.load::<8>(chain.at).ok_or(Reason::Malformed)?;
        match chain.next {
            HOP_BY_HOP if chain.at != first => return Err(Reason::ExtensionHeaders),
            ROUTING if segments_left != 0 => return Err(Reason::SourceRoute),
            AUTHENTICATION => chain.step(next, (u32::from(length) + 2) * 4)?,
            FRAGMENT => {
                if chain.fragmented {
                    return Err(Reason::ExtensionHeaders);
                }
                chain.fragmented = true;
                let field = u16::from_be_bytes([reserved_high, segments_left]);
                let later = field & FRAGMENT_OFFSET != 0;
                if later || field & MORE_FRAGMENTS != 0 {
                    chain.fragment_id = u32::from_be_bytes(id);
                    chain.fragment_protocol = next;
                    chain.piece = if later { Piece::Later } else { Piece::First };
                }
                chain.step(next, 8)?;
                if later {
                    // RFC 3128, as in IPv4.
                    if next == PROTOCOL_TCP
                        && u32::from(field & FRAGMENT_OFFSET) < transport::TCP_HEADER
                    {
                        return Err(Reason::Malformed);
                    }
                    return Ok(());
                }
            }
            _ => chain.step(next, (u32::from(length) + 1) * 8)?,
        }
    }
    if is_extension(chain.next) {
        return Err(Reason::ExtensionHeaders);
    }
    Ok(())
}

/// Extension headers that are walked. Mobility (135), HIP (139), Shim6 (140), ESP (50) and the
/// experimental ones end the chain: they are protocols without ports.
fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
    )
}

#[inline(always)]
pub(super) fn may_be_udp(frame: &impl Frame, packet: &mut Packet) -> bool {
    let Some(Chunk([_, _, _, _, high, low, next, _])) = frame.head::<0, 8>() else {
        return false;
    };
    packet.protocol = next;
    let length = FIXED + u32::from(u16::from_be_bytes([high, low]));
    if length > FIXED && length <= packet.length {
        packet.length = length;
    }
    !matches!(next, PROTOCOL_TCP | PROTOCOL_SCTP | PROTOCOL_ICMPV6)
}
