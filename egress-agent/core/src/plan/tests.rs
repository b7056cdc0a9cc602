//! Every prefix of every plan shows each packet the old or the new verdict, and what is left at the
//! end is what a plan from nothing would make.

use std::collections::BTreeSet;
use std::net::IpAddr;

use egress_common::decide::decide;
use egress_common::event::Action;
use serde_json::{Value, json};

use super::*;
use crate::compile::{Column as Allowed, Isolation, Options, Subject, Touched, compile};
use crate::image::Image;
use crate::object::{Read, read};
use crate::store::{Changed, Event, Store};
use crate::workload;

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let index = self.below(u64::try_from(list.len()).unwrap());
        &list[usize::try_from(index).unwrap()]
    }
}

/// `cargo xtask test --long`
#[expect(clippy::disallowed_methods, reason = "only the length of a test")]
fn is_long() -> bool {
    std::env::var_os("EGRESS_TESTS_LENGTH").is_some_and(|length| length == "long")
}

const PODS: u64 = 6;
const NAMESPACES: [&str; 2] = ["a", "b"];
const LABELS: [&str; 3] = ["red", "green", "blue"];
const PORTS: [u16; 3] = [80, 81, 8080];

fn pod(random: &mut Random, index: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": NAMESPACES[usize::from(index >= PODS / 2)], "name": format!("p{index}"),
            "labels": {"colour": random.pick(&LABELS)}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [
            {"name": "web", "containerPort": random.pick(&PORTS), "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.0.{index}")}]},
    })
}

fn peer(random: &mut Random) -> Value {
    match random.below(4) {
        0 => json!({"podSelector": {"matchLabels": {"colour": random.pick(&LABELS)}}}),
        1 => {
            json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": random.pick(&NAMESPACES)}},
            "podSelector": {"matchLabels": {"colour": random.pick(&LABELS)}}})
        }
        2 => json!({"ipBlock": {"cidr": "10.96.0.0/16", "except": ["10.96.0.1/32"]}}),
        _ => json!({"ipBlock": {"cidr": format!("10.0.0.{}/30", 4 * random.below(2))}}),
    }
}

fn policy(random: &mut Random, index: u64) -> Value {
    let rules: Vec<Value> = (0..random.below(3))
        .map(|_| {
            let mut rule = json!({});
            if random.below(5) > 0 {
                rule["to"] = (0..=random.below(2)).map(|_| peer(random)).collect();
            }
            if random.below(4) > 0 {
                let port = if random.below(3) == 0 {
                    json!("web")
                } else {
                    json!(random.pick(&PORTS))
                };
                rule["ports"] = json!([{"port": port, "protocol": "TCP"}]);
            }
            rule
        })
        .collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": random.pick(&NAMESPACES), "name": format!("n{index}")},
        "spec": {"podSelector": {"matchLabels": {"colour": random.pick(&LABELS)}}, "policyTypes": ["Egress"],
            "egress": rules},
    })
}

fn service(random: &mut Random, index: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": random.pick(&NAMESPACES), "name": format!("s{index}")},
        "spec": {"clusterIP": format!("10.96.0.{index}"), "clusterIPs": [format!("10.96.0.{index}")],
            "selector": {"colour": random.pick(&LABELS)},
            "ports": [{"port": 80, "targetPort": random.pick(&PORTS), "protocol": "TCP"}]},
    })
}

/// A cluster: all its objects, each there or not.
fn cluster(random: &mut Random, last: Option<&[Value]>) -> Vec<Value> {
    let mut objects: Vec<Value> = NAMESPACES
        .iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect();
    // Most stays as it was, so that classes and rulesets are kept as well as changed.
    let churn = 1 + random.below(4);
    let slot = |random: &mut Random,
                kind: fn(&mut Random, u64) -> Value,
                index: u64,
                objects: &mut Vec<Value>| {
        let made = kind(random, index);
        let name = made["metadata"]["name"].clone();
        let kept = last
            .into_iter()
            .flatten()
            .find(|o| o["kind"] == made["kind"] && o["metadata"]["name"] == name);
        match (kept, last) {
            (Some(kept), _) if random.below(6) >= churn => objects.push(kept.clone()),
            (None, Some(_)) if random.below(6) >= churn => {}
            _ if random.below(4) > 0 => objects.push(made),
            _ => {}
        }
    };
    for index in 0..PODS {
        slot(random, pod, index, &mut objects);
    }
    for index in 0..4 {
        slot(random, policy, index, &mut objects);
    }
    for index in 1..3 {
        slot(random, service, index, &mut objects);
    }
    objects
}

fn desired(objects: &[Value], previous: &Desired) -> Desired {
    let mut store = Store::default();
    for object in objects {
        match read(object) {
            Read::Object(object) => {
                assert_eq!(store.apply(Event::Applied(object)), Changed::Yes);
            }
            other @ (Read::Ignored { .. } | Read::Unusable(_)) => panic!("{other:?}"),
        }
    }
    compiled(&store, previous.clone(), &Touched::everything())
}

/// What is wanted of the pods of node `n`.
fn compiled(store: &Store, previous: Desired, touched: &Touched) -> Desired {
    let stands = previous.stands(touched);
    let subjects: Vec<Subject<'_>> = store
        .pods_on("n")
        .map(|pod| Subject {
            hook: 100 + pod.name.name[1..].parse::<u64>().unwrap(),
            addresses: pod.addresses.iter().copied().collect(),
            isolation: if stands && !touched.isolated.contains(&pod.name) {
                Isolation::AsBefore
            } else {
                Isolation::of(pod, workload::isolating(store, pod)).unwrap()
            },
        })
        .collect();
    let options = Options {
        node: "n".to_owned(),
        ..Options::default()
    };
    compile(store, &subjects, &options, previous, touched)
}

/// Every packet worth asking about: hook, destination, port.
fn packets() -> Vec<(u64, IpAddr, u16)> {
    let pods = (0..PODS).map(|i| format!("10.0.0.{i}"));
    let others = ["10.96.0.1", "10.96.0.2", "10.96.0.77", "192.0.2.1"].map(str::to_owned);
    let destinations: Vec<IpAddr> = pods.chain(others).map(|a| a.parse().unwrap()).collect();
    let mut packets = Vec::new();
    for hook in 100..100 + PODS {
        for destination in &destinations {
            packets.extend(PORTS.iter().map(|port| (hook, *destination, *port)));
        }
    }
    packets
}

fn passes(image: &Image, (hook, destination, port): (u64, IpAddr, u16)) -> bool {
    image.endpoints.get(&hook).is_none_or(|endpoint| {
        decide(image, endpoint, &address_key(destination), 6, port).action() == Action::Pass
    })
}

/// What a flow is remembered with: it is judged anew as soon as any of it is another.
fn judged(image: &Image, hook: u64) -> (Option<U32>, U32) {
    let endpoint = image.endpoints.get(&hook);
    let generation = endpoint.map(|endpoint| endpoint.generation);
    (generation, image.config.epoch)
}

fn applied(image: &Image, steps: &[Step]) -> Image {
    let mut image = image.clone();
    for step in steps {
        image.apply(step);
    }
    image
}

fn fresh(want: &Desired) -> Image {
    applied(
        &Image::default(),
        &plan(&Image::default(), want, &Limits::UNLIMITED, None).steps,
    )
}

#[test]
fn every_prefix_of_a_plan_shows_the_old_or_the_new_verdict() {
    let packets = packets();
    let (mut transitions, mut changed, mut flips, mut settles) = (0, 0, 0, 0);
    let mut remembered = 0;
    let seeds = if is_long() { 2_000 } else { 400 };
    for seed in 0..seeds {
        let mut random = Random(seed);
        let mut objects = cluster(&mut random, None);
        let mut want = desired(&objects, &Desired::default());
        let mut have = fresh(&want);
        for turn in 0..5 {
            objects = cluster(&mut random, Some(&objects));
            want = desired(&objects, &want);
            let Plan { steps, refused, .. } = plan(&have, &want, &Limits::UNLIMITED, None);
            assert_eq!(refused, [], "seed {seed} turn {turn}");
            let end = applied(&have, &steps);
            let mut now = have.clone();
            let old: Vec<bool> = packets.iter().map(|p| passes(&have, *p)).collect();
            let new: Vec<bool> = packets.iter().map(|p| passes(&end, *p)).collect();
            let wanted = fresh(&want);
            for (packet, verdict) in packets.iter().zip(&new) {
                assert_eq!(
                    passes(&wanted, *packet),
                    *verdict,
                    "seed {seed} turn {turn}: {packet:?} at the end"
                );
            }
            for (done, step) in steps.iter().enumerate() {
                now.apply(step);
                for ((packet, old), new) in packets.iter().zip(&old).zip(&new) {
                    let verdict = passes(&now, *packet);
                    assert!(
                        verdict == *old || verdict == *new,
                        "seed {seed} turn {turn}: a third verdict for {packet:?} after step {done} {step:?} of {steps:#?}"
                    );
                    // A flow that is known by then is denied at the end, too.
                    if verdict && !new {
                        assert_ne!(
                            judged(&now, packet.0),
                            judged(&end, packet.0),
                            "seed {seed} turn {turn}: {packet:?} stays allowed after step {done} {step:?} of {steps:#?}"
                        );
                        remembered += 1;
                    }
                }
            }
            assert_same_size(&end, &wanted, &format!("seed {seed} turn {turn}"));
            assert_eq!(
                plan(&end, &want, &Limits::UNLIMITED, None).steps,
                [],
                "seed {seed} turn {turn}: not at rest"
            );
            transitions += 1;
            changed += old.iter().zip(&new).filter(|(old, new)| old != new).count();
            flips += steps
                .iter()
                .filter(|s| matches!(s, Step::SetEndpoint { .. }))
                .count();
            let flip = steps
                .iter()
                .rposition(|s| matches!(s, Step::SetEndpoint { .. }))
                .unwrap_or(usize::MAX);
            settles += steps
                .iter()
                .skip(flip)
                .filter(|s| matches!(s, Step::SetPeer { .. } | Step::RemovePeer { .. }))
                .count();
            have = end;
        }
    }
    assert!(
        transitions == 5 * seeds
            && changed > 10_000
            && flips > 1_000
            && settles > 50
            && remembered > 10_000,
        "too tame: {transitions} transitions, {changed} verdicts changed, {flips} flips, {settles} settling moves, \
        {remembered} times a flow was known that is denied at the end"
    );
}

/// What an agent reads of the tables that an earlier one left: not the content of rulesets. Returns how many
/// of those it still does not know are used, too.
fn adopted(tables: &Image, want: &Desired, answered: &mut usize) -> Image {
    let mut image = tables.clone();
    for placed in image.rulesets.values_mut() {
        placed.ruleset = None;
        placed.sets.clear();
    }
    image.recognise(&want.rulesets);
    let unknown = unknown(&image, want);
    let allowed = unknown.into_iter().filter(|question| {
        let FrontendKey { protocol, port, .. } = question.destination;
        let endpoint = &tables.endpoints[&question.hook];
        let destination = question.destination.destination();
        decide(tables, endpoint, &destination, protocol, port.get()).action() == Action::Pass
    });
    let allowed: Vec<_> = allowed.map(|q| (q.ruleset, q.destination)).collect();
    *answered += allowed.len();
    image.note(allowed);
    image
}

/// A restart finds everything as it is wanted: nothing is written. Where a port set is missing, what refers to it is
/// built again.
#[test]
fn what_an_earlier_agent_built_is_known_by_its_key() {
    let (mut with_nothing, mut lost) = (0, 0);
    for seed in 0..100 {
        let want = desired(&cluster(&mut Random(seed), None), &Desired::default());
        let have = fresh(&want);
        let mut image = have.clone();
        for placed in image.rulesets.values_mut() {
            placed.ruleset = None;
            placed.sets.clear();
        }
        let mut torn = image.clone();
        image.recognise(&want.rulesets);
        assert_eq!(image, have, "seed {seed}");
        assert_eq!(
            plan(&image, &want, &Limits::UNLIMITED, None).steps,
            [],
            "seed {seed}"
        );
        let sets = || {
            have.rulesets
                .values()
                .flat_map(|placed| &placed.sets)
                .copied()
        };
        with_nothing += usize::from(sets().any(|id| id == PORTS_NOTHING));
        if let Some(id) = sets().find(|id| have.ports.contains_key(id)) {
            torn.ports.remove(&id);
            torn.recognise(&want.rulesets);
            let steps = plan(&torn, &want, &Limits::UNLIMITED, None).steps;
            let built = |step: &Step| matches!(step, Step::BuildRuleset { .. });
            assert!(steps.iter().any(built), "seed {seed}: {steps:#?}");
            lost += 1;
        }
    }
    assert!(
        with_nothing > 5 && lost > 5,
        "too tame: {with_nothing} with prefixes that allow nothing, {lost} without a port set"
    );
}

/// An agent is killed after any step, or a table is full in the middle of a plan, and meanwhile pods come
/// and go: what the next plan finds is neither the old state nor the new one. From there too every packet
/// sees what it saw, or the newest policy, and nothing of the plan that was cut is left behind.
#[test]
fn a_plan_that_was_cut_anywhere_is_followed_by_one_that_finishes() {
    let packets = packets();
    let (mut cuts, mut churned, mut again, mut answered) = (0, 0, 0, 0);
    let seeds = if is_long() { 2_000 } else { 250 };
    for seed in 0..seeds {
        let mut random = Random(seed ^ 0xdead);
        let mut objects = cluster(&mut random, None);
        let mut have = fresh(&desired(&objects, &Desired::default()));
        for turn in 0..5 {
            // One time in three the agent wants what it wanted before; else there were changes.
            if turn == 0 || random.below(3) > 0 {
                objects = cluster(&mut random, Some(&objects));
                churned += usize::from(turn > 0);
            } else {
                again += 1;
            }
            // A new agent remembers nothing.
            let want = desired(&objects, &Desired::default());
            let seen = adopted(&have, &want, &mut answered);
            let Plan { steps, refused, .. } = plan(&seen, &want, &Limits::UNLIMITED, None);
            assert_eq!(refused, [], "seed {seed} turn {turn}");
            let end = applied(&have, &steps);
            let wanted = fresh(&want);
            assert_same_size(&end, &wanted, &format!("seed {seed} turn {turn}"));
            let old: Vec<bool> = packets.iter().map(|p| passes(&have, *p)).collect();
            let new: Vec<bool> = packets.iter().map(|p| passes(&wanted, *p)).collect();
            let last = turn == 4;
            let cut = if last || steps.is_empty() {
                steps.len()
            } else {
                usize::try_from(random.below(u64::try_from(steps.len()).unwrap())).unwrap()
            };
            let mut now = have.clone();
            for (done, step) in steps.iter().take(cut).enumerate() {
                now.apply(step);
                for ((packet, old), new) in packets.iter().zip(&old).zip(&new) {
                    let verdict = passes(&now, *packet);
                    assert!(
                        verdict == *old || verdict == *new,
                        "seed {seed} turn {turn}: a third verdict for {packet:?} after step {done} {step:?} of {steps:#?}"
                    );
                }
            }
            if last {
                let at_the_end: Vec<bool> = packets.iter().map(|p| passes(&now, *p)).collect();
                assert_eq!(at_the_end, new, "seed {seed}: at the end");
            }
            cuts += usize::from(cut < steps.len());
            have = now;
        }
    }
    let seeds = usize::try_from(seeds).unwrap();
    assert!(
        cuts > 2 * seeds && churned > seeds && again > seeds / 2 && answered > seeds / 10,
        "too tame: {cuts} cuts, {churned} changes in between, {again} taken up again, {answered} answers of the tables"
    );
}

/// The events that make of one cluster another.
fn events(before: &[Value], after: &[Value]) -> Vec<Event> {
    let object = |value: &Value| match read(value) {
        Read::Object(object) => object,
        other @ (Read::Ignored { .. } | Read::Unusable(_)) => panic!("{other:?}"),
    };
    let keys: BTreeSet<_> = after.iter().map(|value| object(value).key()).collect();
    let gone = before.iter().map(|value| object(value).key());
    let gone = gone.filter(|key| !keys.contains(key)).map(Event::Deleted);
    let new = after.iter().filter(|value| !before.contains(value));
    gone.chain(new.map(|value| Event::Applied(object(value))))
        .collect()
}

/// Another cluster, in which one pod of another node is another one, or is there or not.
fn with_another_pod_elsewhere(random: &mut Random, objects: &[Value]) -> Vec<Value> {
    let index = PODS + random.below(4);
    let mut made = pod(random, index);
    made["spec"]["nodeName"] = json!("elsewhere");
    // Few addresses, so that several pods claim one, be it behind a Service of another namespace.
    made["status"]["podIPs"] = json!([{"ip": format!("10.0.0.{}", random.below(PODS + 3))}]);
    with_another(random, objects, made)
}

/// Another cluster, in which one policy is another one, or is there or not.
fn with_another_policy(random: &mut Random, objects: &[Value]) -> Vec<Value> {
    let index = random.below(4);
    let made = policy(random, index);
    with_another(random, objects, made)
}

/// The objects, in which `made` takes the place of the one of its name, or nothing does.
fn with_another(random: &mut Random, objects: &[Value], made: Value) -> Vec<Value> {
    let others = objects
        .iter()
        .filter(|object| object["metadata"]["name"] != made["metadata"]["name"]);
    let mut objects: Vec<Value> = others.cloned().collect();
    if random.below(4) > 0 {
        objects.push(made);
    }
    objects
}

/// Whatever happened before, what is wanted after a change is what a compilation from nothing says, and
/// the steps to it are those of a plan that looks at every address.
#[test]
fn a_plan_of_what_moved_is_a_plan_of_everything() {
    let (mut followed, mut stood, mut moved, mut cuts, mut refusals) = (0, 0, 0, 0, 0);
    let mut of_moved_alone = 0;
    let seeds = if is_long() { 2_000 } else { 300 };
    for seed in 0..seeds {
        let mut random = Random(seed ^ 0xbeef);
        let (mut store, mut touched) = (Store::default(), Touched::everything());
        let (mut have, mut want) = (Image::default(), Desired::default());
        let mut homes = None;
        let mut objects: Vec<Value> = Vec::new();
        for turn in 0..16 {
            let case = format!("seed {seed} turn {turn}");
            let before = objects;
            objects = match random.below(8) {
                0 | 1 => {
                    let elsewhere = |value: &&Value| value["spec"]["nodeName"] == "elsewhere";
                    let mut objects: Vec<Value> =
                        before.iter().filter(elsewhere).cloned().collect();
                    objects.extend(cluster(&mut random, Some(&before)));
                    objects
                }
                2 | 3 => with_another_policy(&mut random, &before),
                _ => with_another_pod_elsewhere(&mut random, &before),
            };
            for event in events(&before, &objects) {
                touched.note(&store, &event, "n");
                let (Changed::Yes | Changed::No) = store.apply(event);
            }
            if want.follow(&store, &touched) {
                followed += 1;
            } else {
                stood += usize::from(want.stands(&touched));
                want = compiled(&store, want, &touched);
            }
            touched = Touched::nothing();
            let whole = compiled(&store, Desired::default(), &Touched::everything());
            assert_eq!(by_address(&want), by_address(&whole), "{case}");
            assert_eq!(want.endpoints, whole.endpoints, "{case}");
            assert_eq!(want.rulesets, whole.rulesets, "{case}");
            assert_eq!(want.frontends, whole.frontends, "{case}");
            assert_eq!(want.mixed, whole.mixed, "{case}");

            let limits = Limits {
                classes: match random.below(10) {
                    0 => have.classes.values().map(BTreeMap::len).sum(),
                    _ => usize::MAX,
                },
                peers: match random.below(10) {
                    0 => have.peers.len(),
                    _ => usize::MAX,
                },
                ..Limits::UNLIMITED
            };
            let planned = plan(&have, &want, &limits, homes.as_ref());
            assert_eq!(planned, plan(&have, &want, &limits, None), "{case}");
            let alone = homes
                .as_ref()
                .and_then(|homes| moved::plan(&have, &want, &limits, homes));
            if let Some(alone) = alone {
                of_moved_alone += usize::from(!alone.steps.is_empty());
                assert_eq!(alone, planned, "{case}");
            }
            moved += usize::from(homes.is_some() && matches!(want.moved, Addresses::Only(_)));
            refusals += planned.refused.len();
            let steps = planned.steps.len();
            let cut = match random.below(10) {
                0 if steps > 0 => usize::try_from(random.below(u64::try_from(steps).unwrap())),
                _ => Ok(steps),
            };
            let cut = cut.unwrap();
            cuts += usize::from(cut < steps);
            have = applied(&have, &planned.steps[..cut]);
            homes = planned.homes.filter(|_| cut == steps);
        }
    }
    let seeds = usize::try_from(seeds).unwrap();
    assert!(
        followed > 2 * seeds
            && stood > seeds / 2
            && moved > 4 * seeds
            && cuts > seeds / 4
            && refusals > seeds / 10
            && of_moved_alone > seeds / 5,
        "too tame: {followed} followed, {stood} with subjects as before, {moved} plans of what moved, \
        {of_moved_alone} of nothing else, {cuts} cuts, {refusals} refusals"
    );
}

/// What the tables should say of each address, whatever the numbers of classes are.
fn by_address(want: &Desired) -> BTreeMap<IpAddr, &Allowed> {
    let classes = want.peers.iter();
    let columns = classes.map(|(address, class)| (address, &want.columns[class]));
    columns.filter(|(_, column)| !column.is_empty()).collect()
}

/// Nothing is left behind, and nothing is missing.
fn assert_same_size(end: &Image, wanted: &Image, whose: &str) {
    let sizes = |image: &Image| {
        [
            ("rulesets", image.rulesets.len()),
            ("port sets", image.ports.len()),
            ("peers", image.peers.len()),
            ("classes", image.classes.len()),
            ("frontends", image.frontends.len()),
        ]
    };
    assert_eq!(sizes(end), sizes(wanted), "{whose}");
}

#[test]
fn what_does_not_fit_is_refused_whole_and_never_opens() {
    let packets = packets();
    let (mut refusals, mut closed) = (0, 0);
    for seed in 0..300_u64 {
        let mut random = Random(seed ^ 0xcafe);
        let mut objects = cluster(&mut random, None);
        let mut want = desired(&objects, &Desired::default());
        let mut have = fresh(&want);
        let limits = Limits {
            classes: have.classes.values().map(BTreeMap::len).sum::<usize>() + 2,
            ports: have
                .ports
                .values()
                .map(|set| set.entries(0).len())
                .sum::<usize>()
                + 1,
            rulesets: u32::try_from(have.rulesets.len()).unwrap() + 2,
            peers: have.peers.len() + 1,
            frontends: have.frontends.len() + 1,
            frontend_rulesets: said_of_frontends(&have) + 2,
            ..Limits::UNLIMITED
        };
        for turn in 0..4 {
            objects = cluster(&mut random, Some(&objects));
            want = desired(&objects, &want);
            let Plan { steps, refused, .. } = plan(&have, &want, &limits, None);
            let wanted = fresh(&want);
            let mut now = have.clone();
            for step in &steps {
                now.apply(step);
                if let Step::SetEndpoint { endpoint, .. } = step {
                    // Written down before anything carries it: an agent that is killed may not give it out again.
                    assert!(endpoint.generation.get() <= now.config.generation.get());
                }
                let full = [
                    (
                        "classes",
                        now.classes.values().map(BTreeMap::len).sum(),
                        limits.classes,
                    ),
                    (
                        "ports",
                        now.ports.values().map(|set| set.entries(0).len()).sum(),
                        limits.ports,
                    ),
                    (
                        "rulesets",
                        now.rulesets.len() + 1,
                        usize::try_from(limits.rulesets).unwrap(),
                    ),
                    ("peers", now.peers.len(), limits.peers),
                    ("frontends", now.frontends.len(), limits.frontends),
                    (
                        "frontend_rulesets",
                        said_of_frontends(&now),
                        limits.frontend_rulesets,
                    ),
                ];
                for (map, used, capacity) in full {
                    let used: usize = used;
                    assert!(
                        used <= capacity,
                        "seed {seed} turn {turn}: {map} {used} > {capacity} in {steps:#?}"
                    );
                }
            }
            for packet in &packets {
                let (old, new, got) = (
                    passes(&have, *packet),
                    passes(&wanted, *packet),
                    passes(&now, *packet),
                );
                // Held back on rules that other pods still have: what those say now.
                let old_rules = have.endpoints.get(&packet.0).and_then(|endpoint| {
                    let key = have.rulesets.get(&endpoint.ruleset.get())?.key;
                    let ruleset = U32::new(wanted.slot_of(&key)?);
                    let endpoint = Endpoint {
                        ruleset,
                        ..*endpoint
                    };
                    Some(
                        decide(&wanted, &endpoint, &address_key(packet.1), 6, packet.2).action()
                            == Action::Pass,
                    )
                });
                assert!(
                    got == new || !refused.is_empty(),
                    "nothing was said to be refused"
                );
                assert!(
                    old || new || !got || old_rules == Some(true),
                    "seed {seed} turn {turn}: {packet:?} opened, which neither the old nor the new policy does: {refused:?}"
                );
                closed += usize::from(!got && new);
            }
            refusals += refused.len();
            have = now;
        }
    }
    assert!(
        refusals > 100 && closed > 100,
        "too tame: {refusals} refusals, {closed} packets closed by them"
    );
}

fn said_of_frontends(image: &Image) -> usize {
    image.frontend_rulesets.values().map(BTreeSet::len).sum()
}

/// The address that a step has enter a class.
fn entered(step: &Step) -> Option<Address> {
    let Step::SetPeer { address, class: _ } = step else {
        return None;
    };
    Some(*address)
}

/// What a plan needs is what its steps use at the most, no more and no less; and where a table is full by what
/// a new ruleset says, that ruleset alone is refused.
#[test]
fn what_just_fits_is_not_refused_and_what_just_does_not_is() {
    let mut named: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    for seed in 0..300_u64 {
        let mut random = Random(seed ^ 0xf00d);
        let first = cluster(&mut random, None);
        let want = desired(&first, &Desired::default());
        let have = fresh(&want);
        let want = desired(&cluster(&mut random, Some(&first)), &want);
        let steps = plan(&have, &want, &Limits::UNLIMITED, None).steps;
        let used = |image: &Image| {
            let classes: usize = image.classes.values().map(BTreeMap::len).sum();
            let ports: usize = image.ports.values().map(|set| set.entries(0).len()).sum();
            [
                classes,
                ports,
                said_of_frontends(image),
                image.frontends.len(),
            ]
        };
        let had = used(&have);
        let mut most = had;
        let mut now = have.clone();
        for step in &steps {
            now.apply(step);
            for (most, used) in most.iter_mut().zip(used(&now)) {
                *most = used.max(*most);
            }
        }
        let [classes, ports, said, frontends] = most;
        // Some leave before others arrive, but that is not counted on.
        let arrive: BTreeSet<Address> = steps
            .iter()
            .filter_map(entered)
            .filter(|address| !have.peers.contains_key(address))
            .collect();
        let arrive = arrive.len();
        let whole = Limits {
            classes,
            ports,
            frontends,
            frontend_rulesets: said,
            peers: have.peers.len() + arrive,
            ..Limits::UNLIMITED
        };
        assert_eq!(plan(&have, &want, &whole, None).steps, steps, "seed {seed}");
        let less = |limit: usize, had: usize| (limit > had).then(|| limit - 1);
        let tight = [
            less(classes, had[0]).map(|classes| ("RULESET_CLASSES", Limits { classes, ..whole })),
            less(ports, had[1]).map(|ports| ("PORTS", Limits { ports, ..whole })),
            less(said, had[2]).map(|frontend_rulesets| {
                let limits = Limits {
                    frontend_rulesets,
                    ..whole
                };
                ("RULESET_FRONTENDS", limits)
            }),
            less(frontends, had[3]).map(|frontends| ("FRONTENDS", Limits { frontends, ..whole })),
            less(whole.peers, have.peers.len()).map(|peers| ("PEERS", Limits { peers, ..whole })),
        ];
        for (map, limits) in tight.into_iter().flatten() {
            let refused = plan(&have, &want, &limits, None).refused;
            let first = refused.iter().find(|refusal| refusal.map == map);
            let first = first.unwrap_or_else(|| panic!("seed {seed}: {map} is not refused"));
            *named.entry((map, first.ruleset.is_some())).or_default() += 1;
        }
    }
    let count = |map, by_ruleset| named.get(&(map, by_ruleset)).copied().unwrap_or_default();
    // Few rules have ports that need an entry.
    let by_ruleset = [
        ("RULESET_CLASSES", 50),
        ("RULESET_FRONTENDS", 50),
        ("PORTS", 3),
    ];
    assert!(
        by_ruleset
            .into_iter()
            .all(|(map, least)| count(map, true) > least)
            && ["FRONTENDS", "PEERS"]
                .iter()
                .all(|map| count(map, false) > 20 && count(map, true) == 0),
        "too tame: {named:?}"
    );
}

#[test]
fn where_slots_of_endpoints_run_out_the_whole_change_is_refused() {
    let mut random = Random(7);
    let want = loop {
        let want = desired(&cluster(&mut random, None), &Desired::default());
        if want.endpoints.len() >= 3 && !want.rulesets.is_empty() {
            break want;
        }
    };
    let pods = u16::try_from(want.endpoints.len()).unwrap();
    for (endpoints, refused) in [
        (pods, None),
        (pods - 1, Some(("ENDPOINTS", want.endpoints.len()))),
    ] {
        let limits = Limits {
            endpoints,
            ..Limits::UNLIMITED
        };
        let planned = plan(&Image::default(), &want, &limits, None).refused;
        let planned: Vec<_> = planned.iter().map(|r| (r.map, r.need)).collect();
        assert_eq!(planned, Vec::from_iter(refused));
    }
}

/// Where rulesets' slots run out, those that get none are refused, and the others are enforced.
#[test]
fn where_slots_of_rulesets_run_out_those_without_one_are_refused() {
    let mut short = 0;
    for seed in 0..100 {
        let want = desired(&cluster(&mut Random(seed), None), &Desired::default());
        let wanted = want.rulesets.len();
        if wanted < 2 {
            continue;
        }
        let room = u32::try_from(wanted).unwrap();
        for (rulesets, missing) in [(room + 1, 0), (room, 1), (room - 1, 2)] {
            let limits = Limits {
                rulesets,
                ..Limits::UNLIMITED
            };
            let planned = plan(&Image::default(), &want, &limits, None);
            let refused: BTreeSet<_> = planned
                .refused
                .iter()
                .map(|refusal| {
                    assert_eq!(refusal.map, "RULESETS", "seed {seed}");
                    // Slot 0 is no ruleset's.
                    assert_eq!(refusal.capacity, usize::try_from(rulesets).unwrap());
                    assert!(refusal.need > refusal.capacity && refusal.need <= wanted + 1);
                    refusal.ruleset.unwrap()
                })
                .collect();
            assert_eq!(refused.len(), missing, "seed {seed}: {:?}", planned.refused);
            let placed: BTreeSet<_> = planned.rulesets.keys().copied().collect();
            let all: BTreeSet<_> = want.rulesets.keys().copied().collect();
            assert_eq!(&placed | &refused, all, "seed {seed}");
            assert!(placed.is_disjoint(&refused), "seed {seed}");
            short += missing;
        }
    }
    assert!(short > 50, "too tame: {short}");
}

/// What stays as it is is not written again: not a ruleset that a pod leaves, not the classes of addresses of which
/// a new one says something.
#[test]
fn what_others_say_stays_where_a_pod_gets_a_ruleset_of_its_own() {
    let pod = |name: &str, ip: &str, label: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "a", "name": name, "labels": {"colour": label}},
            "spec": {"nodeName": "n"}, "status": {"podIPs": [{"ip": ip}]}})
    };
    let policy = |name: &str, colour: &str, peer: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "a", "name": name},
            "spec": {"podSelector": {"matchLabels": {"colour": colour}}, "policyTypes": ["Egress"],
                "egress": [{"to": [{"podSelector": {"matchLabels": {"colour": peer}}}],
                    "ports": [{"port": 80}]}]}})
    };
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}),
        pod("p0", "10.0.0.1", "red"),
        pod("p1", "10.0.0.2", "red"),
        pod("p2", "10.0.0.3", "blue"),
        pod("p3", "10.0.0.4", "green"),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "a", "name": "s"},
            "spec": {"clusterIP": "10.96.0.1", "selector": {"colour": "blue"}, "ports": [{"port": 80}]}}),
        policy("n0", "red", "blue"),
    ];
    let before = desired(&objects, &Desired::default());
    let have = fresh(&before);
    // One of the two gets another colour, for which there is a policy of its own.
    objects[2] = pod("p1", "10.0.0.2", "white");
    objects.push(policy("n1", "white", "green"));
    let want = desired(&objects, &before);
    let steps = plan(&have, &want, &Limits::UNLIMITED, None).steps;
    let kept: Vec<_> = before
        .rulesets
        .keys()
        .filter(|key| want.rulesets.contains_key(*key))
        .collect();
    assert_eq!(
        (kept.len(), want.rulesets.len()),
        (1, 2),
        "one stays, one comes"
    );
    let built = steps
        .iter()
        .filter(|step| matches!(step, Step::BuildRuleset { .. }))
        .count();
    assert_eq!(built, 1, "{steps:#?}");
    let moved: Vec<_> = steps.iter().filter_map(entered).collect();
    let left = |step: &&Step| matches!(step, Step::RemovePeer { .. });
    assert_eq!(steps.iter().filter(left).count(), 0, "{steps:#?}");
    // The peer of the new one, of which nothing was said before.
    assert_eq!(moved, [address_key("10.0.0.4".parse().unwrap())]);
    let said =
        |step: &&Step| matches!(step, Step::SetFrontend { .. } | Step::RemoveFrontend { .. });
    assert_eq!(steps.iter().filter(said).count(), 0, "{steps:#?}");
}

/// A pod of node `n` that may send anything, by a policy.
fn allowed_everything() -> [Value; 3] {
    [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "a", "name": "p0"},
            "spec": {"nodeName": "n"}, "status": {"podIPs": [{"ip": "10.0.0.1"}]}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "a", "name": "n"},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}}),
    ]
}

#[test]
fn a_new_pod_whose_ruleset_does_not_fit_is_closed() {
    let want = desired(&allowed_everything(), &Desired::default());
    let limits = Limits {
        trie: 0,
        ..Limits::UNLIMITED
    };
    let planned = plan(&Image::default(), &want, &limits, None);
    assert_eq!(planned.refused.len(), 1);
    let image = applied(&Image::default(), &planned.steps);
    assert!(!passes(&image, (100, "192.0.2.1".parse().unwrap(), 80)));
    let hooks: BTreeSet<u64> = image.endpoints.keys().copied().collect();
    assert_eq!(hooks, BTreeSet::from([100]));
}

#[test]
fn a_trie_that_is_just_full_is_not_refused() {
    let want = desired(&allowed_everything(), &Desired::default());
    let (key, ruleset) = want.rulesets.first_key_value().unwrap();
    assert_eq!(ruleset.trie.v4().len(), 1);
    for (trie, refused) in [(1, None), (0, Some(*key))] {
        let limits = Limits {
            trie,
            ..Limits::UNLIMITED
        };
        let planned = plan(&Image::default(), &want, &limits, None);
        let refusals: Vec<_> = planned.refused.iter().map(|r| r.ruleset).collect();
        assert_eq!(refusals, Vec::from_iter(refused.map(Some)), "{trie}");
    }
}

/// Nothing fits: who is isolated keeps what it has, who is to be isolated and is not yet is closed, and
/// who is not to be stays open.
#[test]
fn where_a_whole_change_is_refused_only_endpoints_that_are_to_be_isolated_are_written() {
    let addresses = || BTreeSet::from(["10.0.0.1".parse().unwrap()]);
    let desired = |rules| DesiredEndpoint {
        addresses: addresses(),
        rules,
        spoof_check: true,
    };
    let ruleset = EndpointRules::Ruleset(RulesetKey([7; 32]));
    let had = |rules, ruleset, slot| endpoint(&desired(rules), ruleset, slot, 1);
    let have = Image {
        endpoints: BTreeMap::from([
            (1, had(EndpointRules::Open, RULESET_DENY, 0)),
            (2, had(EndpointRules::Open, RULESET_DENY, 1)),
            (3, had(ruleset, 5, 2)),
            (4, had(EndpointRules::Closed, RULESET_DENY, 3)),
        ]),
        ..Image::default()
    };
    let wants = [
        (1, EndpointRules::Open),
        (2, ruleset),
        (3, ruleset),
        (4, ruleset),
        (5, EndpointRules::Open),
        (6, EndpointRules::Closed),
        (7, ruleset),
    ];
    let mut want = Desired::default();
    let wants = wants.into_iter();
    want.endpoints = wants.map(|(hook, rules)| (hook, desired(rules))).collect();
    let overflow = Refusal {
        ruleset: None,
        map: "PEERS",
        need: 2,
        capacity: 1,
    };
    let planned = refuse_all(&have, &want, BTreeMap::new(), overflow.clone());
    assert_eq!(planned.refused, [overflow]);
    let after = applied(&have, &planned.steps);
    let written: Vec<u64> = after
        .endpoints
        .iter()
        .filter(|(hook, endpoint)| have.endpoints.get(hook) != Some(endpoint))
        .map(|(hook, endpoint)| {
            assert!(endpoint.isolated() && endpoint.ruleset.get() == RULESET_DENY);
            *hook
        })
        .collect();
    assert_eq!(written, [2, 6, 7]);
    let slots: BTreeSet<u16> = after.endpoints.values().map(|e| e.slot.get()).collect();
    assert_eq!(slots.len(), after.endpoints.len(), "a slot each");
    assert!(
        matches!(planned.steps.first(), Some(Step::SetConfig(config)) if config.generation.get() == 1)
    );
}

#[test]
fn an_endpoint_has_its_addresses_by_family_as_far_as_there_is_room() {
    let addresses = |list: &[&str]| -> BTreeSet<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    };
    let of = |list: &[&str], rules, spoof_check| {
        let desired = DesiredEndpoint {
            addresses: addresses(list),
            rules,
            spoof_check,
        };
        endpoint(&desired, 9, 3, 4)
    };
    let both = of(
        &["10.0.0.1", "fd00::1", "fd00::2"],
        EndpointRules::Closed,
        true,
    );
    assert_eq!((both.v4_len, both.v6_len), (1, 2));
    assert_eq!(both.v4[0], [10, 0, 0, 1]);
    let v6 = |last| {
        let mut bytes = [0; 16];
        (bytes[0], bytes[15]) = (0xfd, last);
        bytes
    };
    assert_eq!(both.v6[..2], [v6(1), v6(2)]);
    let (isolated, spoof) = (ENDPOINT_ISOLATED, ENDPOINT_SPOOF_CHECK);
    assert_eq!(both.flags.get(), isolated | spoof);
    let open = |spoof_check| of(&[], EndpointRules::Open, spoof_check).flags.get();
    assert_eq!((open(true), open(false)), (spoof, 0));
    let many: Vec<String> = (1..=ENDPOINT_ADDRESSES + 1)
        .flat_map(|i| [format!("10.0.0.{i}"), format!("fd00::{i}")])
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let full = of(&many, EndpointRules::Closed, true);
    let room = u8::try_from(ENDPOINT_ADDRESSES).unwrap();
    assert_eq!((full.v4_len, full.v6_len), (room, room));
}

#[test]
fn slots_are_given_out_in_turn_and_one_that_is_taken_never() {
    let desired = DesiredEndpoint {
        addresses: BTreeSet::new(),
        rules: EndpointRules::Closed,
        spoof_check: true,
    };
    let mut have = Image::default();
    for slot in [1, 3] {
        let value = endpoint(&desired, RULESET_DENY, slot, 1);
        have.endpoints.insert(slot.into(), value);
    }
    let limits = Limits {
        endpoints: 5,
        ..Limits::UNLIMITED
    };
    for (next, slots) in [
        (0, [0, 2, 4]),
        (2, [2, 4, 0]),
        (3, [4, 0, 2]),
        (4, [4, 0, 2]),
        // As after the last one was given out, or when there were more.
        (5, [0, 2, 4]),
        (9, [0, 2, 4]),
    ] {
        have.next.slot = next;
        assert_eq!(next_slots(&have, &limits, 9), slots, "next {next}");
    }
    assert_eq!(next_slots(&have, &limits, 1), [0]);
}

#[test]
fn only_what_a_ruleset_that_stays_allowed_otherwise_is_lost() {
    let column = |entries: &[(u32, u32)]| -> Column { entries.iter().copied().collect() };
    let (ports, others) = (PORTS_EVERYTHING + 7, PORTS_EVERYTHING + 8);
    let had = column(&[(1, ports), (2, PORTS_NOTHING)]);
    let lost = |new: &[(u32, u32)], left: &[u32]| {
        loses(&had, &column(new), &left.iter().copied().collect())
    };
    assert!(!lost(&[(1, ports)], &[]));
    assert!(!lost(&[(1, ports), (2, others), (3, ports)], &[]));
    assert!(lost(&[], &[]));
    assert!(lost(&[(1, others)], &[]));
    assert!(!lost(&[], &[1]));
    assert!(lost(&[], &[2]));
}

/// What an earlier agent's rulesets say is asked where it matters, and only there.
#[test]
fn what_is_not_known_is_asked_of_a_pod_that_it_is_said_to() {
    let endpoint_of = |address: &str, rules, ruleset| {
        let desired = DesiredEndpoint {
            addresses: BTreeSet::from([address.parse().unwrap()]),
            rules,
            spoof_check: true,
        };
        endpoint(&desired, ruleset, 0, 1)
    };
    let rules = EndpointRules::Ruleset(RulesetKey([7; 32]));
    let key = |address: &str| {
        let address = address_key(address.parse().unwrap());
        FrontendKey::new(&address.bytes, address.family, 6, 80)
    };
    let placed = |ruleset| Placed {
        key: RulesetKey([1; 32]),
        ruleset,
        sets: Vec::new(),
        literal: BTreeSet::new(),
    };
    let want = desired(&allowed_everything(), &Desired::default());
    let known = want.rulesets.values().next().cloned();
    let have = Image {
        endpoints: BTreeMap::from([
            (1, endpoint_of("10.0.0.1", rules, 5)),
            (2, endpoint_of("10.0.0.2", rules, 5)),
            (3, endpoint_of("10.0.0.3", rules, 6)),
            (4, endpoint_of("10.0.0.4", EndpointRules::Open, 7)),
            (
                5,
                endpoint_of("10.0.0.5", EndpointRules::Closed, RULESET_DENY),
            ),
        ]),
        rulesets: BTreeMap::from([(5, placed(None)), (6, placed(known)), (7, placed(None))]),
        frontends: BTreeMap::from([(key("10.96.0.1"), 1)]),
        ..Image::default()
    };
    let coming =
        ["10.0.0.1", "10.96.0.1", "10.96.0.2"].map(|address| (key(address), BTreeSet::new()));
    let mut want = Desired::default();
    want.frontends = coming.into();
    let asked = |destination: &str, hook| Unknown {
        ruleset: 5,
        destination: key(destination),
        hook,
    };
    // Not of the pod itself, to which its own address is open whatever the rules say.
    assert_eq!(
        unknown(&have, &want),
        [asked("10.0.0.1", 2), asked("10.96.0.2", 1)]
    );
}
