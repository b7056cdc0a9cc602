//! Compares the agent with the oracle on as many made-up clusters as wanted.
//!
//! ```text
//! parity [--cases N] [--seed S] [--command | --kernel] [--mismatches M]
//! ```
//!
//! Seeds count up from S. `--command` runs the binary on files, case by case, instead of the
//! evaluator in this process; `--kernel` loads the tables and sends packets too. Ends with 1 when anything differs, or when a run of 1,000 cases
//! or more did not meet everything it should.

#![expect(clippy::print_stdout, reason = "a comparison is what it prints")]

use std::env;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use egress_parity::{Core, Report, run};
use egress_tests::harness::binary;
use egress_tests::parity::{Command, kernel};

/// Cases from which on everything must have been met.
const ENOUGH: u64 = 1_000;

struct Options {
    cases: u64,
    seed: u64,
    against: Against,
    mismatches: usize,
}

/// What answers beside the oracle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Against {
    Evaluator,
    Command,
    /// And the evaluator.
    Kernel,
}

fn main() -> Result<ExitCode> {
    let options = options()?;
    let seeds = options.seed..options.seed.saturating_add(options.cases);
    let started = Instant::now();
    let report = match options.against {
        Against::Evaluator => run(&Core, seeds, options.mismatches)?,
        Against::Command => run(&Command { binary: binary()? }, seeds, options.mismatches)?,
        Against::Kernel => {
            let report =
                kernel::in_own_namespaces(|node| kernel::run(node, seeds, options.mismatches))?;
            return Ok(print_kernel(&report, options.seed, started));
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    print(&report, options.seed, seconds);
    if !report.mismatches.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    if report.cases >= ENOUGH {
        report.check_coverage()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_kernel(report: &kernel::Report, seed: u64, started: Instant) -> ExitCode {
    for mismatch in &report.mismatches {
        println!("\n{mismatch}");
    }
    println!(
        "{report}\nfrom seed {seed}, {:.1} s",
        started.elapsed().as_secs_f64()
    );
    if report.mismatches.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print(report: &Report, seed: u64, seconds: f64) {
    println!("statements drawn:\n{}", report.coverage);
    println!("answers by (allowed, isolating policies, allowing policies; 2 is 2 or more):");
    for (kind, count) in &report.answers {
        println!("{kind:?} {count:>9}");
    }
    for mismatch in &report.mismatches {
        println!("\n{mismatch}");
    }
    let (cases, questions) = (report.cases, report.questions());
    println!(
        "{cases} cases from seed {seed}, {questions} questions, {} mismatches, {seconds:.1} s, {:.0} cases/s",
        report.mismatches.len(),
        per_second(cases, seconds)
    );
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "cases stay below 2^52"
)]
fn per_second(cases: u64, seconds: f64) -> f64 {
    cases as f64 / seconds
}

fn options() -> Result<Options> {
    let mut options = Options {
        cases: ENOUGH,
        seed: 0,
        against: Against::Evaluator,
        mismatches: 5,
    };
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64> {
            let text = arguments
                .next()
                .with_context(|| format!("{argument} needs a number"))?;
            text.parse().with_context(|| format!("{argument} {text}"))
        };
        match argument.as_str() {
            "--cases" => options.cases = number()?,
            "--seed" => options.seed = number()?,
            "--mismatches" => options.mismatches = usize::try_from(number()?)?,
            "--command" => options.against = Against::Command,
            "--kernel" => options.against = Against::Kernel,
            _ => {
                bail!("{argument} is not one of --cases, --seed, --mismatches, --command, --kernel")
            }
        }
    }
    Ok(options)
}
