//! E. Ports.

use serde_json::json;

use crate::world::{egress, pod, ports};

#[test]
fn s36_a_range_includes_both_ends() {
    ports(json!([{"port": 80, "endPort": 82}])).table(&[
        "- 10.2.0.1:79/TCP",
        "+ 10.2.0.1:80/TCP",
        "+ 10.2.0.1:82/TCP",
        "- 10.2.0.1:83/TCP",
        "- 10.2.0.1:81/UDP",
    ]);
    ports(json!([{"port": 80, "endPort": 80}])).table(&["+ 10.2.0.1:80/TCP", "- 10.2.0.1:81/TCP"]);
    ports(json!([{"port": 1, "endPort": 65535}]))
        .table(&["+ 10.2.0.1:1/TCP", "+ 10.2.0.1:65535/TCP"]);
    ports(json!([{"port": 80, "endPort": null}]))
        .table(&["+ 10.2.0.1:80/TCP", "- 10.2.0.1:81/TCP"]);
}

#[test]
fn s37_s40_a_name_is_looked_up_in_the_destination_pod() {
    ports(json!([{"port": "web"}])).table(&["+ 10.2.0.1:80/TCP", "- 10.2.0.1:81/TCP"]);
    ports(json!([{"port": "nobody-has-this"}])).table(&["- 10.2.0.1:80/TCP"]);
}

#[test]
fn s38_each_pod_is_allowed_on_its_own_number_only() {
    ports(json!([{"port": "web"}]))
        .with(pod(
            "y/d",
            &["10.2.0.4"],
            json!({"spec": {"containers": [
            {"ports": [{"name": "web", "containerPort": 8080}]}]}}),
        ))
        .table(&[
            "+ 10.2.0.1:80/TCP",
            "- 10.2.0.1:8080/TCP",
            "+ 10.2.0.4:8080/TCP",
            "- 10.2.0.4:80/TCP",
        ]);
}

#[test]
fn s39_a_name_of_another_protocol_never_matches() {
    ports(json!([{"port": "dns"}])).table(&["- 10.2.0.1:53/TCP", "- 10.2.0.1:53/UDP"]);
    ports(json!([{"port": "dns", "protocol": "UDP"}]))
        .table(&["+ 10.2.0.1:53/UDP", "- 10.2.0.1:53/TCP"]);
}

#[test]
fn s41_without_peers_a_name_means_pods_of_any_namespace_and_only_pods() {
    ports(json!([{"port": "web"}])).table(&[
        "+ 10.1.0.2:80/TCP",
        "+ 10.2.0.2:80/TCP",
        "+ 10.3.0.2:80/TCP",
        "- 203.0.113.9:80/TCP",
        "- 192.168.0.1:80/TCP",
    ]);
}

#[test]
fn s42_with_a_block_a_name_means_the_pods_within_it() {
    egress(json!([{
        "to": [{"ipBlock": {"cidr": "10.2.0.0/24", "except": ["10.2.0.3/32"]}}],
        "ports": [{"port": "web"}],
    }]))
    .table(&[
        "+ 10.2.0.1:80/TCP",
        "- 10.2.0.1:81/TCP",
        "- 10.2.0.3:80/TCP",
        "- 10.2.0.99:80/TCP",
        "- 10.1.0.2:80/TCP",
    ]);
}

#[test]
fn s43_sidecars_count_and_init_containers_that_end_do_not() {
    let declared = json!([{"name": "side", "containerPort": 15090}]);
    for (policy, allowed) in [(json!("Always"), true), (json!(null), false)] {
        let init = json!([{"restartPolicy": policy, "ports": declared}]);
        let world = ports(json!([{"port": "side"}])).with(pod(
            "y/d",
            &["10.2.0.4"],
            json!({"spec": {"initContainers": init}}),
        ));
        assert_eq!(world.allows("10.2.0.4:15090/TCP"), allowed, "{policy}");
    }
}

#[test]
fn s44_one_name_on_two_containers_means_either_number() {
    ports(json!([{"port": "web"}]))
        .with(pod("y/d", &["10.2.0.4"], json!({"spec": {"containers": [
            {"ports": [{"name": "web", "containerPort": 8080}]},
            {"ports": [{"name": "web", "containerPort": 9090}, {"name": "web", "containerPort": 7070, "protocol": "UDP"}]},
        ]}})))
        .table(&[
            "+ 10.2.0.4:8080/TCP",
            "+ 10.2.0.4:9090/TCP",
            "- 10.2.0.4:7070/TCP",
            "- 10.2.0.4:80/TCP",
        ]);
}

#[test]
fn s45_s92_an_entry_that_cannot_be_read_is_ignored_and_never_means_everything() {
    for entry in [
        json!({"port": 0}),
        json!({"port": -1}),
        json!({"port": 65536}),
        json!({"port": 80.5}),
        json!({"port": true}),
        json!({"port": {}}),
        json!({"port": 80, "endPort": 79}),
        json!({"port": 80, "endPort": 0}),
        json!({"port": 80, "endPort": 65536}),
        json!({"port": 80, "endPort": "81"}),
        json!({"endPort": 80}),
        json!({"port": "web", "endPort": 90}),
        json!({"port": 80, "protocol": "tcp"}),
        json!({"port": 80, "protocol": "ICMP"}),
        json!({"port": 80, "protocol": ""}),
        json!({"port": 80, "protocol": 6}),
        json!({"port": 80, "unknown": 1}),
        json!({"unknown": 1}),
        json!("80"),
        json!(80),
        json!(null),
        json!([]),
    ] {
        ports(json!([entry])).table(&[
            "- 10.2.0.1:80/TCP",
            "- 10.2.0.1:81/TCP",
            "- 10.2.0.1:0/TCP",
            "- 10.2.0.1:80/UDP",
            "- 10.2.0.1/ICMP",
        ]);
        ports(json!([entry, {"port": 81}])).table(&["- 10.2.0.1:80/TCP", "+ 10.2.0.1:81/TCP"]);
    }
}

#[test]
fn s92_a_quoted_number_is_a_name_that_no_pod_has() {
    ports(json!([{"port": "80"}])).table(&["- 10.2.0.1:80/TCP", "- 203.0.113.9:80/TCP"]);
}

#[test]
fn s40_the_empty_name_is_not_the_name_of_ports_without_one() {
    ports(json!([{"port": ""}])).table(&["- 10.2.0.1:99/TCP", "- 10.2.0.1:80/TCP"]);
}

#[test]
fn s92_ports_that_are_no_list_make_the_rule_match_nothing() {
    for bad in [json!({}), json!("80"), json!(80)] {
        ports(bad).table(&["- 10.2.0.1:80/TCP"]);
    }
}
