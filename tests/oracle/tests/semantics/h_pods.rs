//! H and J. Which pods are subjects and peers; whose an address is; the pod itself.

use serde_json::{Value, json};

use crate::world::{World, answer, egress, pod, ports, to};

const NODE: &str = "192.168.0.1";

fn on_host(name: &str) -> Value {
    pod(
        name,
        &[NODE],
        json!({"metadata": {"labels": {"pod": "host"}}, "spec": {"hostNetwork": true}}),
    )
}

#[test]
fn s59_s87_a_host_network_pod_is_no_subject() {
    let world = egress(json!([])).with(on_host("x/host"));
    assert_eq!(
        world.ask("x/host", "10.2.0.1:80/TCP"),
        answer(true, &[], &[])
    );
}

#[test]
fn s60_s22_a_host_network_pod_is_no_peer_of_selectors_but_of_blocks() {
    for peer in [
        json!({"namespaceSelector": {}}),
        json!({"podSelector": {}}),
        json!({"podSelector": {"matchLabels": {"pod": "host"}}}),
    ] {
        to(peer)
            .with(on_host("x/host"))
            .table(&["- 192.168.0.1:80/TCP"]);
    }
    to(json!({"ipBlock": {"cidr": "192.168.0.1/32"}}))
        .with(on_host("x/host"))
        .table(&["+ 192.168.0.1:80/TCP"]);
}

#[test]
fn s41_s60_the_named_ports_of_host_network_pods_are_no_pods_ports() {
    ports(json!([{"port": "web"}]))
        .with(on_host("x/host"))
        .table(&["- 192.168.0.1:80/TCP"]);
    egress(json!([{"to": [{"ipBlock": {"cidr": "192.168.0.1/32"}}], "ports": [{"port": "web"}]}]))
        .with(on_host("x/host"))
        .table(&["- 192.168.0.1:80/TCP"]);
}

#[test]
fn s62_s88_a_finished_pod_is_neither_subject_nor_peer() {
    for phase in ["Succeeded", "Failed"] {
        let finished = json!({"status": {"phase": phase}});
        let subject = egress(json!([])).change("Pod", "x/a", finished.clone());
        assert_eq!(
            subject.ask("x/a", "10.2.0.1:80/TCP"),
            answer(true, &[], &[])
        );

        let peer = to(json!({"podSelector": {}})).change("Pod", "x/b", finished.clone());
        peer.table(&["- 10.1.0.2:80/TCP", "+ 10.1.0.3:80/TCP"]);

        let reused = to(json!({"podSelector": {"matchLabels": {"pod": "new"}}}))
            .change("Pod", "x/b", finished)
            .with(pod(
                "x/new",
                &["10.1.0.2"],
                json!({"metadata": {"labels": {"pod": "new"}}}),
            ));
        reused.table(&["+ 10.1.0.2:80/TCP"]);
    }
}

#[test]
fn s63_a_terminating_pod_is_still_subject_and_peer() {
    let terminating = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    assert!(
        egress(json!([]))
            .change("Pod", "x/a", terminating.clone())
            .isolated("x/a")
    );
    to(json!({"podSelector": {}}))
        .change("Pod", "x/b", terminating)
        .table(&["+ 10.1.0.2:80/TCP"]);
}

#[test]
fn s75_s96_of_two_different_pods_of_one_name_the_addresses_of_either_are_its_own() {
    let world = egress(json!([])).with(pod("x/b", &["10.1.0.9"], json!({})));
    for own in ["10.1.0.2:80/TCP", "[fd01::2]:53/UDP", "10.1.0.9/ICMP"] {
        assert!(world.ask("x/b", own).allow, "{own}");
    }
    for other in ["10.1.0.1:80/TCP", "10.1.0.8:80/TCP"] {
        assert!(!world.ask("x/b", other).allow, "{other}");
    }
}

#[test]
fn s87_s88_s96_a_pod_that_is_no_subject_by_either_of_its_objects_is_none() {
    let versions = |one: Value, other: Value| {
        egress(json!([]))
            .with(pod("x/d", &["10.1.0.9"], one))
            .with(pod("x/d", &["10.1.0.9", "10.1.0.8"], other))
    };
    let on_host = json!({"spec": {"hostNetwork": true}});
    let ended = json!({"status": {"phase": "Failed"}});
    for (one, other, exempt) in [
        (&on_host, &on_host, true),
        (&ended, &ended, true),
        (&on_host, &json!({}), false),
        (&ended, &on_host, false),
        (
            &ended,
            &json!({"metadata": {"labels": 5}, "status": {"phase": "Failed"}}),
            false,
        ),
    ] {
        let world = versions(one.clone(), other.clone());
        assert_eq!(
            world.ask("x/d", "10.2.0.1:80/TCP").allow,
            exempt,
            "{one} {other}"
        );
    }
}

#[test]
fn s64_readiness_and_phase_pending_do_not_matter() {
    for status in [
        json!({"phase": "Pending"}),
        json!({"phase": "Unknown"}),
        json!({"phase": null}),
        json!({"conditions": [{"type": "Ready", "status": "False"}]}),
    ] {
        let world = to(json!({"podSelector": {"matchLabels": {"pod": "b"}}})).change(
            "Pod",
            "x/b",
            json!({"status": status}),
        );
        world.table(&["+ 10.1.0.2:80/TCP"]);
        assert!(world.isolated("x/b"));
    }
}

#[test]
fn s65_s89_of_two_pods_with_one_address_running_then_newer_then_the_greater_uid_wins() {
    let meta = |created: &str, uid: &str| json!({"creationTimestamp": created, "uid": uid});
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    for (phase_a, a, phase_b, b, wins) in [
        ("Running", meta(old, "1"), "Pending", meta(new, "2"), "one"),
        ("Pending", meta(new, "2"), "Running", meta(old, "1"), "two"),
        ("Running", meta(new, "1"), "Running", meta(old, "2"), "one"),
        ("Running", meta(old, "2"), "Running", meta(new, "1"), "two"),
        ("Pending", meta(old, "1"), "Pending", meta(old, "2"), "two"),
        ("Running", meta(old, "b"), "Running", meta(old, "a"), "one"),
    ] {
        let contender = |name: &str, phase: &str, metadata: &Value| {
            let mut object = pod(
                &format!("x/{name}"),
                &["10.1.0.9"],
                json!({"status": {"phase": phase}}),
            );
            crate::world::merge(&mut object, json!({"metadata": metadata}));
            crate::world::merge(&mut object, json!({"metadata": {"labels": {"is": name}}}));
            object
        };
        let one = contender("one", phase_a, &a);
        let two = contender("two", phase_b, &b);
        for peer in ["one", "two"] {
            let rules = to(json!({"podSelector": {"matchLabels": {"is": peer}}}));
            let forth = rules.clone().with(one.clone()).with(two.clone());
            let back = rules.with(two.clone()).with(one.clone());
            assert_eq!(
                forth.allows("10.1.0.9:80/TCP"),
                peer == wins,
                "{peer}: {one} {two}"
            );
            assert_eq!(
                back.allows("10.1.0.9:80/TCP"),
                peer == wins,
                "{peer}: {two} {one}"
            );
        }
    }
}

#[test]
fn s89_the_loser_keeps_its_other_addresses() {
    let world = to(json!({"podSelector": {"matchLabels": {"is": "old"}}}))
        .with(pod(
            "x/old",
            &["10.1.0.9", "fd01::9"],
            json!({"metadata": {"labels": {"is": "old"}, "creationTimestamp": "2026-01-01T00:00:00Z"}}),
        ))
        .with(pod(
            "x/new",
            &["10.1.0.9"],
            json!({"metadata": {"creationTimestamp": "2026-01-02T00:00:00Z"}}),
        ));
    world.table(&["- 10.1.0.9:80/TCP", "+ [fd01::9]:80/TCP"]);
}

#[test]
fn s73_the_own_node_is_judged_as_any_destination() {
    egress(json!([])).table(&["- 192.168.0.1:10250/TCP"]);
    to(json!({"ipBlock": {"cidr": "192.168.0.1/32"}})).table(&["+ 192.168.0.1:10250/TCP"]);
}

#[test]
fn s75_a_pod_cannot_block_access_to_itself() {
    let world = egress(json!([]));
    for to in ["10.1.0.1:80/TCP", "[fd01::1]:53/UDP", "10.1.0.1/ICMP"] {
        assert_eq!(world.ask("x/a", to), answer(true, &["x/p"], &[]), "{to}");
    }
    assert!(!world.allows("10.1.0.2:80/TCP"));
}

#[test]
fn s28_a_pod_with_the_older_single_address_field_has_that_address() {
    let world: World = to(json!({"podSelector": {"matchLabels": {"pod": "b"}}})).change(
        "Pod",
        "x/b",
        json!({"status": {"podIPs": null, "podIP": "10.1.0.77"}}),
    );
    world.table(&["+ 10.1.0.77:80/TCP", "- 10.1.0.2:80/TCP"]);
}

#[test]
fn s96_of_two_different_pods_of_one_name_nothing_is_known_not_even_whose_address_it_is() {
    let contradiction = pod("x/b", &["10.1.0.2", "10.1.0.3"], json!({}));
    let selected = to(json!({"podSelector": {}})).with(contradiction.clone());
    // 10.1.0.3 is pod c's too, but who knows.
    selected.table(&["- 10.1.0.2:80/TCP", "- 10.1.0.3:80/TCP"]);
    assert!(!selected.ask("x/b", "10.2.0.1:80/TCP").allow);
    to(json!({"ipBlock": {"cidr": "10.1.0.0/24"}}))
        .with(contradiction)
        .table(&["+ 10.1.0.2:80/TCP"]);
}
