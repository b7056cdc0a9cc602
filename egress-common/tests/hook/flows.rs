//! Connections: what is remembered, for how long, and what it is good for.

use std::net::{IpAddr, Ipv6Addr};

use egress_common::abi::{Address, ENDPOINT_SPOOF_CHECK, FAMILY_V4, FLOW_CLOSING, FlowKey};
use egress_common::event::Reason;
use egress_common::flows::Place;
use egress_common::hook::{IDLE_CLOSING, IDLE_CONNECTION, IDLE_ECHO, IDLE_UDP};
use egress_common::tables::State as _;

use crate::frames::{ACK, FIN, RST, SCTP, SYN, TCP, UDP, icmp, icmp_of, ip, sctp, tcp, udp};
use crate::world::{OTHER4, OTHER6, PAIRS, PEER6, POD6, World, address};

const INIT: u8 = 1;
const DATA: u8 = 0;

fn echo(peer: IpAddr) -> u8 {
    if peer.is_ipv4() { 8 } else { 128 }
}

fn echo_reply(peer: IpAddr) -> u8 {
    if peer.is_ipv4() { 0 } else { 129 }
}

#[test]
fn replies_pass_although_no_rule_names_the_client() {
    // S52
    for (_, peer) in PAIRS {
        let world = World::isolated();
        world.deliver_from(peer, TCP, tcp(5000, 80, SYN));
        assert_eq!(
            world.send_to(peer, TCP, tcp(80, 5000, SYN | ACK)),
            Reason::Reply
        );
        assert_eq!(world.send_to(peer, TCP, tcp(80, 5000, ACK)), Reason::Reply);
        world.deliver_from(peer, UDP, udp(5000, 53));
        assert_eq!(world.send_to(peer, UDP, udp(53, 5000)), Reason::Reply);
        world.deliver_from(peer, SCTP, sctp(5000, 132, INIT));
        assert_eq!(
            world.send_to(peer, SCTP, sctp(132, 5000, DATA)),
            Reason::Reply
        );
        world.deliver_from(peer, icmp_of(peer), icmp(echo(peer), 77, b"ping"));
        let reply = icmp(echo_reply(peer), 77, b"ping");
        assert_eq!(world.send_to(peer, icmp_of(peer), reply), Reason::Reply);
    }
}

#[test]
fn a_reply_fits_its_flow_in_every_part() {
    // S53
    for (_, peer) in PAIRS {
        let other: IpAddr = if peer.is_ipv4() {
            OTHER4.into()
        } else {
            OTHER6.into()
        };
        let world = World::isolated();
        world.deliver_from(peer, TCP, tcp(5000, 80, SYN));
        world.deliver_from(peer, icmp_of(peer), icmp(echo(peer), 77, b"ping"));
        for (to, protocol, payload) in [
            (other, TCP, tcp(80, 5000, ACK)),
            (peer, TCP, tcp(80, 5001, ACK)),
            (peer, TCP, tcp(81, 5000, ACK)),
            (peer, TCP, tcp(5000, 80, ACK)),
            (peer, UDP, udp(80, 5000)),
            (peer, SCTP, sctp(80, 5000, DATA)),
            (peer, icmp_of(peer), icmp(echo_reply(peer), 78, b"ping")),
            (other, icmp_of(peer), icmp(echo_reply(peer), 77, b"ping")),
            // A request is no reply.
            (peer, icmp_of(peer), icmp(echo(peer), 77, b"ping")),
        ] {
            assert_eq!(world.send_to(to, protocol, payload), Reason::NoRule);
        }
    }
}

#[test]
fn nothing_looks_like_a_reply_without_a_flow() {
    // S53
    for (_, peer) in PAIRS {
        let world = World::isolated();
        for flags in [ACK, SYN | ACK, RST, FIN | ACK, 0, 0xff] {
            assert_eq!(
                world.send_to(peer, TCP, tcp(80, 5000, flags)),
                Reason::NoRule
            );
        }
        assert_eq!(world.send_to(peer, UDP, udp(53, 5000)), Reason::NoRule);
        assert_eq!(
            world.send_to(peer, SCTP, sctp(80, 5000, DATA)),
            Reason::NoRule
        );
        let reply = icmp(echo_reply(peer), 1, &[]);
        assert_eq!(world.send_to(peer, icmp_of(peer), reply), Reason::NoRule);
    }
}

#[test]
fn a_segment_that_opens_is_never_a_reply() {
    for (_, peer) in PAIRS {
        let world = World::isolated();
        world.deliver_from(peer, TCP, tcp(5000, 80, SYN));
        assert_eq!(world.send_to(peer, TCP, tcp(80, 5000, SYN)), Reason::NoRule);
        world.deliver_from(peer, SCTP, sctp(5000, 80, INIT));
        assert_eq!(
            world.send_to(peer, SCTP, sctp(80, 5000, INIT)),
            Reason::NoRule
        );
    }
}

#[test]
fn only_a_packet_that_opens_makes_an_inbound_flow() {
    for (_, peer) in PAIRS {
        let world = World::isolated().watched();
        for flags in [ACK, SYN | ACK, RST, FIN, 0] {
            world.deliver_from(peer, TCP, tcp(5000, 80, flags));
        }
        world.deliver_from(peer, SCTP, sctp(5000, 80, DATA));
        world.deliver_from(peer, icmp_of(peer), icmp(echo_reply(peer), 1, &[]));
        assert!(world.inbound.is_empty());
        assert_eq!(world.writes.get(), 0);
    }
}

#[test]
fn inbound_flows_are_noted_before_a_policy_comes() {
    // S52: isolating a pod must not cut what others opened.
    for (_, peer) in PAIRS {
        let mut world = World::open();
        world.deliver_from(peer, TCP, tcp(5000, 80, SYN));
        assert_eq!(
            world.send_to(peer, TCP, tcp(80, 5000, SYN | ACK)),
            Reason::NotIsolated
        );
        world.deliver_from(peer, UDP, udp(5000, 53));
        assert_eq!(world.send_to(peer, UDP, udp(53, 5000)), Reason::NotIsolated);
        world.isolate();
        assert_eq!(world.send_to(peer, TCP, tcp(80, 5000, ACK)), Reason::Reply);
        assert_eq!(world.send_to(peer, UDP, udp(53, 5000)), Reason::Reply);
        assert!(
            world.outbound.is_empty(),
            "an answer is no flow of the pod's"
        );
    }
}

#[test]
fn frames_for_somebody_else_open_nothing() {
    let world = World::isolated();
    for (_, peer) in PAIRS {
        let other: IpAddr = if peer.is_ipv4() {
            OTHER4.into()
        } else {
            OTHER6.into()
        };
        world.deliver(&ip(peer, other, TCP, tcp(5000, 80, SYN)));
        world.deliver(&ip(peer, other, UDP, udp(5000, 80)));
    }
    assert!(world.inbound.is_empty());
}

#[test]
fn link_local_flows_are_tracked() {
    let near: IpAddr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 5).into();
    let far: IpAddr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into();
    let world = World::isolated();
    world.deliver(&ip(far, near, TCP, tcp(5000, 80, SYN)));
    assert_eq!(
        world.send(&ip(near, far, TCP, tcp(80, 5000, ACK))),
        Reason::Reply
    );
    assert_eq!(
        world.send(&ip(POD6.into(), far, TCP, tcp(80, 5000, ACK))),
        Reason::NoRule
    );
}

#[test]
fn answers_to_the_pods_datagrams_are_not_inbound_flows() {
    // S54: else a policy would not cut what the pod opened before it came.
    for (_, peer) in PAIRS {
        let mut world = World::open();
        assert_eq!(
            world.send_to(peer, UDP, udp(4000, 9999)),
            Reason::NotIsolated
        );
        world.deliver_from(peer, UDP, udp(9999, 4000));
        assert!(world.inbound.is_empty());
        world.isolate();
        assert_eq!(world.send_to(peer, UDP, udp(4000, 9999)), Reason::NoRule);

        // The other side goes on sending; it is still the pod's flow, and still cut.
        for _ in 0..5 {
            world.later(IDLE_UDP - 1);
            world.deliver_from(peer, UDP, udp(9999, 4000));
            assert_eq!(world.send_to(peer, UDP, udp(4000, 9999)), Reason::NoRule);
        }
        assert!(world.inbound.is_empty());

        // After silence, who speaks first has opened it.
        world.later(IDLE_UDP + 1);
        world.deliver_from(peer, UDP, udp(9999, 4000));
        assert_eq!(world.send_to(peer, UDP, udp(4000, 9999)), Reason::Reply);
    }
}

#[test]
fn an_open_pods_datagrams_are_noted_behind_extension_headers_too() {
    let frame = crate::frames::v6(
        POD6,
        PEER6,
        crate::frames::DESTINATION_OPTIONS,
        [crate::frames::extension(UDP, 1), udp(4000, 9999)].concat(),
    )
    .build();
    let world = World::open();
    assert_eq!(world.send(&frame), Reason::NotIsolated);
    assert_eq!(world.outbound.len(), 1);
    // Nothing else of an open pod is.
    for (_, peer) in PAIRS {
        let world = World::open().watched();
        world.send_to(peer, TCP, tcp(1, 2, SYN));
        world.send_to(peer, SCTP, sctp(1, 2, INIT));
        world.send_to(peer, icmp_of(peer), icmp(echo(peer), 1, &[]));
        assert_eq!(world.writes.get(), 0);
    }
}

#[test]
fn an_allowed_flow_is_not_judged_again() {
    for (_, peer) in PAIRS {
        let mut world = World::isolated()
            .allow(peer, 32, TCP, 443)
            .allow(peer, 32, UDP, 53)
            .allow(peer, 32, SCTP, 132);
        assert_eq!(world.send_to(peer, TCP, tcp(1, 443, SYN)), Reason::Allowed);
        assert_eq!(world.send_to(peer, UDP, udp(1, 53)), Reason::Allowed);
        assert_eq!(
            world.send_to(peer, SCTP, sctp(1, 132, INIT)),
            Reason::Allowed
        );
        // Not how rules change; it shows that the tables are not asked.
        world.forget_rules();
        assert_eq!(
            world.send_to(peer, TCP, tcp(1, 443, ACK)),
            Reason::Established
        );
        assert_eq!(world.send_to(peer, UDP, udp(1, 53)), Reason::Established);
        assert_eq!(
            world.send_to(peer, SCTP, sctp(1, 132, DATA)),
            Reason::Established
        );
        assert_eq!(world.send_to(peer, TCP, tcp(2, 443, ACK)), Reason::NoRule);
    }
}

#[test]
fn a_change_of_policy_judges_established_flows_again() {
    // S18, S54
    for (_, peer) in PAIRS {
        for by_epoch in [false, true] {
            let mut world = World::isolated().allow(peer, 32, TCP, 443);
            assert_eq!(world.send_to(peer, TCP, tcp(1, 443, SYN)), Reason::Allowed);
            let change = |world: &mut World| {
                if by_epoch {
                    world.next_epoch();
                } else {
                    world.isolate();
                }
            };
            change(&mut world);
            assert_eq!(world.send_to(peer, TCP, tcp(1, 443, ACK)), Reason::Allowed);
            assert_eq!(
                world.send_to(peer, TCP, tcp(1, 443, ACK)),
                Reason::Established
            );
            world.forget_rules();
            change(&mut world);
            assert_eq!(world.send_to(peer, TCP, tcp(1, 443, ACK)), Reason::NoRule);
            // The answers to the cut connection do not open it the other way round.
            world.deliver_from(peer, TCP, tcp(443, 1, ACK));
            world.deliver_from(peer, TCP, tcp(443, 1, SYN | ACK));
            assert_eq!(world.send_to(peer, TCP, tcp(1, 443, ACK)), Reason::NoRule);
        }
    }
}

#[test]
fn inbound_flows_outlive_a_change_of_policy() {
    for (_, peer) in PAIRS {
        let mut world = World::isolated();
        world.deliver_from(peer, TCP, tcp(5000, 80, SYN));
        world.isolate();
        world.next_epoch();
        assert_eq!(world.send_to(peer, TCP, tcp(80, 5000, ACK)), Reason::Reply);
        world.flip(ENDPOINT_SPOOF_CHECK, 0);
        world.isolate();
        assert_eq!(world.send_to(peer, TCP, tcp(80, 5000, ACK)), Reason::Reply);
    }
}

#[test]
fn idle_inbound_flows_end() {
    for (_, peer) in PAIRS {
        let icmp_number = icmp_of(peer);
        for (limit, protocol, open, answer) in [
            (IDLE_CONNECTION, TCP, tcp(5, 80, SYN), tcp(80, 5, ACK)),
            (IDLE_CONNECTION, SCTP, sctp(5, 80, INIT), sctp(80, 5, DATA)),
            (IDLE_UDP, UDP, udp(5, 80), udp(80, 5)),
            (
                IDLE_ECHO,
                icmp_number,
                icmp(echo(peer), 5, &[]),
                icmp(echo_reply(peer), 5, &[]),
            ),
        ] {
            let world = World::isolated();
            world.deliver_from(peer, protocol, open.clone());
            world.later(limit);
            assert_eq!(world.send_to(peer, protocol, answer.clone()), Reason::Reply);
            let world = World::isolated();
            world.deliver_from(peer, protocol, open);
            world.later(limit + 1);
            assert_eq!(world.send_to(peer, protocol, answer), Reason::NoRule);
        }
    }
}

#[test]
fn idle_outbound_verdicts_end() {
    for (_, peer) in PAIRS {
        for (limit, protocol, payload) in [
            (IDLE_CONNECTION, TCP, tcp(5, 80, ACK)),
            (IDLE_CONNECTION, SCTP, sctp(5, 80, DATA)),
            (IDLE_UDP, UDP, udp(5, 80)),
            (IDLE_ECHO, icmp_of(peer), icmp(echo(peer), 5, &[])),
        ] {
            let world = World::isolated().allow_all();
            assert_eq!(
                world.send_to(peer, protocol, payload.clone()),
                Reason::Allowed
            );
            world.later(limit);
            assert_eq!(
                world.send_to(peer, protocol, payload.clone()),
                Reason::Established
            );
            world.later(limit + 1);
            assert_eq!(world.send_to(peer, protocol, payload), Reason::Allowed);
        }
    }
}

#[test]
fn traffic_in_either_direction_keeps_an_inbound_flow() {
    for (_, peer) in PAIRS {
        for (limit, protocol, open, more, answer) in [
            (
                IDLE_CONNECTION,
                TCP,
                tcp(5, 80, SYN),
                tcp(5, 80, ACK),
                tcp(80, 5, ACK),
            ),
            (IDLE_UDP, UDP, udp(5, 80), udp(5, 80), udp(80, 5)),
            (
                IDLE_CONNECTION,
                SCTP,
                sctp(5, 80, INIT),
                sctp(5, 80, DATA),
                sctp(80, 5, DATA),
            ),
        ] {
            let world = World::isolated();
            world.deliver_from(peer, protocol, open);
            for _ in 0..4 {
                world.later(limit);
                world.deliver_from(peer, protocol, more.clone());
                world.later(limit);
                assert_eq!(world.send_to(peer, protocol, answer.clone()), Reason::Reply);
            }
        }
        // Not an echo: its replies do not keep it open.
        let world = World::isolated();
        world.deliver_from(peer, icmp_of(peer), icmp(echo(peer), 5, &[]));
        let reply = icmp(echo_reply(peer), 5, &[]);
        world.later(IDLE_ECHO);
        assert_eq!(
            world.send_to(peer, icmp_of(peer), reply.clone()),
            Reason::Reply
        );
        world.later(1);
        assert_eq!(world.send_to(peer, icmp_of(peer), reply), Reason::NoRule);
    }
}

#[test]
fn a_connection_that_closes_ends_soon() {
    for (_, peer) in PAIRS {
        for (from_peer, flags) in [
            (true, FIN | ACK),
            (true, RST),
            (false, FIN | ACK),
            (false, RST),
        ] {
            let world = World::isolated();
            world.deliver_from(peer, TCP, tcp(5, 80, SYN));
            if from_peer {
                world.deliver_from(peer, TCP, tcp(5, 80, flags));
            } else {
                assert_eq!(world.send_to(peer, TCP, tcp(80, 5, flags)), Reason::Reply);
            }
            world.later(IDLE_CLOSING);
            // Still half open, and alive while something is sent.
            assert_eq!(world.send_to(peer, TCP, tcp(80, 5, ACK)), Reason::Reply);
            world.later(IDLE_CLOSING + 1);
            assert_eq!(world.send_to(peer, TCP, tcp(80, 5, ACK)), Reason::NoRule);
        }
        // The port is used again.
        let world = World::isolated();
        world.deliver_from(peer, TCP, tcp(5, 80, SYN));
        world.deliver_from(peer, TCP, tcp(5, 80, RST));
        world.deliver_from(peer, TCP, tcp(5, 80, SYN));
        world.later(IDLE_CLOSING + 1);
        assert_eq!(world.send_to(peer, TCP, tcp(80, 5, ACK)), Reason::Reply);
    }
}

#[test]
fn a_port_that_the_pod_uses_again_gets_a_new_verdict() {
    for (_, peer) in PAIRS {
        let world = World::isolated().allow_all();
        assert_eq!(world.send_to(peer, TCP, tcp(5, 80, SYN)), Reason::Allowed);
        assert_eq!(
            world.send_to(peer, TCP, tcp(5, 80, FIN | ACK)),
            Reason::Established
        );
        let closing = |world: &World| {
            let Address { family, bytes, .. } = address(peer);
            let local = if family == FAMILY_V4 { 0 } else { 4 };
            let key = FlowKey::new(3.into(), (local, TCP), (5, 80), &bytes);
            let place = Place::of(key, &world.config().seed);
            let set = world.outbound.set(&place).unwrap();
            set.find(&place).unwrap().flow.flags.get()
        };
        assert_eq!(closing(&world), FLOW_CLOSING);
        assert_eq!(
            world.send_to(peer, TCP, tcp(5, 80, ACK)),
            Reason::Established
        );
        assert_eq!(world.send_to(peer, TCP, tcp(5, 80, SYN)), Reason::Allowed);
        assert_eq!(closing(&world), 0);
    }
}

#[test]
fn a_flow_is_written_once_a_second_at_most() {
    for (_, peer) in PAIRS {
        let world = World::isolated().allow_all().watched();
        let once = |wanted: u32, act: &dyn Fn()| {
            for _ in 0..5 {
                act();
            }
            assert_eq!(world.writes.replace(0), wanted);
        };
        for _ in 0..2 {
            let sent = |protocol, payload: &[u8]| {
                let reason = world.send_to(peer, protocol, payload.to_vec());
                assert_ne!(reason, Reason::NoRule);
            };
            once(1, &|| sent(TCP, &tcp(5, 80, ACK)));
            once(1, &|| sent(UDP, &udp(5, 80)));
            once(1, &|| world.deliver_from(peer, TCP, tcp(6, 80, SYN)));
            once(0, &|| world.deliver_from(peer, TCP, tcp(6, 80, ACK)));
            once(0, &|| sent(TCP, &tcp(80, 6, ACK)));
            once(1, &|| world.deliver_from(peer, UDP, udp(6, 80)));
            once(0, &|| sent(UDP, &udp(80, 6)));
            let ping = icmp(echo(peer), 6, &[]);
            once(1, &|| {
                world.deliver_from(peer, icmp_of(peer), ping.clone());
            });
            world.later(1);
        }
        let world = World::open().watched();
        for _ in 0..5 {
            world.send_to(peer, UDP, udp(5, 80));
            world.deliver_from(peer, UDP, udp(80, 5));
        }
        assert_eq!(world.writes.get(), 1);
    }
}

#[test]
fn a_clock_behind_the_entry_is_no_time_at_all() {
    for (_, peer) in PAIRS {
        let world = World::isolated();
        world.deliver_from(peer, UDP, udp(5, 80));
        world.earlier(1);
        assert_eq!(world.send_to(peer, UDP, udp(80, 5)), Reason::Reply);
    }
}

#[test]
fn other_protocols_are_judged_packet_by_packet() {
    for (_, peer) in PAIRS {
        let world = World::isolated();
        world.deliver_from(peer, 47, vec![0; 24]);
        assert_eq!(world.send_to(peer, 47, vec![0; 24]), Reason::NoRule);
        let world = World::isolated().allow_all().watched();
        assert_eq!(world.send_to(peer, 47, vec![0; 24]), Reason::Allowed);
        assert_eq!(world.writes.get(), 0);
    }
}
