//! Replies under default deny, and what only looks like one (S49, S52, S53).

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use egress_tests::harness::objects::{deny_all, egress};
use egress_tests::harness::{
    OUTSIDE, Outcome, Pod, PodSpec, Probe, TcpExchange, UdpExchange, Wire, World, fence_rule,
    ip_batch, on_world,
};
use egress_tests::packet::{self, Ends, ethertype, flag, proto};
use serde_json::json;

const PORT: u16 = 8080;

/// A pod `x/a` that serves [`PORT`], a running agent, nothing isolated yet.
fn server(world: &mut World) -> Result<Pod> {
    world.namespace("x", &[])?;
    let mut pod = world.pod(PodSpec::new("x", "a"))?;
    pod.serve(&[PORT])?;
    world.outside.serve(&[PORT])?;
    world.start_agent()?;
    Ok(pod)
}

fn both(pod: &Pod) -> [IpAddr; 2] {
    [pod.v4.into(), pod.v6.into()]
}

/// Isolates `x` but for the datagram that ends a wait for frames.
fn isolate(world: &mut World) -> Result<()> {
    world.apply("deny.json", &egress("x", "deny", &json!([fence_rule()])))
}

/// The two directions' ends, pod to outside.
fn ends(pod: &Pod) -> [Ends; 2] {
    let (v4, v6) = OUTSIDE[0];
    [Ends::V4(pod.v4, v4), Ends::V6(pod.v6, v6)]
}

fn outside_of(ends: Ends) -> IpAddr {
    match ends {
        Ends::V4(_, to) => to.into(),
        Ends::V6(_, to) => to.into(),
    }
}

fn pod_of(ends: Ends) -> IpAddr {
    match ends {
        Ends::V4(from, _) => from.into(),
        Ends::V6(from, _) => from.into(),
    }
}

fn icmp_protocol(ends: Ends) -> u8 {
    match ends {
        Ends::V4(..) => proto::ICMP,
        Ends::V6(..) => proto::ICMPV6,
    }
}

fn sent(wire: &mut Wire, ends: Ends, protocol: u8, payload: Vec<u8>, token: &[u8]) -> Result<bool> {
    wire.packets_get_through(ends.ethertype(), &[ends.packet(protocol, payload)], token)
}

/// An exchange with the pod's server whose own port is known; answered at least once.
fn asked_by(world: &World, pod: &Pod, ends: Ends) -> Result<(UdpExchange, u16)> {
    let mut exchange = UdpExchange::open(&world.outside.ns, SocketAddr::new(pod_of(ends), PORT))?;
    ensure!(
        exchange.alive()?,
        "the pod at {} does not answer",
        pod.reference()
    );
    let port = exchange.local()?.port();
    Ok((exchange, port))
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn an_isolated_pod_answers_whoever_asks() {
    on_world(|world| {
        let a = server(world)?;
        world.namespace("y", &[])?;
        let b = world.pod(PodSpec::new("y", "b"))?;
        world.settle()?;
        let asked = |world: &World| -> Result<()> {
            for address in both(&a) {
                for probe in [
                    Probe::tcp(address, PORT),
                    Probe::udp(address, PORT),
                    Probe::ping(address),
                ] {
                    for ns in [&b.ns, &world.outside.ns, &world.host] {
                        let outcome = probe.send(ns, true)?;
                        ensure!(
                            outcome == Outcome::Answered,
                            "{} to {probe}: {outcome:?}",
                            ns.name()
                        );
                    }
                }
            }
            Ok(())
        };
        asked(world)?;
        world.apply("deny.json", &deny_all("x"))?;
        asked(world)?;
        // And opens nothing of its own, towards the very hosts it answers.
        let out = OUTSIDE[0].0;
        world.expect(&[
            (&a, Probe::tcp(out, PORT), false),
            (&a, Probe::udp(out, PORT), false),
            (&a, Probe::ping(out), false),
            (&a, Probe::ping(b.v6), false),
        ])
    });
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn isolating_a_pod_does_not_cut_what_others_opened_to_it() {
    on_world(|world| {
        let a = server(world)?;
        let mut open = Vec::new();
        for address in both(&a) {
            let to = SocketAddr::new(address, PORT);
            open.push((
                TcpExchange::open(&world.outside.ns, to)?,
                UdpExchange::open(&world.outside.ns, to)?,
            ));
        }
        for (tcp, udp) in &mut open {
            ensure!(tcp.alive()? && udp.alive()?, "before the policy");
        }
        world.apply("deny.json", &deny_all("x"))?;
        for (tcp, udp) in &mut open {
            ensure!(tcp.alive()?, "TCP after the policy");
            ensure!(udp.alive()?, "UDP after the policy");
        }
        world.agent.kill()?;
        for (tcp, udp) in &mut open {
            ensure!(tcp.alive()? && udp.alive()?, "after the agent was killed");
        }
        world.start_agent()?;
        for (tcp, udp) in &mut open {
            ensure!(tcp.alive()? && udp.alive()?, "after the agent came back");
        }
        Ok(())
    });
}

/// S53: TCP segments that are no answer to anything.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn tcp_segments_without_a_connection_do_not_pass() {
    on_world(|world| {
        let a = server(world)?;
        let mut wire = world.wire(&a)?;
        let mut try_all = |expected: bool| -> Result<()> {
            for ends in ends(&a) {
                for flags in [
                    flag::ACK,
                    flag::SYN | flag::ACK,
                    flag::RST,
                    flag::FIN | flag::ACK,
                    flag::RST | flag::ACK,
                    0,
                ] {
                    let token = packet::token();
                    let segment = packet::tcp(ends, PORT, 40_000, flags, &token);
                    let through = sent(&mut wire, ends, proto::TCP, segment, &token)?;
                    ensure!(
                        through == expected,
                        "flags {flags:#x} of {ends:?}: through is {through}"
                    );
                }
            }
            Ok(())
        };
        try_all(true)?;
        isolate(world)?;
        try_all(false)
    });
}

/// S53: datagrams from a well-known port are not answers by that alone.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_datagram_from_port_53_is_no_reply() {
    on_world(|world| {
        let a = server(world)?;
        let mut wire = world.wire(&a)?;
        let mut from_53 = |ends: Ends| {
            let token = packet::token();
            sent(
                &mut wire,
                ends,
                proto::UDP,
                packet::udp(ends, 53, 40_000, &token),
                &token,
            )
        };
        for ends in ends(&a) {
            ensure!(from_53(ends)?, "control {ends:?}");
        }
        isolate(world)?;
        for ends in ends(&a) {
            ensure!(!from_53(ends)?, "{ends:?}");
        }
        Ok(())
    });
}

/// S52, S53: a reply goes to exactly who asked, from exactly what was asked.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_reply_has_all_five_parts_of_the_question() {
    on_world(|world| {
        let a = server(world)?;
        isolate(world)?;
        let mut wire = world.wire(&a)?;
        for ends in ends(&a) {
            let (_exchange, asker) = asked_by(world, &a, ends)?;
            let mut udp = |ends: Ends, from: u16, to: u16| {
                let token = packet::token();
                sent(
                    &mut wire,
                    ends,
                    proto::UDP,
                    packet::udp(ends, from, to, &token),
                    &token,
                )
            };
            ensure!(udp(ends, PORT, asker)?, "the reply itself {ends:?}");
            ensure!(!udp(ends, PORT, asker ^ 1)?, "to another port {ends:?}");
            ensure!(!udp(ends, PORT ^ 1, asker)?, "from another port {ends:?}");
            let elsewhere = match ends {
                Ends::V4(from, _) => Ends::V4(from, OUTSIDE[1].0),
                Ends::V6(from, _) => Ends::V6(from, OUTSIDE[1].1),
            };
            ensure!(!udp(elsewhere, PORT, asker)?, "to another host {ends:?}");
            let token = packet::token();
            let segment = packet::tcp(ends, PORT, asker, flag::ACK, &token);
            ensure!(
                !sent(&mut wire, ends, proto::TCP, segment, &token)?,
                "another protocol {ends:?}"
            );
        }
        Ok(())
    });
}

/// A connection opened towards the pod lets it send segments, never open one itself.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_syn_over_a_tracked_connection_is_no_reply() {
    on_world(|world| {
        let a = server(world)?;
        isolate(world)?;
        let mut wire = world.wire(&a)?;
        for ends in ends(&a) {
            let mut connection =
                TcpExchange::open(&world.outside.ns, SocketAddr::new(pod_of(ends), PORT))?;
            ensure!(connection.alive()?);
            let port = connection.local()?.port();
            let mut segment = |flags: u8| {
                let token = packet::token();
                let segment = packet::tcp(ends, PORT, port, flags, &token);
                sent(&mut wire, ends, proto::TCP, segment, &token)
            };
            ensure!(segment(flag::ACK)?, "an acknowledgement {ends:?}");
            ensure!(!segment(flag::SYN)?, "an opening segment {ends:?}");
        }
        Ok(())
    });
}

/// S49, S53: errors about a packet that was received pass, others do not.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn icmp_errors_pass_only_about_what_was_received() {
    on_world(|world| {
        let a = server(world)?;
        isolate(world)?;
        let mut wire = world.wire(&a)?;
        for ends in ends(&a) {
            let v6 = matches!(ends, Ends::V6(..));
            let (_exchange, asker) = asked_by(world, &a, ends)?;
            let back = ends.reversed();
            let mut error = |quoted: Vec<u8>, too_big: bool| {
                let token = packet::token();
                let quoted = [quoted, token.to_vec()].concat();
                let message = if too_big {
                    packet::icmp_too_big(v6, 1280, &quoted)
                } else {
                    packet::icmp_port_unreachable(v6, &quoted)
                };
                let message = if v6 {
                    packet::icmpv6_in(ends, message)
                } else {
                    message
                };
                sent(&mut wire, ends, icmp_protocol(ends), message, &token)
            };
            let quote =
                |from: u16, to: u16| back.packet(proto::UDP, packet::udp(back, from, to, b""));
            ensure!(
                error(quote(asker, PORT), false)?,
                "about the exchange {ends:?}"
            );
            ensure!(
                error(quote(asker, PORT), true)?,
                "too big, about the exchange {ends:?}"
            );
            ensure!(
                !error(quote(asker, PORT ^ 1), false)?,
                "about another port {ends:?}"
            );
            ensure!(
                !error(quote(asker ^ 1, PORT), false)?,
                "about another asker {ends:?}"
            );
            let own = ends.packet(proto::UDP, packet::udp(ends, PORT, asker, b""));
            ensure!(
                !error(own, false)?,
                "about what the pod sent itself {ends:?}"
            );
            ensure!(!error(Vec::new(), false)?, "about nothing {ends:?}");
        }
        Ok(())
    });
}

/// S49: the pod's kernel says "port unreachable" for a datagram nobody listens for.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_closed_port_of_an_isolated_pod_answers_so() {
    on_world(|world| {
        let a = server(world)?;
        let refused = |world: &World| -> Result<()> {
            for address in both(&a) {
                for probe in [Probe::udp(address, 9999), Probe::tcp(address, 9999)] {
                    let outcome = probe.send(&world.outside.ns, true)?;
                    ensure!(
                        matches!(&outcome, Outcome::Failed(why) if why.contains("refused")),
                        "{probe}: {outcome:?}"
                    );
                }
            }
            Ok(())
        };
        refused(world)?;
        world.apply("deny.json", &deny_all("x"))?;
        refused(world)
    });
}

/// S53, S97: an echo reply passes to who sent the request, not unasked.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn an_unasked_echo_reply_does_not_pass() {
    on_world(|world| {
        let a = server(world)?;
        let mut wire = world.wire(&a)?;
        let mut unasked = |ends: Ends| {
            let v6 = matches!(ends, Ends::V6(..));
            let token = packet::token();
            let message = packet::icmp_echo_reply(v6, 0x7777, 1, &token);
            let message = if v6 {
                packet::icmpv6_in(ends, message)
            } else {
                message
            };
            sent(&mut wire, ends, icmp_protocol(ends), message, &token)
        };
        for ends in ends(&a) {
            ensure!(unasked(ends)?, "control {ends:?}");
        }
        isolate(world)?;
        for ends in ends(&a) {
            ensure!(!unasked(ends)?, "{ends:?}");
            let outcome = Probe::ping(pod_of(ends)).send(&world.outside.ns, true)?;
            ensure!(
                outcome == Outcome::Answered,
                "asked from {}: {outcome:?}",
                outside_of(ends)
            );
        }
        Ok(())
    });
}

/// One pod's flood of inbound flows must not push out another's: its replies would be cut.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_flood_towards_one_pod_leaves_anothers_replies_alone() {
    on_world(|world| {
        let a = server(world)?;
        let flooded = world.pod(PodSpec::new("x", "flooded"))?;
        world.settle()?;
        isolate(world)?;
        let mut exchange =
            UdpExchange::open(&world.outside.ns, SocketAddr::new(a.v4.into(), PORT))?;
        ensure!(exchange.alive()?);
        let inbound = world.inbound()?;
        let (v4, _) = OUTSIDE[1];
        for source in 0..100_000_u32 {
            let [_, high, middle, low] = source.to_be_bytes();
            let ends = Ends::V4(v4, flooded.v4);
            let from = u16::from_be_bytes([high.wrapping_add(10), low]);
            let to = u16::from_be_bytes([200, middle]);
            let datagram = packet::udp(ends, from, to, b"");
            inbound.send(ethertype::IPV4, &ends.packet(proto::UDP, datagram))?;
        }
        ensure!(exchange.alive()?, "the exchange with the other pod was cut");
        Ok(())
    });
}

/// S49, S74: a node that talks to its pods from a global address on the veth, as the ptp CNI
/// plugin sets it up, asks for the pod's link address from there and must be told.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_gateway_with_a_global_address_finds_an_isolated_pod() {
    on_world(|world| {
        let a = server(world)?;
        let gateway = "fd00:244::ffff";
        ip_batch(
            world.host.name(),
            &format!(
                "addr add {gateway}/128 dev {interface} nodad\n\
                 route replace {v6}/128 dev {interface} src {gateway}\n",
                interface = a.host_interface,
                v6 = a.v6,
            ),
        )?;
        ip_batch(
            a.ns.name(),
            &format!(
                "route add {gateway}/128 dev eth0\n\
                 route replace default via {gateway} dev eth0\n"
            ),
        )?;
        let asked = |world: &World| -> Result<()> {
            // What both sides have learnt is forgotten: they must ask again.
            for ns in [&world.host, &a.ns] {
                ip_batch(ns.name(), "neigh flush all\n")?;
            }
            for ns in [&world.host, &world.outside.ns] {
                let outcome = Probe::tcp(a.v6, PORT).send(ns, true)?;
                ensure!(outcome == Outcome::Answered, "{}: {outcome:?}", ns.name());
            }
            Ok(())
        };
        asked(world)?;
        world.apply("deny.json", &deny_all("x"))?;
        asked(world)
    });
}
