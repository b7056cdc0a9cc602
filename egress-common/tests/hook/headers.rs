//! Malformed, truncated and unusual headers (S51).

use std::net::IpAddr;

use egress_common::event::{Action, Reason};
use egress_common::packet::MAX_EXTENSIONS;

use crate::frames::{
    ACK, AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, Frame, HOP_BY_HOP, ICMP, ICMPV6, NO_NEXT,
    ROUTING, SCTP, SYN, TCP, UDP, authentication, extension, fragment, icmp, routing, sctp, tcp,
    udp, v4, v6,
};
use crate::world::{PEER4, PEER6, POD4, POD6, World};

/// Allows TCP 443, UDP 53 and SCTP 132 towards the peers.
fn by_port() -> World {
    let mut world = World::isolated();
    for peer in [IpAddr::V4(PEER4), IpAddr::V6(PEER6)] {
        world.add(peer, 32, TCP, 443, 443);
        world.add(peer, 32, UDP, 53, 53);
        world.add(peer, 32, SCTP, 132, 132);
    }
    world
}

/// Frames that [`by_port`] allows, with the offset of their transport header and its least size.
fn allowed() -> Vec<(Frame, usize, usize)> {
    let mut frames = Vec::new();
    for (protocol, payload, least) in [
        (TCP, tcp(999, 443, SYN), 20),
        (UDP, udp(999, 53), 8),
        (SCTP, sctp(999, 132, 1), 12),
    ] {
        let plain = v4(POD4, PEER4, protocol, payload.clone());
        frames.push((plain.build(), 20, least));
        for words in 1..=10 {
            let mut packet = plain.clone();
            packet.options = vec![1; words * 4];
            frames.push((packet.build(), 20 + words * 4, least));
            // One option that fills the room, with bytes that look like a source route.
            packet.options = vec![131; words * 4];
            packet.options[0] = 148;
            packet.options[1] = u8::try_from(words * 4).unwrap();
            frames.push((packet.build(), 20 + words * 4, least));
        }
        frames.push((
            v6(POD6, PEER6, protocol, payload.clone()).build(),
            40,
            least,
        ));
        for chain in chains() {
            let (first, headers) = link(&chain, protocol);
            let at = 40 + headers.len();
            let payload = [headers, payload.clone()].concat();
            frames.push((v6(POD6, PEER6, first, payload).build(), at, least));
        }
    }
    frames
}

/// Orders of extension headers that are walked.
fn chains() -> Vec<Vec<u8>> {
    let mut chains = vec![
        vec![HOP_BY_HOP],
        vec![
            HOP_BY_HOP,
            DESTINATION_OPTIONS,
            ROUTING,
            FRAGMENT,
            AUTHENTICATION,
            DESTINATION_OPTIONS,
        ],
        vec![DESTINATION_OPTIONS; 12],
    ];
    let others = [DESTINATION_OPTIONS, ROUTING, FRAGMENT, AUTHENTICATION];
    for a in others {
        chains.push(vec![a]);
        for b in others
            .into_iter()
            .filter(|b| *b != FRAGMENT || a != FRAGMENT)
        {
            chains.push(vec![a, b]);
            chains.push(vec![HOP_BY_HOP, a, b]);
        }
    }
    chains
}

/// The first header's number, and the bytes of the chain in front of `last`.
fn link(chain: &[u8], last: u8) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for (index, kind) in chain.iter().enumerate() {
        let next = *chain.get(index + 1).unwrap_or(&last);
        bytes.extend(match *kind {
            ROUTING => routing(next, 0),
            // Atomic: not a fragment at all.
            FRAGMENT => fragment(next, 0, false, 7),
            AUTHENTICATION => authentication(next),
            _ => extension(next, u8::try_from(index % 3).unwrap()),
        });
    }
    (*chain.first().unwrap_or(&last), bytes)
}

#[test]
fn ports_are_found_behind_options_and_extension_headers() {
    let frames = allowed();
    assert!(frames.len() > 150);
    for (frame, _, _) in frames {
        assert_eq!(by_port().send(&frame), Reason::Allowed, "{frame:02x?}");
    }
}

#[test]
fn a_cut_packet_is_never_allowed_by_a_port_rule() {
    for (frame, at, least) in allowed() {
        for length in 0..frame.bytes.len() {
            // No world shared: an earlier frame's flow must not help.
            let world = by_port();
            let reason = world.send(&frame.clone().cut(length, false));
            assert_eq!(reason, Reason::Malformed, "{length} of {frame:02x?}");
            let reason = world.send(&frame.clone().cut(length, true));
            if length < at + least {
                assert_eq!(reason.action(), Action::Drop, "{length} of {frame:02x?}");
            } else {
                assert_eq!(reason, Reason::Allowed, "{length} of {frame:02x?}");
            }
        }
    }
}

#[test]
fn padding_is_not_read() {
    for (frame, at, _) in allowed() {
        assert_eq!(by_port().send(&frame.clone().padded(46)), Reason::Allowed);
        // The transport header lies in the padding.
        let short = frame.clone().cut(at, true);
        let mut padded = short.clone();
        padded.bytes.extend(&frame.bytes[at..]);
        assert_eq!(
            by_port().send(&padded).action(),
            Action::Drop,
            "{padded:02x?}"
        );
    }
}

#[test]
fn random_bytes_are_never_allowed_by_a_port_rule_that_does_not_name_them() {
    // A linear congruential generator with the constants of Numerical Recipes.
    let mut seed: u32 = 0x9e37_79b9;
    let mut random = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16).to_le_bytes()[0]
    };
    let mut world = World::isolated();
    // Flipping bits of the ports may not reach a rule; nothing else is allowed at all.
    world.add(IpAddr::V4(PEER4), 32, TCP, 443, 443);
    world.add(IpAddr::V6(PEER6), 32, TCP, 443, 443);
    let frames = allowed();
    let (mut passed, mut dropped) = (0, 0);
    for round in 0..40_000 {
        let mut frame = frames[round % frames.len()].0.clone();
        for _ in 0..=random() % 4 {
            let at = (usize::from(random()) * 256 + usize::from(random())) % frame.bytes.len();
            frame.bytes[at] = random();
        }
        let reason = world.send(&frame);
        let tcp_to_443 = frame
            .bytes
            .windows(2)
            .any(|two| two == 443_u16.to_be_bytes());
        match reason.action() {
            Action::Drop => dropped += 1,
            Action::Pass => {
                passed += 1;
                assert!(tcp_to_443, "round {round}: {reason:?} {frame:02x?}");
            }
        }
        world.outbound.clear();
        world.fragments.borrow_mut().clear();
        world.deliver(&frame);
        world.inbound.clear();
    }
    assert!(passed > 1_000 && dropped > 1_000, "{passed} {dropped}");
}

#[test]
fn versions_and_header_lengths_must_fit() {
    let world = World::isolated().allow_all();
    let frame = v4(POD4, PEER4, TCP, tcp(1, 443, SYN)).build();
    for first in 0..=255 {
        let reason = world.send(&frame.clone().with(0, first));
        match first {
            0x45 => assert_eq!(reason, Reason::Allowed),
            // A longer header than the packet has room for, behind which TCP is too short.
            _ => assert_eq!(reason, Reason::Malformed, "{first:02x}"),
        }
    }
    let frame = v6(POD6, PEER6, TCP, tcp(1, 443, SYN)).build();
    for version in 0..16 {
        let wanted = if version == 6 {
            Reason::Allowed
        } else {
            Reason::Malformed
        };
        assert_eq!(world.send(&frame.clone().with(0, version << 4)), wanted);
    }
    // A total length shorter than the header.
    let frame = v4(POD4, PEER4, 99, Vec::new()).build();
    assert_eq!(world.send(&frame), Reason::Allowed);
    assert_eq!(world.send(&frame.with(3, 19)), Reason::Malformed);
}

#[test]
fn a_length_of_zero_is_a_big_tcp_frame_or_malformed() {
    let world = by_port();
    let mut four = v4(POD4, PEER4, TCP, tcp(1, 443, ACK))
        .build()
        .padded(70_000);
    four.bytes[2..4].fill(0);
    let mut six = v6(POD6, PEER6, TCP, tcp(1, 443, ACK))
        .build()
        .padded(70_000);
    six.bytes[4..6].fill(0);
    let mut jumbo = v6(POD6, PEER6, HOP_BY_HOP, Vec::new()).build();
    jumbo.bytes.extend([TCP, 0, 0xc2, 4]);
    jumbo.bytes.extend(70_028_u32.to_be_bytes());
    jumbo.bytes.extend(tcp(1, 443, ACK));
    let mut jumbo = jumbo.padded(70_000);
    jumbo.bytes[4..6].fill(0);

    for frame in [&four, &six] {
        assert_eq!(world.send(frame), Reason::Malformed);
    }
    // A jumbogram says its length elsewhere.
    assert_eq!(world.send(&jumbo), Reason::Allowed);
    for frame in [&mut four, &mut six, &mut jumbo] {
        frame.gso = true;
        assert_eq!(by_port().send(frame), Reason::Allowed);
    }
    jumbo.gso = false;
    // Longer than the frame; not a jumbo length at all; no jumbo option.
    assert_eq!(world.send(&jumbo.clone().with(45, 2)), Reason::Malformed);
    assert_eq!(world.send(&jumbo.clone().with(45, 0)), Reason::Malformed);
    assert_eq!(world.send(&jumbo.clone().with(42, 5)), Reason::Malformed);
    assert_eq!(world.send(&jumbo.with(43, 3)), Reason::Malformed);
}

#[test]
fn source_routes_are_dropped_whatever_is_allowed() {
    // S97
    let world = World::isolated().allow_all();
    for option in [131, 137] {
        for before in 0..5 {
            let mut packet = v4(POD4, PEER4, TCP, tcp(1, 443, SYN));
            packet.options = vec![1; before];
            packet.options.extend([option, 7, 4, 198, 51, 100, 9]);
            packet.options.resize(12, 0);
            assert_eq!(world.send(&packet.build()), Reason::SourceRoute);
            // Behind the end of the options it is padding.
            packet.options[0] = 0;
            if before > 0 {
                assert_eq!(world.send(&packet.build()).action(), Action::Pass);
            }
        }
    }
    for left in 1..=255 {
        let payload = [routing(TCP, left), tcp(1, 443, SYN)].concat();
        let frame = v6(POD6, PEER6, ROUTING, payload).build();
        assert_eq!(world.send(&frame), Reason::SourceRoute);
    }
}

#[test]
fn broken_options_are_malformed() {
    let world = World::isolated().allow_all();
    for options in [
        // A length below two, at the end, and over the end.
        vec![148, 0, 0, 0],
        vec![148, 1, 0, 0],
        vec![1, 1, 1, 148],
        vec![148, 5, 0, 0],
        vec![1, 7, 255, 0],
    ] {
        let mut packet = v4(POD4, PEER4, TCP, tcp(1, 443, SYN));
        packet.options = options;
        assert_eq!(world.send(&packet.build()), Reason::Malformed, "{packet:?}");
    }
}

/// S53: which way a connection was opened is told by flags, wherever the TCP header is.
#[test]
fn flags_are_found_behind_options_and_extension_headers() {
    let four = |flags| {
        let mut packet = v4(POD4, PEER4, TCP, tcp(443, 999, flags));
        packet.options = vec![1; 8];
        packet.build()
    };
    let six = |flags| {
        let payload = [extension(TCP, 0), tcp(443, 999, flags)].concat();
        v6(POD6, PEER6, DESTINATION_OPTIONS, payload).build()
    };
    let families: [(IpAddr, &dyn Fn(u8) -> Frame); 2] =
        [(PEER4.into(), &four), (PEER6.into(), &six)];
    for (peer, frame) in families {
        let world = World::isolated();
        world.deliver_from(peer, TCP, tcp(999, 443, SYN));
        assert_eq!(world.send(&frame(SYN | ACK)), Reason::Reply, "{peer}");
        assert_eq!(world.send(&frame(SYN)), Reason::NoRule, "{peer}");
    }
}

#[test]
fn an_option_may_have_nothing_but_its_length() {
    let mut packet = v4(POD4, PEER4, TCP, tcp(1, 443, SYN));
    packet.options = vec![148, 2, 1, 1];
    assert_eq!(by_port().send(&packet.build()), Reason::Allowed);
}

#[test]
fn chains_end_at_the_bound() {
    let world = World::isolated().allow_all();
    for length in [12, 13, 40] {
        let (first, headers) = link(&vec![DESTINATION_OPTIONS; length], TCP);
        let payload = [headers, tcp(1, 443, SYN)].concat();
        let frame = v6(POD6, PEER6, first, payload).build();
        let wanted = if length <= usize::try_from(MAX_EXTENSIONS).unwrap() {
            Reason::Allowed
        } else {
            Reason::ExtensionHeaders
        };
        assert_eq!(world.send(&frame), wanted, "{length} headers");
    }
}

#[test]
fn impossible_chains_are_dropped() {
    let world = World::isolated().allow_all();
    for chain in [
        [DESTINATION_OPTIONS, HOP_BY_HOP],
        [HOP_BY_HOP, HOP_BY_HOP],
        // A fragment of a fragment, though both are atomic.
        [FRAGMENT, FRAGMENT],
    ] {
        let (first, headers) = link(&chain, TCP);
        let payload = [headers, tcp(1, 443, SYN)].concat();
        let frame = v6(POD6, PEER6, first, payload).build();
        assert_eq!(world.send(&frame), Reason::ExtensionHeaders, "{chain:?}");
    }
    // A header that says it is longer than the packet.
    let payload = [extension(TCP, 0), tcp(1, 443, SYN)].concat();
    let frame = v6(POD6, PEER6, DESTINATION_OPTIONS, payload).build();
    assert_eq!(world.send(&frame.with(41, 200)), Reason::Malformed);
}

#[test]
fn no_next_header_is_a_protocol_without_ports() {
    let frame = v6(POD6, PEER6, NO_NEXT, Vec::new()).build();
    assert_eq!(by_port().send(&frame), Reason::NoRule);
    assert_eq!(World::isolated().allow_all().send(&frame), Reason::Allowed);
    for words in [0, 1] {
        let chain = extension(NO_NEXT, words);
        let frame = v6(POD6, PEER6, DESTINATION_OPTIONS, chain).build();
        assert_eq!(by_port().send(&frame), Reason::NoRule);
        assert_eq!(World::isolated().allow_all().send(&frame), Reason::Allowed);
    }
}

#[test]
fn icmp_needs_its_header() {
    let world = World::isolated().allow_all();
    for length in 0..8 {
        let payload = icmp(8, 1, &[])[..length].to_vec();
        let frame = v4(POD4, PEER4, ICMP, payload.clone()).build();
        assert_eq!(world.send(&frame), Reason::Malformed);
        let frame = v6(POD6, PEER6, ICMPV6, payload).build();
        assert_eq!(world.send(&frame), Reason::Malformed);
    }
}
