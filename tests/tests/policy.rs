//! What NetworkPolicy says, shown by connections: isolation, union, peers, blocks, ports.
//!
//! Every test first shows that the same traffic flows without the policy, and asks
//! `egress-agent check` the same questions as the kernel.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use egress_tests::harness::objects::{
    deny_all, egress, namespace, policy, port, service, to_blocks,
};
use egress_tests::harness::raw::Tap;
use egress_tests::harness::{
    DEADLINE, NODE_V4, NODE_V6, OUTSIDE, Pod, PodSpec, Probe, World, fence_rule, on_world,
};
use egress_tests::packet::{self, Ends, ethertype, proto};
use serde_json::{Value, json};

/// Case for [`World::expect`].
type Case<'a> = (&'a Pod, Probe, bool);

const HTTP: u16 = 80;
const HTTPS: u16 = 443;
const DNS: u16 = 53;

/// Both families of one place.
fn both(v4: impl Into<IpAddr>, v6: impl Into<IpAddr>) -> [IpAddr; 2] {
    [v4.into(), v6.into()]
}

fn tcp(from: &Pod, to: [IpAddr; 2], port: u16, open: bool) -> Vec<Case<'_>> {
    to.map(|to| (from, Probe::tcp(to, port), open)).to_vec()
}

fn udp(from: &Pod, to: [IpAddr; 2], port: u16, open: bool) -> Vec<Case<'_>> {
    to.map(|to| (from, Probe::udp(to, port), open)).to_vec()
}

fn ping(from: &Pod, to: [IpAddr; 2], open: bool) -> Vec<Case<'_>> {
    to.map(|to| (from, Probe::ping(to), open)).to_vec()
}

fn outside(index: usize) -> Result<[IpAddr; 2]> {
    let (v4, v6) = OUTSIDE
        .get(index)
        .ok_or_else(|| anyhow::anyhow!("no such place outside"))?;
    Ok(both(*v4, *v6))
}

fn of(pod: &Pod) -> [IpAddr; 2] {
    both(pod.v4, pod.v6)
}

/// The same cases, all open: what there is before a policy.
fn all_open(world: &World, cases: &[Case<'_>]) -> Result<()> {
    let open: Vec<Case<'_>> = cases
        .iter()
        .map(|(pod, probe, _)| (*pod, *probe, true))
        .collect();
    world.expect(&open)
}

/// A namespace `x` with a pod `a`, an outside that serves the usual ports, a running agent.
fn one_pod(world: &mut World) -> Result<Pod> {
    world.outside.serve(&[HTTP, HTTPS, DNS])?;
    world.namespace("x", &[])?;
    let pod = world.pod(PodSpec::new("x", "a").label("app", "a"))?;
    world.start_agent()?;
    Ok(pod)
}

/// S1, S2, S4, S8: only the pods of the policy's namespace, only what they send.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn an_empty_egress_list_isolates_the_pods_of_its_namespace_only() {
    on_world(|world| {
        let a = {
            let mut a = one_pod(world)?;
            a.serve(&[HTTP])?;
            a
        };
        world.namespace("y", &[])?;
        let mut b = world.pod(PodSpec::new("y", "b"))?;
        b.serve(&[HTTP])?;
        world.settle()?;
        let mut cases = [
            tcp(&a, outside(0)?, HTTP, false),
            udp(&a, outside(0)?, DNS, false),
            ping(&a, outside(0)?, false),
            tcp(&a, of(&b), HTTP, false),
            udp(&a, of(&b), HTTP, false),
            ping(&a, of(&b), false),
            tcp(&b, outside(0)?, HTTP, true),
            ping(&b, outside(0)?, true),
            tcp(&b, of(&a), HTTP, true),
            udp(&b, of(&a), HTTP, true),
            ping(&b, of(&a), true),
        ]
        .concat();
        all_open(world, &cases)?;
        world.apply("deny.json", &deny_all("x"))?;
        world.expect(&cases)?;

        world.withdraw("deny.json")?;
        for case in &mut cases {
            case.2 = true;
        }
        world.expect(&cases)
    });
}

/// S3, S5, S6, S7.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn policy_types_decide_whether_a_policy_isolates() {
    on_world(|world| {
        let a = one_pod(world)?;
        let rule = to_blocks(&["203.0.113.20/32", "2001:db8:113::20/128"], &json!([]));
        for (title, spec, isolates) in [
            (
                "no types, empty egress",
                json!({ "podSelector": {}, "egress": [] }),
                false,
            ),
            (
                "no types, rules",
                json!({ "podSelector": {}, "egress": [rule] }),
                true,
            ),
            (
                "empty types, rules",
                json!({ "podSelector": {}, "policyTypes": [], "egress": [rule] }),
                true,
            ),
            (
                "ingress only, rules",
                json!({ "podSelector": {}, "policyTypes": ["Ingress"], "egress": [rule] }),
                false,
            ),
            (
                "egress twice",
                json!({ "podSelector": {}, "policyTypes": ["Egress", "Egress"] }),
                true,
            ),
            (
                "egress absent",
                json!({ "podSelector": {}, "policyTypes": ["Egress"] }),
                true,
            ),
            (
                "selector absent",
                json!({ "policyTypes": ["Egress"] }),
                true,
            ),
            (
                "another pod",
                json!({ "podSelector": { "matchLabels": { "app": "b" } }, "policyTypes": ["Egress"] }),
                false,
            ),
            (
                "this pod",
                json!({ "podSelector": { "matchLabels": { "app": "a" } }, "policyTypes": ["Egress"] }),
                true,
            ),
        ] {
            let cases = tcp(&a, outside(0)?, HTTP, !isolates);
            all_open(world, &cases)?;
            world.apply("policy.json", &policy("x", "p", &spec))?;
            world.expect(&cases).map_err(|error| error.context(title))?;
            world.withdraw("policy.json")?;
        }
        Ok(())
    });
}

/// S9: the policy first, the pod later.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_pod_that_appears_after_its_policy_is_isolated() {
    on_world(|world| {
        let a = one_pod(world)?;
        let selective = json!({ "podSelector": { "matchLabels": { "app": "late" } }, "policyTypes": ["Egress"] });
        world.apply("late.json", &policy("x", "late", &selective))?;
        let late = world.stage(PodSpec::new("x", "late").label("app", "late"))?;
        let case = [(&late, Probe::tcp(OUTSIDE[0].0, HTTP), true)];
        world.expect_traffic(&case)?;
        world.apply(&late.file(), &late.manifest())?;
        let cases = [
            tcp(&late, outside(0)?, HTTP, false),
            ping(&late, outside(0)?, false),
            tcp(&a, outside(0)?, HTTP, true),
        ];
        world.expect(&cases.concat())
    });
}

/// S10, S11, S12, S14: union over policies and rules; peers and ports never cross rules.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn rules_add_up_and_never_mix() {
    on_world(|world| {
        let a = one_pod(world)?;
        let first = to_blocks(
            &["203.0.113.10/32", "2001:db8:113::10/128"],
            &json!([port(HTTP, "TCP")]),
        );
        let second = to_blocks(
            &["203.0.113.20/32", "2001:db8:113::20/128"],
            &json!([port(HTTPS, "TCP")]),
        );
        let cases = [
            tcp(&a, outside(0)?, HTTP, true),
            tcp(&a, outside(0)?, HTTPS, false),
            tcp(&a, outside(1)?, HTTPS, true),
            tcp(&a, outside(1)?, HTTP, false),
            tcp(&a, outside(2)?, HTTP, false),
        ]
        .concat();
        all_open(world, &cases)?;
        world.apply("rules.json", &egress("x", "rules", &json!([first, second])))?;
        world.expect(&cases)?;
        // The same, as two policies.
        world
            .manifests
            .put("second.json", &egress("x", "second", &json!([second])))?;
        world.apply("rules.json", &egress("x", "rules", &json!([first])))?;
        world.expect(&cases)?;
        // One empty rule opens everything, whatever else isolates.
        world.apply("all.json", &egress("x", "all", &json!([{}])))?;
        let open: Vec<Case<'_>> = cases
            .iter()
            .map(|(pod, probe, _)| (*pod, *probe, true))
            .chain(ping(&a, outside(2)?, true))
            .collect();
        world.expect(&open)
    });
}

/// S13, S15, S16, S36, S45, S48, S92: what an entry of `ports` says.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn port_entries_say_protocol_number_and_range() {
    on_world(|world| {
        let a = one_pod(world)?;
        let far = outside(0)?;
        for (title, ports, http, https, dns_udp) in [
            ("none: every port and protocol", json!([]), true, true, true),
            (
                "empty entry: every TCP port",
                json!([{}]),
                true,
                true,
                false,
            ),
            (
                "UDP alone: every UDP port",
                json!([{ "protocol": "UDP" }]),
                false,
                false,
                true,
            ),
            (
                "protocol absent: TCP",
                json!([{ "port": HTTP }]),
                true,
                false,
                false,
            ),
            (
                "UDP does not allow TCP",
                json!([port(DNS, "UDP"), port(HTTP, "UDP")]),
                false,
                false,
                true,
            ),
            (
                "range",
                json!([{ "port": 81, "endPort": 443 }]),
                false,
                true,
                false,
            ),
            (
                "range up to",
                json!([{ "port": 1, "endPort": 442 }]),
                true,
                false,
                false,
            ),
            (
                "range of one",
                json!([{ "port": 80, "endPort": 80 }]),
                true,
                false,
                false,
            ),
            (
                "SCTP only",
                json!([port(HTTP, "SCTP")]),
                false,
                false,
                false,
            ),
            (
                "range that ends below its start",
                json!([{ "port": 443, "endPort": 80 }]),
                false,
                false,
                false,
            ),
            (
                "endPort without port",
                json!([{ "endPort": 500 }]),
                false,
                false,
                false,
            ),
            ("port 0", json!([{ "port": 0 }]), false, false, false),
            (
                "unknown protocol, beside a good entry",
                json!([{ "protocol": "ICMP" }, port(HTTPS, "TCP")]),
                false,
                true,
                false,
            ),
        ] {
            let cases = [
                tcp(&a, far, HTTP, http),
                tcp(&a, far, HTTPS, https),
                udp(&a, far, DNS, dns_udp),
            ]
            .concat();
            let rule = to_blocks(&["203.0.113.0/24", "2001:db8:113::/48"], &ports);
            world.apply("ports.json", &egress("x", "ports", &json!([rule])))?;
            world.expect(&cases).map_err(|error| error.context(title))?;
        }
        world.withdraw("ports.json")?;
        world.expect(&[tcp(&a, far, HTTP, true), udp(&a, far, DNS, true)].concat())
    });
}

/// S29–S34, S93, S94: blocks, exceptions and old spellings.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn blocks_match_what_their_prefix_covers() {
    on_world(|world| {
        let a = one_pod(world)?;
        let block = |cidr: &str, except: &[&str]| json!({ "to": [{ "ipBlock": { "cidr": cidr, "except": except } }] });
        let (one, two, three) = (OUTSIDE[0].0, OUTSIDE[1].0, OUTSIDE[2].0);
        let (one6, two6) = (OUTSIDE[0].1, OUTSIDE[1].1);
        for (title, rules, open, shut) in [
            (
                "one address",
                json!([block("203.0.113.10/32", &[])]),
                vec![one.into()],
                vec![two.into(), one6.into()],
            ),
            (
                "all of IPv4",
                json!([block("0.0.0.0/0", &[])]),
                vec![one.into(), three.into()],
                vec![one6.into(), two6.into()],
            ),
            (
                "all of IPv6",
                json!([block("::/0", &[])]),
                vec![one6.into()],
                vec![one.into()],
            ),
            (
                "except",
                json!([block("203.0.113.0/24", &["203.0.113.16/28"])]),
                vec![one.into()],
                vec![two.into(), three.into()],
            ),
            (
                "nested excepts",
                json!([block(
                    "203.0.113.0/24",
                    &["203.0.113.16/28", "203.0.113.20/32"]
                )]),
                vec![one.into()],
                vec![two.into()],
            ),
            (
                "another entry opens the hole",
                json!([
                    block("203.0.113.0/24", &["203.0.113.16/28"]),
                    block("203.0.113.20/32", &[])
                ]),
                vec![one.into(), two.into()],
                vec![three.into()],
            ),
            (
                "except of IPv6",
                json!([block("2001:db8:113::/64", &["2001:db8:113::20/128"])]),
                vec![one6.into()],
                vec![two6.into()],
            ),
            (
                "host bits",
                json!([block("203.0.113.99/24", &[])]),
                vec![one.into(), two.into()],
                vec![three.into()],
            ),
            (
                "leading zeros",
                json!([block("203.000.113.010/32", &[])]),
                vec![one.into()],
                vec![two.into()],
            ),
            (
                "IPv4-mapped",
                json!([block("::ffff:203.0.113.0/120", &[])]),
                vec![one.into()],
                vec![three.into(), one6.into()],
            ),
            (
                "unreadable",
                json!([block("203.0.113/24", &[])]),
                vec![],
                vec![one.into(), one6.into()],
            ),
            (
                "unreadable except",
                json!([block("0.0.0.0/0", &["nonsense"])]),
                vec![],
                vec![one.into()],
            ),
            (
                "unreadable beside readable",
                json!([block("x", &[]), block("203.0.113.10/32", &[])]),
                vec![one.into()],
                vec![two.into()],
            ),
            (
                "block and selector",
                json!([{ "to": [{ "ipBlock": { "cidr": "0.0.0.0/0" }, "podSelector": {} }] }]),
                vec![],
                vec![one.into()],
            ),
            (
                "peer without a field",
                json!([{ "to": [{}] }]),
                vec![],
                vec![one.into(), one6.into()],
            ),
        ] {
            world.apply("blocks.json", &egress("x", "blocks", &rules))?;
            let open: Vec<IpAddr> = open;
            let shut: Vec<IpAddr> = shut;
            let cases: Vec<Case<'_>> = open
                .iter()
                .map(|to| (&a, Probe::tcp(*to, HTTP), true))
                .chain(shut.iter().map(|to| (&a, Probe::tcp(*to, HTTP), false)))
                .collect();
            world.expect(&cases).map_err(|error| error.context(title))?;
        }
        world.withdraw("blocks.json")?;
        world.expect(
            &[
                tcp(&a, outside(0)?, HTTP, true),
                tcp(&a, outside(2)?, HTTP, true),
            ]
            .concat(),
        )
    });
}

/// S19–S26, S29: which pods a peer means.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn selectors_choose_pods_by_label_and_namespace() {
    on_world(|world| {
        let a = one_pod(world)?;
        world.namespace("y", &[("team", "blue")])?;
        let mut near = world.pod(PodSpec::new("x", "near").label("app", "web"))?;
        let mut web = world.pod(
            PodSpec::new("y", "web")
                .label("app", "web")
                .label("tier", "front"),
        )?;
        let mut db = world.pod(PodSpec::new("y", "db").label("app", "db"))?;
        for pod in [&mut near, &mut web, &mut db] {
            pod.serve(&[HTTP])?;
        }
        world.settle()?;
        let far = outside(0)?;
        let pod_web = json!({ "matchLabels": { "app": "web" } });
        let team = json!({ "matchLabels": { "team": "blue" } });
        let expression = |operator: &str, key: &str, values: Value| json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] });
        let by_address = format!("{}/32", db.v4);
        for (title, peers, to_near, to_web, to_db, to_far) in [
            (
                "pod selector: own namespace",
                json!([{ "podSelector": pod_web }]),
                true,
                false,
                false,
                false,
            ),
            (
                "namespace selector: all its pods",
                json!([{ "namespaceSelector": team }]),
                false,
                true,
                true,
                false,
            ),
            (
                "both in one entry",
                json!([{ "namespaceSelector": team, "podSelector": pod_web }]),
                false,
                true,
                false,
                false,
            ),
            (
                "two entries",
                json!([{ "namespaceSelector": team }, { "podSelector": pod_web }]),
                true,
                true,
                true,
                false,
            ),
            (
                "every namespace is not every address",
                json!([{ "namespaceSelector": {} }]),
                true,
                true,
                true,
                false,
            ),
            (
                "every pod of the own namespace",
                json!([{ "podSelector": {} }]),
                true,
                false,
                false,
                false,
            ),
            (
                "namespace by its name",
                json!([{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "y" } } }]),
                false,
                true,
                true,
                false,
            ),
            (
                "not in matches what lacks the key",
                json!([{ "namespaceSelector": {}, "podSelector": expression("NotIn", "tier", json!(["front"])) }]),
                true,
                false,
                true,
                false,
            ),
            (
                "exists",
                json!([{ "namespaceSelector": {}, "podSelector": expression("Exists", "tier", json!([])) }]),
                false,
                true,
                false,
                false,
            ),
            (
                "an empty value is not an absent key",
                json!([{ "namespaceSelector": {}, "podSelector": { "matchLabels": { "tier": "" } } }]),
                false,
                false,
                false,
                false,
            ),
            (
                "an operator nobody knows matches nothing",
                json!([{ "namespaceSelector": {}, "podSelector": expression("Like", "app", json!(["w"])) }]),
                false,
                false,
                false,
                false,
            ),
            (
                "block with a pod's address",
                json!([{ "ipBlock": { "cidr": by_address } }]),
                false,
                false,
                true,
                false,
            ),
        ] {
            world.apply(
                "peers.json",
                &egress("x", "peers", &json!([{ "to": peers }])),
            )?;
            let only_v4 = title.starts_with("block");
            let mut cases = [
                tcp(&a, of(&near), HTTP, to_near),
                tcp(&a, of(&web), HTTP, to_web),
                tcp(&a, of(&db), HTTP, to_db),
                tcp(&a, far, HTTP, to_far),
            ]
            .concat();
            if only_v4 {
                cases.retain(|(_, probe, _)| matches!(probe, Probe::Tcp(to) if to.is_ipv4()));
            }
            world.expect(&cases).map_err(|error| error.context(title))?;
        }
        world.withdraw("peers.json")?;
        world.expect(&[tcp(&a, of(&db), HTTP, true), tcp(&a, far, HTTP, true)].concat())
    });
}

/// S37–S41, S44: a named port is each destination pod's own number.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_named_port_is_each_pods_own_number() {
    on_world(|world| {
        let a = one_pod(world)?;
        let mut one = world.pod(PodSpec::new("x", "one").port("web", 8001, "TCP"))?;
        let mut two = world.pod(
            PodSpec::new("y", "two")
                .port("web", 8002, "TCP")
                .port("metrics", 8001, "UDP"),
        )?;
        world.namespace("y", &[])?;
        one.serve(&[8001, 8002])?;
        two.serve(&[8001, 8002])?;
        world.outside.serve(&[8001])?;
        world.settle()?;
        let cases = [
            tcp(&a, of(&one), 8001, true),
            tcp(&a, of(&one), 8002, false),
            tcp(&a, of(&two), 8002, true),
            tcp(&a, of(&two), 8001, false),
            udp(&a, of(&two), 8002, false),
            tcp(&a, outside(0)?, 8001, false),
        ]
        .concat();
        all_open(world, &cases)?;
        world.apply(
            "named.json",
            &egress("x", "named", &json!([{ "ports": [{ "port": "web" }] }])),
        )?;
        world.expect(&cases)?;
        // The protocol is part of the name (S39).
        world.apply(
            "named.json",
            &egress(
                "x",
                "named",
                &json!([{ "ports": [{ "port": "metrics", "protocol": "TCP" }] }]),
            ),
        )?;
        world.expect(
            &[
                tcp(&a, of(&two), 8001, false),
                udp(&a, of(&two), 8001, false),
            ]
            .concat(),
        )?;
        world.apply(
            "named.json",
            &egress(
                "x",
                "named",
                &json!([{ "ports": [{ "port": "metrics", "protocol": "UDP" }] }]),
            ),
        )?;
        world.expect(
            &[
                tcp(&a, of(&two), 8001, false),
                udp(&a, of(&two), 8001, true),
            ]
            .concat(),
        )
    });
}

/// S49, S95, S97: echo needs a rule without ports; ARP and neighbour discovery need none.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn echo_needs_a_rule_without_ports() {
    on_world(|world| {
        let a = one_pod(world)?;
        let far = outside(0)?;
        let cases = |open| ping(&a, far, open);
        all_open(world, &cases(true))?;
        for (title, rule, open) in [
            ("without ports", json!({}), true),
            ("all TCP", json!({ "ports": [{}] }), false),
            (
                "every port of every protocol",
                json!({ "ports": [{}, { "protocol": "UDP" }, { "protocol": "SCTP" }] }),
                false,
            ),
            (
                "towards the block",
                to_blocks(&["203.0.113.0/24", "2001:db8:113::/48"], &json!([])),
                true,
            ),
            (
                "towards another block",
                to_blocks(&["198.51.100.0/24", "2001:db8:51::/48"], &json!([])),
                false,
            ),
        ] {
            world.apply("echo.json", &egress("x", "echo", &json!([rule])))?;
            world
                .expect(&cases(open))
                .map_err(|error| error.context(title))?;
        }
        Ok(())
    });
}

/// S46, S47, S13: SCTP by hand, as the kernel has no SCTP sockets; other protocols need a
/// rule without ports.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn sctp_is_judged_by_port_and_other_protocols_by_rules_without_ports() {
    on_world(|world| {
        let a = one_pod(world)?;
        let mut wire = world.wire(&a)?;
        let mut sent = |ends: Ends, protocol: u8, port: u16| {
            let token = packet::token();
            let payload = match protocol {
                proto::SCTP => packet::sctp(4000, port, 1, &token),
                proto::UDP => packet::udp(ends, 4000, port, &token),
                _ => token.to_vec(),
            };
            wire.packets_get_through(ends.ethertype(), &[ends.packet(protocol, payload)], &token)
        };
        let (v4, v6) = OUTSIDE[0];
        for ends in [Ends::V4(a.v4, v4), Ends::V6(a.v6, v6)] {
            ensure!(
                sent(ends, proto::SCTP, 3868)? && sent(ends, 47, 0)?,
                "control {ends:?}"
            );
        }
        let blocks = ["203.0.113.0/24", "2001:db8:113::/48"];
        let ports = json!([port(3868, "SCTP")]);
        world.apply(
            "sctp.json",
            &egress(
                "x",
                "sctp",
                &json!([to_blocks(&blocks, &ports), fence_rule()]),
            ),
        )?;
        for ends in [Ends::V4(a.v4, v4), Ends::V6(a.v6, v6)] {
            ensure!(sent(ends, proto::SCTP, 3868)?, "SCTP on its port {ends:?}");
            ensure!(
                !sent(ends, proto::SCTP, 3869)?,
                "SCTP on another port {ends:?}"
            );
            ensure!(
                !sent(ends, proto::UDP, 3868)?,
                "UDP on SCTP's port {ends:?}"
            );
            ensure!(!sent(ends, 47, 0)?, "GRE {ends:?}");
        }
        world.apply(
            "sctp.json",
            &egress(
                "x",
                "sctp",
                &json!([to_blocks(&blocks, &json!([])), fence_rule()]),
            ),
        )?;
        for ends in [Ends::V4(a.v4, v4), Ends::V6(a.v6, v6)] {
            ensure!(
                sent(ends, 47, 0)? && sent(ends, proto::SCTP, 3869)?,
                "without ports {ends:?}"
            );
        }
        Ok(())
    });
}

/// S73, S74, S75: the own node is a destination like any other, the own address is not.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_own_node_is_judged_and_the_own_address_is_not() {
    on_world(|world| {
        let mut a = one_pod(world)?;
        a.serve(&[HTTP])?;
        let node = both(NODE_V4, NODE_V6);
        let own = of(&a);
        all_open(world, &ping(&a, node, true))?;
        world.apply("deny.json", &deny_all("x"))?;
        world.expect(
            &[
                ping(&a, node, false),
                tcp(&a, own, HTTP, true),
                ping(&a, own, true),
            ]
            .concat(),
        )?;
        // The node's own probes of the pod are answered (S52, S74).
        for address in own {
            let outcome = Probe::tcp(address, HTTP).send(&world.host, true)?;
            ensure!(
                outcome == egress_tests::harness::Outcome::Answered,
                "{address}: {outcome:?}"
            );
        }
        world.apply(
            "deny.json",
            &egress(
                "x",
                "deny-all",
                &json!([to_blocks(&["172.30.0.1/32", "fd00:30::1/128"], &json!([]))]),
            ),
        )?;
        world.expect(&ping(&a, node, true))
    });
}

/// S49: neighbour discovery towards the link passes whatever isolates; S97: a solicitation
/// to a far address does not.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn neighbour_discovery_passes_on_the_link_only() {
    on_world(|world| {
        let a = one_pod(world)?;
        world.apply("deny.json", &egress("x", "deny", &json!([fence_rule()])))?;
        let mut wire = world.wire(&a)?;
        let mut link = Tap::new(&world.host, &a.host_interface, ethertype::IPV6)?;
        let mut solicitation = |to: std::net::Ipv6Addr, token: &[u8]| {
            let ends = Ends::V6(a.v6, to);
            let target = [&a.v6.octets()[..], token].concat();
            let message = packet::icmpv6_in(ends, packet::icmp(true, 135, 0, [[0; 2]; 2], &target));
            let frame = wire.frame(ethertype::IPV6, &ends.packet(proto::ICMPV6, message));
            wire.gets_through(&[frame], token)
        };
        let far = packet::token();
        ensure!(
            !solicitation(OUTSIDE[0].1, &far)?,
            "a solicitation left the link"
        );
        let near = packet::token();
        solicitation("ff02::1:ff00:1".parse()?, &near)?;
        ensure!(
            link.wait_for(&near, DEADLINE)?,
            "a solicitation on the link was dropped"
        );
        ensure!(
            !link.has_seen(&far),
            "a solicitation to a far address passed the hook"
        );
        Ok(())
    });
}

/// S68, S72, S84: a Service's address is judged by its endpoints, on their port.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_cluster_address_is_judged_by_its_endpoints() {
    on_world(|world| {
        let virtual_address: IpAddr = "10.96.0.10".parse()?;
        let unknown: IpAddr = "10.96.0.11".parse()?;
        // Nothing rewrites addresses here: the outside answers in the place of kube-proxy.
        world.outside_address(virtual_address, &[HTTP])?;
        world.outside_address(unknown, &[HTTP])?;
        let a = one_pod(world)?;
        let mut backend = world.pod(PodSpec::new("x", "backend").label("app", "backend"))?;
        backend.serve(&[8080])?;
        world.manifests.put(
            "service.json",
            &service(
                "x",
                "svc",
                virtual_address,
                HTTP,
                8080,
                &[("app", "backend")],
            ),
        )?;
        world.settle()?;
        let to_virtual = |open| vec![(&a, Probe::tcp(virtual_address, HTTP), open)];
        let to_unknown = |open| vec![(&a, Probe::tcp(unknown, HTTP), open)];
        world.expect(&[to_virtual(true), to_unknown(true)].concat())?;
        let selector = json!({ "podSelector": { "matchLabels": { "app": "backend" } } });
        for (title, rules, open) in [
            (
                "the endpoint on its port",
                json!([{ "to": [selector], "ports": [port(8080, "TCP")] }]),
                true,
            ),
            (
                "the endpoint on the Service's port",
                json!([{ "to": [selector], "ports": [port(HTTP, "TCP")] }]),
                false,
            ),
            (
                "the cluster address itself",
                json!([to_blocks(&["10.96.0.10/32"], &json!([]))]),
                false,
            ),
            ("nothing", json!([]), false),
        ] {
            world.apply("service-policy.json", &egress("x", "service", &rules))?;
            let cases = [to_virtual(open), to_unknown(false)].concat();
            world.expect(&cases).map_err(|error| error.context(title))?;
        }
        // An address that no Service has is a literal one (S86).
        world.apply(
            "service-policy.json",
            &egress(
                "x",
                "service",
                &json!([to_blocks(&["10.96.0.11/32"], &json!([]))]),
            ),
        )?;
        world.expect(&to_unknown(true))
    });
}

/// S62, S88: a finished pod is neither subject nor peer.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_finished_pod_is_no_peer() {
    on_world(|world| {
        let a = one_pod(world)?;
        let mut job = world.pod(PodSpec::new("x", "job").label("app", "job"))?;
        job.serve(&[HTTP])?;
        let rule = json!([{ "to": [{ "podSelector": { "matchLabels": { "app": "job" } } }] }]);
        world.apply("job.json", &egress("x", "job", &rule))?;
        world.expect(&tcp(&a, of(&job), HTTP, true))?;
        let mut manifest = job.manifest();
        if let Some(phase) = manifest.pointer_mut("/status/phase") {
            *phase = json!("Succeeded");
        }
        world.apply(&job.file(), &manifest)?;
        world.expect(&tcp(&a, of(&job), HTTP, false))
    });
}

/// S66, S90: no namespace object, no namespace selector; it resolves when the object comes.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_namespace_that_was_not_seen_matches_no_selector() {
    on_world(|world| {
        let a = one_pod(world)?;
        let mut b = world.pod(PodSpec::new("unseen", "b"))?;
        b.serve(&[HTTP])?;
        world.apply(
            "any.json",
            &egress(
                "x",
                "any",
                &json!([{ "to": [{ "namespaceSelector": {} }] }]),
            ),
        )?;
        world.expect(&tcp(&a, of(&b), HTTP, false))?;
        world.apply("namespace-unseen.json", &namespace("unseen", &[]))?;
        world.expect(&tcp(&a, of(&b), HTTP, true))
    });
}
