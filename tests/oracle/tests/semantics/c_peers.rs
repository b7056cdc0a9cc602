//! C. Pod and namespace peers.

use serde_json::{Value, json};

use crate::world::{World, egress, namespace, to};

#[test]
fn s19_a_pod_selector_alone_means_the_policys_namespace() {
    to(json!({"podSelector": {"matchLabels": {"pod": "b"}}})).table(&[
        "+ 10.1.0.2:80/TCP",
        "- 10.1.0.3:80/TCP",
        "- 10.2.0.2:80/TCP",
        "- 10.3.0.2:80/TCP",
    ]);
}

#[test]
fn s20_a_namespace_selector_alone_means_all_pods_of_the_namespaces() {
    to(json!({"namespaceSelector": {"matchLabels": {"ns": "y"}}})).table(&[
        "+ 10.2.0.1:80/TCP",
        "+ 10.2.0.3:9/UDP",
        "- 10.1.0.2:80/TCP",
        "- 203.0.113.9:80/TCP",
    ]);
}

#[test]
fn s21_two_selectors_in_one_entry_are_anded_and_two_entries_ored() {
    let pods = json!({"matchLabels": {"pod": "b"}});
    let namespaces = json!({"matchLabels": {"ns": "y"}});
    to(json!({"podSelector": pods, "namespaceSelector": namespaces})).table(&[
        "+ 10.2.0.2:80/TCP",
        "- 10.2.0.3:80/TCP",
        "- 10.1.0.2:80/TCP",
    ]);
    egress(json!([{"to": [{"podSelector": pods}, {"namespaceSelector": namespaces}]}])).table(&[
        "+ 10.2.0.2:80/TCP",
        "+ 10.2.0.3:80/TCP",
        "+ 10.1.0.2:80/TCP",
        "- 10.1.0.3:80/TCP",
    ]);
}

#[test]
fn s22_selectors_match_pods_and_nothing_else() {
    for peer in [json!({"podSelector": {}}), json!({"namespaceSelector": {}})] {
        to(peer).table(&[
            "+ 10.1.0.2:80/TCP",
            "- 192.168.0.1:80/TCP",
            "- 203.0.113.9:80/TCP",
            "- 10.1.0.99:80/TCP",
        ]);
    }
    to(json!({"podSelector": {}})).table(&["- 10.2.0.1:80/TCP"]);
    to(json!({"namespaceSelector": {}})).table(&["+ 10.2.0.1:80/TCP"]);
}

#[test]
fn s23_null_is_no_part_of_the_peer_and_empty_is_everything() {
    to(json!({"podSelector": {}, "namespaceSelector": null}))
        .table(&["+ 10.1.0.2:80/TCP", "- 10.2.0.2:80/TCP"]);
    to(json!({"podSelector": {}, "namespaceSelector": {}}))
        .table(&["+ 10.1.0.2:80/TCP", "+ 10.2.0.2:80/TCP"]);
    to(json!({"podSelector": null, "namespaceSelector": {}}))
        .table(&["+ 10.1.0.2:80/TCP", "+ 10.2.0.2:80/TCP"]);
}

/// Which of x's pods b (`pod=b`, `tier=`) and a seen from y (`pod=a`, no `tier`) match.
fn matching(selector: &Value) -> (bool, bool) {
    let world = World::new().policy(
        "y/p",
        json!({"policyTypes": ["Egress"],
            "egress": [{"to": [{"namespaceSelector": {}, "podSelector": selector}]}]}),
    );
    (
        world.ask("y/c", "10.1.0.2:80/TCP").allow,
        world.ask("y/c", "10.1.0.1:80/TCP").allow,
    )
}

#[test]
fn s24_operators() {
    let expression = |value: Value| json!({"matchExpressions": [value]});
    for (selector, b, a) in [
        (
            json!({"key": "pod", "operator": "In", "values": ["b", "z"]}),
            true,
            false,
        ),
        (
            json!({"key": "pod", "operator": "In", "values": ["a", "b"]}),
            true,
            true,
        ),
        (
            json!({"key": "none", "operator": "In", "values": [""]}),
            false,
            false,
        ),
        (
            json!({"key": "tier", "operator": "In", "values": [""]}),
            true,
            false,
        ),
        (
            json!({"key": "pod", "operator": "NotIn", "values": ["a"]}),
            true,
            false,
        ),
        (
            json!({"key": "none", "operator": "NotIn", "values": ["a"]}),
            true,
            true,
        ),
        (
            json!({"key": "tier", "operator": "NotIn", "values": [""]}),
            false,
            true,
        ),
        (json!({"key": "tier", "operator": "Exists"}), true, false),
        (
            json!({"key": "tier", "operator": "Exists", "values": []}),
            true,
            false,
        ),
        (
            json!({"key": "tier", "operator": "DoesNotExist"}),
            false,
            true,
        ),
        (
            json!({"key": "none", "operator": "DoesNotExist", "values": null}),
            true,
            true,
        ),
    ] {
        assert_eq!(
            matching(&expression(selector.clone())),
            (b, a),
            "{selector}"
        );
    }
}

#[test]
fn s24_labels_and_expressions_are_anded() {
    let exists = json!({"key": "tier", "operator": "Exists"});
    let absent = json!({"key": "tier", "operator": "DoesNotExist"});
    for (selector, b, a) in [
        (
            json!({"matchLabels": {"pod": "b"}, "matchExpressions": [exists]}),
            true,
            false,
        ),
        (
            json!({"matchLabels": {"pod": "a"}, "matchExpressions": [exists]}),
            false,
            false,
        ),
        (json!({"matchExpressions": [exists, absent]}), false, false),
        (
            json!({"matchLabels": {}, "matchExpressions": []}),
            true,
            true,
        ),
    ] {
        assert_eq!(matching(&selector), (b, a), "{selector}");
    }
}

#[test]
fn s25_a_namespace_is_matched_by_labels_of_which_its_name_is_one() {
    let name = "kubernetes.io/metadata.name";
    to(json!({"namespaceSelector": {"matchLabels": {name: "y"}}}))
        .table(&["+ 10.2.0.1:80/TCP", "- 10.1.0.2:80/TCP"]);
    to(json!({"namespaceSelector": {"matchExpressions": [
        {"key": name, "operator": "NotIn", "values": ["y"]}]}}))
    .table(&["- 10.2.0.1:80/TCP", "+ 10.1.0.2:80/TCP"]);
    to(json!({"namespaceSelector": {"matchLabels": {"name": "y"}}})).table(&["- 10.2.0.1:80/TCP"]);
}

#[test]
fn s25_the_name_label_cannot_be_forged() {
    let name = "kubernetes.io/metadata.name";
    let world = to(json!({"namespaceSelector": {"matchLabels": {name: "y"}}}))
        .with(namespace("z", json!({name: "y"})));
    assert!(!world.allows("10.3.0.1:80/TCP"));
}

#[test]
fn s26_an_empty_value_does_not_match_a_missing_key() {
    assert_eq!(
        matching(&json!({"matchLabels": {"tier": ""}})),
        (true, false)
    );
    assert_eq!(
        matching(&json!({"matchLabels": {"none": ""}})),
        (false, false)
    );
    to(json!({"namespaceSelector": {"matchLabels": {"team": ""}}}))
        .table(&["+ 10.2.0.1:80/TCP", "- 10.1.0.2:80/TCP"]);
}

#[test]
fn s28_selectors_mean_all_addresses_of_a_pod() {
    to(json!({"podSelector": {"matchLabels": {"pod": "b"}}})).table(&[
        "+ 10.1.0.2:80/TCP",
        "+ [fd01::2]:80/TCP",
        "- [fd01::3]:80/TCP",
    ]);
}

#[test]
fn s66_s90_a_namespace_not_seen_yet_matches_no_selector_not_even_the_empty_one() {
    let peer = json!({"namespaceSelector": {}});
    to(peer.clone()).table(&["- 10.3.0.1:80/TCP"]);
    to(json!({"namespaceSelector": {"matchExpressions": [{"key": "ns", "operator": "DoesNotExist"}]}}))
        .table(&["- 10.3.0.1:80/TCP"]);
    assert!(
        to(peer)
            .with(namespace("z", json!({})))
            .allows("10.3.0.1:80/TCP")
    );
}

#[test]
fn s90_a_policy_in_a_namespace_not_seen_yet_still_selects_its_own_pods() {
    let world = World::new().policy(
        "z/p",
        json!({"policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {}}]}]}),
    );
    assert!(world.ask("z/a", "10.3.0.2:80/TCP").allow);
    assert!(!world.ask("z/a", "10.2.0.2:80/TCP").allow);
}

#[test]
fn s96_two_different_namespaces_of_one_name_are_as_one_not_seen() {
    let world = to(json!({"namespaceSelector": {}})).with(namespace("y", json!({"ns": "other"})));
    world.table(&["- 10.2.0.1:80/TCP", "+ 10.1.0.2:80/TCP"]);
}
