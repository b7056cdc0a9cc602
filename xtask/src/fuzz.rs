//! `cargo xtask fuzz TARGET`: looks for inputs that break what reads them.
//!
//! The engine is libFuzzer, which finds its way by the coverage that rustc's own LLVM pass counts:
//! a stable compiler does. What it finds worth keeping stays below the target directory; copy into
//! `tests/fuzz/corpus/TARGET` what covers something new, and above all what broke.

use std::env;
use std::fs;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::toolchain::{self, Purpose};
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What reads the inputs: a folder of tests/fuzz/corpus
    #[arg(value_parser = ["packet", "manifests", "objects", "record", "network", "result"])]
    target: String,
    /// How long to look
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Further arguments of libFuzzer
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Counts which ways a run takes, and what it compares; and makes wrong arithmetic a panic.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// Bytes of the longest input: four frames of an ordinary link.
const LONGEST: u32 = 6_000;

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    toolchain::ensure(workspace, Purpose::Build)?;
    let folder = workspace.target.join("fuzz");
    let triple = host_triple()?;
    // With a target named, build scripts and macros are built without the flags.
    process::run(
        workspace
            .cargo()
            .args(["build", "--release", "--package", "egress-fuzz"])
            .args(["--features", "engine", "--bin", "fuzz", "--target", &triple])
            .arg("--target-dir")
            .arg(&folder)
            .env("RUSTFLAGS", FLAGS.join(" ")),
    )?;
    let found = folder.join("corpus").join(&args.target);
    fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
    let kept = workspace.root.join("tests/fuzz/corpus").join(&args.target);
    let broke = folder.join(format!("broke-{}-", args.target));
    let mut engine = Command::new(folder.join(&triple).join("release/fuzz"));
    engine
        .env("EGRESS_FUZZ_TARGET", &args.target)
        .arg(format!("-max_total_time={}", args.seconds))
        .arg(format!("-max_len={LONGEST}"))
        .arg("-timeout=20")
        .arg(format!("-artifact_prefix={}", broke.display()))
        .args(&args.arguments)
        .arg(found)
        .arg(kept)
        .stdin(Stdio::null());
    println!("$ {}", process::shown(&engine));
    let status = engine.status().context("starting the engine")?;
    if !status.success() {
        println!(
            "{} broke, and the input is in {}*: it belongs in tests/fuzz/corpus/{} when it is mended",
            args.target,
            broke.display(),
            args.target
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The triple that this machine's compiler builds for.
fn host_triple() -> Result<String> {
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = process::output(Command::new(compiler).arg("-vV"))?;
    match text.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(triple) => Ok(triple.to_owned()),
        None => bail!("rustc -vV names no host: {text}"),
    }
}
