//! The IPv4 header (RFC 791).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, transmute, transmute_ref};

use super::transport;
use super::{Chunk, Frame, PROTOCOL_TCP, PROTOCOL_UDP, Packet, Piece};
use crate::event::Reason;

/// Length of the header without options.
pub(super) const FIXED: u32 = 20;
/// Most bytes of options: fifteen words of header less the fixed five.
const OPTIONS: u32 = 40;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LOOSE_SOURCE_ROUTE: u8 = 131;
const OPTION_STRICT_SOURCE_ROUTE: u8 = 137;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fixed part.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    version_ihl: u8,
    tos: u8,
    total_length: U16,
    id: U16,
    fragment: U16,
    pub(super) ttl: u8,
    pub(super) protocol: u8,
    checksum: [u8; 2],
    pub(super) source: [u8; 4],
    pub(super) destination: [u8; 4],
}

impl Header {
    /// Bytes of header with options; `None` when version or length are impossible.
    pub(super) fn header_length(&self) -> Option<u32> {
        let words = self.version_ihl & 0x0f;
        (self.version_ihl >> 4 == 4 && words >= 5).then(|| u32::from(words) * 4)
    }

    /// Whether there are no options, and the packet is no fragment.
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        self.version_ihl == 0x45 && self.fragment.get() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == 0
    }

    /// Whether this is not the first fragment.
    pub(super) fn is_later(&self) -> bool {
        self.fragment.get() & FRAGMENT_OFFSET != 0
    }

    /// Bytes of the packet inside the frame's `length`, at least `header`. A total length of 0 is what a BIG TCP frame
    /// has (Linux, `iph_totlen`).
    #[inline(always)]
    pub(super) fn packet_length(
        &self,
        frame: &impl Frame,
        length: u32,
        header: u32,
    ) -> Option<u32> {
        let total = match u32::from(self.total_length.get()) {
            0 if frame.is_gso() => length,
            total => total,
        };
        (total >= header && total <= length).then_some(total)
    }
}

/// An address as in [`Packet::source`]. In whole words: what is stored in bytes and loaded in words
/// has to wait for the stores.
#[inline(always)]
pub(super) fn widen(address: [u8; 4]) -> [u8; 16] {
    let word = u64::from(u32::from_ne_bytes(address));
    let word = if cfg!(target_endian = "little") {
        word
    } else {
        word << 32
    };
    transmute!([word, 0])
}

#[inline(always)]
pub(super) fn read(frame: &impl Frame, packet: &mut Packet) -> Result<(), Reason> {
    let chunk = frame.head::<0, 20>().ok_or(Reason::Malformed)?;
    let header: &Header = transmute_ref!(&chunk.0);
    packet.protocol = header.protocol;
    packet.hop_limit = header.ttl;
    packet.source = widen(header.source);
    packet.destination = widen(header.destination);

    let header_length = header.header_length().ok_or(Reason::Malformed)?;
    packet.length = header
        .packet_length(frame, packet.length, header_length)
        .ok_or(Reason::Malformed)?;
    if header_length > FIXED {
        options(frame, header_length)?;
    }

    let fragment = header.fragment.get();
    let offset = u32::from(fragment & FRAGMENT_OFFSET) * 8;
    packet.transport_at = header_length;
    if offset == 0 && fragment & MORE_FRAGMENTS == 0 {
        packet.piece = Piece::Whole;
    } else {
        packet.fragment_id = u32::from(header.id.get());
        packet.fragment_protocol = header.protocol;
        if offset > 0 {
            packet.piece = Piece::Later;
            // RFC 3128: would write over the flags of the TCP header that was judged.
            if header.protocol == PROTOCOL_TCP && offset < transport::TCP_HEADER {
                return Err(Reason::Malformed);
            }
            return Ok(());
        }
        packet.piece = Piece::First;
    }
    transport::read(frame, packet)
}

/// Looks for source routes; everything else is skipped by its length.
#[inline(never)]
fn options(frame: &impl Frame, end: u32) -> Result<(), Reason> {
    let mut at = FIXED;
    for _ in 0..OPTIONS {
        if at >= end {
            return Ok(());
        }
        let Chunk([kind]) = frame.load::<1>(at).ok_or(Reason::Malformed)?;
        match kind {
            OPTION_END => return Ok(()),
            OPTION_NOP => at += 1,
            OPTION_LOOSE_SOURCE_ROUTE | OPTION_STRICT_SOURCE_ROUTE => {
                return Err(Reason::SourceRoute);
            }
            _ => {
                if at + 1 >= end {
                    return Err(Reason::Malformed);
                }
                let Chunk([length]) = frame.load::<1>(at + 1).ok_or(Reason::Malformed)?;
                if length < 2 {
                    return Err(Reason::Malformed);
                }
                at += u32::from(length);
                if at > end {
                    return Err(Reason::Malformed);
                }
            }
        }
    }
    Ok(())
}

#[inline(always)]
pub(super) fn may_be_udp(frame: &impl Frame, packet: &mut Packet) -> bool {
    let Some(chunk) = frame.head::<0, 20>() else {
        return false;
    };
    let header: &Header = transmute_ref!(&chunk.0);
    packet.protocol = header.protocol;
    if let Some(length) = header.packet_length(frame, packet.length, FIXED) {
        packet.length = length;
    }
    header.protocol == PROTOCOL_UDP
}
