//! `cargo xtask check`: what a reviewer should not have to look for.
//!
//! Every check runs, whatever the one before it found; the list at the end says which
//! were skipped, and why.

mod boundaries;
mod manifests;

use std::env;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::chart;
use crate::docs;
use crate::process;
use crate::toolchain::{self, Compiler, Purpose};
use crate::workspace::Workspace;

/// How one check ended.
enum Outcome {
    Passed,
    /// It could not be made here.
    Skipped(String),
}

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    // Clippy compiles the agent, whose build script compiles the kernel programs.
    let compiler = toolchain::ensure(workspace, Purpose::Build)?.compiler();
    let checks: [(&str, &dyn Fn() -> Result<Outcome>); 8] = [
        ("formatting", &|| formatting(workspace)),
        ("lints", &|| lints(workspace)),
        ("lints of the kernel programs", &|| {
            kernel_lints(workspace, compiler)
        }),
        ("every crate inherits the lints", &|| inherited(workspace)),
        ("crate boundaries", &|| crate_boundaries(workspace)),
        ("the chart and what is derived from it", &|| {
            deployment(workspace)
        }),
        ("generated references", &|| {
            findings(&docs::outdated(workspace)?)
        }),
        ("dependencies (cargo-deny)", &|| dependencies(workspace)),
    ];
    let mut report = Vec::new();
    let mut failed = false;
    for (name, check) in checks {
        println!("\n== {name}");
        report.push(match check() {
            Ok(Outcome::Passed) => format!("ok       {name}"),
            Ok(Outcome::Skipped(why)) => format!("skipped  {name}: {why}"),
            Err(error) => {
                failed = true;
                println!("{error:#}");
                format!("FAILED   {name}")
            }
        });
    }
    println!("\n{}", report.join("\n"));
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn formatting(workspace: &Workspace) -> Result<Outcome> {
    if !has_subcommand(workspace.cargo(), "fmt") {
        return Ok(Outcome::Skipped("rustfmt is not installed".into()));
    }
    process::run(workspace.cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Outcome::Passed)
}

/// Warnings fail by an argument, not by RUSTFLAGS: those would rebuild everything.
fn lints(workspace: &Workspace) -> Result<Outcome> {
    if !has_subcommand(workspace.cargo(), "clippy") {
        return Ok(Outcome::Skipped("clippy is not installed".into()));
    }
    process::run(workspace.cargo().args([
        "clippy",
        "--workspace",
        "--exclude",
        "egress-ebpf",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ]))?;
    Ok(Outcome::Passed)
}

/// The kernel programs compile for their own target only. A compiler without clippy
/// still has rustc's lints.
fn kernel_lints(workspace: &Workspace, compiler: Option<Compiler>) -> Result<Outcome> {
    let compiler = compiler.context("no compiler for BPF")?;
    let clippy = compiler.has_clippy(workspace);
    let mut cargo = compiler.cargo(workspace);
    cargo
        .arg(if clippy { "clippy" } else { "check" })
        .args(["--package", "egress-ebpf", "--release"])
        .args(["--target", "bpfel-unknown-none", "-Zbuild-std=core"])
        .arg("--target-dir")
        .arg(workspace.target.join("bpf-lints"))
        // In a target directory of their own these flags rebuild nobody else's work.
        .env(
            "RUSTFLAGS",
            format!("-Dwarnings --cfg bpf_target_arch=\"{}\"", env::consts::ARCH),
        );
    process::run(&mut cargo)?;
    Ok(if clippy {
        Outcome::Passed
    } else {
        Outcome::Skipped(format!(
            "{compiler} has no clippy; rustc's own lints were checked"
        ))
    })
}

fn inherited(workspace: &Workspace) -> Result<Outcome> {
    let metadata = metadata(workspace, &["--no-deps"])?;
    findings(&manifests::without_lints(&metadata)?)
}

fn crate_boundaries(workspace: &Workspace) -> Result<Outcome> {
    let metadata = metadata(workspace, &["--locked"])?;
    let mut broken = Vec::new();
    for rule in boundaries::RULES {
        broken.extend(rule.broken(&metadata)?);
    }
    findings(&broken)
}

fn deployment(workspace: &Workspace) -> Result<Outcome> {
    Ok(chart::check(workspace)?.map_or(Outcome::Passed, Outcome::Skipped))
}

fn dependencies(workspace: &Workspace) -> Result<Outcome> {
    if !has_subcommand(workspace.cargo(), "deny") {
        return Ok(Outcome::Skipped("cargo-deny is not installed".into()));
    }
    // Advisories need the network and come at their own time: not a change's fault.
    process::run(
        workspace
            .cargo()
            .args(["deny", "--locked", "check", "bans", "licenses", "sources"]),
    )?;
    Ok(Outcome::Passed)
}

fn findings(found: &[String]) -> Result<Outcome> {
    if !found.is_empty() {
        bail!("{}", found.join("\n"));
    }
    Ok(Outcome::Passed)
}

fn has_subcommand(mut cargo: Command, name: &str) -> bool {
    process::output(cargo.args([name, "--version"])).is_ok()
}

/// `cargo metadata` and not `cargo tree -p`: it unifies features over the workspace, as
/// a workspace build does.
fn metadata(workspace: &Workspace, arguments: &[&str]) -> Result<Value> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["metadata", "--format-version", "1"])
        .args(arguments);
    serde_json::from_str(&process::output(&mut cargo)?).context("cargo metadata")
}
