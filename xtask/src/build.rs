//! `cargo xtask build`

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
    let profile = if args.debug { "debug" } else { "release" };
    toolchain::ensure(workspace, Purpose::Build)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--package", "egress-agent"]);
    if !args.debug {
        cargo.arg("--release");
    }
    process::run(&mut cargo)?;
    let agent = workspace.target.join(profile).join("egress-agent");
    println!("{}", workspace.shown(&agent));
    Ok(ExitCode::SUCCESS)
}

/// The release build that tests, demo and measurements run.
pub(crate) fn release(workspace: &Workspace) -> Result<()> {
    process::run(
        workspace
            .cargo()
            .args(["build", "--release", "--package", "egress-agent"]),
    )
}
