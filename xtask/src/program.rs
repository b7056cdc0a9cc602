//! `cargo xtask demo`, `bench` and `parity`: programs of the egress-tests crate.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::build;
use crate::privileges::Privileges;
use crate::process;
use crate::toolchain::{self, Purpose};
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Handed to the program as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ParityArgs {
    /// How many cases: each is a set of objects and some packets
    #[arg(long, default_value_t = 1_000)]
    cases: u64,
    /// Where the random numbers start; a failing case names its own
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Handed to the program as they are: `--kernel` sends packets to the programs too, `--command` asks
    /// the binary
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

impl ParityArgs {
    /// As the parity program takes them.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "--cases".into(),
            self.cases.to_string(),
            "--seed".into(),
            self.seed.to_string(),
        ];
        arguments.extend(self.rest.iter().cloned());
        arguments
    }
}

/// Builds agent and program, then becomes the program. Root is asked for as late as
/// possible: a build as root would leave files in the target directory that their
/// owner cannot replace.
pub(crate) fn run(workspace: &Workspace, program: &str, arguments: &[String]) -> Result<ExitCode> {
    toolchain::ensure(workspace, Purpose::Run)?;
    build::release(workspace)?;
    process::run(workspace.cargo().args([
        "build",
        "--release",
        "--package",
        "egress-tests",
        "--bin",
        program,
    ]))?;

    let mut agent = std::ffi::OsString::from("EGRESS_AGENT_BIN=");
    agent.push(workspace.released("egress-agent"));
    let mut command = if Privileges::own()?.root {
        Command::new("env")
    } else if let Some(sudo) = process::find("sudo") {
        let mut command = Command::new(sudo);
        command.arg("env");
        command
    } else {
        bail!(
            "`cargo xtask {program}` makes network namespaces and loads BPF programs, which needs root, \
             and there is no sudo here: run it as root"
        );
    };
    command
        .arg(agent)
        .arg(workspace.released(program))
        .args(arguments);
    println!("$ {}", process::shown(&command));
    let failure = command.exec();
    Err(failure).with_context(|| format!("starting {}", process::shown(&command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parity_passes_its_numbers_and_the_rest_on() {
        let args = ParityArgs {
            cases: 5,
            seed: 9,
            rest: vec!["--kernel".into()],
        };
        assert_eq!(
            args.arguments(),
            ["--cases", "5", "--seed", "9", "--kernel"]
        );
    }
}
