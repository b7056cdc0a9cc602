//! What the agent itself costs: how long a change takes to be in the kernel, how long a restart takes,
//! what memory all of it needs.
//!
//! A process of the agent follows manifests: 250 pods of this node with interfaces of their own, other
//! pods elsewhere, 500 policies. A change is one file that is renamed into place; how long it took from
//! being heard to the last write in the kernel is the agent's own
//! `egress_policy_programming_seconds{stage="total"}`.
//!
//! * A pod that *arrives* is one whose interface is there when its object comes; in that time are two
//!   grace periods of the kernel, for attaching the hooks. It does so beside 10 rulesets and beside
//!   250, on which nothing should depend.
//! * *Churn*: 100 times a second one pod elsewhere, of a hundred that take turns, has another label;
//!   the agent's processor time, of all its threads, over the wall clock's. Reading the files is in it.
//! * With 150,000 pods there is one address each: of both families they are more than PEERS has room for by
//!   default.

use std::fs;
use std::iter;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{ArrayOfMaps, Map, MapData};
use egress_tests::harness::objects::{policy, port};
use egress_tests::harness::{Pod, PodSpec, World, binary};
use serde_json::{Value, json};

use super::memory::field;
use super::report::{Fact, Report};

const NAMESPACE: &str = "shop";
pub(crate) const LOCAL: u16 = 250;
const POLICIES: u16 = 500;
/// Groups of peers, by label; a policy allows one of them.
const TIERS: u32 = 100;
const PEERS: u32 = 10_000;
const MANY_PEERS: u32 = 150_000;
/// Rulesets beside which a pod arrives, for comparison with all.
const FEW: u16 = 10;
/// Pods that arrive and leave, and how often each does. A world has room for 255.
const LATE: u16 = 4;
const ARRIVALS: usize = 5;
/// Between two events of churn.
const BEAT: Duration = Duration::from_millis(10);
/// Events of churn.
const EVENTS: u32 = 1_000;
/// Pods that take turns to change.
pub(crate) const TURNS: u32 = 100;
/// Changes of each kind.
const CHANGES: u16 = 100;
const LIMIT: Duration = Duration::from_mins(2);
const PEERS_FILE: &str = "peers.json";

/// Measures everything.
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    if !report.wants("control") {
        return Ok(());
    }
    let mut world = World::new()?;
    world.namespace(NAMESPACE, &[])?;
    let mut stage = |name: &str, numbers: Range<u16>| {
        numbers
            .map(|number| {
                let spec = PodSpec::new(NAMESPACE, &format!("{name}-{number}"));
                world.stage(spec.label("app", &format!("app-{number}")))
            })
            .collect::<Result<Vec<Pod>>>()
    };
    let pods = stage("web", 0..LOCAL)?;
    let arriving = stage("late", 0..LATE)?;
    world
        .manifests
        .put("local.json", &list(pods.iter().map(Pod::manifest)))?;
    world.manifests.put(PEERS_FILE, &peers(PEERS, false))?;
    put_policies(&world, POLICIES)?;

    add(
        report,
        "control-start",
        "first start, 10k pods, to ready",
        &start(&mut world)?,
    );
    add_memory(report, &world, "10k")?;
    tables(report, &world)?;

    let changes = |world: &World, change: &dyn Fn(u16) -> Result<()>| -> Result<Vec<Duration>> {
        (0..CHANGES)
            .map(|turn| took(world, || change(turn)))
            .collect()
    };
    let times = changes(&world, &|turn| {
        // The 500 stay; this one is theirs and another's each time.
        let object = one_policy(turn % LOCAL, 1_000 + turn);
        world.manifests.put("extra.json", &renamed(object, "extra"))
    })?;
    report.add_distribution("control-policy", "policy changed, to the last write", times);
    let times = changes(&world, &|turn| {
        let tier = u32::from(turn) % TIERS;
        world
            .manifests
            .put("peer.json", &peer(PEERS + 1, tier, false))
    })?;
    report.add_distribution(
        "control-label",
        "one pod's label changed, to the last write",
        times,
    );

    come_and_go(report, &world, &arriving, "250 rulesets")?;
    churn_of_files(report, &world, "10k")?;

    world.agent.kill()?;
    add(
        report,
        "control-adopt",
        "restart, 10k pods, to ready",
        &start(&mut world)?,
    );
    put_policies(&world, FEW)?;
    world.settle()?;
    come_and_go(report, &world, &arriving, "10 rulesets")?;
    world.agent.terminate()?;
    put_policies(&world, POLICIES)?;
    world.manifests.put(PEERS_FILE, &peers(MANY_PEERS, true))?;
    add(
        report,
        "control-start-150k",
        "start, 150k pods, to ready",
        &start(&mut world)?,
    );
    add_memory(report, &world, "150k")?;
    churn_of_files(report, &world, "150k")?;
    world.agent.terminate()?;

    let size = fs::metadata(binary()?)?.len();
    report.add_fact(Fact::mebibytes(
        "control-binary",
        "the agent's binary",
        size,
    ));
    Ok(())
}

fn put_policies(world: &World, count: u16) -> Result<()> {
    let policies = (0..count).map(|number| one_policy(number, 443));
    world.manifests.put("policies.json", &list(policies))
}

/// Pods of this node arrive and leave, one after the other.
fn come_and_go(report: &mut Report, world: &World, pods: &[Pod], beside: &str) -> Result<()> {
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for pod in iter::repeat_n(pods, ARRIVALS).flatten() {
        came.push(took(world, || {
            world.manifests.put("late.json", &pod.manifest())
        })?);
        went.push(took(world, || world.manifests.remove("late.json"))?);
    }
    let id = beside.replace(' ', "-");
    report.add_distribution(
        &format!("control-arrival-{id}"),
        &format!("a pod arrives beside {beside}, to the last write"),
        came,
    );
    report.add_distribution(
        &format!("control-leaving-{id}"),
        &format!("a pod leaves beside {beside}, to the last write"),
        went,
    );
    Ok(())
}

/// What the agent needs of one processor while files of pods elsewhere change.
fn churn_of_files(report: &mut Report, world: &World, size: &str) -> Result<()> {
    let name = format!("100 pod events a second with {size} pods from files, of one processor");
    churn(
        report,
        world,
        (&format!("control-churn-{size}"), &name),
        |event| {
            let number = event % TURNS;
            let object = peer(MANY_PEERS + number, event / TURNS % TIERS, true);
            world
                .manifests
                .put(&format!("churn-{number}.json"), &object)
        },
    )
}

/// What the agent needs of one processor while pods elsewhere change, a hundred that take turns.
pub(crate) fn churn(
    report: &mut Report,
    world: &World,
    (id, name): (&str, &str),
    mut change: impl FnMut(u32) -> Result<()>,
) -> Result<()> {
    let (_, heard) = programmed(world)?;
    let pid = world.agent.pid()?;
    let begun = (Instant::now(), processor_time(pid)?);
    for event in 0..EVENTS {
        change(event)?;
        thread::sleep((BEAT * (event + 1)).saturating_sub(begun.0.elapsed()));
    }
    let used = processor_time(pid)?.saturating_sub(begun.1);
    let share = used.as_secs_f64() / begun.0.elapsed().as_secs_f64();
    let (_, heard_since) = programmed(world)?;
    // What comes within 100 ms may be one change to it.
    ensure!(
        heard_since - heard >= f64::from(EVENTS) / 20.0,
        "{EVENTS} events led to {} changes",
        heard_since - heard
    );
    report.add_fact(Fact::percent(id, name, share));
    Ok(())
}

/// User and system time of all threads there were: fields 14 and 15 of `/proc/PID/stat`, in the
/// hundredths of a second that every architecture with BPF tells them in.
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before it may have blanks in it.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let hundredths = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(hundredths * 10))
}

fn add(report: &mut Report, id: &str, name: &str, time: &Duration) {
    report.add_fact(Fact::milliseconds(id, name, &[*time]));
}

fn add_memory(report: &mut Report, world: &World, size: &str) -> Result<()> {
    // After the first work of a start, when what it needed is given back.
    thread::sleep(Duration::from_secs(2));
    let status = fs::read_to_string(format!("/proc/{}/status", world.agent.pid()?))?;
    for (what, key) in [("RSS", "VmRSS:"), ("its peak", "VmHWM:")] {
        let kibibytes = field(&status, key).with_context(|| format!("no {key}"))?;
        report.add_fact(Fact::mebibytes(
            &format!(
                "control-rss-{size}-{}",
                key.trim_end_matches(':').to_lowercase()
            ),
            &format!("the agent with {size} pods from files, {what}"),
            kibibytes * 1024,
        ));
    }
    Ok(())
}

/// Starts the agent, and says how long it took to be ready.
pub(crate) fn start(world: &mut World) -> Result<Duration> {
    let begun = Instant::now();
    world.agent.launch(&world.host, &[])?;
    // Asking costs processor time, of which there is little.
    while world.agent.http_status(&world.host, "/readyz").ok() != Some(200) {
        ensure!(
            begun.elapsed() < LIMIT,
            "not ready: {}",
            world.agent.log_tail()
        );
        thread::sleep(Duration::from_millis(5));
    }
    Ok(begun.elapsed())
}

/// What the agent says a change took from being heard to the last write.
fn took(world: &World, change: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let (before, count) = programmed(world)?;
    change()?;
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        thread::sleep(Duration::from_millis(20));
        let (after, now) = programmed(world)?;
        if now > count + 0.5 {
            return Ok(Duration::from_secs_f64((after - before) / (now - count)));
        }
    }
    bail!("a change was not heard of: {}", world.agent.log_tail());
}

fn programmed(world: &World) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let metrics = loop {
        match world.metrics() {
            Ok(metrics) => break metrics,
            // Where a change takes long, an answer may come too late.
            Err(error) if begun.elapsed() > LIMIT => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    };
    let total = &[("stage", "total")];
    Ok((
        metrics.sum("egress_policy_programming_seconds_sum", total),
        metrics.sum("egress_policy_programming_seconds_count", total),
    ))
}

/// What the kernel says that all tables take. Of tries it counts the prefixes alone.
fn tables(report: &mut Report, world: &World) -> Result<()> {
    let (mut outer, mut inner) = (0, 0);
    for file in fs::read_dir(world.agent.pins().join("maps"))? {
        let map = MapData::from_pin(file?.path())?;
        outer += size(&map)?;
        if let Map::ArrayOfMaps(map) = Map::from_map_data(map)? {
            let map: ArrayOfMaps<MapData> = ArrayOfMaps::try_from(Map::ArrayOfMaps(map))?;
            for index in 0..map.len() {
                if let Ok(map) = map.get(&index, 0) {
                    let map: MapData = map;
                    inner += size(&map)?;
                }
            }
        }
    }
    report.add_fact(Fact::mebibytes(
        "control-maps",
        "kernel tables at default sizes",
        outer,
    ));
    report.add_fact(Fact::mebibytes(
        "control-maps-inner",
        "and those of 250 pods and their rulesets",
        inner,
    ));
    Ok(())
}

fn size(map: &MapData) -> Result<u64> {
    let fd = map.fd().as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    field(&info, "memlock:").context("a map's fdinfo has no memlock")
}

fn list(items: impl Iterator<Item = Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>()})
}

/// A policy of one of the local pods: a tier of peers, and a network.
fn one_policy(number: u16, to: u16) -> Value {
    policy(
        NAMESPACE,
        &format!("policy-{number}"),
        &json!({
            "podSelector": {"matchLabels": {"app": format!("app-{number}")}},
            "policyTypes": ["Egress"],
            "egress": [
                {"to": [{"podSelector": {"matchLabels": {"tier": format!("tier-{}", u32::from(number) % TIERS)}}}],
                    "ports": [port(to, "TCP")]},
                {"to": [{"ipBlock": {"cidr": format!("20.{}.{}.0/24", number / 256, number % 256)}}],
                    "ports": [port(to, "TCP")]},
            ],
        }),
    )
}

fn renamed(mut object: Value, name: &str) -> Value {
    if let Some(place) = object.pointer_mut("/metadata/name") {
        *place = json!(name);
    }
    object
}

fn peers(count: u32, only_v4: bool) -> Value {
    list((0..count).map(|number| peer(number, number % TIERS, only_v4)))
}

/// A pod of another node.
fn peer(number: u32, tier: u32, only_v4: bool) -> Value {
    let [_, high, middle, low] = number.to_be_bytes();
    let v4 = format!("10.{}.{middle}.{low}", 128 + high);
    let v6 = format!("fd00:245::{:x}:{:x}", number >> 16, number & 0xffff);
    let mut addresses = vec![json!({"ip": v4})];
    if !only_v4 {
        addresses.push(json!({"ip": v6}));
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": NAMESPACE, "name": format!("peer-{number}"),
            "uid": format!("00000000-0000-4000-9000-{number:012x}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"tier": format!("tier-{tier}"), "app": "peer", "pod-template-hash": "7d5f6c8b9d"},
        },
        "spec": {"nodeName": format!("node-{}", number % 1_000),
            "containers": [{"name": "main", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": v4, "podIPs": addresses},
    })
}
