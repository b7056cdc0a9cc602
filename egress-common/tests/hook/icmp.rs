//! ICMP errors that the pod sends (S49, S53).

use std::net::IpAddr;

use egress_common::event::Reason;

use crate::frames::{
    ACK, DESTINATION_OPTIONS, FRAGMENT, Frame, HOP_BY_HOP, SYN, TCP, UDP, extension, fragment,
    icmp, icmp_of, ip, tcp, udp, v4, v6,
};
use crate::world::{OTHER4, OTHER6, PAIRS, PEER4, PEER6, POD4, POD6, World};

/// The types that are errors.
fn errors(peer: IpAddr) -> &'static [u8] {
    if peer.is_ipv4() {
        &[3, 11, 12]
    } else {
        &[1, 2, 3, 4]
    }
}

/// An ICMP error of the pod that quotes a packet.
fn error(peer: IpAddr, to: IpAddr, number: u8, quoted: &Frame) -> Frame {
    let pod = crate::world::pod(peer);
    ip(pod, to, icmp_of(peer), icmp(number, 0, &quoted.bytes))
}

#[test]
fn errors_about_known_inbound_flows_pass() {
    for (pod, peer) in PAIRS {
        for number in errors(peer) {
            let world = World::isolated();
            let datagram = ip(peer, pod, UDP, udp(5000, 9999));
            assert_eq!(
                world.send(&error(peer, peer, *number, &datagram)),
                Reason::NoRule
            );
            world.deliver(&datagram);
            assert_eq!(
                world.send(&error(peer, peer, *number, &datagram)),
                Reason::Related
            );
            // Only the start of a packet is quoted; its own length says the whole.
            let start = datagram.bytes.len() - 4;
            let cut = datagram.clone().cut(start, false);
            assert_eq!(
                world.send(&error(peer, peer, *number, &cut)),
                Reason::Related
            );
            let cut = datagram.clone().cut(start - 1, false);
            assert_eq!(
                world.send(&error(peer, peer, *number, &cut)),
                Reason::NoRule
            );
        }
    }
}

#[test]
fn errors_about_allowed_outbound_flows_pass_while_they_are_allowed() {
    // PMTU of what the pod downloads, and S54.
    for (pod, peer) in PAIRS {
        let mut world = World::isolated().watched().allow(peer, 32, TCP, 443);
        assert_eq!(
            world.send_to(peer, TCP, tcp(5000, 443, SYN)),
            Reason::Allowed
        );
        let answer = ip(peer, pod, TCP, tcp(443, 5000, ACK));
        let number = errors(peer)[0];
        assert_eq!(
            world.send(&error(peer, peer, number, &answer)),
            Reason::Related
        );
        world.isolate();
        assert_eq!(
            world.send(&error(peer, peer, number, &answer)),
            Reason::Related
        );
        world.forget_rules();
        world.isolate();
        assert_eq!(
            world.send(&error(peer, peer, number, &answer)),
            Reason::NoRule
        );
        assert_eq!(world.writes.get(), 1, "an error keeps no flow alive");
    }
}

#[test]
fn forged_quotes_do_not_pass() {
    // S53
    for (pod, peer) in PAIRS {
        let other: IpAddr = if peer.is_ipv4() {
            OTHER4.into()
        } else {
            OTHER6.into()
        };
        let world = World::isolated();
        world.deliver_from(peer, UDP, udp(5000, 9999));
        world.deliver_from(peer, TCP, tcp(5000, 80, SYN));
        let number = errors(peer)[0];
        let known = ip(peer, pod, UDP, udp(5000, 9999));
        // To another than the one who sent what is quoted.
        assert_eq!(
            world.send(&error(peer, other, number, &known)),
            Reason::NoRule
        );
        for quoted in [
            ip(other, pod, UDP, udp(5000, 9999)),
            ip(peer, other, UDP, udp(5000, 9999)),
            // What the pod sent, not what it got.
            ip(pod, peer, UDP, udp(9999, 5000)),
            ip(peer, pod, UDP, udp(9999, 5000)),
            ip(peer, pod, UDP, udp(5001, 9999)),
            ip(peer, pod, TCP, tcp(5000, 9999, ACK)),
            ip(peer, pod, 47, udp(5000, 9999)),
            Frame::new(0, Vec::new()),
            Frame::new(0, vec![0xff; 60]),
        ] {
            for to in [peer, other] {
                let frame = error(peer, to, number, &quoted);
                assert_eq!(world.send(&frame), Reason::NoRule, "{quoted:02x?}");
            }
        }
        assert_eq!(
            world.send(&error(peer, peer, number, &known)),
            Reason::Related
        );
    }
}

#[test]
fn only_errors_quote() {
    for (pod, peer) in PAIRS {
        let world = World::isolated();
        let known = ip(peer, pod, UDP, udp(5000, 9999));
        world.deliver(&known);
        for number in 0..=255 {
            let wanted = if errors(peer).contains(&number) {
                Reason::Related
            } else {
                Reason::NoRule
            };
            assert_eq!(
                world.send(&error(peer, peer, number, &known)),
                wanted,
                "{number}"
            );
        }
    }
}

#[test]
fn quoted_echoes_name_their_flow() {
    for (pod, peer) in PAIRS {
        let (request, reply) = if peer.is_ipv4() { (8, 0) } else { (128, 129) };
        let number = errors(peer)[0];
        let protocol = icmp_of(peer);
        let asked = ip(peer, pod, protocol, icmp(request, 7, &[]));
        let answered = ip(peer, pod, protocol, icmp(reply, 7, &[]));

        let world = World::isolated();
        world.deliver(&asked);
        assert_eq!(
            world.send(&error(peer, peer, number, &asked)),
            Reason::Related
        );
        assert_eq!(
            world.send(&error(peer, peer, number, &answered)),
            Reason::NoRule
        );

        let world = World::isolated().allow_all();
        assert_eq!(
            world.send_to(peer, protocol, icmp(request, 7, &[])),
            Reason::Allowed
        );
        assert_eq!(
            world.send(&error(peer, peer, number, &answered)),
            Reason::Related
        );
        // Judged by the policy, which allows it too.
        assert_eq!(
            world.send(&error(peer, peer, number, &asked)),
            Reason::Allowed
        );
    }
}

#[test]
fn quotes_are_read_behind_options_and_extension_headers() {
    let world = World::isolated();
    let mut quoted = v4(PEER4, POD4, UDP, udp(5000, 9999));
    world.deliver(&quoted.build());
    quoted.options = vec![1; 12];
    let frame = error(PEER4.into(), PEER4.into(), 3, &quoted.build());
    assert_eq!(world.send(&frame), Reason::Related);

    world.deliver(&v6(PEER6, POD6, UDP, udp(5000, 9999)).build());
    let payload = [
        extension(DESTINATION_OPTIONS, 1),
        extension(FRAGMENT, 0),
        fragment(UDP, 0, true, 3),
        udp(5000, 9999),
    ]
    .concat();
    let quoted = v6(PEER6, POD6, HOP_BY_HOP, payload).build();
    let frame = error(PEER6.into(), PEER6.into(), 1, &quoted);
    assert_eq!(world.send(&frame), Reason::Related);
    // Every cut of it is judged as what it is: an ICMP message that nothing allows.
    for length in 0..quoted.bytes.len() - 4 {
        let frame = error(
            PEER6.into(),
            PEER6.into(),
            1,
            &quoted.clone().cut(length, false),
        );
        assert_eq!(world.send(&frame), Reason::NoRule, "{length}");
    }
}

#[test]
fn a_quoted_later_fragment_names_no_flow() {
    let world = World::isolated();
    let mut quoted = v4(PEER4, POD4, UDP, udp(5000, 9999));
    world.deliver(&quoted.build());
    quoted.fragment = 185;
    let frame = error(PEER4.into(), PEER4.into(), 11, &quoted.build());
    assert_eq!(world.send(&frame), Reason::NoRule);

    world.deliver(&v6(PEER6, POD6, UDP, udp(5000, 9999)).build());
    let payload = [fragment(UDP, 1480, true, 3), udp(5000, 9999)].concat();
    let quoted = v6(PEER6, POD6, FRAGMENT, payload).build();
    let frame = error(PEER6.into(), PEER6.into(), 3, &quoted);
    assert_eq!(world.send(&frame), Reason::NoRule);
}
