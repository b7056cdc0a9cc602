//! Figures of an agent in a real cluster: the section "In a cluster" of docs/performance.md.
//!
//! `cargo xtask cluster bench` starts a cluster for it, and this with `EGRESS_CLUSTER`. The
//! cluster must have no agent yet, and is not to be used afterwards.

#![expect(clippy::print_stdout, reason = "figures are what it prints")]

mod enforce;
mod memory;
mod starting;

use std::time::Duration;

use anyhow::{Result, ensure};
use egress_tests::cluster::{Cluster, Stage, install};
use egress_tests::harness::Metrics;

fn main() -> Result<()> {
    let stage = Stage::without_agent()?;
    let cluster = &stage.cluster;
    starting::put_clock(cluster)?;
    install::by_helm_with(cluster, &[starting::BESIDE])?;

    println!("| what | p50 | p99 | most | of |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    row(
        "CNI ADD of a denied pod, our plugin",
        starting::run(cluster)?,
    )?;
    apply_to_enforced(cluster, "a small cluster")?;
    memory::fill(cluster)?;
    install::delete_pods(cluster)?;
    install::rolled_out(cluster)?;
    let memory = memory::of_agent(cluster)?;
    apply_to_enforced(cluster, "10,000 pods, 500 policies")?;
    println!("\nAgent with 10,000 pods and 500 policies, after its start: {memory}");
    println!(
        "After {} changes of a policy: {}",
        enforce::ROUNDS,
        memory::of_agent(cluster)?
    );
    Ok(())
}

fn apply_to_enforced(cluster: &Cluster, of: &str) -> Result<()> {
    let node = cluster.node(enforce::NODE)?;
    let pair = enforce::Pair::start(cluster)?;
    // Only now: that pods start is no part of it.
    let before = node.metrics()?;
    let times = pair.measure()?;
    let after = node.metrics()?;
    row(&format!("policy applied → enforced, {of}"), times)?;
    println!("{}", our_part(&before, &after)?);
    Ok(())
}

fn row(what: &str, mut times: Vec<Duration>) -> Result<()> {
    ensure!(!times.is_empty(), "{what}: nothing was measured");
    times.sort_unstable();
    let at = |percent: usize| {
        let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(index).copied().unwrap_or_default()
    };
    println!(
        "| {what} | {:.1?} | {:.1?} | {:.1?} | {} |",
        at(50),
        at(99),
        at(100),
        times.len()
    );
    Ok(())
}

/// From the event to the last write, by the agent's own histogram: upper bounds of its buckets.
fn our_part(before: &Metrics, after: &Metrics) -> Result<String> {
    const NAME: &str = "egress_policy_programming_seconds";
    let grown =
        |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
    let total = grown(&format!("{NAME}_count"), &[("stage", "total")]);
    ensure!(total > 0.0, "the agent has programmed nothing");
    let bucket = format!("{NAME}_bucket");
    let bounds = [
        "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25",
    ];
    let least = |share: f64| {
        bounds
            .iter()
            .find(|bound| grown(&bucket, &[("stage", "total"), ("le", bound)]) >= share * total)
            .map_or_else(
                || "more than 0.25 s".to_owned(),
                |bound| format!("≤ {bound} s"),
            )
    };
    Ok(format!(
        "| … our part of it | {} | {} | | {total} |",
        least(0.5),
        least(0.99)
    ))
}
