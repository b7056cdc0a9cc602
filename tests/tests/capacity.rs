//! Full tables: a change that does not fit is refused whole, and is seen to be.

use std::ops::Range;
use std::path::Path;

use anyhow::{Result, ensure};
use egress_agent::datapath::{Datapath, Sizes};
use egress_common::abi::{Config, PORTS_EVERYTHING};
use egress_core::image::Step;
use egress_tests::harness::objects::{egress, to_blocks};
use egress_tests::harness::{OUTSIDE, PodSpec, Probe, World, on_world, until};
use egress_tests::parity::kernel;
use serde_json::{Value, json};

const PORT: u16 = 8080;

/// More port prefixes than the table of port sets holds (262,144): every rule has a set of its
/// own, of a range that takes some twenty-three prefixes.
fn too_many_ports() -> Vec<Value> {
    (0..13_000_u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            to_blocks(
                &[&format!("192.0.{high}.{low}/32")],
                &json!([{ "port": 1, "endPort": 65_534 - number }]),
            )
        })
        .collect()
}

/// Whether `status` has a problem about what the kernel should say.
fn refused(world: &World) -> Result<bool> {
    let status = world.agent.status(&world.host)?;
    Ok(status
        .get("problems")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|problem| problem.get("kind") == Some(&json!("enforcement"))))
}

/// A pod keeps its old rules, a new one is denied, both say so; and it ends when there is room.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_change_that_does_not_fit_is_refused_whole() {
    on_world(|world| {
        world.outside.serve(&[PORT])?;
        world.namespace("x", &[])?;
        let old = world.pod(PodSpec::new("x", "old"))?;
        let first = to_blocks(&["203.0.113.10/32"], &json!([]));
        let second = to_blocks(&["203.0.113.20/32"], &json!([]));
        world
            .manifests
            .put("p.json", &egress("x", "p", &json!([first])))?;
        world.start_agent()?;
        let (kept, added) = (
            Probe::tcp(OUTSIDE[0].0, PORT),
            Probe::tcp(OUTSIDE[1].0, PORT),
        );
        world.expect(&[(&old, kept, true), (&old, added, false)])?;

        let mut rules = too_many_ports();
        rules.push(second);
        world
            .manifests
            .put("big.json", &egress("x", "big", &Value::from(rules)))?;
        until("the change is refused", || refused(world))?;
        world.expect_traffic(&[(&old, kept, true), (&old, added, false)])?;
        let metrics = world.metrics()?;
        ensure!(
            metrics.sum("egress_enforcement_problems", &[]) > 0.5,
            "no egress_enforcement_problems"
        );

        let new = world.pod(PodSpec::new("x", "new"))?;
        until("the new pod is denied", || {
            let status = world.pod_status(&new)?.unwrap_or_default();
            Ok(status.get("state") == Some(&json!("denied")))
        })?;
        world.expect_traffic(&[
            (&new, kept, false),
            (&new, added, false),
            (&old, kept, true),
        ])?;

        world.withdraw("big.json")?;
        world.expect(&[(&old, kept, true), (&new, kept, true), (&new, added, false)])?;
        ensure!(!refused(world)?, "the problem stays");
        Ok(())
    });
}

/// Many writes of one table are one call, and the agent knows of each how that went: when one is not there to be
/// deleted, and when the table is full in the middle.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_is_written_by_one_call_is_known_as_far_as_it_got() -> Result<()> {
    const ROOM: u32 = 64;
    let set = |class| Step::SetClass {
        class,
        ruleset: 9,
        ports: PORTS_EVERYTHING,
    };
    let unset = |class| Step::UnsetClass { class, ruleset: 9 };
    kernel::in_own_namespaces(|_| {
        let sizes = Sizes {
            maps: vec![("RULESET_CLASSES", ROOM)],
            ..Sizes::default()
        };
        let mut datapath = Datapath::open(Path::new("/sys/fs/bpf/classes"), &sizes)?;
        let mut expect = |steps: &[Step], done: Option<usize>, classes: Range<u32>| -> Result<()> {
            let failed = datapath.apply(steps).err().map(|error| error.done);
            ensure!(failed == done, "failed at {failed:?}, not at {done:?}");
            let drift = datapath.drift()?;
            ensure!(drift.is_empty(), "{drift:?}");
            let there = datapath.image().classes.keys().copied();
            ensure!(there.eq(classes), "{:?}", datapath.image().classes);
            Ok(())
        };
        let all: Vec<Step> = (0..40).map(set).collect();
        expect(&all, None, 0..40)?;
        // Again, and the same by few.
        expect(&all, None, 0..40)?;
        expect(&[set(40), set(41)], None, 0..42)?;
        let from_the_middle: Vec<Step> = (20..60).map(unset).collect();
        expect(&from_the_middle, None, 0..20)?;
        let too_many: Vec<Step> = (0..100).map(set).collect();
        expect(&too_many, Some(64), 0..ROOM)?;
        // In between others.
        let config = Step::SetConfig(Config::default());
        let rest = (10..ROOM).map(unset);
        let mixed: Vec<Step> = [set(0), config.clone()]
            .into_iter()
            .chain(rest)
            .chain([config, set(10)])
            .collect();
        expect(&mixed, None, 0..11)
    })
}
