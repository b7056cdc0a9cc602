//! What the counters say, against what was sent.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use egress_tests::harness::objects::{deny_all, egress, port, to_blocks};
use egress_tests::harness::raw::send_udp_segments;
use egress_tests::harness::{
    Metrics, OUTSIDE, Pod, PodSpec, Probe, World, fence_rule, on_world, until,
};
use egress_tests::packet::{self, Ends, ethertype, flag, proto};
use serde_json::{Value, json};

const PORT: u16 = 8080;

const DROPPED: &str = "egress_dropped_packets_total";
const DROPPED_BYTES: &str = "egress_dropped_bytes_total";
const WORKLOAD: &str = "egress_workload_dropped_packets_total";
const ALLOWED: &str = "egress_allowed_packets_total";

/// A pod `x/a` that may send nothing but what ends a wait for frames, and a running agent.
fn isolated(world: &mut World) -> Result<Pod> {
    world.namespace("x", &[])?;
    let pod = world.pod(PodSpec::new("x", "a"))?;
    world
        .manifests
        .put("policy.json", &egress("x", "p", &json!([fence_rule()])))?;
    world.start_agent()?;
    Ok(pod)
}

/// Growth of a counter between two scrapes; counters count whole packets.
fn growth(before: &Metrics, after: &Metrics, name: &str, labels: &[(&str, &str)]) -> u64 {
    let difference = after.sum(name, labels) - before.sum(name, labels);
    format!("{difference:.0}").parse().unwrap_or(u64::MAX)
}

fn v4(pod: &Pod) -> Ends {
    Ends::V4(pod.v4, OUTSIDE[1].0)
}

fn v6(pod: &Pod) -> Ends {
    Ends::V6(pod.v6, OUTSIDE[1].1)
}

/// Every dropped packet is counted once, by reason, protocol and family, with its bytes.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn every_drop_is_counted_exactly() {
    on_world(|world| {
        let a = isolated(world)?;
        let mut wire = world.wire(&a)?;
        let before = world.metrics()?;
        let mut send = |ends: Ends, protocol: u8, payload: Vec<u8>, times: usize| -> Result<()> {
            let frame = wire.frame(ends.ethertype(), &ends.packet(protocol, payload));
            for _ in 0..times {
                wire.sender().send(&frame)?;
            }
            wire.fence()
        };
        send(v4(&a), proto::UDP, packet::udp(v4(&a), 1, 2, &[0; 100]), 50)?;
        send(v6(&a), proto::UDP, packet::udp(v6(&a), 1, 2, &[0; 100]), 40)?;
        send(
            v4(&a),
            proto::TCP,
            packet::tcp(v4(&a), 1, 2, flag::SYN, b""),
            30,
        )?;
        send(
            v4(&a),
            proto::ICMP,
            packet::icmp_echo_request(false, 1, 1, b"ping"),
            20,
        )?;
        let echo = packet::icmpv6_in(v6(&a), packet::icmp_echo_request(true, 1, 1, b"ping"));
        send(v6(&a), proto::ICMPV6, echo, 15)?;
        send(v4(&a), proto::SCTP, packet::sctp(1, 2, 1, b"data"), 10)?;
        send(
            v4(&a),
            proto::GRE,
            packet::gre(ethertype::IPV4, b"inner"),
            5,
        )?;
        let spoofed = Ends::V4([10, 9, 9, 9].into(), OUTSIDE[1].0);
        send(spoofed, proto::UDP, packet::udp(spoofed, 1, 2, b""), 7)?;
        let after = world.metrics()?;

        for (reason, protocol, family, packets, bytes) in [
            ("no-rule", "udp", "4", 50, 50 * 128),
            ("no-rule", "udp", "6", 40, 40 * 148),
            ("no-rule", "tcp", "4", 30, 30 * 40),
            ("no-rule", "icmp", "4", 20, 20 * 32),
            ("no-rule", "icmp", "6", 15, 15 * 52),
            ("no-rule", "sctp", "4", 10, 10 * 40),
            ("no-rule", "other", "4", 5, 5 * 29),
            ("spoofed", "udp", "4", 7, 7 * 28),
        ] {
            let labels = [
                ("reason", reason),
                ("protocol", protocol),
                ("family", family),
            ];
            let counted = growth(&before, &after, DROPPED, &labels);
            ensure!(
                counted == packets,
                "{labels:?}: {counted} packets, {packets} were sent"
            );
            let counted = growth(&before, &after, DROPPED_BYTES, &labels);
            ensure!(
                counted == bytes,
                "{labels:?}: {counted} bytes, {bytes} were sent"
            );
        }
        let everything = growth(&before, &after, DROPPED, &[]);
        ensure!(
            everything == 177,
            "{everything} drops in all, 177 packets were sent"
        );
        let pod = [("namespace", "x"), ("workload", "Pod/a")];
        let counted = growth(
            &before,
            &after,
            WORKLOAD,
            &[pod[0], pod[1], ("reason", "no-rule")],
        );
        ensure!(counted == 170, "workload: {counted} of 170");
        let counted = growth(
            &before,
            &after,
            WORKLOAD,
            &[pod[0], pod[1], ("reason", "spoofed")],
        );
        ensure!(counted == 7, "workload: {counted} of 7");
        Ok(())
    });
}

/// A frame that the kernel would cut into ten datagrams is ten dropped packets.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_gso_frame_counts_as_its_segments() {
    on_world(|world| {
        let a = isolated(world)?;
        let mut wire = world.wire(&a)?;
        for (to, family) in [
            (SocketAddr::new(OUTSIDE[1].0.into(), 9), "4"),
            (SocketAddr::new(OUTSIDE[1].1.into(), 9), "6"),
        ] {
            let before = world.metrics()?;
            send_udp_segments(&a.ns, to, 1000, &[0; 9_500])?;
            wire.fence()?;
            let after = world.metrics()?;
            let labels = [("protocol", "udp"), ("family", family)];
            let packets = growth(&before, &after, DROPPED, &labels);
            ensure!(packets == 10, "IPv{family}: {packets} packets");
            let bytes = growth(&before, &after, DROPPED_BYTES, &labels);
            ensure!(
                (9_528..=9_980).contains(&bytes),
                "IPv{family}: {bytes} bytes"
            );
        }
        Ok(())
    });
}

/// Allowed packets are counted by family, whether a policy isolates the pod or not.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn allowed_packets_are_counted() {
    on_world(|world| {
        let a = isolated(world)?;
        world.namespace("y", &[])?;
        let free = world.pod(PodSpec::new("y", "free"))?;
        world.settle()?;
        let rule = to_blocks(
            &["203.0.113.20/32", "2001:db8:113::20/128"],
            &json!([port(2, "UDP")]),
        );
        world.apply(
            "policy.json",
            &egress("x", "p", &json!([rule, fence_rule()])),
        )?;
        for pod in [&a, &free] {
            let mut wire = world.wire(pod)?;
            wire.fence()?;
            let before = world.metrics()?;
            for ends in [v4(pod), v6(pod)] {
                let datagram = ends.packet(proto::UDP, packet::udp(ends, 1, 2, b"data"));
                let frame = wire.frame(ends.ethertype(), &datagram);
                for _ in 0..25 {
                    wire.sender().send(&frame)?;
                }
            }
            wire.fence()?;
            let after = world.metrics()?;
            let counted = growth(&before, &after, ALLOWED, &[("family", "4")]);
            ensure!(
                counted == 26,
                "{}: {counted} of 26 IPv4 packets",
                pod.reference()
            );
            // Neighbour discovery may come on top.
            let counted = growth(&before, &after, ALLOWED, &[("family", "6")]);
            ensure!(
                (25..=30).contains(&counted),
                "{}: {counted} of 25 IPv6 packets",
                pod.reference()
            );
            ensure!(
                growth(&before, &after, DROPPED, &[]) == 0,
                "{} lost packets",
                pod.reference()
            );
        }
        Ok(())
    });
}

/// Counters are the kernel's: they go on while no agent runs, and never down.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn counters_go_on_while_no_agent_runs() {
    on_world(|world| {
        let a = isolated(world)?;
        let mut wire = world.wire(&a)?;
        let frame = wire.frame(
            ethertype::IPV4,
            &v4(&a).packet(proto::UDP, packet::udp(v4(&a), 1, 2, b"")),
        );
        let labels = [
            ("namespace", "x"),
            ("workload", "Pod/a"),
            ("reason", "no-rule"),
        ];
        let before = world.metrics()?;
        for _ in 0..10 {
            wire.sender().send(&frame)?;
        }
        wire.fence()?;
        world.agent.kill()?;
        for _ in 0..10 {
            wire.sender().send(&frame)?;
        }
        wire.fence()?;
        world.start_agent()?;
        let after = world.metrics()?;
        let counted = growth(&before, &after, WORKLOAD, &labels);
        ensure!(counted == 20, "{counted} of 20");
        Ok(())
    });
}

/// A workload's series go when its last pod goes; the totals stay, for other agents too.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn series_of_a_workload_go_with_it() {
    on_world(|world| {
        let a = isolated(world)?;
        let mut wire = world.wire(&a)?;
        let frame = wire.frame(
            ethertype::IPV4,
            &v4(&a).packet(proto::UDP, packet::udp(v4(&a), 1, 2, b"")),
        );
        wire.sender().send(&frame)?;
        wire.fence()?;
        let labels = [("namespace", "x"), ("workload", "Pod/a")];
        let before = world.metrics()?;
        ensure!(before.has(WORKLOAD, &labels), "no series for the workload");
        world.withdraw(&a.file())?;
        until("the workload's series are gone", || {
            Ok(!world.metrics()?.has(WORKLOAD, &labels))
        })?;
        let after = world.metrics()?;
        ensure!(
            after.sum(DROPPED, &[]) >= before.sum(DROPPED, &[]),
            "the total went down"
        );
        // Another agent knows nothing of the pod any more.
        world.agent.kill()?;
        world.start_agent()?;
        let later = world.metrics()?;
        for name in [DROPPED, DROPPED_BYTES, ALLOWED] {
            ensure!(
                later.sum(name, &[]) >= after.sum(name, &[]),
                "{name} went down with the agent"
            );
        }
        Ok(())
    });
}

/// Labels are those of the contract: never an address, a port or a policy's name.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn no_label_names_a_destination() {
    on_world(|world| {
        let a = isolated(world)?;
        world.expect(&[(&a, Probe::udp(OUTSIDE[1].0, PORT), false)])?;
        let metrics = world.metrics()?;
        for (name, labels) in [
            (DROPPED, &["family", "protocol", "reason"][..]),
            (DROPPED_BYTES, &["family", "protocol", "reason"]),
            (WORKLOAD, &["namespace", "reason", "workload"]),
            (ALLOWED, &["family"]),
            ("egress_pods", &["state"]),
            ("egress_policies", &["kind", "state"]),
            ("egress_bpf_map_entries", &["map"]),
            ("egress_bpf_map_capacity", &["map"]),
        ] {
            ensure!(
                metrics.label_names(name) == labels,
                "{name}: {:?}",
                metrics.label_names(name)
            );
        }
        for (name, labels, value) in [
            ("egress_pods", &[("state", "isolated")][..], 1.0),
            ("egress_bpf_map_entries", &[("map", "ENDPOINTS")], 1.0),
            (
                "egress_policies",
                &[("kind", "NetworkPolicy"), ("state", "enforced")],
                1.0,
            ),
        ] {
            let sum = metrics.sum(name, labels);
            ensure!((sum - value).abs() < 0.5, "{name} {labels:?}: {sum}");
        }
        for name in [
            "egress_build_info",
            "egress_policy_programming_seconds_count",
            "egress_events_lost_total",
        ] {
            ensure!(metrics.has(name, &[]), "no {name}");
        }
        Ok(())
    });
}

/// A drop is a record with names: who, where to, why, by which policies.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_drop_is_remembered_with_its_policies() {
    on_world(|world| {
        let a = isolated(world)?;
        world.apply("second.json", &deny_all("x"))?;
        let (to4, to6) = OUTSIDE[2];
        for probe in [Probe::udp(to4, 7777), Probe::tcp(to6, 8888)] {
            world.expect(&[(&a, probe, false)])?;
        }
        let mut drops = Vec::new();
        for (protocol, family, source, destination, port) in [
            ("udp", "4", a.v4.to_string(), to4.to_string(), 7777),
            ("tcp", "6", a.v6.to_string(), to6.to_string(), 8888),
        ] {
            let is = |record: &Value, field: &str, value: Value| record.get(field) == Some(&value);
            until("the drop is remembered", || {
                drops = world.agent.drops(&world.host)?;
                Ok(drops.iter().any(|record| is(record, "port", port.into())))
            })
            .with_context(|| format!("remembered: {drops:?}"))?;
            let record = drops
                .iter()
                .find(|record| is(record, "port", port.into()))
                .context("no record")?;
            for (field, value) in [
                ("namespace", json!("x")),
                ("pod", json!("a")),
                ("workload", json!("Pod/a")),
                ("source", json!(source)),
                ("destination", json!(destination)),
                ("protocol", json!(protocol)),
                ("family", json!(family)),
                ("reason", json!("no-rule")),
                ("isolatedBy", json!(["x/deny-all", "x/p"])),
            ] {
                ensure!(is(record, field, value), "{field} of {record}");
            }
            ensure!(
                record
                    .get("count")
                    .and_then(Value::as_u64)
                    .is_some_and(|count| count > 0),
                "{record}"
            );
            ensure!(record.get("time").is_some_and(Value::is_string), "{record}");
        }
        Ok(())
    });
}
