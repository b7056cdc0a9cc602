//! A compilation that asks only what was touched says what one that asks everything says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::fixture::{
    name, namespace_value, object, pod_value, policy_value, service_value, slice_value, store, with,
};
use crate::object::{Key, Kind};
use crate::store::{Changed, Event};

/// xorshift64
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn pick(&mut self, list: &[&'static str]) -> &'static str {
        let index = self.below(u64::try_from(list.len()).unwrap());
        list[usize::try_from(index).unwrap()]
    }
}

const NODE: &str = "here";
const NAMESPACES: [&str; 2] = ["x", "y"];
const COLOURS: [&str; 3] = ["red", "green", "blue"];

fn pod(random: &mut Random) -> Value {
    let at = format!("{}/p{}", random.pick(&NAMESPACES), random.below(8));
    // Few addresses, so that several pods claim one (S89).
    let address = format!("10.0.0.{}", random.below(8));
    let labels = json!({"colour": random.pick(&COLOURS)});
    let value = pod_value(&at, &[&address], &labels);
    let port = 80 + random.below(2);
    let ports = json!([{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]);
    let value = with(value, "/spec/containers", ports);
    with(
        value,
        "/status/phase",
        json!(random.pick(&["Running", "Pending", "Failed"])),
    )
}

fn policy(random: &mut Random) -> Value {
    let at = format!("{}/n{}", random.pick(&NAMESPACES), random.below(3));
    let pods = json!({"matchLabels": {"colour": random.pick(&COLOURS)}});
    let peer = match random.below(4) {
        0 => json!({"podSelector": pods}),
        1 => {
            json!({"namespaceSelector": {"matchLabels": {"team": random.pick(&COLOURS)}}, "podSelector": pods})
        }
        2 => {
            json!({"podSelector": {"matchExpressions": [{"key": "colour", "operator": "Exists"}]}})
        }
        _ => json!({"ipBlock": {"cidr": format!("10.0.0.{}/30", 4 * random.below(2))}}),
    };
    let port = if random.below(2) == 0 {
        json!("web")
    } else {
        json!(80)
    };
    let egress = json!([{"to": [peer], "ports": [{"port": port}]}]);
    let subject = json!({"matchLabels": {"colour": random.pick(&COLOURS)}});
    policy_value(
        &at,
        &json!({"podSelector": subject, "policyTypes": ["Egress"], "egress": egress}),
    )
}

fn event(random: &mut Random) -> Event {
    let gone = |kind, at: String| {
        Event::Deleted(Key {
            kind,
            name: name(&at),
        })
    };
    match random.below(12) {
        0 => {
            let labels = json!({"team": random.pick(&COLOURS)});
            Event::Applied(object(&namespace_value(random.pick(&NAMESPACES), &labels)))
        }
        1 | 2 => Event::Applied(object(&policy(random))),
        3 => gone(
            Kind::NetworkPolicy,
            format!("{}/n{}", random.pick(&NAMESPACES), random.below(3)),
        ),
        4 | 5 => gone(
            Kind::Pod,
            format!("{}/p{}", random.pick(&NAMESPACES), random.below(8)),
        ),
        6 => {
            let spec = json!({"clusterIP": "10.96.0.1", "selector": {"colour": random.pick(&COLOURS)}, "ports": [{"port": 80}]});
            Event::Applied(object(&service_value("x/s", &spec)))
        }
        _ => Event::Applied(object(&pod(random))),
    }
}

fn compiled(store: &Store, previous: Desired, touched: &Touched) -> Desired {
    let subjects: Vec<Subject<'_>> = store
        .pods_in("x")
        .zip(100..)
        .filter_map(|(pod, hook)| {
            let policies = workload::isolating(store, pod);
            Some(Subject {
                hook,
                addresses: pod.addresses.iter().copied().collect(),
                isolation: Isolation::of(pod, policies)?,
            })
        })
        .collect();
    compile(store, &subjects, &Options::default(), previous, touched)
}

/// What the tables should say of each address, whatever the numbers of classes are.
fn by_address(desired: &Desired) -> BTreeMap<IpAddr, &Column> {
    let classes = desired.peers.iter();
    let columns = classes.map(|(address, class)| (address, &desired.columns[class]));
    columns.filter(|(_, column)| !column.is_empty()).collect()
}

#[test]
fn what_was_not_touched_need_not_be_asked_again() {
    let (mut moved, mut kept) = (0, 0);
    for seed in 1..100 {
        let mut random = Random(seed);
        let mut store = Store::default();
        let mut touched = Touched::everything();
        let mut desired = Desired::default();
        for turn in 0..60 {
            for _ in 0..=random.below(2) {
                let event = event(&mut random);
                touched.note(&store, &event, NODE);
                let (Changed::Yes | Changed::No) = store.apply(event);
            }
            let before = desired.peers.clone();
            desired = compiled(&store, desired, &touched);
            touched = Touched::nothing();
            let whole = compiled(&store, Desired::default(), &Touched::everything());
            let case = format!("seed {seed} turn {turn}");
            assert_eq!(by_address(&desired), by_address(&whole), "{case}");
            assert_eq!(desired.endpoints, whole.endpoints, "{case}");
            assert_eq!(desired.rulesets, whole.rulesets, "{case}");
            assert_eq!(desired.frontends, whole.frontends, "{case}");
            assert_eq!(desired.mixed, whole.mixed, "{case}");
            moved += usize::from(desired.peers != before);
            kept += usize::from(desired.peers != whole.peers);
        }
    }
    assert!(
        moved > 1_000 && kept > 1_000,
        "too tame: {moved} changed, {kept} were numbered otherwise than from nothing"
    );
}

#[test]
fn only_events_that_may_say_otherwise_touch_anything() {
    let pod = |address: &str| object(&pod_value("x/a", &[address], &json!({})));
    let mut store = Store::default();
    let mut touched = Touched::nothing();
    let mut apply = |store: &mut Store, object| {
        let event = Event::Applied(object);
        touched.note(store, &event, NODE);
        let (Changed::Yes | Changed::No) = store.apply(event);
        touched.clone()
    };
    let addresses = |list: &[&str], isolated: &[&str]| Touched {
        addresses: Addresses::Only(list.iter().map(|a| a.parse().unwrap()).collect()),
        isolated: isolated.iter().map(|pod| name(pod)).collect(),
        services: false,
        node: false,
    };
    assert_eq!(
        apply(&mut store, pod("10.0.0.1")),
        addresses(&["10.0.0.1"], &[])
    );
    assert_eq!(
        apply(&mut store, pod("10.0.0.2")),
        addresses(&["10.0.0.1", "10.0.0.2"], &[]),
        "where it was and where it is"
    );
    let other = policy_value("x/n", &json!({"policyTypes": ["Egress"]}));
    assert_eq!(
        apply(&mut store, object(&other)),
        addresses(&["10.0.0.1", "10.0.0.2"], &[]),
        "it is not of this node"
    );
    let namespace = namespace_value("x", &json!({"a": "b"}));
    let all = apply(&mut store, object(&namespace));
    assert_eq!(all.addresses, Addresses::All);
}

/// What a pod of another node leads to ends at its addresses, unless a Service may ask for the pod itself.
#[test]
fn a_pod_of_this_node_or_of_a_service_touches_more() {
    let touches_more = |there: &[Value], value: &Value| {
        let mut touched = Touched::nothing();
        touched.note(&store(there), &Event::Applied(object(value)), NODE);
        (touched.services, touched.node)
    };
    let pod = pod_value("x/a", &["10.0.0.1"], &json!({}));
    let local = with(pod.clone(), "/spec/nodeName", json!(NODE));
    assert_eq!(touches_more(&[], &pod), (false, false));
    assert_eq!(touches_more(&[], &local), (false, true), "it came");
    let there = [local];
    assert_eq!(touches_more(&there, &pod), (false, true), "it left");
    let isolated = |value: &Value| {
        let mut touched = Touched::nothing();
        touched.note(&store(&there), &Event::Applied(object(value)), NODE);
        touched.isolated.len()
    };
    let egress = json!({"policyTypes": ["Egress"]});
    assert_eq!(isolated(&policy_value("x/n", &egress)), 1);
    assert_eq!(isolated(&policy_value("y/n", &egress)), 0);
    let service = service_value("x/s", &json!({"selector": {"a": "b"}}));
    let of_slice = json!([{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}}]);
    let slice = slice_value("x/s", &of_slice, &json!([]));
    let there = [service];
    assert_eq!(touches_more(&there, &pod), (true, false), "it may be one");
    let elsewhere = pod_value("y/a", &["10.0.0.1"], &json!({}));
    assert_eq!(touches_more(&there, &elsewhere), (false, false));
    let [service] = there;
    let there = [service, slice];
    assert_eq!(touches_more(&there, &pod), (true, false), "a slice waits");
    let [service, slice] = there;
    let there = [service, slice, pod.clone()];
    assert_eq!(touches_more(&there, &pod), (false, false));
}

/// S37, S42: a port's name towards a block means the pods inside it, and what is excepted is not inside.
#[test]
fn a_port_of_a_name_towards_a_block_is_of_the_pods_inside_it() {
    let pod = |number: u16, address: &str| {
        let value = pod_value(&format!("x/p{number}"), &[address], &json!({}));
        let ports =
            json!([{"name": "c", "ports": [{"name": "web", "containerPort": 8000 + number}]}]);
        with(value, "/spec/containers", ports)
    };
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.128/25"]}});
    let spec = json!({
        "podSelector": {}, "policyTypes": ["Egress"],
        "egress": [{"to": [block], "ports": [{"port": "web"}]}],
    });
    let store = store(&[
        namespace_value("x", &json!({})),
        pod(1, "10.0.0.1"),
        pod(2, "10.0.0.129"),
        pod(3, "10.0.1.1"),
        policy_value("x/n", &spec),
    ]);
    let desired = compiled(&store, Desired::default(), &Touched::everything());
    let said = by_address(&desired);
    for (address, port) in [
        ("10.0.0.1", Some(8001)),
        ("10.0.0.129", None),
        ("10.0.1.1", None),
    ] {
        let column = said.get(&address.parse().unwrap());
        let sets = || column.into_iter().flat_map(|column| column.values());
        let ports: Vec<u16> = (8000..8010)
            .filter(|port| sets().any(|set| set.contains(6, *port)))
            .collect();
        assert_eq!(ports, Vec::from_iter(port), "{address}");
    }
}

/// S84: what a Service's address says follows from the pods behind it, and from no others.
#[test]
fn a_pod_behind_a_service_is_more_than_its_address() {
    let pod = |at, address, colour| pod_value(at, &[address], &json!({"colour": colour}));
    let spec = json!({
        "podSelector": {"matchLabels": {"colour": "red"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"colour": "green"}}}]}],
    });
    let endpoints =
        json!([{"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "behind"}}]);
    let objects = [
        namespace_value("x", &json!({})),
        with(pod("x/a", "10.0.0.1", "red"), "/spec/nodeName", json!(NODE)),
        pod("x/behind", "10.0.0.2", "green"),
        pod("x/beside", "10.0.0.3", "green"),
        service_value(
            "x/s",
            &json!({"clusterIP": "10.96.0.1", "selector": {}, "ports": [{"port": 80}]}),
        ),
        slice_value("x/s", &endpoints, &json!([{"port": 80}])),
        policy_value("x/n", &spec),
    ];
    for (relabelled, address, alone) in [
        ("x/beside", "10.0.0.3", true),
        ("x/behind", "10.0.0.2", false),
    ] {
        let mut store = store(&objects);
        let mut desired = compiled(&store, Desired::default(), &Touched::everything());
        assert!(
            desired
                .frontends
                .values()
                .any(|allowed| !allowed.is_empty())
        );
        let event = Event::Applied(object(&pod(relabelled, address, "blue")));
        let mut touched = Touched::nothing();
        touched.note(&store, &event, NODE);
        let (Changed::Yes | Changed::No) = store.apply(event);
        assert_eq!(desired.follow(&store, &touched), alone, "{relabelled}");
        let desired = compiled(&store, desired, &touched);
        let allowed = desired
            .frontends
            .values()
            .any(|allowed| !allowed.is_empty());
        assert_eq!(allowed, alone, "{relabelled}");
    }
}
