//! The packets that most are: TCP and UDP, whole, without IP options or extension headers, and with
//! all headers in the linear part of the frame.
//!
//! [`read`] says of them what [`Packet::read`] says by the long way, without a call. What is not
//! plain, or wrong in any way, it leaves to that.

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, transmute_ref};

use super::{FAMILY_V4, FAMILY_V6, Frame, PROTOCOL_TCP, PROTOCOL_UDP, Packet, Transport};
use super::{ipv4, ipv6, transport::TCP_HEADER};

/// As much of the transport header as TCP has at least; a UDP packet that is shorter is not plain.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ports {
    source: U16,
    destination: U16,
    numbers: [u8; 9],
    tcp_flags: u8,
    rest: [u8; 6],
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct V4 {
    ip: ipv4::Header,
    ports: Ports,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct V6 {
    ip: ipv6::Header,
    ports: Ports,
}

/// Reads a plain packet into one that was begun. False when it is not plain; then nothing was
/// written.
#[inline(always)]
pub(super) fn read(frame: &impl Frame, packet: &mut Packet) -> bool {
    match packet.family {
        FAMILY_V4 => v4(frame, packet).is_some(),
        FAMILY_V6 => v6(frame, packet).is_some(),
        _ => false,
    }
}

#[inline(always)]
fn v4(frame: &impl Frame, packet: &mut Packet) -> Option<()> {
    let chunk = frame.linear::<0, 40>()?;
    let V4 { ip, ports }: &V4 = transmute_ref!(&chunk.0);
    let length = ip.packet_length(frame, packet.length, ipv4::FIXED + TCP_HEADER)?;
    if !ip.is_plain() {
        return None;
    }
    packet.transport = transport(ip.protocol)?;
    packet.protocol = ip.protocol;
    packet.hop_limit = ip.ttl;
    packet.source = ipv4::widen(ip.source);
    packet.destination = ipv4::widen(ip.destination);
    packet.length = length;
    packet.transport_at = ipv4::FIXED;
    set_ports(packet, ports);
    Some(())
}

#[inline(always)]
fn v6(frame: &impl Frame, packet: &mut Packet) -> Option<()> {
    let chunk = frame.linear::<0, 60>()?;
    let V6 { ip, ports }: &V6 = transmute_ref!(&chunk.0);
    let length = ip.plain_length(frame, packet.length, ipv6::FIXED + TCP_HEADER)?;
    if !ip.is_version_6() {
        return None;
    }
    packet.transport = transport(ip.next)?;
    packet.protocol = ip.next;
    packet.hop_limit = ip.hop_limit;
    packet.source = ip.source;
    packet.destination = ip.destination;
    packet.length = length;
    packet.transport_at = ipv6::FIXED;
    set_ports(packet, ports);
    Some(())
}

#[inline(always)]
const fn transport(protocol: u8) -> Option<Transport> {
    match protocol {
        PROTOCOL_TCP => Some(Transport::Tcp),
        PROTOCOL_UDP => Some(Transport::Udp),
        _ => None,
    }
}

#[inline(always)]
fn set_ports(packet: &mut Packet, ports: &Ports) {
    packet.source_port = ports.source.get();
    packet.destination_port = ports.destination.get();
    if matches!(packet.transport, Transport::Tcp) {
        packet.tcp_flags = ports.tcp_flags;
    }
}
