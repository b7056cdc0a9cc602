//! `cargo xtask toolchain`: what a build and the tests need beside cargo.
//!
//! Compiling for BPF takes a compiler that comes with the source of `core`, because the
//! target has no prebuilt one, and `bpf-linker`, whose LLVM must be at least as new as
//! the compiler's. [`survey`] looks, [`plan`] decides as data, [`install`] acts.

mod install;
mod plan;
mod survey;

use std::process::ExitCode;

use anyhow::{Result, bail};

pub(crate) use survey::Compiler;

use crate::privileges::Privileges;
use crate::process;
use crate::workspace::Workspace;
use plan::{Plan, RustupTried};
use survey::Survey;

/// The bpf-linker that is built when there is none.
const LINKER_VERSION: &str = "0.13.0";

/// The LLVM it is built with. Debian 12 has it because its `rustc-web` uses it.
const LLVM_MAJOR: u32 = 22;

/// What the toolchain is wanted for; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Build,
    /// Demo and measurements, which make network namespaces.
    Run,
    /// Tests, some of which ask another program for its opinion.
    Test,
}

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let survey = ensure(workspace, Purpose::Test)?;
    println!("{survey}");
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing, after saying so; says nothing when all is there.
pub(crate) fn ensure(workspace: &Workspace, purpose: Purpose) -> Result<Survey> {
    let survey = Survey::take(workspace);
    let plan = Plan::new(&survey, purpose, RustupTried::No);
    if plan.is_empty() {
        return Ok(survey);
    }
    println!("Missing here:\n{plan}");
    let survey = match install::all(workspace, &plan, &survey) {
        Ok(()) => Survey::take(workspace),
        Err(install::Error::RustSource(why)) => {
            // A mirror that has nightlies need not have their sources.
            println!(
                "rustup could not add rust-src ({why:#}); using the system's compiler instead."
            );
            let survey = Survey::take(workspace);
            let plan = Plan::new(&survey, purpose, RustupTried::InVain);
            if !plan.is_empty() {
                println!("Missing here:\n{plan}");
                install::all(workspace, &plan, &survey)?;
            }
            Survey::take(workspace)
        }
        Err(other) => return Err(other.into()),
    };
    // What only some tests want is no reason to stop: those are skipped, and say so.
    let left = Plan::new(&survey, purpose.min(Purpose::Run), RustupTried::InVain);
    if !left.is_empty() {
        bail!("installed, and yet missing:\n{left}{}", plan::by_hand());
    }
    Ok(survey)
}

/// Installs Debian packages. Whoever asks has said so.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    install::debian(packages.iter().copied())
}

/// Whether packages can be installed without asking anybody.
pub(crate) fn may_install_packages() -> Result<bool> {
    Ok(Privileges::own()?.root && process::find("apt-get").is_some())
}
