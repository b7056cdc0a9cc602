//! A. Does the policy isolate the pod?

use serde_json::json;

use crate::world::{World, answer, namespace, pod, policy};

#[test]
fn s1_a_pod_that_no_policy_selects_sends_anywhere() {
    let world = World::new().policy(
        "x/p",
        json!({"podSelector": {"matchLabels": {"pod": "b"}}, "policyTypes": ["Egress"]}),
    );
    assert_eq!(world.ask("x/a", "10.2.0.1:80/TCP"), answer(true, &[], &[]));
    assert_eq!(
        world.ask("x/b", "10.2.0.1:80/TCP"),
        answer(false, &["x/p"], &[])
    );
}

#[test]
fn s2_only_policies_of_the_own_namespace_with_egress_isolate() {
    let isolated = |name, types| {
        World::new()
            .policy(name, json!({"podSelector": {}, "policyTypes": types}))
            .isolated("x/a")
    };
    assert!(isolated("x/p", json!(["Egress"])));
    assert!(isolated("x/p", json!(["Ingress", "Egress"])));
    assert!(!isolated("x/p", json!(["Ingress"])));
    assert!(!isolated("y/p", json!(["Egress"])));
}

#[test]
fn s3_absent_policy_types_default_to_ingress_and_to_egress_iff_there_are_egress_rules() {
    for (spec, isolated) in [
        (json!({"podSelector": {}}), false),
        (json!({"podSelector": {}, "policyTypes": []}), false),
        (json!({"podSelector": {}, "policyTypes": null}), false),
        (json!({"podSelector": {}, "egress": []}), false),
        (json!({"podSelector": {}, "egress": null}), false),
        (json!({"podSelector": {}, "ingress": [{}]}), false),
        (json!({"podSelector": {}, "egress": [{}]}), true),
        (
            json!({"podSelector": {}, "policyTypes": [], "egress": [{}]}),
            true,
        ),
        (json!({}), false),
    ] {
        let world = World::new().policy("x/p", spec.clone());
        assert_eq!(world.isolated("x/a"), isolated, "{spec}");
    }
}

#[test]
fn s3_a_policy_without_a_spec_is_not_about_egress() {
    let world = World::new().with(json!({"apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy", "metadata": {"namespace": "x", "name": "p"}}));
    assert!(!world.isolated("x/a"));
}

#[test]
fn s4_egress_without_rules_denies_everything() {
    for spec in [
        json!({"policyTypes": ["Egress"]}),
        json!({"policyTypes": ["Egress"], "egress": []}),
        json!({"policyTypes": ["Egress"], "egress": null}),
    ] {
        World::new().policy("x/p", spec).table(&[
            "- 10.1.0.2:80/TCP",
            "- 10.2.0.1:53/UDP",
            "- 203.0.113.9:443/SCTP",
            "- 203.0.113.9/ICMP",
            "- [fd02::1]:80/TCP",
            "- 192.168.0.1:10250/TCP",
        ]);
    }
}

#[test]
fn s5_an_egress_section_without_the_egress_type_has_no_effect() {
    let world = World::new()
        .policy("x/deny", json!({"policyTypes": ["Egress"]}))
        .policy(
            "x/ingress",
            json!({"policyTypes": ["Ingress"], "egress": [{}]}),
        );
    assert_eq!(
        world.ask("x/a", "10.2.0.1:80/TCP"),
        answer(false, &["x/deny"], &[])
    );
}

#[test]
fn s6_egress_twice_is_egress() {
    let world = World::new().policy(
        "x/p",
        json!({"policyTypes": ["Egress", "Egress"], "egress": [{"ports": [{"port": 80}]}]}),
    );
    world.table(&["+ 10.2.0.1:80/TCP", "- 10.2.0.1:81/TCP"]);
}

#[test]
fn s7_an_absent_pod_selector_selects_every_pod_of_the_namespace() {
    for spec in [
        json!({"policyTypes": ["Egress"]}),
        json!({"policyTypes": ["Egress"], "podSelector": {}}),
        json!({"policyTypes": ["Egress"], "podSelector": null}),
    ] {
        let world = World::new().policy("x/p", spec);
        assert!(world.isolated("x/a") && world.isolated("x/b") && world.isolated("x/c"));
        assert!(!world.isolated("y/a"));
    }
}

#[test]
fn s8_isolation_is_of_the_sender_alone() {
    let world = World::new().policy("x/p", json!({"policyTypes": ["Egress"]}));
    assert!(world.ask("y/a", "10.1.0.1:80/TCP").allow);
}

#[test]
fn s96_a_policy_or_pod_without_a_namespace_is_of_the_default_one() {
    let mut pod = pod("-/a", &["10.9.0.1"], json!({}));
    let mut policy = policy("-/p", json!({"policyTypes": ["Egress"]}));
    for object in [&mut pod, &mut policy] {
        crate::world::merge(object, json!({"metadata": {"namespace": null}}));
    }
    let world = World::new().with(pod).with(policy);
    assert_eq!(
        world.ask("default/a", "10.2.0.1:80/TCP"),
        answer(false, &["default/p"], &[])
    );
}

#[test]
fn s96_a_network_policy_of_another_api_group_is_ignored() {
    let mut other = policy("x/p", json!({"policyTypes": ["Egress"]}));
    crate::world::merge(&mut other, json!({"apiVersion": "crd.example.com/v1"}));
    assert!(!World::new().with(other).isolated("x/a"));
}

#[test]
fn s96_two_different_policies_of_one_name_isolate_what_either_selects_and_allow_nothing() {
    let spec = |pod: &str, types: &str| json!({"podSelector": {"matchLabels": {"pod": pod}}, "policyTypes": [types], "egress": [{}]});
    let world = |second: &str| {
        World::new()
            .policy("x/p", spec("a", "Egress"))
            .policy("x/p", spec("c", second))
    };
    for pod in ["x/a", "x/c"] {
        assert_eq!(
            world("Egress").ask(pod, "10.2.0.1:80/TCP"),
            answer(false, &["x/p"], &[])
        );
    }
    assert!(!world("Egress").isolated("x/b"));
    assert!(!world("Egress").isolated("y/a"));
    assert!(world("Ingress").isolated("x/c"));
}

#[test]
fn s96_the_same_object_twice_is_one_object() {
    let world = World::new()
        .policy("x/p", json!({"policyTypes": ["Egress"], "egress": [{}]}))
        .policy("x/p", json!({"policyTypes": ["Egress"], "egress": [{}]}))
        .with(namespace("x", json!({"ns": "x"})));
    assert_eq!(
        world.ask("x/a", "10.2.0.1:80/TCP"),
        answer(true, &["x/p"], &["x/p"])
    );
}

#[test]
fn a_pod_that_is_not_there_sends_nothing() {
    assert!(!World::new().ask("x/nobody", "10.2.0.1:80/TCP").allow);
}
