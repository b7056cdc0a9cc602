//! Bytes to [`Packet`].
//!
//! What cannot be read is an error with its own reason, never a packet without ports: a
//! packet whose transport header cannot be found must not be allowed by a port rule (S51).
//! Bytes behind the IP packet's length are padding and are never read as headers.

mod ipv4;
mod ipv6;
mod plain;
mod quote;
mod transport;

pub use ipv6::MAX_EXTENSIONS;
pub use quote::Quote;
pub use transport::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

use crate::abi::{FAMILY_V4, FAMILY_V6};
use crate::event::Reason;

/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethertype of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// Ethertype of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// IP protocol number of ICMP; in IPv6 just another protocol.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of IGMP.
pub const PROTOCOL_IGMP: u8 = 2;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IP protocol number of `ICMPv6`; in IPv4 just another protocol.
pub const PROTOCOL_ICMPV6: u8 = 58;
/// IP protocol number of SCTP.
pub const PROTOCOL_SCTP: u8 = 132;

/// Bytes of a frame, eight-byte aligned.
///
/// The kernel programs are compiled for loads and stores that need no alignment, which holds
/// everywhere but on the BPF stack. So whatever may lie there is aligned as a whole, and its
/// fields stand at multiples of their size: this, [`Packet`], the flow and chain
/// of the code behind it, and the [`Aligned`](crate::tables::Aligned) keys.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Chunk<const N: usize>(pub [u8; N]);

/// The bytes of one frame, counted from the start of its network header.
///
/// A trait, not a slice: in the kernel the bytes may lie in fragments of the skb that only
/// a helper can read.
pub trait Frame {
    /// The ethertype, tags that the kernel took off not counted.
    fn ethertype(&self) -> u16;
    /// Bytes from the network header to the end of the frame.
    fn length(&self) -> u32;
    /// Whether the frame is one that the device will segment: then the IP length fields
    /// may be 0 (BIG TCP).
    fn is_gso(&self) -> bool;
    /// `N` bytes at `offset`; `None` when the frame ends before.
    fn load<const N: usize>(&self, offset: u32) -> Option<Chunk<N>>;
    /// `N` bytes at an offset that the compiler knows, where they can be read without a call; `None`
    /// says nothing of what the frame has.
    fn linear<const OFFSET: u32, const N: usize>(&self) -> Option<Chunk<N>> {
        self.load(OFFSET)
    }
    /// `N` bytes at an offset that the compiler knows, by the cheapest way that there is.
    #[inline(always)]
    fn head<const OFFSET: u32, const N: usize>(&self) -> Option<Chunk<N>> {
        match self.linear::<OFFSET, N>() {
            Some(bytes) => Some(bytes),
            None => self.load(OFFSET),
        }
    }
}

/// A [`Frame`] on the host.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    /// The ethertype.
    pub ethertype: u16,
    /// Whether the frame counts as a GSO frame.
    pub gso: bool,
    /// From the network header on.
    pub bytes: &'a [u8],
}

impl Frame for Bytes<'_> {
    fn ethertype(&self) -> u16 {
        self.ethertype
    }

    fn length(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    fn is_gso(&self) -> bool {
        self.gso
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<Chunk<N>> {
        let offset = usize::try_from(offset).ok()?;
        self.bytes.get(offset..)?.first_chunk().copied().map(Chunk)
    }
}

/// Which part of an IP packet a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Piece {
    /// All of it; an atomic fragment (RFC 6946) too.
    Whole,
    /// The first of several fragments: it has the ports.
    First,
    /// Another fragment: it has none.
    Later,
}

/// What the transport header is, as far as a verdict needs to tell.
///
/// Without fields, which stand in [`Packet`]: the verifier refuses a copy of bytes that one
/// variant did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Transport {
    /// A later fragment, or a protocol without ports.
    None,
    /// TCP.
    Tcp,
    /// TCP in a first fragment that ends before the flags.
    TcpWithoutFlags,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// SCTP, and the first chunk is INIT.
    SctpInit,
    /// Echo request of ICMP in IPv4 or `ICMPv6` in IPv6, as the following are.
    EchoRequest,
    /// Echo reply.
    EchoReply,
    /// An error that quotes the packet it is about: unreachable, packet too big, time
    /// exceeded, parameter problem. Not a redirect.
    IcmpError,
    /// Neighbour solicitation of IPv6 (135).
    NeighbourSolicitation,
    /// Neighbour advertisement of IPv6 (136), which answers one.
    NeighbourAdvertisement,
    /// Router solicitation and advertisement, and redirect of IPv6 (133, 134, 137).
    NeighbourDiscovery,
    /// Multicast listener query, report, done, and version 2 report (130–132, 143).
    ListenerDiscovery,
    /// Any other ICMP.
    OtherIcmp,
}

/// One IP packet, or a fragment of one. Alignment and order as in [`Chunk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Packet {
    /// Source address, IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Identification of a fragment, 0 of a whole packet.
    pub fragment_id: u32,
    /// Where the transport header starts.
    pub transport_at: u32,
    /// Bytes of the IP packet; of a frame that cannot be read the frame's.
    pub length: u32,
    /// Source port, or 0.
    pub source_port: u16,
    /// Destination port, or 0.
    pub destination_port: u16,
    /// Identifier of an echo, or 0.
    pub echo_id: u16,
    /// TCP flags, or 0.
    pub tcp_flags: u8,
    /// What the transport header is.
    pub transport: Transport,
    /// Protocol behind the extension headers; of a later fragment the one that the
    /// fragment header names.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// Which part it is.
    pub piece: Piece,
    /// Protocol that the header with the fragment's identification names: the same in
    /// every fragment of a packet.
    pub fragment_protocol: u8,
    /// [`FAMILY_V4`], [`FAMILY_V6`], or 0 when it is neither.
    pub family: u8,
    chain: ipv6::Chain,
}

impl Packet {
    /// Of no frame.
    pub const EMPTY: Self = Self {
        source: [0; 16],
        destination: [0; 16],
        fragment_id: 0,
        transport_at: 0,
        length: 0,
        source_port: 0,
        destination_port: 0,
        echo_id: 0,
        tcp_flags: 0,
        transport: Transport::None,
        protocol: 0,
        hop_limit: 0,
        piece: Piece::Whole,
        fragment_protocol: 0,
        family: 0,
        chain: ipv6::Chain::START,
    };

    /// Sets what is known of a frame before any of it is read. The fields one by one: a copy of the
    /// whole would touch the padding too, on the stack and unaligned.
    #[inline(always)]
    pub fn begin(&mut self, frame: &impl Frame) {
        let Self {
            source,
            destination,
            fragment_id,
            transport_at,
            length,
            source_port,
            destination_port,
            echo_id,
            tcp_flags,
            transport,
            protocol,
            hop_limit,
            piece,
            fragment_protocol,
            family,
            // Set where it is used.
            chain: _,
        } = self;
        *source = [0; 16];
        *destination = [0; 16];
        *fragment_id = 0;
        *transport_at = 0;
        *length = frame.length();
        *source_port = 0;
        *destination_port = 0;
        *echo_id = 0;
        *tcp_flags = 0;
        *transport = Transport::None;
        *protocol = 0;
        *hop_limit = 0;
        *piece = Piece::Whole;
        *fragment_protocol = 0;
        *family = match frame.ethertype() {
            ETHERTYPE_IPV4 => FAMILY_V4,
            ETHERTYPE_IPV6 => FAMILY_V6,
            _ => 0,
        };
    }

    /// Reads a frame that the packet was begun with ([`Packet::begin`]). After an error the fields
    /// hold what was read before it, for the record of the drop.
    ///
    /// # Errors
    ///
    /// [`Reason::NotIp`], [`Reason::Malformed`], [`Reason::ExtensionHeaders`] or
    /// [`Reason::SourceRoute`].
    #[inline(always)]
    pub fn read(&mut self, frame: &impl Frame) -> Result<(), Reason> {
        if plain::read(frame, self) {
            return Ok(());
        }
        self.read_any(frame)
    }

    #[inline(never)]
    fn read_any(&mut self, frame: &impl Frame) -> Result<(), Reason> {
        match self.family {
            FAMILY_V4 => ipv4::read(frame, self),
            FAMILY_V6 => ipv6::read(frame, self),
            _ => Err(Reason::NotIp),
        }
    }

    /// Whether the frame can be UDP, by the first header only; sets
    /// [`Packet::protocol`] and [`Packet::length`] where that header tells them. This is
    /// all that is read of most frames of a pod that nothing isolates.
    #[inline(always)]
    pub fn may_be_udp(&mut self, frame: &impl Frame) -> bool {
        match self.family {
            FAMILY_V4 => ipv4::may_be_udp(frame, self),
            FAMILY_V6 => ipv6::may_be_udp(frame, self),
            _ => false,
        }
    }
}

/// Protocols that have ports (S46).
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP)
}

#[cfg(test)]
mod tests;
