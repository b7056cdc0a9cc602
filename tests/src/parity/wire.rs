//! The fourth answer: real frames, sent by a pod over its veth, past the hooks that the real agent
//! has attached, to whoever listens behind them.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use egress_core::object::Name;
use egress_core::workload::{self, SubjectKind};
use egress_oracle::Oracle;
use egress_parity::generate::{Coverage, case};
use egress_parity::{ask, busiest};
use serde_json::{Value, json};

use super::kernel::{Near, frame};
use crate::harness::raw::{InOrder, Sender, Tap};
use crate::harness::{DEADLINE, NODE, Pod, PodSpec, World};
use crate::packet::{self, ethertype};

/// As many as a generated cluster has pods.
const PODS: u8 = 12;
/// The file that the cluster is in: a change is seen whole.
const FILE: &str = "cluster.json";

/// What a run has met.
#[derive(Debug, Default)]
pub struct Report {
    /// Clusters that the agent enforced.
    pub cases: u64,
    /// Frames by family (whether IPv4) and whether they came out.
    pub verdicts: BTreeMap<(bool, bool), u64>,
    /// Statements met.
    pub coverage: Coverage,
    /// Sentences about frames that came out and should not have, or the other way round.
    pub mismatches: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frames: u64 = self.verdicts.values().sum();
        write!(
            f,
            "{} clusters, {frames} frames ({:?}), {} mismatches",
            self.cases,
            self.verdicts,
            self.mismatches.len()
        )
    }
}

/// A pod's place on the stage: its end of the veth, and what comes out of the node's end behind the
/// hook.
struct Place {
    pod: Pod,
    sender: Sender,
    behind: [Tap; 3],
}

/// Compares clusters, seed after seed.
pub fn run(world: &mut World, seeds: impl Iterator<Item = u64>) -> Result<Report> {
    // What passes is seen at the node's end of the veth and needs to go nowhere.
    world.host.sysctls(&[
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv6/conf/all/forwarding", "0"),
    ])?;
    let mut places = Vec::new();
    for number in 0..PODS {
        let pod = world.stage(PodSpec::new("stage", &format!("p{number}")))?;
        let tap = |ethertype| Tap::new(&world.host, &pod.host_interface, ethertype);
        places.push(Place {
            sender: Sender::new(&pod.ns, "eth0")?,
            behind: [
                tap(ethertype::IPV4)?,
                tap(ethertype::IPV6)?,
                tap(ethertype::ARP)?,
            ],
            pod,
        });
    }
    let mut report = Report::default();
    let mut near = Near::default();
    for seed in seeds {
        one(world, &mut places, &mut near, seed, &mut report)
            .with_context(|| format!("seed {seed}"))?;
    }
    Ok(report)
}

fn one(
    world: &mut World,
    places: &mut [Place],
    near: &mut Near,
    seed: u64,
    report: &mut Report,
) -> Result<()> {
    let case = case(seed);
    let store = egress_parity::store(&case.objects);
    let node = busiest(&store);
    // The cluster's node becomes the stage's.
    let text = serde_json::to_string(&case.objects)?
        .replace(&json!(node).to_string(), &json!(NODE).to_string());
    let mut objects: Vec<Value> = serde_json::from_str(&text)?;
    let store = egress_parity::store(&objects);
    let mut of: BTreeMap<Name, usize> = BTreeMap::new();
    for pod in store.pods().filter(|pod| *pod.node == *NODE) {
        let number = of.len();
        of.insert(pod.name.clone(), number);
    }
    ensure!(of.len() <= places.len(), "more pods than places");
    for object in objects
        .iter_mut()
        .filter(|object| object.get("kind") == Some(&json!("Pod")))
    {
        annotate(object, &of, places);
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    world.manifests.put(FILE, &list)?;
    if world.agent.is_started() {
        world.settle()?;
    } else {
        world.start_agent()?;
    }
    report.cases += 1;
    report.coverage.add(&case.coverage);

    let oracle = Oracle::new(&objects);
    let store = egress_parity::store(&objects);
    let mut sent = Vec::new();
    let in_order = InOrder::begin()?;
    for question in &case.questions {
        let name = Name::new(question.namespace.as_str(), question.pod.as_str());
        let (Some(pod), Some(place)) = (store.pod(&name), of.get(&name)) else {
            continue;
        };
        if !matches!(
            workload::subject(pod),
            SubjectKind::Enforced | SubjectKind::Unreadable
        ) {
            continue;
        }
        let token = packet::token();
        let Some(frame) = frame(question, &pod.addresses, near.next(), &token) else {
            continue;
        };
        places
            .get(*place)
            .context("no place")?
            .sender
            .send(&frame)?;
        sent.push((question, *place, token, ask(&oracle, question).allow));
    }
    for place in places.iter_mut() {
        place.fence()?;
    }
    drop(in_order);
    for (question, place, token, allow) in sent {
        let place = places.get_mut(place).context("no place")?;
        let passed = place.saw(&token)?;
        *report
            .verdicts
            .entry((question.address.is_ipv4(), passed))
            .or_default() += 1;
        if passed != allow {
            report.mismatches.push(format!(
                "seed {seed}: {question}: the oracle allows: {allow}, the frame came out: {passed}"
            ));
        }
    }
    for place in places {
        place.behind.iter_mut().for_each(Tap::forget);
    }
    Ok(())
}

/// Gives a pod its place's namespace.
fn annotate(object: &mut Value, of: &BTreeMap<Name, usize>, places: &[Place]) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let text = |field: &str| {
        metadata
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let name = Name::new(text("namespace"), text("name"));
    if let Some(place) = of.get(&name).and_then(|place| places.get(*place)) {
        metadata.insert(
            "annotations".to_owned(),
            json!({ "egress-agent.dev/netns": place.pod.ns.name() }),
        );
    }
}

impl Place {
    /// Waits until everything sent so far has been judged: ARP always passes, behind the rest.
    fn fence(&mut self) -> Result<()> {
        let token = packet::token();
        let frame = packet::ethernet(
            self.pod.gateway_mac(),
            self.pod.mac(),
            ethertype::ARP,
            &token,
        );
        self.sender.send(&frame)?;
        let [_, _, arp] = &mut self.behind;
        if !arp.wait_for(&token, DEADLINE)? {
            bail!("the frame behind the others did not get through");
        }
        Ok(())
    }

    /// Whether a frame came out behind the hook.
    fn saw(&mut self, token: &[u8]) -> Result<bool> {
        let [v4, v6, _] = &mut self.behind;
        for tap in [v4, v6] {
            tap.drain()?;
            if tap.has_seen(token) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
