//! What policies allow, and what is outside of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_common::abi::{ENDPOINT_ISOLATED, RULESET_DENY, literal_ports};
use egress_common::decide::decide;
use egress_common::event::Reason;
use egress_common::hook::{self, Scratch};

use crate::frames::{
    ACK, Frame, ICMP, ICMPV6, SCTP, SYN, TCP, UDP, icmp, icmp_of, ip, sctp, tcp, udp,
};
use crate::world::{HOOK, OTHER4, OTHER6, PAIRS, PEER4, PEER6, POD4, POD6, World, address, pod};

#[test]
fn a_hook_without_an_endpoint_passes_everything() {
    let world = World::isolated();
    let frame = ip(POD4.into(), PEER4.into(), TCP, tcp(1, 2, SYN));
    let mut scratch = Scratch::EMPTY;
    let outcome = hook::from_pod(&world, HOOK + 1, &frame.as_bytes(), &mut scratch);
    assert_eq!(outcome.reason, Reason::NoEndpoint);
    assert!(outcome.endpoint.is_none());
}

/// A hook does not get this far; `explain` asks the decision itself.
#[test]
fn the_decision_on_a_pod_that_no_policy_isolates_looks_nothing_up() {
    // S1
    let world = World::open();
    for (_, peer) in PAIRS {
        let reason = decide(&world, &world.endpoint, &address(peer), TCP, 80);
        assert_eq!(reason, Reason::NotIsolated);
    }
}

#[test]
fn a_pod_that_no_policy_isolates_sends_anything() {
    // S1
    let world = World::open();
    for (pod, peer) in PAIRS {
        for protocol in 0..=255 {
            let frame = ip(pod, peer, protocol, vec![0; 24]);
            assert_eq!(
                world.send(&frame),
                Reason::NotIsolated,
                "protocol {protocol}"
            );
            for length in 0..frame.bytes.len() {
                assert_eq!(
                    world.send(&frame.clone().cut(length, false)),
                    Reason::NotIsolated
                );
            }
        }
        assert_eq!(
            world.send(&Frame::new(0x8100, vec![0; 40])),
            Reason::NotIsolated
        );
    }
}

#[test]
fn an_isolated_pod_without_rules_sends_nothing() {
    // S4
    for deny in [RULESET_DENY, 77] {
        let mut world = World::isolated().allow_all();
        world.flip(ENDPOINT_ISOLATED, deny);
        for (_, peer) in PAIRS {
            assert_eq!(world.send_to(peer, TCP, tcp(1, 2, SYN)), Reason::NoRule);
            assert_eq!(world.send_to(peer, UDP, udp(1, 2)), Reason::NoRule);
            assert_eq!(world.send_to(peer, SCTP, sctp(1, 2, 1)), Reason::NoRule);
        }
    }
}

#[test]
fn a_port_rule_allows_its_protocol_and_port_only() {
    // S47, S48
    for (_, peer) in PAIRS {
        for allowed in [TCP, UDP, SCTP] {
            let world = World::isolated().allow(peer, 32, allowed, 443);
            for protocol in [TCP, UDP, SCTP] {
                for port in [0, 442, 443, 444, 65535] {
                    let payload = match protocol {
                        TCP => tcp(5555, port, SYN),
                        UDP => udp(5555, port),
                        _ => sctp(5555, port, 1),
                    };
                    let wanted = if protocol == allowed && port == 443 {
                        Reason::Allowed
                    } else {
                        Reason::NoRule
                    };
                    assert_eq!(world.send_to(peer, protocol, payload), wanted);
                }
            }
        }
    }
}

#[test]
fn an_id_that_says_its_ports_itself_means_its_protocol_and_the_ports_that_begin_alike() {
    // S36, S47, S48: 443 alone, 440 to 447, and all ports.
    for (length, ports) in [(16, 443..=443), (13, 440..=447), (0, 0..=u16::MAX)] {
        for (_, peer) in PAIRS {
            for allowed in [TCP, UDP, SCTP] {
                let id = literal_ports(allowed, length, *ports.start());
                let world = World::isolated().allow_literal(peer, 32, id);
                for protocol in [TCP, UDP, SCTP] {
                    for port in [0, 1, 187, 439, 440, 442, 443, 444, 447, 448, 955, 65535] {
                        let payload = match protocol {
                            TCP => tcp(5555, port, SYN),
                            UDP => udp(5555, port),
                            _ => sctp(5555, port, 1),
                        };
                        let wanted = if protocol == allowed && ports.contains(&port) {
                            Reason::Allowed
                        } else {
                            Reason::NoRule
                        };
                        assert_eq!(
                            world.send_to(peer, protocol, payload),
                            wanted,
                            "{protocol} {port} of {allowed} {ports:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn all_ports_of_a_protocol_include_port_zero_and_are_not_everything() {
    // S15, S95
    for (_, peer) in PAIRS {
        let mut world = World::isolated();
        world.add(peer, 32, TCP, 0, u16::MAX);
        for port in [0, 1, 65535] {
            assert_eq!(world.send_to(peer, TCP, tcp(1, port, SYN)), Reason::Allowed);
        }
        assert_eq!(world.send_to(peer, UDP, udp(1, 53)), Reason::NoRule);
        let echo = if peer.is_ipv4() { 8 } else { 128 };
        assert_eq!(
            world.send_to(peer, icmp_of(peer), icmp(echo, 1, &[])),
            Reason::NoRule
        );
    }
}

#[test]
fn protocols_without_ports_need_a_rule_without_ports() {
    // S49, S95: of all 256 protocols.
    for (_, peer) in PAIRS {
        let everything = World::isolated().allow_all();
        let mut ports = World::isolated();
        for protocol in 0..=255 {
            ports.add(peer, 32, protocol, 0, u16::MAX);
        }
        for protocol in 0..=255 {
            // Eight bytes of zeros and what stands for a whole TCP header behind.
            let payload = vec![0; 24];
            let open = everything.send_to(peer, protocol, payload.clone());
            let closed = ports.send_to(peer, protocol, payload);
            // IPv6 extension headers, each naming hop-by-hop options as the next.
            if peer.is_ipv6() && matches!(protocol, 0 | 43 | 44 | 51 | 60) {
                assert_eq!(open, Reason::ExtensionHeaders, "protocol {protocol}");
                assert_eq!(closed, Reason::ExtensionHeaders);
                continue;
            }
            assert_eq!(open, Reason::Allowed, "protocol {protocol}");
            let wanted = if matches!(protocol, TCP | UDP | SCTP) {
                Reason::Allowed
            } else {
                Reason::NoRule
            };
            assert_eq!(closed, wanted, "protocol {protocol}");
        }
    }
}

#[test]
fn the_longest_prefix_decides() {
    // S30: an `except` is a hole in the trie.
    let world = World::isolated()
        .allow_everything(Ipv4Addr::new(10, 0, 0, 0).into(), 8)
        .except(Ipv4Addr::new(10, 1, 0, 0).into(), 16)
        .allow(Ipv4Addr::new(10, 1, 1, 1).into(), 32, TCP, 80);
    let try_ =
        |last: [u8; 4], port| world.send_to(Ipv4Addr::from(last).into(), TCP, tcp(1, port, SYN));
    assert_eq!(try_([10, 9, 9, 9], 22), Reason::Allowed);
    assert_eq!(try_([10, 1, 2, 3], 22), Reason::NoRule);
    assert_eq!(try_([10, 1, 1, 1], 80), Reason::Allowed);
    assert_eq!(try_([10, 1, 1, 1], 81), Reason::NoRule);
    assert_eq!(try_([11, 1, 1, 1], 80), Reason::NoRule);
}

#[test]
fn families_do_not_mix() {
    // S31, S94: an IPv4-mapped destination is an IPv6 packet.
    let mapped: IpAddr = PEER4.to_ipv6_mapped().into();
    let four = World::isolated().allow_everything(Ipv4Addr::UNSPECIFIED.into(), 0);
    assert_eq!(
        four.send_to(PEER4.into(), TCP, tcp(1, 2, SYN)),
        Reason::Allowed
    );
    assert_eq!(
        four.send_to(PEER6.into(), TCP, tcp(1, 2, SYN)),
        Reason::NoRule
    );
    assert_eq!(four.send_to(mapped, TCP, tcp(1, 2, SYN)), Reason::NoRule);
    let six = World::isolated().allow_everything(Ipv6Addr::UNSPECIFIED.into(), 0);
    assert_eq!(
        six.send_to(PEER4.into(), TCP, tcp(1, 2, SYN)),
        Reason::NoRule
    );
    assert_eq!(
        six.send_to(PEER6.into(), TCP, tcp(1, 2, SYN)),
        Reason::Allowed
    );
    assert_eq!(six.send_to(mapped, TCP, tcp(1, 2, SYN)), Reason::Allowed);
}

#[test]
fn classes_and_blocks_are_a_union() {
    // S10, S29
    for (_, peer) in PAIRS {
        let world = World::isolated()
            .peer(peer, 6, TCP, 8080)
            .allow(peer, 24, TCP, 443);
        assert_eq!(world.send_to(peer, TCP, tcp(1, 8080, SYN)), Reason::Allowed);
        assert_eq!(world.send_to(peer, TCP, tcp(1, 443, SYN)), Reason::Allowed);
        assert_eq!(world.send_to(peer, TCP, tcp(1, 80, SYN)), Reason::NoRule);
    }
}

#[test]
fn a_frontend_has_its_own_verdict_whatever_its_address_allows() {
    // S68, S84, S86
    let vip4 = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
    let vip6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 10));
    for vip in [vip4, vip6] {
        let world = World::isolated()
            .allow_all()
            .frontend(vip, TCP, 80, false)
            .frontend(vip, TCP, 443, true);
        assert_eq!(world.send_to(vip, TCP, tcp(1, 80, SYN)), Reason::Frontend);
        assert_eq!(world.send_to(vip, TCP, tcp(1, 443, SYN)), Reason::Allowed);
        // No Service declares these: the address counts.
        assert_eq!(world.send_to(vip, TCP, tcp(1, 81, SYN)), Reason::Allowed);
        assert_eq!(world.send_to(vip, UDP, udp(1, 80)), Reason::Allowed);

        let world = World::isolated().frontend(vip, UDP, 53, true);
        assert_eq!(world.send_to(vip, UDP, udp(1, 53)), Reason::Allowed);
        assert_eq!(world.send_to(vip, TCP, tcp(1, 53, SYN)), Reason::NoRule);
    }
}

#[test]
fn the_pods_own_addresses_are_always_allowed() {
    // S75
    let mut world = World::isolated();
    world.endpoint.ruleset = RULESET_DENY.into();
    for (pod, _) in PAIRS {
        let frame = ip(pod, pod, TCP, tcp(1, 2, SYN));
        assert_eq!(world.send(&frame), Reason::OwnAddress);
        let ping = ip(pod, pod, icmp_of(pod), icmp(8, 1, &[]));
        assert_eq!(world.send(&ping), Reason::OwnAddress);
    }
    // Every address of the endpoint, and none behind the count.
    world.endpoint.v4[3] = OTHER4.octets();
    world.endpoint.v6[3] = OTHER6.octets();
    for (length, wanted) in [(3, Reason::NoRule), (4, Reason::OwnAddress)] {
        world.endpoint.v4_len = length;
        world.endpoint.v6_len = length;
        for other in [IpAddr::V4(OTHER4), IpAddr::V6(OTHER6)] {
            assert_eq!(world.send_to(other, TCP, tcp(1, 2, SYN)), wanted);
        }
    }
    assert!(world.outbound.is_empty(), "nothing to remember");
}

#[test]
fn a_foreign_source_is_spoofed() {
    for (_, peer) in PAIRS {
        let foreign: IpAddr = if peer.is_ipv4() {
            OTHER4.into()
        } else {
            OTHER6.into()
        };
        let frame = ip(foreign, peer, TCP, tcp(1, 2, SYN));
        let mut world = World::isolated().allow_all();
        assert_eq!(world.send(&frame), Reason::Spoofed);
        // Switched off, the frame is judged by its destination, and no flow is kept of it.
        world.endpoint.flags = ENDPOINT_ISOLATED.into();
        assert_eq!(world.send(&frame), Reason::Allowed);
        assert!(world.outbound.is_empty());
    }
    // Link-local addresses cannot be known and count as the pod's own.
    let world = World::isolated().allow_all();
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, 4);
    let frame = ip(link_local.into(), PEER6.into(), TCP, tcp(1, 2, SYN));
    assert_eq!(world.send(&frame), Reason::Allowed);
    let site_local = Ipv6Addr::new(0xfec0, 0, 0, 0, 1, 2, 3, 4);
    let frame = ip(site_local.into(), PEER6.into(), TCP, tcp(1, 2, SYN));
    assert_eq!(world.send(&frame), Reason::Spoofed);
}

#[test]
fn only_ip_and_arp_leave_an_isolated_pod() {
    let world = World::isolated().allow_all();
    let packet = ip(POD4.into(), PEER4.into(), TCP, tcp(1, 2, SYN)).bytes;
    for ethertype in 0..=u16::MAX {
        let wanted = match ethertype {
            0x0800 => Reason::Allowed,
            0x0806 => Reason::Neighbour,
            // The bytes are IPv4.
            0x86dd => Reason::Malformed,
            // A stacked VLAN tag, PPPoE, MPLS, LLC …: none may carry IP past the policy.
            _ => Reason::NotIp,
        };
        assert_eq!(world.send(&Frame::new(ethertype, packet.clone())), wanted);
    }
}

#[test]
fn icmp_of_the_other_family_is_just_another_protocol() {
    let world = World::isolated().allow_all();
    // No echo is tracked of these.
    assert_eq!(
        world.send_to(PEER4.into(), ICMPV6, icmp(128, 1, &[])),
        Reason::Allowed
    );
    assert_eq!(
        world.send_to(PEER6.into(), ICMP, icmp(8, 1, &[])),
        Reason::Allowed
    );
    assert!(world.outbound.is_empty());
}

#[test]
fn broadcast_and_multicast_are_ordinary_destinations() {
    // S78: nothing but the neighbour protocols is exempt.
    let world = World::isolated();
    for destination in [
        IpAddr::V4(Ipv4Addr::BROADCAST),
        IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251)),
        IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
        IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb)),
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    ] {
        assert_eq!(
            world.send_to(destination, UDP, udp(1, 5353)),
            Reason::NoRule
        );
        assert_eq!(
            world.send_to(destination, TCP, tcp(1, 80, ACK)),
            Reason::NoRule
        );
    }
    assert_eq!(pod(PEER4.into()), IpAddr::V4(POD4));
    assert_eq!(pod(PEER6.into()), IpAddr::V6(POD6));
}
