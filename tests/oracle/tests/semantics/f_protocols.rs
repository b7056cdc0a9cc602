//! F. Protocols.

use serde_json::json;

use crate::world::{egress, ports};

#[test]
fn s46_s47_sctp_is_its_own_protocol_and_isolates() {
    ports(json!([{"port": 80, "protocol": "SCTP"}])).table(&[
        "+ 10.2.0.1:80/SCTP",
        "- 10.2.0.1:81/SCTP",
        "- 10.2.0.1:80/TCP",
        "- 10.2.0.1:80/UDP",
    ]);
    ports(json!([{"protocol": "SCTP"}])).table(&["+ 10.2.0.1:1/SCTP", "- 10.2.0.1:1/TCP"]);
}

#[test]
fn s48_udp_does_not_allow_tcp() {
    ports(json!([{"port": 53, "protocol": "UDP"}])).table(&[
        "+ 10.2.0.1:53/UDP",
        "- 10.2.0.1:53/TCP",
        "- 10.2.0.1:53/SCTP",
    ]);
}

#[test]
fn s49_s95_other_protocols_pass_only_by_a_rule_without_ports_towards_the_destination() {
    let to = json!([{"ipBlock": {"cidr": "10.2.0.0/24"}}, {"ipBlock": {"cidr": "fd02::/16"}}]);
    egress(json!([{"to": to}])).table(&[
        "+ 10.2.0.1/ICMP",
        "+ fd02::1/ICMP",
        "+ 10.2.0.1/47",
        "- 10.3.0.1/ICMP",
        "- 10.3.0.1/47",
    ]);
    for ports in [
        json!([{}]),
        json!([{}, {"protocol": "UDP"}, {"protocol": "SCTP"}]),
        json!([{"port": 0}]),
    ] {
        egress(json!([{"to": to, "ports": ports}])).table(&["- 10.2.0.1/ICMP", "- 10.2.0.1/47"]);
    }
    egress(json!([{"to": to, "ports": []}])).table(&["+ 10.2.0.1/ICMP"]);
    egress(json!([{"ports": [{"port": "web"}]}])).table(&["- 10.2.0.1/ICMP"]);
    egress(json!([])).table(&["- 10.2.0.1/ICMP"]);
}
