//! Packets by rule: cut at every byte, every protocol, extension headers in every order, fragments
//! that overlap. Whatever passes is judged by a second parser (`egress_fuzz::second`); what must pass
//! and what must not is said here. Their counts are asserted, so that a loop that shrinks is noticed.
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, Ipv6Addr};

use egress_common::event::Reason;
use egress_common::packet::MAX_EXTENSIONS;
use egress_fuzz::{Hook, POD_V4, POD_V6, SERVER_V4, SERVER_V6};
use egress_tests::packet::{self, Ends, ethertype, flag, proto};

const V4: Ends = Ends::V4(POD_V4, SERVER_V4);
const V6: Ends = Ends::V6(POD_V6, SERVER_V6);
const FOREIGN_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const FOREIGN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);

const AUTHENTICATION: u8 = 51;

fn syn(ends: Ends) -> Vec<u8> {
    packet::tcp(ends, 40_000, 443, flag::SYN, &[])
}

/// An extension header that says `next` follows.
fn header(kind: u8, next: u8) -> Vec<u8> {
    match kind {
        // No segments left.
        proto::ROUTING => vec![next, 0, 4, 0, 0, 0, 0, 0],
        // Offset 0 and no more: a whole packet (RFC 6946).
        proto::FRAGMENT => vec![next, 0, 0, 0, 0, 0, 0, 9],
        // 12 bytes: in words of four, less two.
        AUTHENTICATION => vec![next, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        _ => vec![next, 0, 1, 4, 0, 0, 0, 0],
    }
}

fn chained(kinds: &[u8], last: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        bytes.extend(header(*kind, kinds.get(index + 1).copied().unwrap_or(last)));
    }
    bytes.extend(payload);
    (kinds.first().copied().unwrap_or(last), bytes)
}

/// A packet cut at any byte never passes: it must not be taken for a shorter one.
#[test]
fn a_packet_that_is_cut_at_any_byte_does_not_pass() {
    let mut cuts = 0_u32;
    let (next, chain) = chained(
        &[
            proto::HOP_BY_HOP,
            proto::DESTINATION_OPTIONS,
            proto::FRAGMENT,
            AUTHENTICATION,
        ],
        proto::TCP,
        &syn(V6),
    );
    let packets = [
        (ethertype::IPV4, V4.packet(proto::TCP, syn(V4))),
        (
            ethertype::IPV4,
            V4.packet(proto::UDP, packet::udp(V4, 40_000, 53, b"payload")),
        ),
        (ethertype::IPV6, V6.packet(proto::TCP, syn(V6))),
        (
            ethertype::IPV6,
            V6.packet(proto::UDP, packet::udp(V6, 40_000, 53, b"payload")),
        ),
        (ethertype::IPV6, V6.packet(next, chain)),
    ];
    for (kind, bytes) in packets {
        assert!(Hook::new().send(kind, &bytes).passed, "control: {bytes:?}");
        for end in 0..bytes.len() {
            let fate = Hook::new().send(kind, &bytes[..end]);
            assert!(!fate.passed, "cut at {end} of {}: {fate:?}", bytes.len());
            cuts += 1;
        }
        // Shortened, and the length field with it: whole headers are still whole.
        for end in 0..bytes.len() {
            let mut short = bytes[..end].to_vec();
            let (at, length) = if kind == ethertype::IPV4 {
                (2, end)
            } else {
                (4, end.saturating_sub(40))
            };
            if let (Some(field), Ok(length)) = (short.get_mut(at..at + 2), u16::try_from(length)) {
                field.copy_from_slice(&length.to_be_bytes());
            }
            // The second parser judges what passes.
            Hook::new().send(kind, &short);
            cuts += 1;
        }
    }
    assert!(cuts > 500, "{cuts}");
}

/// All 256 protocols, to the server by no rule, from the pod and in every shape of payload.
#[test]
fn a_protocol_passes_only_if_a_rule_names_it() {
    for protocol in 0..=u8::MAX {
        for payload in [vec![], vec![0; 4], vec![0xff; 8], syn(V4), vec![0; 64]] {
            for ends in [V4, V6] {
                let bytes = ends.packet(protocol, payload.clone());
                let fate = Hook::new().send(ends.ethertype(), &bytes);
                let open = protocol == proto::TCP && payload == syn(V4);
                assert_eq!(
                    fate.passed,
                    open,
                    "protocol {protocol}, {} bytes: {fate:?}",
                    payload.len()
                );
            }
        }
    }
}

/// Orders of extension headers: all of them to depth 5 (hop-by-hop stands first or is not there), one
/// fragment header at most; deeper ones by a fixed rule, 20,000 of each depth to 13.
#[test]
fn extension_headers_in_every_order_hide_no_port() {
    let kinds = [
        proto::DESTINATION_OPTIONS,
        proto::ROUTING,
        proto::FRAGMENT,
        AUTHENTICATION,
        proto::HOP_BY_HOP,
    ];
    let (mut orders, mut walked, mut refused) = (0_u32, 0_u32, 0_u32);
    let mut check = |order: &[u8]| {
        orders += 1;
        let misplaced = order.iter().skip(1).any(|kind| *kind == proto::HOP_BY_HOP);
        let (next, open) = chained(order, proto::TCP, &syn(V6));
        let fate = Hook::new().send(ethertype::IPV6, &V6.packet(next, open));
        let too_long = u32::try_from(order.len()).unwrap_or(u32::MAX) > MAX_EXTENSIONS;
        let fragments: u32 = order
            .iter()
            .map(|kind| u32::from(*kind == proto::FRAGMENT))
            .sum();
        if misplaced || too_long {
            assert!(!fate.passed, "{order:?}: {fate:?}");
            refused += 1;
        } else if fragments <= 1 {
            assert!(fate.passed, "{order:?}: {fate:?}");
            walked += 1;
        }
        // The same, to a port that is shut, with the open one where a parser that stumbles would look.
        let shut = packet::tcp(V6, 443, 444, flag::SYN, &[1, 187, 1, 187, 1, 187, 1, 187]);
        let (next, shut) = chained(order, proto::TCP, &shut);
        let fate = Hook::new().send(ethertype::IPV6, &V6.packet(next, shut));
        assert!(!fate.passed, "{order:?} to a port that is shut: {fate:?}");
    };
    for depth in 1..=5_u32 {
        for number in 0..5_usize.pow(depth) {
            let order: Vec<u8> = (0..depth)
                .map(|place| kinds[number / 5_usize.pow(place) % 5])
                .collect();
            check(&order);
        }
    }
    // splitmix64: every run draws the same.
    let mut state = 42_u64;
    let mut draw = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mix = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((mix ^ (mix >> 31)) >> 33).unwrap_or(0)
    };
    for depth in 6..=13 {
        for _ in 0..20_000 {
            // Mostly those that may stand anywhere: else every long chain has a misplaced one.
            let order: Vec<u8> = (0..depth)
                .map(|place| match draw() % 40 {
                    0 => proto::FRAGMENT,
                    1 => proto::HOP_BY_HOP,
                    2..10 if place == 0 => proto::HOP_BY_HOP,
                    other => {
                        [proto::DESTINATION_OPTIONS, proto::ROUTING, AUTHENTICATION][other % 3]
                    }
                })
                .collect();
            check(&order);
        }
    }
    assert!(
        orders == 3_905 + 160_000 && walked > 60_000 && refused > 20_000,
        "{orders} orders, {walked} walked, {refused} refused"
    );
}

/// A fragment that would put other ports over those of the first one: nothing that overlaps the
/// transport header may pass, and none without a first one that did.
#[test]
fn fragments_that_overlap_their_first_one_write_no_other_port() {
    let mut sent = 0_u32;
    for (ends, kind) in [(V4, ethertype::IPV4), (V6, ethertype::IPV6)] {
        for first in [false, true] {
            for port in [443_u16, 444] {
                for offset in 0..4_u16 {
                    for more in [false, true] {
                        for length in [0_usize, 1, 7, 8, 16, 24] {
                            let hook = Hook::new();
                            let segment = packet::tcp(ends, 40_000, port, flag::SYN, &[0; 12]);
                            if first {
                                let fate =
                                    hook.send(kind, &fragment(ends, 0, true, segment.clone()));
                                assert_eq!(fate.passed, port == 443, "{fate:?}");
                            }
                            let over = [1, 188].repeat(16)[..length].to_vec();
                            let fate = hook.send(kind, &fragment(ends, offset, more, over));
                            let may = first && port == 443 && offset > 0;
                            assert!(
                                !fate.passed || may,
                                "offset {offset}, {length} bytes, first {first} to {port}: {fate:?}"
                            );
                            sent += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(sent, 384);
}

fn fragment(ends: Ends, offset: u16, more: bool, payload: Vec<u8>) -> Vec<u8> {
    match ends {
        Ends::V4(source, destination) => {
            let mut packet = packet::Ipv4::new(source, destination, proto::TCP, payload);
            packet.id = 77;
            packet.offset = offset;
            packet.more_fragments = more;
            packet.bytes()
        }
        Ends::V6(..) => {
            let word = (offset * 8) | u16::from(more);
            let [high, low] = word.to_be_bytes();
            let bytes = [vec![proto::TCP, 0, high, low, 0, 0, 0, 77], payload].concat();
            ends.packet(proto::FRAGMENT, bytes)
        }
    }
}

/// A source that is not the pod's, whatever the packet says otherwise.
#[test]
fn foreign_sources_do_not_pass() {
    for (ends, kind) in [
        (Ends::V4(FOREIGN_V4, SERVER_V4), ethertype::IPV4),
        (Ends::V6(FOREIGN_V6, SERVER_V6), ethertype::IPV6),
    ] {
        let fate = Hook::new().send(kind, &ends.packet(proto::TCP, syn(ends)));
        assert_eq!(fate.reason, Reason::Spoofed);
    }
}
