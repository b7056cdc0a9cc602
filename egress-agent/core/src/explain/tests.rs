#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

use serde_json::{Value, json};

use super::*;
use crate::check::{self, Checker};
use crate::fixture::{
    name, namespace_value, pod_value, policy_value, service_value, slice_value, store, with,
};

const TO_DB: &str = "10.0.0.2";

/// `x/web`, isolated by one policy with these rules; `y/db` and others to send to.
fn cluster(rules: &Value) -> Vec<Value> {
    let db = with(
        pod_value("y/db", &[TO_DB], &json!({"app": "db", "tier": "data"})),
        "/spec/containers",
        json!([{"ports": [
            {"name": "sql", "containerPort": 5432},
            {"name": "sql", "containerPort": 5433, "protocol": "UDP"},
            {"name": "gossip", "containerPort": 7, "protocol": "UDP"},
        ]}]),
    );
    let on_host = with(
        pod_value("y/host", &["192.168.0.2"], &json!({"app": "db"})),
        "/spec/hostNetwork",
        json!(true),
    );
    vec![
        namespace_value("x", &json!({"team": "a"})),
        namespace_value("y", &json!({"team": "b"})),
        pod_value("x/web", &["10.0.0.1"], &json!({"app": "web"})),
        db,
        on_host,
        pod_value("z/far", &["10.0.0.3"], &json!({"app": "db"})),
        policy_value(
            "x/p",
            &json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"], "egress": rules}),
        ),
    ]
}

fn ask(values: &[Value], to: &str, transport: Transport) -> (check::Answer, Explanation) {
    let store = store(values);
    let mut checker = Checker::new(&store, Options::default());
    let to = check::Destination::Address(to.parse().unwrap());
    let (answer, explanation) = checker.explain(&name("x/web"), &to, transport).unwrap();
    // Both ways to the verdict, every time.
    for destination in &explanation.destinations {
        assert_eq!(
            destination.steps_allow(),
            destination.allow,
            "{explanation:?}"
        );
    }
    (answer, explanation)
}

const fn tcp(port: u16) -> Transport {
    Transport::Port(Protocol::Tcp, port)
}

/// The first rule of the one policy, towards an address.
fn rule(rules: &Value, to: &str, transport: Transport) -> RuleStep {
    let (_, explanation) = ask(&cluster(rules), to, transport);
    match &explanation.destinations.first().unwrap().way {
        Way::Rules(policies) => policies[0].rules[0].clone(),
        other => panic!("{other:?}"),
    }
}

fn peer(peer: &Value, to: &str) -> (Option<&'static str>, String) {
    let step = rule(&json!([{"to": [peer]}]), to, tcp(80));
    let entry = step.peers.entries.first().unwrap();
    (entry.fit.failed(), entry.fit.to_string())
}

fn port(port: &Value, to: &str, transport: Transport) -> (Option<&'static str>, String) {
    let step = rule(&json!([{"ports": [port]}]), to, transport);
    let entry = step.ports.entries.first().unwrap();
    (entry.fit.failed(), entry.fit.to_string())
}

#[test]
fn a_peer_says_which_part_of_it_failed() {
    let namespaces = |team: &str| json!({"matchLabels": {"team": team}});
    let pods = |app: &str| json!({"matchLabels": {"app": app}});
    for (value, to, failed, text) in [
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}}),
            "10.2.0.1",
            Some("except"),
            "except 10.2.0.0/16 takes it out",
        ),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/24"}}),
            TO_DB,
            None,
            "matches",
        ),
        (
            json!({"ipBlock": {"cidr": "::/0"}}),
            TO_DB,
            Some("family"),
            "the other address family",
        ),
        (
            json!({"ipBlock": {"cidr": "11.0.0.0/8"}}),
            TO_DB,
            Some("cidr"),
            "does not cover the address",
        ),
        (
            json!({"podSelector": pods("db")}),
            TO_DB,
            Some("namespace"),
            "pod y/db is not in namespace x, whose pods alone are meant",
        ),
        (
            json!({"namespaceSelector": namespaces("b"), "podSelector": pods("cache")}),
            TO_DB,
            Some("pod-labels"),
            "pod y/db does not have app=cache (it has app=db)",
        ),
        (
            json!({"namespaceSelector": namespaces("c"), "podSelector": pods("db")}),
            TO_DB,
            Some("namespace-labels"),
            "namespace y does not have team=c",
        ),
        (
            json!({"namespaceSelector": {}}),
            "10.0.0.3",
            Some("namespace-unknown"),
            "namespace z is not known, so no selector means it",
        ),
        (
            json!({"namespaceSelector": {}}),
            "192.168.0.2",
            Some("no-pod"),
            "pod y/host there is on the host network",
        ),
        (
            json!({"namespaceSelector": {}}),
            "1.1.1.1",
            Some("no-pod"),
            "no known pod has this address",
        ),
    ] {
        assert_eq!(peer(&value, to), (failed, text.to_owned()), "{value}");
    }
}

#[test]
fn a_port_says_which_part_of_it_failed() {
    let udp = Transport::Port(Protocol::Udp, 80);
    for (value, to, transport, failed, text) in [
        (json!({"port": 80}), TO_DB, tcp(80), None, "matches"),
        (
            json!({"port": 80}),
            TO_DB,
            tcp(81),
            Some("port"),
            "another port",
        ),
        (
            json!({"port": 80}),
            TO_DB,
            udp,
            Some("protocol"),
            "another protocol",
        ),
        (
            json!({}),
            TO_DB,
            Transport::Icmp,
            Some("portless"),
            "ICMP needs a rule without ports",
        ),
        (
            json!({"port": "sql"}),
            TO_DB,
            tcp(5433),
            Some("port-name-number"),
            "pod y/db has it at 5432",
        ),
        (
            json!({"port": "gossip"}),
            TO_DB,
            tcp(7),
            Some("port-name-protocol"),
            "pod y/db has it for UDP",
        ),
        (
            json!({"port": "web"}),
            TO_DB,
            tcp(80),
            Some("port-name-unknown"),
            "pod y/db declares no port of this name",
        ),
        (
            json!({"port": "sql"}),
            "1.1.1.1",
            tcp(5432),
            Some("no-pod"),
            "no known pod has this address",
        ),
    ] {
        let found = port(&value, to, transport);
        assert_eq!(found, (failed, text.to_owned()), "{value}");
    }
}

#[test]
fn the_nearest_of_many_entries_and_rules_are_told_s14() {
    let far = json!({"ipBlock": {"cidr": "11.0.0.0/8"}});
    let mut peers = vec![far.clone(); 900];
    peers[700] = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/24"]}});
    let step = rule(
        &json!([{"to": peers, "ports": [{"port": 80}]}]),
        TO_DB,
        tcp(80),
    );
    assert_eq!((step.peers.entries.len(), step.peers.further), (4, 896));
    assert_eq!(step.peers.entries[0].index, 700);
    assert!(step.ports.matches && !step.allows);

    let mut rules = vec![json!({"to": [far], "ports": [{"port": 1}]}); 40];
    rules[33] = json!({"to": [{"namespaceSelector": {}}], "ports": [{"port": 443}]});
    let (_, explanation) = ask(&cluster(&json!(rules)), TO_DB, tcp(80));
    let Way::Rules(policies) = &explanation.destinations[0].way else {
        panic!("{explanation:?}")
    };
    assert_eq!((policies[0].rules.len(), policies[0].further), (16, 24));
    let (_, rule) = nearest(policies).unwrap();
    assert_eq!(rule.index, 33);
}

#[test]
fn indexes_are_those_of_the_object_and_what_is_unreadable_is_told_with_its_rule() {
    let rules = json!([
        {"to": "any"},
        {"to": [{}, {"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 0}, {"port": 80}]},
    ]);
    let (answer, explanation) = ask(&cluster(&rules), TO_DB, tcp(80));
    assert!(answer.allow);
    let Way::Rules(policies) = &explanation.destinations[0].way else {
        panic!("{explanation:?}")
    };
    let rule = &policies[0].rules[0];
    assert_eq!(rule.index, 1);
    assert_eq!(
        (rule.peers.entries[0].index, rule.ports.entries[0].index),
        (1, 1)
    );
    let fields: Vec<&str> = rule.problems.iter().map(|p| p.field.as_str()).collect();
    assert_eq!(
        fields,
        ["spec.egress[1].to[0]", "spec.egress[1].ports[0].port"]
    );
    assert_eq!(policies[0].problems[0].field, "spec.egress[0].to");
}

#[test]
fn the_sender_says_which_policies_isolate_it_and_by_which_selector_s2_s3() {
    let mut values = cluster(&json!([]));
    values.extend([
        policy_value("x/all", &json!({"policyTypes": ["Egress"]})),
        policy_value("x/in", &json!({"policyTypes": ["Ingress"], "egress": [{}]})),
        policy_value(
            "x/other",
            &json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"]}),
        ),
        policy_value("y/far", &json!({"policyTypes": ["Egress"]})),
    ]);
    let (_, explanation) = ask(&values, TO_DB, tcp(80));
    let told: Vec<(String, String)> = explanation
        .sender
        .policies
        .iter()
        .map(|selection| {
            let effect = match &selection.effect {
                Effect::Isolates(by) => format!("isolates by {by:}"),
                Effect::MayIsolate => "may isolate".to_owned(),
                Effect::IngressOnly(by) => format!("ingress only, by {by:}"),
                Effect::NotSelected(unmet) => format!("lacks {unmet}"),
            };
            (selection.policy.to_string(), effect)
        })
        .collect();
    let expected = [
        ("x/all", "isolates by "),
        ("x/in", "ingress only, by "),
        ("x/other", "lacks app=db"),
        ("x/p", "isolates by app=web"),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(policy, effect)| ((*policy).to_owned(), (*effect).to_owned()))
        .collect();
    assert_eq!(told, expected);
}

#[test]
fn a_service_is_its_endpoints_each_with_its_verdict_s84_s85() {
    let rules = json!([{"to": [{"ipBlock": {"cidr": "10.0.0.2/32"}}], "ports": [{"port": 8080}]}]);
    let mut values = cluster(&rules);
    values.extend([
        service_value(
            "y/svc",
            &json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80, "targetPort": 8080}]}),
        ),
        slice_value(
            "y/svc",
            &json!([{"addresses": [TO_DB]}, {"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.1"]}]),
            &json!([{"port": 8080}]),
        ),
    ]);
    let (answer, explanation) = ask(&values, "10.96.0.1", tcp(80));
    assert_eq!(answer.reason, "frontend");
    let Way::Service(service) = &explanation.destinations[0].way else {
        panic!("{explanation:?}")
    };
    assert_eq!(service.service, name("y/svc"));
    let told: Vec<(String, bool, bool)> = service
        .backends
        .iter()
        .map(|b| (format!("{}:{}", b.address, b.port), b.allow, b.own))
        .collect();
    let expected = [
        ("10.0.0.3:8080".to_owned(), false, false),
        ("10.0.0.1:8080".to_owned(), true, true),
        ("10.0.0.2:8080".to_owned(), true, false),
    ];
    assert_eq!(told, expected);
    assert_eq!(service.counts, (2, 1));
    // A port that the Service does not declare is judged literally (S86).
    let (answer, _) = ask(&values, "10.96.0.1", tcp(81));
    assert_eq!(answer.reason, "no-rule");
}

#[test]
fn own_addresses_and_pods_that_are_not_enforced_are_said_to_be_so_s75_s87_s88() {
    let (_, explanation) = ask(&cluster(&json!([])), "10.0.0.1", tcp(80));
    assert_eq!(explanation.destinations[0].way, Way::Own);
    for (pointer, value, kind) in [
        ("/spec/hostNetwork", json!(true), SubjectKind::HostNetwork),
        ("/status/phase", json!("Failed"), SubjectKind::Finished),
        ("/metadata/labels", json!(5), SubjectKind::Unreadable),
    ] {
        let mut values = cluster(&json!([{}]));
        values[2] = with(values[2].clone(), pointer, value);
        let (_, explanation) = ask(&values, TO_DB, tcp(80));
        assert_eq!(explanation.sender.kind, kind);
    }
}
