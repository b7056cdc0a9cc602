//! I and L. Services: what the packet will be rewritten to decides.
//!
//! Service `y/s` is 10.96.0.1 (and `fd96::1`), port 80/TCP to 8080, node port 30080, with the
//! external address 198.51.100.1 and the load balancer address 198.51.100.2. Its endpoints
//! are y/a and y/b unless a test says otherwise.

use serde_json::{Value, json};

use crate::world::{World, answer, egress, merge, node, pod, service, slice, to};

/// x's pods may reach y's pods with these names, on port 8080.
fn may_reach(names: &[&str]) -> World {
    egress(json!([{
        "to": [{"namespaceSelector": {"matchLabels": {"ns": "y"}},
            "podSelector": {"matchExpressions": [{"key": "pod", "operator": "In", "values": names}]}}],
        "ports": [{"port": 8080}],
    }]))
}

fn s(changes: Value) -> Value {
    let mut object = service(
        "s",
        json!({
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd96::1"],
            "externalIPs": ["198.51.100.1"],
            "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}],
        }),
    );
    merge(
        &mut object,
        json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.2"}]}}}),
    );
    merge(&mut object, json!({"spec": changes}));
    object
}

fn endpoint(pod: &str, changes: Value) -> Value {
    let host = match pod {
        "a" => 1,
        "b" => 2,
        "c" => 3,
        _ => 9,
    };
    let mut endpoint = json!({
        "addresses": [format!("10.2.0.{host}")], "nodeName": "n1",
        "targetRef": {"kind": "Pod", "namespace": "y", "name": pod},
        "conditions": {"ready": true, "serving": true, "terminating": false},
    });
    merge(&mut endpoint, changes);
    endpoint
}

fn endpoints(endpoints: Value) -> Value {
    slice("s", json!([{"port": 8080}]), endpoints)
}

fn a_and_b() -> Value {
    endpoints(json!([endpoint("a", json!({})), endpoint("b", json!({}))]))
}

const CLUSTER_IP: &str = "10.96.0.1:80/TCP";

#[test]
fn s68_s72_the_backend_and_its_port_decide_not_the_cluster_ip() {
    let world = may_reach(&["a", "b"]).with(s(json!({}))).with(a_and_b());
    world.table(&[
        "+ 10.96.0.1:80/TCP",
        "- 10.96.0.1:8080/TCP",
        "- 10.96.0.1:80/UDP",
    ]);

    let vip = to(json!({"ipBlock": {"cidr": "10.96.0.1/32"}}))
        .with(s(json!({})))
        .with(a_and_b());
    vip.table(&["- 10.96.0.1:80/TCP"]);

    let service_port = egress(json!([{"ports": [{"port": 80}]}]))
        .with(s(json!({})))
        .with(a_and_b());
    service_port.table(&["- 10.96.0.1:80/TCP"]);
}

#[test]
fn s28_the_services_own_selector_changes_nothing() {
    let world = may_reach(&["a", "b"])
        .with(s(json!({"selector": {"pod": "nobody"}})))
        .with(a_and_b());
    assert!(world.allows(CLUSTER_IP));
}

#[test]
fn s84_mixed_endpoints_are_denied() {
    let world = may_reach(&["a"]).with(s(json!({}))).with(a_and_b());
    assert_eq!(world.ask("x/a", CLUSTER_IP), answer(false, &["x/p"], &[]));
}

#[test]
fn s84_policies_may_share_the_endpoints_and_then_none_allows_it_alone() {
    let one = |name: &str| {
        json!({"policyTypes": ["Egress"], "egress": [{"to": [
            {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": name}}}]}]})
    };
    let world = World::new()
        .policy("x/1", one("a"))
        .policy("x/2", one("b"))
        .with(s(json!({})))
        .with(a_and_b());
    assert_eq!(
        world.ask("x/a", CLUSTER_IP),
        answer(true, &["x/1", "x/2"], &[])
    );
    assert_eq!(
        world.ask("x/a", "10.2.0.1:8080/TCP"),
        answer(true, &["x/1", "x/2"], &["x/1"])
    );
}

#[test]
fn s84_only_ready_endpoints_count_and_draining_ones_where_none_is_ready() {
    let not_ready = json!({"conditions": {"ready": false, "serving": false}});
    let draining = json!({"conditions": {"ready": false, "serving": true, "terminating": true}});
    let unknown = json!({"conditions": null});
    let terminated = json!({"conditions": {"ready": false, "serving": false, "terminating": true}});
    for (a, b, allowed) in [
        // b may not be reached; whether it counts decides.
        (json!({}), json!({}), false),
        (json!({}), not_ready.clone(), true),
        (json!({}), draining.clone(), true),
        (json!({}), unknown.clone(), false),
        (unknown, not_ready.clone(), true),
        (draining.clone(), not_ready.clone(), true),
        (draining.clone(), draining.clone(), false),
        (draining, terminated, true),
        // Nothing usable: the literal address, which may not be reached.
        (not_ready.clone(), not_ready, false),
    ] {
        let world = may_reach(&["a"]).with(s(json!({}))).with(endpoints(json!([
            endpoint("a", a.clone()),
            endpoint("b", b.clone())
        ])));
        assert_eq!(world.allows(CLUSTER_IP), allowed, "{a} {b}");
    }
}

#[test]
fn s84_an_endpoint_of_a_pod_not_seen_yet_does_not_count_and_none_left_is_denied() {
    let unseen = endpoint("later", json!({}));
    let all = egress(json!([{}]));
    let only = all
        .clone()
        .with(s(json!({})))
        .with(endpoints(json!([unseen])));
    assert_eq!(only.ask("x/a", CLUSTER_IP), answer(false, &["x/p"], &[]));
    let beside = all
        .with(s(json!({})))
        .with(endpoints(json!([unseen, endpoint("a", json!({}))])));
    assert!(beside.allows(CLUSTER_IP));
}

#[test]
fn s84_endpoints_that_are_no_pods_and_host_network_pods_are_judged_by_address() {
    let outside = json!({"addresses": ["203.0.113.7"], "nodeName": "n1"});
    let world = |cidr: &str| {
        to(json!({"ipBlock": {"cidr": cidr}}))
            .with(s(json!({})))
            .with(endpoints(json!([outside])))
    };
    assert!(world("203.0.113.7/32").allows(CLUSTER_IP));
    assert!(!world("203.0.113.8/32").allows(CLUSTER_IP));

    let on_host = pod(
        "y/host",
        &["192.168.0.1"],
        json!({"spec": {"hostNetwork": true}}),
    );
    let host_endpoint = json!({"addresses": ["192.168.0.1"],
        "targetRef": {"kind": "Pod", "namespace": "y", "name": "host"}});
    for (peer, allowed) in [
        (json!({"namespaceSelector": {}}), false),
        (json!({"ipBlock": {"cidr": "192.168.0.0/24"}}), true),
    ] {
        let world = to(peer)
            .with(on_host.clone())
            .with(s(json!({})))
            .with(endpoints(json!([host_endpoint])));
        assert_eq!(world.allows(CLUSTER_IP), allowed);
    }
}

#[test]
fn s84_internal_traffic_policy_local_means_the_pods_own_node() {
    let there = json!({"nodeName": "n2"});
    let world = |spec: Value, a: Value, b: Value| {
        may_reach(&["a"])
            .with(s(spec))
            .with(endpoints(json!([endpoint("a", a), endpoint("b", b)])))
    };
    let local = json!({"internalTrafficPolicy": "Local"});
    assert!(world(local.clone(), json!({}), there.clone()).allows(CLUSTER_IP));
    assert!(!world(local.clone(), there.clone(), json!({})).allows(CLUSTER_IP));
    assert!(
        !world(
            json!({"internalTrafficPolicy": "Cluster"}),
            json!({}),
            there.clone()
        )
        .allows(CLUSTER_IP)
    );
    // It is no policy for the external addresses, nor theirs for the cluster address.
    assert!(!world(local, json!({}), there.clone()).allows("198.51.100.2:80/TCP"));
    let external = json!({"externalTrafficPolicy": "Local"});
    assert!(!world(external.clone(), json!({}), there.clone()).allows(CLUSTER_IP));
    for to in [
        "198.51.100.1:80/TCP",
        "198.51.100.2:80/TCP",
        "192.168.0.1:30080/TCP",
    ] {
        assert!(
            world(external.clone(), json!({}), there.clone()).allows(to),
            "{to}"
        );
    }
}

#[test]
fn s84_local_ready_endpoints_go_before_local_draining_ones_only() {
    let draining_here =
        json!({"conditions": {"ready": false, "serving": true, "terminating": true}});
    let world = may_reach(&["a"])
        .with(s(json!({"internalTrafficPolicy": "Local"})))
        .with(endpoints(json!([
            endpoint("a", draining_here),
            endpoint("b", json!({"nodeName": "n2"}))
        ])));
    assert!(world.allows(CLUSTER_IP));
}

#[test]
fn s69_s84_no_usable_endpoint_at_all_is_the_literal_address() {
    for (cidr, allowed) in [("10.96.0.0/16", true), ("10.97.0.0/16", false)] {
        let world = to(json!({"ipBlock": {"cidr": cidr}})).with(s(json!({})));
        let none = world.clone().with(endpoints(json!([])));
        assert_eq!(none.allows(CLUSTER_IP), allowed);
        let elsewhere = world.with(endpoints(json!([endpoint(
            "a",
            json!({"conditions": {"ready": false, "serving": false}})
        )])));
        assert_eq!(elsewhere.allows(CLUSTER_IP), allowed);
    }
}

#[test]
fn s69_headless_and_external_name_services_rewrite_nothing() {
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"], "type": "ClusterIP"}),
        json!({"type": "ExternalName", "externalName": "example.com"}),
    ] {
        let literal = to(json!({"ipBlock": {"cidr": "198.51.100.1/32"}}))
            .with(s(spec.clone()))
            .with(a_and_b());
        literal.table(&["+ 198.51.100.1:80/TCP"]);
        let backend = may_reach(&["a", "b"]).with(s(spec)).with(a_and_b());
        backend.table(&["- 10.96.0.1:80/TCP", "- 198.51.100.1:80/TCP"]);
    }
}

#[test]
fn s85_the_pod_itself_behind_the_service_counts_as_allowed() {
    let own = json!({"addresses": ["10.1.0.1"],
        "targetRef": {"kind": "Pod", "namespace": "x", "name": "a"}});
    let world = |backends: Value| {
        egress(json!([]))
            .with(s(json!({})))
            .with(endpoints(backends))
    };
    assert_eq!(
        world(json!([own])).ask("x/a", CLUSTER_IP),
        answer(true, &["x/p"], &["x/p"])
    );
    assert!(!world(json!([own, endpoint("a", json!({}))])).allows(CLUSTER_IP));
}

#[test]
fn s86_what_no_service_declares_is_the_literal_address() {
    let world = to(json!({"ipBlock": {"cidr": "10.96.0.0/16"}}))
        .with(s(json!({})))
        .with(a_and_b());
    world.table(&[
        "- 10.96.0.1:80/TCP",
        "+ 10.96.0.1:81/TCP",
        "+ 10.96.0.1:80/UDP",
        "+ 10.96.0.1/ICMP",
        "+ 10.96.0.2:80/TCP",
    ]);
}

#[test]
fn s70_s86_external_load_balancer_and_node_port_addresses_are_frontends() {
    let frontends = [
        "198.51.100.1:80/TCP",
        "198.51.100.2:80/TCP",
        "192.168.0.1:30080/TCP",
        "192.168.0.2:30080/TCP",
    ];
    let backend = may_reach(&["a", "b"]).with(s(json!({}))).with(a_and_b());
    let literal = egress(json!([{"to": [
        {"ipBlock": {"cidr": "198.51.100.0/24"}}, {"ipBlock": {"cidr": "192.168.0.0/24"}}]}]))
    .with(s(json!({})))
    .with(a_and_b());
    for to in frontends {
        assert!(backend.allows(to), "{to}");
        assert!(!literal.allows(to), "{to}");
    }
    literal.table(&[
        "+ 192.168.0.1:80/TCP",
        "+ 192.168.0.1:30081/TCP",
        "+ 198.51.100.1:30080/TCP",
        "+ 192.168.0.3:30080/TCP",
    ]);
}

#[test]
fn s86_a_node_that_is_seen_makes_its_addresses_frontends() {
    let world = may_reach(&["a", "b"])
        .with(s(json!({})))
        .with(a_and_b())
        .with(node("n3", &["192.168.0.3"]));
    world.table(&["+ 192.168.0.3:30080/TCP", "- 192.168.0.4:30080/TCP"]);
}

#[test]
fn s70_s86_ip_mode_proxy_is_literal() {
    for (mode, literal) in [
        (json!("Proxy"), true),
        (json!("VIP"), false),
        (json!(null), false),
    ] {
        let mut service = s(json!({}));
        merge(
            &mut service,
            json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.2", "ipMode": mode}]}}}),
        );
        let world = to(json!({"ipBlock": {"cidr": "198.51.100.2/32"}}))
            .with(service)
            .with(a_and_b());
        assert_eq!(world.allows("198.51.100.2:80/TCP"), literal, "{mode}");
    }
}

#[test]
fn s84_the_endpoints_are_of_the_frontends_own_family() {
    let mut v6 = slice(
        "s",
        json!([{"port": 8080}]),
        json!([{"addresses": ["fd02::2"], "targetRef": {"kind": "Pod", "namespace": "y", "name": "b"}}]),
    );
    merge(
        &mut v6,
        json!({"metadata": {"name": "s-v6"}, "addressType": "IPv6"}),
    );
    let v4 = endpoints(json!([endpoint("a", json!({}))]));
    may_reach(&["a"])
        .with(s(json!({})))
        .with(v4)
        .with(v6)
        .table(&["+ 10.96.0.1:80/TCP", "- [fd96::1]:80/TCP"]);
}

#[test]
fn s72_each_service_port_goes_to_the_slice_port_of_its_name_and_protocol() {
    let ports = json!([
        {"name": "one", "port": 80, "targetPort": 8080},
        {"name": "two", "port": 81, "targetPort": 8081},
        {"name": "one-udp", "port": 80, "protocol": "UDP", "targetPort": 8080},
        {"name": "gone", "port": 83},
    ]);
    let world = may_reach(&["a"])
        .with(s(json!({"ports": ports})))
        .with(slice(
            "s",
            json!([
                {"name": "one", "port": 8080},
                {"name": "two", "port": 8081, "protocol": "TCP"},
                {"name": "one-udp", "port": 8080, "protocol": "UDP"},
            ]),
            json!([endpoint("a", json!({}))]),
        ));
    world.table(&[
        "+ 10.96.0.1:80/TCP",
        "- 10.96.0.1:81/TCP",
        "- 10.96.0.1:80/UDP",
        "- 10.96.0.1:83/TCP",
    ]);
}

#[test]
fn s37_a_named_port_is_looked_up_in_the_backend() {
    let world = egress(json!([{"ports": [{"port": "web"}]}]))
        .with(s(json!({})))
        .with(slice(
            "s",
            json!([{"port": 80}]),
            json!([endpoint("a", json!({}))]),
        ));
    assert!(world.allows(CLUSTER_IP));
}

#[test]
fn s96_a_service_without_slices_has_the_pods_that_its_selector_matches() {
    let world = |names: &[&str], spec: Value| may_reach(names).with(s(spec));
    let tier = json!({"selector": {"tier": ""}});
    assert!(world(&["b", "c"], tier.clone()).allows(CLUSTER_IP));
    assert!(!world(&["b"], tier.clone()).allows(CLUSTER_IP));
    assert!(world(&["b", "c"], tier).allows("[fd96::1]:80/TCP"));
    // No selector, or one that matches nothing: no endpoints, so the literal address.
    assert!(!world(&["a", "b", "c"], json!({})).allows(CLUSTER_IP));
    assert!(!world(&["a", "b", "c"], json!({"selector": {"tier": "none"}})).allows(CLUSTER_IP));
}

#[test]
fn s96_a_target_port_may_be_a_name_or_absent() {
    let world = |target: Value, allowed: u16| {
        egress(json!([{"to": [{"namespaceSelector": {}}], "ports": [{"port": allowed}]}])).with(s(
            json!({
                "selector": {"pod": "a"},
                "ports": [{"port": 8000, "targetPort": target}],
            }),
        ))
    };
    assert!(world(json!("web"), 80).allows("10.96.0.1:8000/TCP"));
    assert!(!world(json!("web"), 8000).allows("10.96.0.1:8000/TCP"));
    assert!(world(json!(null), 8000).allows("10.96.0.1:8000/TCP"));
    // Of another protocol, or nobody's: no endpoint.
    assert!(!world(json!("dns"), 53).allows("10.96.0.1:8000/TCP"));
    assert!(!world(json!("nobody"), 80).allows("10.96.0.1:8000/TCP"));
}

#[test]
fn s96_selected_pods_are_usable_as_the_controller_would_say() {
    let ready =
        |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    let terminating = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    for (changes, spec, counts) in [
        (json!({}), json!({}), true),
        (ready("True"), json!({}), true),
        (ready("False"), json!({}), false),
        (ready("Unknown"), json!({}), false),
        (
            ready("False"),
            json!({"publishNotReadyAddresses": true}),
            true,
        ),
        (terminating.clone(), json!({}), false),
        (terminating, json!({"publishNotReadyAddresses": true}), true),
        (json!({"status": {"phase": "Succeeded"}}), json!({}), false),
    ] {
        // c is allowed, b is not: denied exactly when b counts.
        let mut spec_of = json!({"selector": {"tier": ""}});
        merge(&mut spec_of, spec);
        let world = may_reach(&["c"])
            .change("Pod", "y/b", changes.clone())
            .with(s(spec_of));
        assert_eq!(world.allows(CLUSTER_IP), !counts, "{changes}");
    }
}

#[test]
fn s96_two_different_services_or_slices_of_one_name_deny_what_they_declare() {
    let all = egress(json!([{}]));
    let services = all
        .clone()
        .with(s(json!({})))
        .with(s(
            json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"]}),
        ))
        .with(a_and_b());
    services.table(&[
        "- 10.96.0.1:80/TCP",
        "- 10.96.0.7:80/TCP",
        "+ 10.96.0.8:80/TCP",
    ]);
    let slices = all
        .with(s(json!({})))
        .with(a_and_b())
        .with(endpoints(json!([])));
    slices.table(&["- 10.96.0.1:80/TCP", "+ 10.96.0.1:81/TCP"]);
}

#[test]
fn s84_where_two_services_claim_one_frontend_the_endpoints_of_both_are_behind_it() {
    let other = |target: &str| {
        let mut object = service(
            "t",
            json!({
            "clusterIP": "10.96.0.2", "externalIPs": ["198.51.100.1"], "ports": [{"port": 80}]}),
        );
        merge(&mut object, json!({"metadata": {"name": "t"}}));
        let mut endpoints = slice(
            "t",
            json!([{"port": 8080}]),
            json!([endpoint(target, json!({}))]),
        );
        merge(&mut endpoints, json!({"metadata": {"name": "t-1"}}));
        (object, endpoints)
    };
    for (target, allowed) in [("b", true), ("c", false)] {
        let (service, slice) = other(target);
        let world = may_reach(&["a", "b"])
            .with(s(json!({})))
            .with(a_and_b())
            .with(service)
            .with(slice);
        assert_eq!(world.allows("198.51.100.1:80/TCP"), allowed);
    }
}

#[test]
fn s75_the_pods_own_address_is_its_own_although_a_service_claims_it() {
    let world = egress(json!([]))
        .with(s(json!({"externalIPs": ["10.1.0.1"]})))
        .with(a_and_b());
    assert!(world.allows("10.1.0.1:80/TCP"));
}

/// A place of two Services may be either's, and S84 denies that of one whose pods are all unseen.
#[test]
fn s84_where_two_services_claim_one_frontend_what_one_of_them_closes_is_closed() {
    let other = |pod: &str| {
        let mut slice = endpoints(json!([endpoint(pod, json!({}))]));
        merge(
            &mut slice,
            json!({"metadata": {"name": "t-1", "labels": {"kubernetes.io/service-name": "t"}}}),
        );
        egress(json!([{}]))
            .with(s(json!({})))
            .with(a_and_b())
            .with(service(
                "t",
                json!({"clusterIP": "10.96.0.9", "externalIPs": ["10.96.0.1"], "ports": [{"port": 80}]}),
            ))
            .with(slice)
    };
    other("c").table(&["+ 10.96.0.1:80/TCP", "+ 10.96.0.9:80/TCP"]);
    other("later").table(&[
        "- 10.96.0.1:80/TCP",
        "- 10.96.0.9:80/TCP",
        // One that only the other Service declares.
        "+ 198.51.100.1:80/TCP",
    ]);
}

/// A slice of which a part cannot be read, whichever, and also where that part serves another port.
#[test]
fn s84_a_slice_that_cannot_be_read_denies_what_its_service_declares() {
    let all = |slice: Value| egress(json!([{}])).with(s(json!({}))).with(slice);
    let with = |changes: Value| {
        let good = endpoint("a", json!({}));
        all(endpoints(json!([good, endpoint("b", changes)])))
    };
    assert!(with(json!({})).allows(CLUSTER_IP));
    for wrong in [
        json!({"targetRef": {"name": null}}),
        json!({"addresses": [], "targetRef": {"name": null}}),
        json!({"targetRef": "b"}),
        json!({"addresses": null}),
        json!({"addresses": "10.2.0.2"}),
        json!({"addresses": ["10.2.0"]}),
        json!({"conditions": {"ready": "true"}}),
        json!({"conditions": []}),
        json!({"nodeName": 1}),
    ] {
        assert!(!with(wrong.clone()).allows(CLUSTER_IP), "{wrong}");
    }
    let good = || json!([endpoint("a", json!({}))]);
    for ports in [
        json!([{"port": 8080}, {"name": "x", "port": 0}]),
        json!([{"port": 8080}, {"name": "x", "port": 1, "protocol": "tcp"}]),
        json!([{"port": 8080}, 5]),
        json!({}),
    ] {
        assert!(
            !all(slice("s", ports.clone(), good())).allows(CLUSTER_IP),
            "{ports}"
        );
    }
    for changes in [
        json!({"addressType": "IPv5"}),
        json!({"metadata": {"labels": {"kubernetes.io/service-name": 5}}}),
    ] {
        let mut slice = endpoints(good());
        merge(&mut slice, changes.clone());
        assert!(!all(slice).allows(CLUSTER_IP), "{changes}");
    }
}
