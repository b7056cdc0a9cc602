//! `cargo xtask build`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::process;
use crate::toolchain::{self, Purpose};
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build without optimisation; the kernel programs are optimised all the same
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    toolchain::ensure(workspace, Purpose::Build)?;
    let agent = agent(workspace, args.debug)?;
    println!("{}", workspace.shown(&agent));
    Ok(ExitCode::SUCCESS)
}

/// Builds the agent, and says where it is.
pub(crate) fn agent(workspace: &Workspace, debug: bool) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--package", "egress-agent"]);
    if !debug {
        cargo.arg("--release");
    }
    process::run(&mut cargo)?;
    let profile = if debug { "debug" } else { "release" };
    Ok(workspace.target.join(profile).join("egress-agent"))
}

/// The release build that tests, demo and measurements run.
pub(crate) fn release(workspace: &Workspace) -> Result<()> {
    agent(workspace, false).map(drop)
}
