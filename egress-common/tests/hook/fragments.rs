//! Fragments (S50).

use std::net::IpAddr;

use egress_common::event::Reason;
use egress_common::hook::FRAGMENT_SECONDS;

use crate::frames::{
    ACK, DESTINATION_OPTIONS, FRAGMENT, Frame, HOP_BY_HOP, SYN, TCP, UDP, extension, fragment, tcp,
    udp, v4, v6,
};
use crate::world::{OTHER4, OTHER6, PEER4, PEER6, POD4, POD6, World};

const MORE: u16 = 0x2000;

/// Fragments of one packet; `offset` in bytes.
fn four(offset: u16, more: bool, id: u16, protocol: u8, payload: Vec<u8>) -> Frame {
    let mut packet = v4(POD4, PEER4, protocol, payload);
    packet.id = id;
    packet.fragment = (offset / 8) | if more { MORE } else { 0 };
    packet.build()
}

fn six(offset: u16, more: bool, id: u16, protocol: u8, payload: Vec<u8>) -> Frame {
    let payload = [fragment(protocol, offset, more, id.into()), payload].concat();
    v6(POD6, PEER6, FRAGMENT, payload).build()
}

type Make = fn(u16, bool, u16, u8, Vec<u8>) -> Frame;
const FAMILIES: [Make; 2] = [four, six];
const BY_FAMILY: [(Make, IpAddr); 2] = [(four, IpAddr::V4(PEER4)), (six, IpAddr::V6(PEER6))];

fn world() -> World {
    World::isolated()
        .allow(PEER4.into(), 32, UDP, 53)
        .allow(PEER6.into(), 32, UDP, 53)
        .allow(PEER4.into(), 32, TCP, 443)
        .allow(PEER6.into(), 32, TCP, 443)
}

#[test]
fn later_fragments_follow_their_first() {
    for make in FAMILIES {
        let world = world();
        assert_eq!(
            world.send(&make(0, true, 9, UDP, udp(1, 53))),
            Reason::Allowed
        );
        assert_eq!(
            world.send(&make(1480, true, 9, UDP, vec![0; 1480])),
            Reason::Allowed
        );
        // Bytes that look like another port.
        assert_eq!(
            world.send(&make(2960, false, 9, UDP, udp(1, 99))),
            Reason::Allowed
        );
    }
}

#[test]
fn a_first_fragment_is_judged_like_a_packet() {
    for make in FAMILIES {
        let world = world();
        assert_eq!(
            world.send(&make(0, true, 9, UDP, udp(1, 54))),
            Reason::NoRule
        );
        assert_eq!(
            world.send(&make(1480, false, 9, UDP, udp(1, 53))),
            Reason::Fragment
        );
    }
}

#[test]
fn fragments_out_of_order_close() {
    for make in FAMILIES {
        let world = world();
        assert_eq!(
            world.send(&make(1480, false, 9, UDP, vec![0; 8])),
            Reason::Fragment
        );
        assert_eq!(
            world.send(&make(0, true, 9, UDP, udp(1, 53))),
            Reason::Allowed
        );
    }
}

#[test]
fn fragments_of_other_packets_do_not_follow() {
    let world = world();
    assert_eq!(
        world.send(&four(0, true, 9, UDP, udp(1, 53))),
        Reason::Allowed
    );
    assert_eq!(
        world.send(&six(0, true, 9, UDP, udp(1, 53))),
        Reason::Allowed
    );
    for make in FAMILIES {
        // Another identification, another protocol.
        assert_eq!(
            world.send(&make(1480, false, 10, UDP, vec![0; 8])),
            Reason::Fragment
        );
        assert_eq!(
            world.send(&make(1480, false, 9, TCP, vec![0; 8])),
            Reason::Fragment
        );
    }
    // Another destination.
    let mut packet = v4(POD4, OTHER4, UDP, vec![0; 8]);
    packet.id = 9;
    packet.fragment = 185;
    assert_eq!(world.send(&packet.build()), Reason::Fragment);
    let payload = [fragment(UDP, 1480, false, 9), vec![0; 8]].concat();
    assert_eq!(
        world.send(&v6(POD6, OTHER6, FRAGMENT, payload).build()),
        Reason::Fragment
    );
}

#[test]
fn an_identification_ends_with_its_time() {
    for make in FAMILIES {
        let world = world();
        assert_eq!(
            world.send(&make(0, true, 9, UDP, udp(1, 53))),
            Reason::Allowed
        );
        world.later(FRAGMENT_SECONDS);
        assert_eq!(
            world.send(&make(1480, true, 9, UDP, vec![0; 8])),
            Reason::Allowed
        );
        world.later(1);
        assert_eq!(
            world.send(&make(2960, false, 9, UDP, vec![0; 8])),
            Reason::Fragment
        );
    }
}

#[test]
fn an_identification_that_is_used_again_needs_its_own_first_fragment_to_pass() {
    for make in FAMILIES {
        let world = world();
        assert_eq!(
            world.send(&make(0, true, 9, UDP, udp(1, 53))),
            Reason::Allowed
        );
        // Dropped, so that no reassembly can complete with the later ones that follow the other.
        assert_eq!(
            world.send(&make(0, true, 9, UDP, udp(1, 54))),
            Reason::NoRule
        );
    }
}

#[test]
fn replies_may_be_fragmented() {
    for (make, peer) in BY_FAMILY {
        let world = World::isolated();
        world.deliver_from(peer, UDP, udp(5000, 53));
        assert_eq!(
            world.send(&make(0, true, 9, UDP, udp(53, 5000))),
            Reason::Reply
        );
        assert_eq!(
            world.send(&make(1480, false, 9, UDP, vec![0; 8])),
            Reason::Allowed
        );
    }
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let world = world();
    assert_eq!(
        world.send(&six(0, false, 9, UDP, udp(1, 53))),
        Reason::Allowed
    );
    assert_eq!(
        world.send(&six(0, false, 9, UDP, udp(1, 54))),
        Reason::NoRule
    );
    // No later fragment follows one.
    assert_eq!(
        world.send(&six(1480, false, 9, UDP, vec![0; 8])),
        Reason::Fragment
    );
}

#[test]
fn a_first_fragment_without_ports_is_malformed() {
    for make in FAMILIES {
        for protocol in [TCP, UDP] {
            let mut world = world();
            world.endpoint.v4_len = 1;
            for length in 0..8 {
                let frame = make(0, true, 9, protocol, udp(1, 53)[..length].to_vec());
                assert_eq!(world.send(&frame), Reason::Malformed, "{length}");
            }
        }
    }
    // RFC 7112: the chain must end inside the first fragment.
    let payload = [
        fragment(DESTINATION_OPTIONS, 0, true, 9),
        extension(UDP, 3)[..8].to_vec(),
    ]
    .concat();
    let frame = v6(POD6, PEER6, FRAGMENT, payload).build();
    assert_eq!(world().send(&frame), Reason::Malformed);
}

#[test]
fn a_tiny_first_fragment_is_no_reply() {
    // RFC 1858: its flags come later, and may be those of an opening segment.
    for (make, peer) in BY_FAMILY {
        let world = world();
        world.deliver_from(peer, TCP, tcp(5000, 80, SYN));
        let tiny = tcp(80, 5000, ACK)[..8].to_vec();
        assert_eq!(world.send(&make(0, true, 9, TCP, tiny)), Reason::NoRule);
        let tiny = tcp(80, 443, ACK)[..8].to_vec();
        assert_eq!(world.send(&make(0, true, 9, TCP, tiny)), Reason::Allowed);
        // RFC 3128: would write over the flags that were judged.
        for offset in [8, 16] {
            let reason = world.send(&make(offset, true, 9, TCP, vec![0; 16]));
            assert_eq!(reason, Reason::Malformed);
        }
        assert_eq!(
            world.send(&make(24, false, 9, TCP, vec![0; 16])),
            Reason::Allowed
        );
        // For the pod it opens nothing.
        let world = World::isolated();
        let mut tiny = make(0, true, 9, TCP, tcp(5000, 80, SYN)[..8].to_vec());
        let (at, size) = if peer.is_ipv4() { (12, 4) } else { (8, 16) };
        let (near, far) = tiny.bytes[at..at + 2 * size].split_at_mut(size);
        near.swap_with_slice(far);
        world.deliver(&tiny);
        assert!(world.inbound.is_empty());
    }
}

#[test]
fn inbound_flows_are_noted_from_first_fragments_only() {
    let world = World::isolated();
    let mut first = v4(PEER4, POD4, UDP, udp(5000, 53));
    first.fragment = MORE;
    let mut later = first.clone();
    later.fragment = 1;
    world.deliver(&later.build());
    assert!(world.inbound.is_empty());
    world.deliver(&first.build());
    assert_eq!(
        world.send_to(PEER4.into(), UDP, udp(53, 5000)),
        Reason::Reply
    );
    let payload = [fragment(UDP, 0, true, 1), udp(5000, 53)].concat();
    world.deliver(&v6(PEER6, POD6, FRAGMENT, payload).build());
    assert_eq!(
        world.send_to(PEER6.into(), UDP, udp(53, 5000)),
        Reason::Reply
    );
}

#[test]
fn headers_before_the_fragment_header_do_not_matter() {
    let world = world();
    let make = |offset: u16, more: bool, inner: Vec<u8>| {
        let payload = [
            extension(DESTINATION_OPTIONS, 0),
            extension(FRAGMENT, 1),
            fragment(UDP, offset, more, 9),
            inner,
        ]
        .concat();
        v6(POD6, PEER6, HOP_BY_HOP, payload).build()
    };
    assert_eq!(world.send(&make(0, true, udp(1, 53))), Reason::Allowed);
    assert_eq!(world.send(&make(1480, false, vec![0; 8])), Reason::Allowed);
    assert_eq!(world.send(&make(0, true, udp(1, 54))), Reason::NoRule);
}

#[test]
fn a_later_fragment_is_still_checked_for_its_source() {
    let mut frame = four(1480, false, 9, UDP, vec![0; 8]);
    frame.bytes[12..16].copy_from_slice(&OTHER4.octets());
    assert_eq!(world().send(&frame), Reason::Spoofed);
}
