//! D. ipBlock, and how its text is read.

use egress_oracle::{parse_address, parse_cidr};
use serde_json::{Value, json};

use crate::world::{World, egress, to};

fn block(cidr: &str, except: Value) -> World {
    to(json!({"ipBlock": {"cidr": cidr, "except": except}}))
}

#[test]
fn s29_a_block_matches_pods_and_nodes_by_address() {
    block("10.2.0.0/24", json!(null)).table(&[
        "+ 10.2.0.0:80/TCP",
        "+ 10.2.0.1:80/TCP",
        "+ 10.2.0.255:80/TCP",
        "- 10.1.255.255:80/TCP",
        "- 10.2.1.0:80/TCP",
    ]);
    block("192.168.0.0/16", json!([])).table(&["+ 192.168.0.1:80/TCP"]);
}

#[test]
fn s30_an_exception_is_a_hole_in_its_own_block_alone() {
    block("10.0.0.0/8", json!(["10.2.0.0/16"])).table(&[
        "+ 10.1.0.2:80/TCP",
        "- 10.2.0.0:80/TCP",
        "- 10.2.255.255:80/TCP",
        "+ 10.3.0.0:80/TCP",
    ]);
    egress(json!([{"to": [
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16"]}},
        {"ipBlock": {"cidr": "10.2.0.1/32"}},
    ]}]))
    .table(&["+ 10.2.0.1:80/TCP", "- 10.2.0.2:80/TCP"]);
    block("10.0.0.0/8", json!(["10.2.0.0/16"]))
        .policy(
            "x/other",
            json!({"policyTypes": ["Egress"],
                "egress": [{"to": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]}]}),
        )
        .table(&["+ 10.2.0.1:80/TCP", "- 10.2.0.99:80/TCP"]);
}

#[test]
fn s31_one_family_never_matches_the_other() {
    block("0.0.0.0/0", json!([])).table(&["+ 203.0.113.9:1/TCP", "- [2001:db8::1]:1/TCP"]);
    block("::/0", json!([])).table(&["- 203.0.113.9:1/TCP", "+ [2001:db8::1]:1/TCP"]);
}

#[test]
fn s32_exceptions_may_overlap() {
    block(
        "10.0.0.0/8",
        json!(["10.2.0.0/16", "10.2.0.0/24", "10.2.0.128/25"]),
    )
    .table(&[
        "- 10.2.0.200:80/TCP",
        "- 10.2.9.9:80/TCP",
        "+ 10.3.0.1:80/TCP",
    ]);
}

#[test]
fn s33_s94_old_texts_mean_what_they_always_meant() {
    for (text, meaning) in [
        ("10.0.0.0/8", Some("10.0.0.0/8")),
        ("10.0.0.5/8", Some("10.0.0.0/8")),
        ("010.0.0.0/8", Some("10.0.0.0/8")),
        ("010.008.000.0000/16", Some("10.8.0.0/16")),
        ("10.0.0.0/08", Some("10.0.0.0/8")),
        ("10.0.0.0/000", Some("0.0.0.0/0")),
        ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
        ("::ffff:010.1.2.3/104", Some("10.0.0.0/8")),
        ("::FFFF:0a00:0/104", Some("10.0.0.0/8")),
        ("0:0:0:0:0:ffff:10.1.2.3/128", Some("10.1.2.3/32")),
        ("::ffff:10.0.0.0/96", Some("0.0.0.0/0")),
        ("::ffff:10.0.0.0/95", Some("::fffe:0:0/95")),
        ("::ffff:10.0.0.0/0", Some("::/0")),
        ("::10.0.0.0/104", Some("::a00:0/104")),
        ("2001:db8::5/32", Some("2001:db8::/32")),
        ("2001:0db8:00000::/032", Some("2001:db8::/32")),
        ("1:2:3:4:5:6:7:8/128", Some("1:2:3:4:5:6:7:8/128")),
        ("1:2:3:4:5:6:1.2.3.4/128", Some("1:2:3:4:5:6:102:304/128")),
        ("::/0", Some("::/0")),
        ("1::/16", Some("1::/16")),
        ("", None),
        ("10.0.0.0", None),
        ("10.0.0.0/", None),
        ("/8", None),
        ("10.0.0/8", None),
        ("10.0.0.0.0/8", None),
        ("10.0.0.256/8", None),
        ("10.0.0.0/33", None),
        ("10.0.0.0/+8", None),
        ("10.0.0.0/-1", None),
        ("10.0.0.0/8/8", None),
        (" 10.0.0.0/8", None),
        ("10.0.0.0/8 ", None),
        ("0xa.0.0.0/8", None),
        ("10.0..0/8", None),
        ("::/129", None),
        ("::ffff:10.0.0.0/129", None),
        ("fe80::1%eth0/64", None),
        ("1:2:3:4:5:6:7/64", None),
        ("1:2:3:4:5:6:7:8:9/64", None),
        ("1:2:3:4:5:6:7:8::/64", None),
        ("1::2::3/64", None),
        (":::/64", None),
        ("1:/64", None),
        (":1/64", None),
        ("10000::/16", None),
        ("g::/16", None),
        ("1.2.3.4::/16", None),
        ("1:2:3:4:5:6:7:1.2.3.4/16", None),
    ] {
        let meaning = meaning.map(|network| network.parse().unwrap());
        assert_eq!(parse_cidr(text), meaning, "{text:?}");
    }
}

#[test]
fn s33_addresses_are_read_alike() {
    for (text, meaning) in [
        ("10.0.0.1", Some("10.0.0.1")),
        ("010.0.0.001", Some("10.0.0.1")),
        ("::ffff:10.0.0.1", Some("10.0.0.1")),
        ("fd00::1", Some("fd00::1")),
        ("10.0.0.1/32", None),
        ("", None),
    ] {
        let meaning = meaning.map(|address| address.parse().unwrap());
        assert_eq!(parse_address(text), meaning, "{text:?}");
    }
}

#[test]
fn s34_a_block_that_cannot_be_read_matches_nothing() {
    for cidr in ["", "10.0.0.0", "nonsense", "0.0.0.0/33"] {
        block(cidr, json!([])).table(&["- 10.2.0.1:80/TCP", "- 0.0.0.0:80/TCP"]);
    }
    to(json!({"ipBlock": {}})).table(&["- 10.2.0.1:80/TCP"]);
}

#[test]
fn s78_link_local_addresses_are_ordinary_ones() {
    block("0.0.0.0/0", json!([])).table(&["+ 169.254.169.254:80/TCP"]);
    egress(json!([])).table(&["- 169.254.169.254:80/TCP"]);
}

#[test]
fn s93_an_exception_outside_its_block_is_subtracted_all_the_same() {
    block("10.0.0.0/8", json!(["172.16.0.0/12", "fd00::/8"])).table(&["+ 10.2.0.1:80/TCP"]);
    block("10.0.0.0/8", json!(["10.0.0.0/8"])).table(&["- 10.2.0.1:80/TCP"]);
    block("10.0.0.0/8", json!(["0.0.0.0/0"])).table(&["- 10.2.0.1:80/TCP"]);
}

#[test]
fn s93_an_exception_that_cannot_be_read_makes_its_peer_match_nothing() {
    for except in [
        json!(["bad"]),
        json!(["10.2.0.0/16", ""]),
        json!([7]),
        json!("10.2.0.0/16"),
    ] {
        block("10.0.0.0/8", except).table(&["- 10.3.0.1:80/TCP"]);
    }
}

#[test]
fn s94_an_ipv4_mapped_destination_is_an_ipv6_packet() {
    block("::ffff:10.0.0.0/104", json!([]))
        .table(&["+ 10.2.0.1:80/TCP", "- [::ffff:10.2.0.1]:80/TCP"]);
    block("::/0", json!([])).table(&["+ [::ffff:10.2.0.1]:80/TCP"]);
    block("::ffff:10.0.0.0/95", json!([]))
        .table(&["- 10.2.0.1:80/TCP", "+ [::ffff:10.2.0.1]:80/TCP"]);
}
