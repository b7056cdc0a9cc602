//! `cargo xtask test`: every test this machine can run.
//!
//! Tests that need root or the kernel are marked `#[ignore = "needs root"]`. They run
//! where [`probe`] finds what they need; elsewhere they count as skipped, with the
//! reason, and never as passed.

mod libtest;
mod probe;
mod suite;

use std::process::ExitCode;

use anyhow::Result;

use crate::build;
use crate::chart;
use crate::cluster;
use crate::toolchain::{self, Purpose};
use crate::workspace::Workspace;
pub(crate) use suite::Tally;
use suite::{Machine, SUITES};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fail if anything is skipped
    #[arg(long)]
    no_skip: bool,
    /// Take hours: a thousand kills instead of twenty, every write refused instead of some
    #[arg(long)]
    long: bool,
    /// Run only tests whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Run only suites whose name contains this: pure, agent, traffic, cluster
    #[arg(long, value_name = "NAME")]
    suite: Option<String>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let survey = toolchain::ensure(workspace, Purpose::Test)?;
    build::release(workspace)?;
    let mut machine = Machine {
        obstacle: probe::obstacle()?,
        no_cluster: cluster::obstacle(workspace)?,
        no_helm: None,
        promtool: survey.has_promtool(),
    };
    if args.filter.is_none() && machine.obstacle.is_none() && machine.no_cluster.is_none() {
        // The last suite needs all of it, and the first one the helm that comes with it.
        cluster::build(workspace)?;
    }
    machine.no_helm = chart::obstacle(workspace)?;
    if let Some(obstacle) = &machine.obstacle {
        println!("Tests in the kernel are skipped here: {obstacle}");
    }
    if let Some(obstacle) = &machine.no_cluster {
        println!("Tests in a cluster are skipped here: {obstacle}");
    }
    if let Some(obstacle) = &machine.no_helm {
        println!("Tests of the chart are skipped here: {obstacle}");
    }

    let mut total = Tally::default();
    let suites: Vec<_> = SUITES
        .iter()
        .filter(|suite| {
            args.suite
                .as_ref()
                .is_none_or(|part| suite.name.contains(part))
        })
        .collect();
    for (index, suite) in suites.iter().enumerate() {
        println!("\n== [{}/{}] {}", index + 1, suites.len(), suite.name);
        let tally = suite.run(workspace, args.filter.as_deref(), &machine, args.long)?;
        println!("{}: {}", suite.name, tally.counts());
        total.add(tally);
    }

    if !total.skips.is_empty() {
        println!("\nSkipped:");
        for skip in &total.skips {
            println!("  {skip}");
        }
    }
    if !total.failures.is_empty() {
        println!("\nFailed:");
        for failure in &total.failures {
            println!("  {failure}");
        }
    }
    let verdict = verdict(&total, args.no_skip);
    println!();
    if let Err(why) = verdict {
        println!("{why}");
    }
    // Programs read the last line; nothing may follow it.
    println!("{}", total.counts());
    Ok(if verdict.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether the run as a whole is a success; if not, why.
fn verdict(total: &Tally, no_skip: bool) -> Result<(), &'static str> {
    if total.failed > 0 {
        Err("There are failures.")
    } else if no_skip && total.skipped() > 0 {
        Err("Tests were skipped, and --no-skip was given.")
    } else if total.passed == 0 {
        Err("No test ran.")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skips: &[&str]) -> Tally {
        Tally {
            passed,
            failed,
            failures: Vec::new(),
            skips: skips.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_skip_fails_only_when_skips_are_refused() {
        assert!(verdict(&tally(3, 0, &["a: no root"]), false).is_ok());
        assert!(verdict(&tally(3, 0, &["a: no root"]), true).is_err());
    }

    #[test]
    fn a_run_of_no_tests_is_no_success() {
        assert!(verdict(&tally(0, 0, &[]), false).is_err());
    }

    #[test]
    fn one_failure_fails_the_run() {
        assert!(verdict(&tally(100, 1, &[]), false).is_err());
    }
}
