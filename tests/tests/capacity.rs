//! Full tables: a change that does not fit is refused whole, and is seen to be.

use anyhow::{Result, ensure};
use egress_tests::harness::objects::{egress, to_blocks};
use egress_tests::harness::{OUTSIDE, PodSpec, Probe, World, on_world, until};
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
