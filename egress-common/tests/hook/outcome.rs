//! What counters and events are told.
#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the methods themselves are not general enough over the outcome's lifetime"
)]

use std::collections::BTreeSet;

use egress_common::abi::{ALLOWED_V4, ALLOWED_V6, DROP_KINDS, DropKind};
use egress_common::event::{Reason, Record};
use egress_common::hook::{self, Outcome, Scratch};

use crate::frames::{Frame, SYN, TCP, UDP, icmp, icmp_of, ip, tcp, udp, v4};
use crate::world::{HOOK, PAIRS, PEER4, POD4, World, address};

fn look<T>(world: &World, frame: &Frame, look: impl FnOnce(&Outcome<'_>) -> T) -> T {
    let mut scratch = Scratch::EMPTY;
    look(&hook::from_pod(
        world,
        HOOK,
        &frame.as_bytes(),
        &mut scratch,
    ))
}

#[test]
fn a_drop_is_counted_by_reason_protocol_and_family() {
    let world = World::isolated();
    for (pod, peer) in PAIRS {
        let family = address(peer).family;
        for (protocol, payload, folded) in [
            (TCP, tcp(1, 2, SYN), 6),
            (UDP, udp(1, 2), 17),
            (icmp_of(peer), icmp(8, 1, &[]), 1),
            (47, vec![0; 8], 0),
        ] {
            let frame = ip(pod, peer, protocol, payload);
            let (kind, allowed) = look(&world, &frame, |o| (o.dropped(), o.allowed()));
            let wanted = DropKind {
                reason: Reason::NoRule,
                protocol: folded,
                family,
            };
            assert_eq!((kind, allowed), (Some(wanted), None));
        }
    }
    let kind = look(&world, &Frame::new(0x8100, vec![0; 64]), |o| o.dropped()).unwrap();
    assert_eq!(
        (kind.reason, kind.protocol, kind.family),
        (Reason::NotIp, 0, 0)
    );
}

#[test]
fn every_kind_of_drop_has_a_counter_of_its_own() {
    let mut seen = BTreeSet::new();
    for place in 0..8 {
        let reason = Reason::from_drop_index(place).unwrap();
        for family in [0, 4, 6] {
            for protocol in 0..=u8::MAX {
                let kind = DropKind::new(reason, family, protocol);
                assert!(kind.index() < DROP_KINDS, "{kind:?}");
                assert_eq!(DropKind::from_index(kind.index()), Some(kind));
                seen.insert(kind.index());
            }
        }
    }
    // Five protocols of either family; a frame of neither has none.
    assert_eq!(seen.len(), 8 * (5 + 5 + 1));
}

#[test]
fn a_pass_is_counted_by_family_isolated_or_not() {
    for world in [World::isolated().allow_all(), World::open()] {
        for ((pod, peer), index) in PAIRS.into_iter().zip([ALLOWED_V4, ALLOWED_V6]) {
            for payload in [udp(1, 2), tcp(1, 2, SYN)] {
                let protocol = if payload.len() == 12 { UDP } else { TCP };
                let frame = ip(pod, peer, protocol, payload);
                let length = u32::try_from(frame.bytes.len()).unwrap();
                // Padding is not the packet's.
                let frame = frame.padded(30);
                let seen = look(&world, &frame, |o| {
                    (o.allowed(), o.dropped(), o.packet.length)
                });
                assert_eq!(seen, (Some(index), None, length));
            }
        }
        let arp = Frame::new(0x0806, vec![0; 28]);
        assert_eq!(look(&world, &arp, |o| o.allowed()), None);
    }
}

#[test]
fn a_record_says_what_was_dropped() {
    let world = World::isolated();
    let frame = ip(POD4.into(), PEER4.into(), TCP, tcp(1234, 443, SYN));
    let record = look(&world, &frame, |o| {
        o.record(o.endpoint.unwrap(), 12, 0x0800, 99)
    });
    assert_eq!(
        record,
        Record {
            time: 99,
            hook: 12,
            slot: 3.into(),
            reason: Reason::NoRule.number(),
            family: 4,
            protocol: TCP,
            tcp_flags: SYN,
            source_port: 1234.into(),
            destination_port: 443.into(),
            ethertype: 0x0800.into(),
            length: 40.into(),
            generation: 41.into(),
            source: address(POD4.into()).bytes,
            destination: address(PEER4.into()).bytes,
        }
    );
}

#[test]
fn a_record_of_a_broken_packet_has_what_could_be_read() {
    let world = World::isolated();
    let frame = ip(POD4.into(), PEER4.into(), TCP, tcp(1234, 443, SYN)).cut(30, true);
    let record = look(&world, &frame, |o| {
        o.record(o.endpoint.unwrap(), 12, 0x0800, 99)
    });
    assert_eq!(record.reason, Reason::Malformed.number());
    assert_eq!(record.destination, address(PEER4.into()).bytes);
    assert_eq!(record.protocol, TCP);
    assert_eq!(record.destination_port.get(), 0);
}

#[test]
fn a_flow_is_opened_by_the_packet_that_is_allowed_first() {
    let world = World::isolated().allow(PEER4.into(), 32, UDP, 53);
    let opens = |frame: &Frame| look(&world, frame, |o| (o.reason, o.opens()));
    let to = |port| ip(POD4.into(), PEER4.into(), UDP, udp(1, port));
    assert_eq!(opens(&to(53)), (Reason::Allowed, true));
    assert_eq!(opens(&to(53)), (Reason::Established, false));
    assert_eq!(opens(&to(54)), (Reason::NoRule, false));
    let part = |offset, more: u16, payload| {
        let mut packet = v4(POD4, PEER4, UDP, payload);
        (packet.id, packet.fragment) = (9, offset | more);
        packet.build()
    };
    assert_eq!(opens(&part(0, 0x2000, udp(2, 53))), (Reason::Allowed, true));
    let later = part(185, 0, vec![0; 64]);
    assert_eq!(opens(&later), (Reason::Allowed, false));
}
