//! K and L. What the API server refuses, and an agent may see all the same.

use serde_json::{Value, json};

use crate::world::{OUTSIDE, World, answer, egress, to};

/// Selectors that cannot be compiled (S79, S91).
fn uncompilable() -> Vec<Value> {
    let long = "a".repeat(64);
    vec![
        json!({"matchExpressions": [{"key": "pod", "operator": "in", "values": ["a"]}]}),
        json!({"matchExpressions": [{"key": "pod", "operator": "Equals", "values": ["a"]}]}),
        json!({"matchExpressions": [{"key": "pod", "values": ["a"]}]}),
        json!({"matchExpressions": [{"key": "pod", "operator": "In", "values": []}]}),
        json!({"matchExpressions": [{"key": "pod", "operator": "NotIn"}]}),
        json!({"matchExpressions": [{"key": "pod", "operator": "Exists", "values": ["a"]}]}),
        json!({"matchExpressions": [{"key": "pod", "operator": "DoesNotExist", "values": ["a"]}]}),
        json!({"matchExpressions": [{"key": "pod", "operator": "In", "values": ["a", "b c"]}]}),
        json!({"matchExpressions": [{"key": "pod", "operator": "In", "values": [1]}]}),
        json!({"matchExpressions": [{"key": "", "operator": "Exists"}]}),
        json!({"matchExpressions": [{"operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": "-pod", "operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": "a/b/c", "operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": "Upper.example/c", "operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": "/c", "operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": "example/", "operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": "pod", "operator": "Exists", "unknown": 1}]}),
        json!({"matchExpressions": [null]}),
        json!({"matchExpressions": {}}),
        json!({"matchLabels": {"pod": "-a"}}),
        json!({"matchLabels": {"pod": "a b"}}),
        json!({"matchLabels": {"pod": long}}),
        json!({"matchLabels": {"pod": 1}}),
        json!({"matchLabels": {"pod": null}}),
        json!({"matchLabels": {"": "a"}}),
        json!({"matchLabels": {long: "a"}}),
        json!({"matchLabels": "pod=a"}),
        json!({"matchLabels": {}, "unknown": {}}),
        json!([]),
        json!("pod=a"),
    ]
}

#[test]
fn s91_a_policy_whose_selector_cannot_be_compiled_isolates_its_namespace_and_allows_nothing() {
    for selector in uncompilable() {
        let world = World::new().policy(
            "x/p",
            json!({"podSelector": selector, "policyTypes": ["Egress"], "egress": [{}]}),
        );
        for pod in ["x/a", "x/b"] {
            assert_eq!(
                world.ask(pod, "10.2.0.1:80/TCP"),
                answer(false, &["x/p"], &[]),
                "{selector}"
            );
        }
        assert!(!world.isolated("y/a"));
    }
}

#[test]
fn s91_but_not_if_it_is_about_ingress_only() {
    for selector in uncompilable() {
        for spec in [
            json!({"podSelector": selector, "policyTypes": ["Ingress"], "egress": [{}]}),
            json!({"podSelector": selector}),
        ] {
            assert!(
                !World::new().policy("x/p", spec).isolated("x/a"),
                "{selector}"
            );
        }
    }
}

#[test]
fn s82_s91_a_peer_whose_selector_cannot_be_compiled_matches_nothing() {
    for selector in uncompilable() {
        for peer in [
            json!({"podSelector": selector}),
            json!({"namespaceSelector": selector}),
            json!({"podSelector": selector, "namespaceSelector": {}}),
            json!({"podSelector": {}, "namespaceSelector": selector}),
        ] {
            egress(json!([{"to": [peer, {"ipBlock": {"cidr": "10.2.0.0/16"}}]}])).table(&[
                "- 10.1.0.2:80/TCP",
                "- 10.1.0.3:80/TCP",
                "+ 10.2.0.1:80/TCP",
            ]);
        }
    }
}

#[test]
fn s91_labels_at_the_edge_of_validity_compile() {
    let (long, prefix) = ("a".repeat(63), "a.".repeat(126) + "a");
    for selector in [
        json!({"matchExpressions": [{"key": long, "operator": "DoesNotExist"}]}),
        json!({"matchExpressions": [{"key": format!("{prefix}/A_b.c-D"), "operator": "DoesNotExist"}]}),
        json!({"matchExpressions": [{"key": "pod", "operator": "NotIn", "values": [long, "", "A_b.c-D", "1"]}]}),
    ] {
        to(json!({"podSelector": selector})).table(&["+ 10.1.0.2:80/TCP"]);
    }
}

#[test]
fn s93_a_peer_with_no_field_or_with_block_and_selector_matches_nothing() {
    let all = json!({"cidr": "0.0.0.0/0"});
    for peer in [
        json!({}),
        json!(null),
        json!("any"),
        json!([]),
        json!({"podSelector": null}),
        json!({"ipBlock": null, "podSelector": null, "namespaceSelector": null}),
        json!({"ipBlock": all, "podSelector": {}}),
        json!({"ipBlock": all, "namespaceSelector": {}}),
        json!({"ipBlock": all, "podSelector": {}, "namespaceSelector": {}}),
        json!({"ipBlock": "0.0.0.0/0"}),
        json!({"ipBlock": {"cidr": 7}}),
    ] {
        to(peer.clone()).table(&[
            "- 10.1.0.2:80/TCP",
            "- 10.2.0.1:80/TCP",
            "- 203.0.113.9:80/TCP",
        ]);
        egress(json!([{"to": [peer, {"podSelector": {}}]}]))
            .table(&["+ 10.1.0.2:80/TCP", "- 10.2.0.1:80/TCP"]);
    }
}

#[test]
fn s80_an_unknown_field_closes_the_smallest_unit_around_it() {
    // In a peer or its block: the peer.
    for peer in [
        json!({"podSelector": {}, "unknown": 1}),
        json!({"unknown": 1}),
        json!({"podSelector": {}, "unknown": null}),
        json!({"ipBlock": {"cidr": "0.0.0.0/0", "unknown": 1}}),
    ] {
        egress(json!([{"to": [peer, {"ipBlock": {"cidr": "10.2.0.1/32"}}]}]))
            .table(&["- 10.1.0.2:80/TCP", "+ 10.2.0.1:80/TCP"]);
    }
    // In a rule: the rule.
    egress(json!([{"from": []}, {"ports": [{"port": 81}]}]))
        .table(&["- 10.1.0.2:80/TCP", "+ 10.1.0.2:81/TCP"]);
    // In the spec: the policy, which still isolates what it selects.
    let world = World::new().policy(
        "x/p",
        json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Egress"],
            "egress": [{}], "unknown": 1}),
    );
    assert_eq!(
        world.ask("x/a", "10.2.0.1:80/TCP"),
        answer(false, &["x/p"], &[])
    );
    assert!(!world.isolated("x/b"));
}

#[test]
fn s80_a_spec_with_an_unknown_field_and_no_policy_types_may_be_about_egress() {
    let spec = |types: Value| json!({"podSelector": {}, "policyTypes": types, "egres": [{}]});
    assert!(
        World::new()
            .policy("x/p", spec(json!(null)))
            .isolated("x/a")
    );
    assert!(
        !World::new()
            .policy("x/p", spec(json!(["Ingress"])))
            .isolated("x/a")
    );
}

#[test]
fn s79_unknown_or_unreadable_policy_types_isolate_and_allow_nothing() {
    for types in [
        json!(["Egress", "Other"]),
        json!(["Ingress", "Other"]),
        json!(["egress"]),
        json!([""]),
        json!([1]),
        json!([null]),
        json!("Egress"),
        json!({}),
    ] {
        let world = World::new().policy("x/p", json!({"policyTypes": types, "egress": [{}]}));
        assert_eq!(
            world.ask("x/a", "10.2.0.1:80/TCP"),
            answer(false, &["x/p"], &[]),
            "{types}"
        );
    }
}

#[test]
fn s79_more_than_two_policy_types_mean_what_they_say() {
    let world = |types: Value| {
        World::new().policy(
            "x/p",
            json!({"policyTypes": types, "egress": [{"ports": [{"port": 80}]}]}),
        )
    };
    world(json!(["Egress", "Ingress", "Egress"]))
        .table(&["+ 10.2.0.1:80/TCP", "- 10.2.0.1:81/TCP"]);
    assert!(!world(json!(["Ingress", "Ingress", "Ingress"])).isolated("x/a"));
}

#[test]
fn an_unreadable_part_closes_and_the_parts_beside_it_stand() {
    // A rule.
    for rule in [
        json!(null),
        json!("all"),
        json!([]),
        json!({"to": {}}),
        json!({"to": "x"}),
    ] {
        egress(json!([rule, {"ports": [{"port": 81}]}]))
            .table(&["- 10.1.0.2:80/TCP", "+ 10.1.0.2:81/TCP"]);
    }
    // The rules.
    for rules in [json!({}), json!("all"), json!(true)] {
        let world = World::new().policy("x/p", json!({"egress": rules}));
        assert_eq!(
            world.ask("x/a", "10.2.0.1:80/TCP"),
            answer(false, &["x/p"], &[])
        );
    }
    // The spec.
    for spec in [json!([]), json!("all"), json!(1)] {
        let world = World::new().policy("x/p", spec);
        assert_eq!(
            world.ask("x/a", "10.2.0.1:80/TCP"),
            answer(false, &["x/p"], &[])
        );
        assert!(!world.isolated("y/a"));
    }
}

#[test]
fn unreadable_ingress_does_not_concern_egress() {
    let world = World::new().policy(
        "x/p",
        json!({"policyTypes": ["Ingress", "Egress"], "ingress": "bad",
            "egress": [{"to": [{"ipBlock": {"cidr": format!("{OUTSIDE}/32")}}]}]}),
    );
    world.table(&["+ 203.0.113.9:80/TCP", "- 10.2.0.1:80/TCP"]);
}
