//! The developer's commands: `cargo xtask --help`.
//!
//! One file a command. Each command prints the `cargo` lines it runs, so that every
//! step can be repeated by hand.
#![expect(
    clippy::print_stdout,
    reason = "a command line program: standard output is its interface"
)]

mod build;
mod chart;
mod check;
mod cluster;
mod docs;
mod fuzz;
mod image;
mod mutants;
mod privileges;
mod process;
mod program;
mod target;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Builds, tests, demonstrates and measures egress-agent"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find what a build and the tests need, and install what is missing
    Toolchain,
    /// Build the agent, kernel programs included
    Build(build::Args),
    /// The container image as a file, without a daemon
    Image(image::Args),
    /// Write what is derived from the Helm chart: deploy/install.yaml, the table of values
    Render,
    /// Formatting, lints, crate boundaries, dependencies, the chart
    Check,
    /// Write the references from the code: docs/reference, and man pages into target/docs/man
    Docs,
    /// Every test this machine can run, and a list of those it cannot
    Test(test::Args),
    /// A tour on this machine: pods, a policy, dropped packets (needs root)
    Demo(program::Args),
    /// What a packet costs (needs root)
    Bench(program::Args),
    /// Random policies and packets: oracle against core against kernel (needs root)
    Parity(program::ParityArgs),
    /// A real Kubernetes on this machine, for people and for tests (needs root)
    Cluster(cluster::Args),
    /// Hostile input to what reads it, for as long as you like
    Fuzz(fuzz::Args),
    /// Kept mistakes, planted one by one: which tests notice which
    Mutants(mutants::Args),
    /// The agent under Debian's kernels, oldest to newest, on either processor, in emulated machines
    Vm(vm::Args),
}

fn main() -> ExitCode {
    run(Cli::parse().command).unwrap_or_else(|error| {
        report(&error);
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    if let Command::Cluster(args) = &command
        && let Some(end) = args.run_machine()
    {
        return end;
    }
    let workspace = Workspace::find()?;
    match command {
        Command::Toolchain => toolchain::run(&workspace),
        Command::Build(args) => build::run(&workspace, &args),
        Command::Image(args) => image::run(&workspace, &args),
        Command::Render => chart::render(&workspace),
        Command::Check => check::run(&workspace),
        Command::Docs => docs::run(&workspace),
        Command::Test(args) => test::run(&workspace, &args),
        Command::Demo(args) => program::run(&workspace, "demo", &args.arguments),
        Command::Bench(args) => program::run(&workspace, "bench", &args.arguments),
        Command::Parity(args) => program::run(&workspace, "parity", &args.arguments()),
        Command::Cluster(args) => cluster::run(&workspace, &args),
        Command::Fuzz(args) => fuzz::run(&workspace, &args),
        Command::Mutants(args) => mutants::run(&workspace, &args),
        Command::Vm(args) => vm::run(&workspace, &args),
    }
}

/// The causes on one line and no backtrace: what fails here is another program, and it has
/// said why.
#[expect(clippy::print_stderr, reason = "the one message that is no result")]
fn report(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
