//! The packet that an ICMP error quotes.

use zerocopy::transmute_ref;

use super::transport::icmp;
use super::{
    Chunk, FAMILY_V4, FAMILY_V6, Frame, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Packet, Piece, Transport,
    has_ports, ipv4, ipv6,
};

/// Bytes of an ICMP header; what it quotes stands behind.
const ICMP_HEADER: u32 = 8;

/// What RFC 792 promises of the quoted transport header.
const LEAST: u32 = 8;

/// The quoted packet, as far as it names a flow. Its lengths are those of the packet that
/// was sent, of which the quote is only the start, so they are not looked at.
///
/// Alignment and order as in [`Chunk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Quote {
    /// Its source address.
    pub source: [u8; 16],
    /// Its destination address.
    pub destination: [u8; 16],
    /// Where its transport header starts.
    transport_at: u32,
    /// Its source port; of an echo 0.
    pub source_port: u16,
    /// Its destination port; of an echo the identifier, which stands at the pod's end.
    pub destination_port: u16,
    /// Of echoes the request or the reply, else [`Transport::None`].
    pub echo: Transport,
    /// Its protocol.
    pub protocol: u8,
    chain: ipv6::Chain,
}

impl Quote {
    /// Of no packet.
    pub const EMPTY: Self = Self {
        source: [0; 16],
        destination: [0; 16],
        transport_at: 0,
        source_port: 0,
        destination_port: 0,
        echo: Transport::None,
        protocol: 0,
        chain: ipv6::Chain::START,
    };

    /// Reads what the ICMP error in `packet` quotes. False when the packet is no ICMP error, or
    /// the quote names no flow: a protocol without ports, a later fragment, too short.
    #[inline(never)]
    pub fn read(&mut self, frame: &impl Frame, packet: &Packet) -> bool {
        packet.transport == Transport::IcmpError && self.try_read(frame, packet).is_some()
    }

    #[inline(always)]
    fn try_read(&mut self, frame: &impl Frame, packet: &Packet) -> Option<()> {
        let start = packet.transport_at + ICMP_HEADER;
        match packet.family {
            FAMILY_V4 => self.ipv4(frame, start)?,
            FAMILY_V6 => self.ipv6(frame, start, packet.length)?,
            _ => return None,
        }
        if self.transport_at + LEAST > packet.length {
            return None;
        }
        let Chunk([a, b, c, d, e, f, _, _]) = frame.load::<8>(self.transport_at)?;
        self.echo = Transport::None;
        if has_ports(self.protocol) {
            self.source_port = u16::from_be_bytes([a, b]);
            self.destination_port = u16::from_be_bytes([c, d]);
            return Some(());
        }
        if !matches!(
            (packet.family, self.protocol),
            (FAMILY_V4, PROTOCOL_ICMP) | (FAMILY_V6, PROTOCOL_ICMPV6)
        ) {
            return None;
        }
        self.source_port = 0;
        self.destination_port = u16::from_be_bytes([e, f]);
        self.echo = icmp(packet.family, a);
        matches!(self.echo, Transport::EchoRequest | Transport::EchoReply).then_some(())
    }

    #[inline(always)]
    fn ipv4(&mut self, frame: &impl Frame, start: u32) -> Option<()> {
        let chunk = frame.load::<20>(start)?;
        let header: &ipv4::Header = transmute_ref!(&chunk.0);
        if header.is_later() {
            return None;
        }
        self.source = ipv4::widen(header.source);
        self.destination = ipv4::widen(header.destination);
        self.protocol = header.protocol;
        self.transport_at = start + header.header_length()?;
        Some(())
    }

    #[inline(always)]
    fn ipv6(&mut self, frame: &impl Frame, start: u32, end: u32) -> Option<()> {
        let chunk = frame.load::<40>(start)?;
        let header: &ipv6::Header = transmute_ref!(&chunk.0);
        let at = start + ipv6::FIXED;
        if !header.is_version_6() || at > end {
            return None;
        }
        self.source = header.source;
        self.destination = header.destination;
        self.chain = ipv6::Chain {
            at,
            end,
            next: header.next,
            ..ipv6::Chain::START
        };
        ipv6::walk(frame, &mut self.chain).ok()?;
        self.protocol = self.chain.next;
        self.transport_at = self.chain.at;
        (!matches!(self.chain.piece, Piece::Later)).then_some(())
    }
}
