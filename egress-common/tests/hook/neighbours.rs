//! What keeps the link working (S49, S97).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_common::event::Reason;

use crate::frames::{FRAGMENT, Frame, HOP_BY_HOP, ICMPV6, IGMP, extension, fragment, icmp, v4, v6};
use crate::world::{OTHER6, PEER4, PEER6, POD4, POD6, World};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const SOLICITED: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 5);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const SITE: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 2);

#[test]
fn arp_passes() {
    assert_eq!(
        World::isolated().send(&Frame::new(0x0806, vec![0; 28])),
        Reason::Neighbour
    );
}

#[test]
fn neighbour_discovery_passes_on_the_link_only() {
    let world = World::isolated();
    for number in 133..=137 {
        for destination in [ALL_NODES, SOLICITED, ROUTER] {
            // Duplicate address detection and router solicitations have no source yet.
            for source in [POD6, Ipv6Addr::UNSPECIFIED] {
                let frame = v6(source, destination, ICMPV6, icmp(number, 0, &[0; 16])).build();
                assert_eq!(
                    world.send(&frame),
                    Reason::Neighbour,
                    "{number} {destination}"
                );
            }
        }
        for destination in [PEER6, OTHER6, SITE] {
            let frame = v6(POD6, destination, ICMPV6, icmp(number, 0, &[0; 16])).build();
            assert_eq!(world.send(&frame), Reason::NoRule, "{number} {destination}");
        }
    }
}

/// A node whose end of the veth has a global address asks from there (S52).
#[test]
fn an_advertisement_answers_a_solicitation_from_the_link_and_nothing_else_does() {
    let send = |world: &World, number: u8, destination: Ipv6Addr| {
        world.send(&v6(POD6, destination, ICMPV6, icmp(number, 0, &[0; 20])).build())
    };
    for (destination, hop_limit, wanted) in [
        (SOLICITED, 255, Reason::Reply),
        (POD6, 255, Reason::Reply),
        // A router has forwarded it.
        (POD6, 254, Reason::NoRule),
    ] {
        let world = World::isolated();
        assert_eq!(send(&world, 136, PEER6), Reason::NoRule, "nobody asked");
        let mut question = v6(PEER6, destination, ICMPV6, icmp(135, 0, &[0; 20]));
        question.hop_limit = hop_limit;
        world.deliver(&question.build());
        assert_eq!(
            send(&world, 136, PEER6),
            wanted,
            "{destination} {hop_limit}"
        );
        assert_eq!(send(&world, 136, OTHER6), Reason::NoRule, "another asked");
        for number in [129, 133, 134, 135, 137] {
            assert_eq!(send(&world, number, PEER6), Reason::NoRule, "{number}");
        }
    }
}

#[test]
fn listener_discovery_passes_on_the_link_with_hop_limit_one() {
    let world = World::isolated();
    for number in [130, 131, 132, 143] {
        let payload = [
            // Router alert, as every report has.
            vec![ICMPV6, 0, 5, 2, 0, 0, 1, 0],
            icmp(number, 0, &[0; 20]),
        ]
        .concat();
        for (destination, hop_limit, wanted) in [
            (ALL_NODES, 1, Reason::Neighbour),
            (ROUTER, 1, Reason::Neighbour),
            (ALL_NODES, 2, Reason::NoRule),
            (ALL_NODES, 255, Reason::NoRule),
            (SITE, 1, Reason::NoRule),
            (PEER6, 1, Reason::NoRule),
        ] {
            for next in [HOP_BY_HOP, ICMPV6] {
                let payload = if next == ICMPV6 {
                    payload[8..].to_vec()
                } else {
                    payload.clone()
                };
                let mut packet = v6(POD6, destination, next, payload);
                packet.hop_limit = hop_limit;
                assert_eq!(
                    world.send(&packet.build()),
                    wanted,
                    "{number} {destination}"
                );
            }
        }
    }
}

#[test]
fn no_other_icmp_passes_on_the_link() {
    let world = World::isolated();
    for number in 0..=255 {
        if (130..=137).contains(&number) || number == 143 {
            continue;
        }
        let mut packet = v6(POD6, ALL_NODES, ICMPV6, icmp(number, 0, &[0; 16]));
        packet.hop_limit = 1;
        assert_eq!(world.send(&packet.build()), Reason::NoRule, "{number}");
    }
}

#[test]
fn a_fragmented_solicitation_is_judged_as_icmp() {
    // RFC 6980
    let world = World::isolated();
    let payload = [fragment(ICMPV6, 0, true, 1), icmp(135, 0, &[0; 16])].concat();
    let frame = v6(POD6, ALL_NODES, FRAGMENT, payload).build();
    assert_eq!(world.send(&frame), Reason::NoRule);
    let payload = [extension(ICMPV6, 0), icmp(135, 0, &[0; 16])].concat();
    let frame = v6(POD6, ALL_NODES, HOP_BY_HOP, payload).build();
    assert_eq!(world.send(&frame), Reason::Neighbour);
}

#[test]
fn igmp_passes_to_groups_with_ttl_one() {
    let world = World::isolated();
    for (destination, ttl, wanted) in [
        (Ipv4Addr::new(224, 0, 0, 22), 1, Reason::Neighbour),
        (Ipv4Addr::new(239, 255, 255, 255), 1, Reason::Neighbour),
        (Ipv4Addr::new(224, 0, 0, 22), 2, Reason::NoRule),
        (Ipv4Addr::new(240, 0, 0, 1), 1, Reason::NoRule),
        (PEER4, 1, Reason::NoRule),
    ] {
        let mut packet = v4(POD4, destination, IGMP, vec![0x22, 0, 0, 0, 0, 0, 0, 0]);
        packet.ttl = ttl;
        // Router alert.
        packet.options = vec![148, 4, 0, 0];
        assert_eq!(world.send(&packet.build()), wanted, "{destination} {ttl}");
    }
    // In IPv6 the number means nothing.
    assert_eq!(
        world.send_to(IpAddr::V6(ALL_NODES), IGMP, vec![0; 8]),
        Reason::NoRule
    );
}
