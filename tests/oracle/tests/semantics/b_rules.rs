//! B. Union and rule evaluation.

use serde_json::json;

use crate::world::{World, answer, egress};

#[test]
fn s10_what_any_policy_allows_is_allowed_and_each_is_named_for_its_own_part() {
    let world = World::new()
        .policy(
            "x/tcp",
            json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": 80}]}]}),
        )
        .policy(
            "x/udp",
            json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]}),
        )
        .policy("x/none", json!({"policyTypes": ["Egress"]}));
    let all = ["x/none", "x/tcp", "x/udp"];
    for (to, allow, by) in [
        ("10.2.0.1:80/TCP", true, &["x/tcp"][..]),
        ("10.2.0.1:53/UDP", true, &["x/udp"]),
        ("10.2.0.1:53/TCP", false, &[]),
    ] {
        assert_eq!(world.ask("x/a", to), answer(allow, &all, by), "{to}");
    }
}

#[test]
fn s11_one_empty_rule_allows_everything_whatever_else_there_is() {
    let world = egress(json!([{}])).policy("x/deny", json!({"policyTypes": ["Egress"]}));
    for to in [
        "10.2.0.1:80/TCP",
        "203.0.113.9:65535/UDP",
        "[2001:db8::1]:1/SCTP",
        "203.0.113.9/ICMP",
        "203.0.113.9/47",
    ] {
        assert_eq!(
            world.ask("x/a", to),
            answer(true, &["x/deny", "x/p"], &["x/p"]),
            "{to}"
        );
    }
}

#[test]
fn s12_both_peers_and_ports_must_match() {
    egress(json!([{
        "to": [{"podSelector": {"matchLabels": {"pod": "b"}}}],
        "ports": [{"port": 80}],
    }]))
    .table(&[
        "+ 10.1.0.2:80/TCP",
        "- 10.1.0.2:81/TCP",
        "- 10.1.0.3:80/TCP",
    ]);
}

#[test]
fn s13_absent_or_empty_lists_restrict_nothing() {
    for rule in [
        json!({"to": [], "ports": [{"port": 80}]}),
        json!({"to": null, "ports": [{"port": 80}]}),
        json!({"ports": [{"port": 80}]}),
    ] {
        egress(json!([rule])).table(&[
            "+ 10.3.0.1:80/TCP",
            "+ 203.0.113.9:80/TCP",
            "+ 192.168.0.1:80/TCP",
            "- 10.3.0.1:81/TCP",
        ]);
    }
    for rule in [
        json!({"to": [{"podSelector": {}}], "ports": []}),
        json!({"to": [{"podSelector": {}}], "ports": null}),
        json!({"to": [{"podSelector": {}}]}),
    ] {
        egress(json!([rule])).table(&[
            "+ 10.1.0.2:1/TCP",
            "+ 10.1.0.2:65535/UDP",
            "+ 10.1.0.2:7/SCTP",
            "- 10.2.0.2:1/TCP",
        ]);
    }
}

#[test]
fn s14_peers_and_ports_multiply_within_a_rule_and_never_across_rules() {
    let block = |cidr: &str| json!({"ipBlock": {"cidr": cidr}});
    egress(json!([
        {"to": [block("203.0.113.1/32"), block("203.0.113.2/32")], "ports": [{"port": 1}, {"port": 2}]},
        {"to": [block("203.0.113.3/32")], "ports": [{"port": 3}]},
    ]))
    .table(&[
        "+ 203.0.113.1:1/TCP",
        "+ 203.0.113.1:2/TCP",
        "+ 203.0.113.2:1/TCP",
        "+ 203.0.113.2:2/TCP",
        "+ 203.0.113.3:3/TCP",
        "- 203.0.113.1:3/TCP",
        "- 203.0.113.3:1/TCP",
    ]);
}

#[test]
fn s15_an_empty_port_entry_is_every_tcp_port_and_nothing_else() {
    egress(json!([{"ports": [{}]}])).table(&[
        "+ 10.2.0.1:1/TCP",
        "+ 203.0.113.9:65535/TCP",
        "- 10.2.0.1:1/UDP",
        "- 10.2.0.1:1/SCTP",
        "- 10.2.0.1/ICMP",
    ]);
    egress(json!([{"ports": [{"protocol": "UDP"}]}])).table(&[
        "- 10.2.0.1:1/TCP",
        "+ 10.2.0.1:1/UDP",
        "- 10.2.0.1/ICMP",
    ]);
}

#[test]
fn s16_an_absent_protocol_is_tcp() {
    egress(json!([{"ports": [{"port": 80, "protocol": null}, {"port": 81}]}])).table(&[
        "+ 10.2.0.1:80/TCP",
        "+ 10.2.0.1:81/TCP",
        "- 10.2.0.1:80/UDP",
    ]);
}
