//! The first process of a machine that `cargo xtask vm` boots.
//!
//! Sets the machine up, says what the agent found in this kernel, runs the test programs
//! that `/suite` names, and powers the machine off. What it says on the console in lines
//! that start with `@vm` is read by `xtask/src/vm/report.rs`; the rest is libtest's.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the console is the only way out of the machine"
)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use egress_tests::harness::objects::{egress, to_blocks};
use egress_tests::harness::{Pod, PodSpec, World};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};
use serde_json::json;

/// What `cargo xtask vm` puts on the kernel's command line.
const MARK: &str = "egress.vm";

/// Path, type: what userspace expects to find, in this order.
const MOUNTS: [(&str, &str); 6] = [
    ("/proc", "proc"),
    ("/sys", "sysfs"),
    ("/dev", "devtmpfs"),
    ("/run", "tmpfs"),
    ("/tmp", "tmpfs"),
    ("/sys/fs/bpf", "bpf"),
];

/// The programs that the agent attaches.
const PROGRAMS: [&str; 2] = ["from_pod", "to_pod"];

fn main() -> ExitCode {
    if !rustix::process::getpid().is_init() {
        eprintln!("this is the first process of a machine of `cargo xtask vm`");
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(()) => println!("@vm done"),
        Err(error) => println!("@vm failed {error:#}"),
    }
    // The kernel panics when its first process ends, so there is nobody to return to.
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        println!("@vm failed powering off: {error}");
    }
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    for (path, kind) in MOUNTS {
        fs::create_dir_all(path).with_context(|| format!("making {path}"))?;
        mount(kind, path, kind, MountFlags::empty(), None)
            .with_context(|| format!("mounting {kind} on {path}"))?;
    }
    let line = fs::read_to_string("/proc/cmdline")?;
    ensure!(
        line.split_whitespace().any(|word| word == MARK),
        "not a machine of `cargo xtask vm`"
    );
    load_modules()?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("@vm kernel {}", release.trim());
    facts().context("what the agent finds here")?;
    let suite = fs::read_to_string("/suite").context("reading /suite")?;
    suite.lines().try_for_each(run_program)
}

/// `/modules/order` names them, each after those it depends on.
fn load_modules() -> Result<()> {
    let folder = Path::new("/modules");
    for name in fs::read_to_string(folder.join("order"))?.lines() {
        let file = File::open(folder.join(name)).with_context(|| format!("module {name}"))?;
        finit_module(&file, c"", 0).with_context(|| format!("loading module {name}"))?;
    }
    Ok(())
}

/// Has the agent enforce a policy for one pod, and says how the kernel took it.
fn facts() -> Result<()> {
    let mut world = World::new()?;
    world.namespace("x", &[])?;
    let pod = world.pod(PodSpec::new("x", "a"))?;
    // A prefix, so that there is a trie to fill.
    let rule = to_blocks(&["203.0.113.0/24"], &json!([]));
    world
        .manifests
        .put("p.json", &egress("x", "p", &json!([rule])))?;
    world.agent.launch(
        &world.host,
        &["--log-level", "info,egress_agent::datapath=debug"],
    )?;
    let facts = world
        .agent
        .wait_ready(&world.host)
        .and_then(|()| world.settle())
        .and_then(|()| {
            println!("@vm fact attached {}", technique(&world, &pod)?);
            println!("@vm fact coarse-clock {}", coarse_clock(&world)?);
            println!("@vm fact batches {}", batches(&world));
            instructions()
        });
    facts.with_context(|| {
        let status = world.agent.status(&world.host);
        let log = world.agent.log_tail();
        format!("the agent says of itself: {status:?}, and its log: {log}")
    })
}

/// As the kernel tells it, not as the agent does.
fn technique(world: &World, pod: &Pod) -> Result<&'static str> {
    world.host.run(|| {
        let links = SchedClassifier::query_tcx(&pod.host_interface, TcAttachType::Ingress);
        if let Ok((_, programs)) = links
            && programs
                .iter()
                .any(|program| program.name_as_str() == Some("from_pod"))
        {
            return Ok("tcx");
        }
        let output = Command::new("tc")
            .args(["filter", "show", "dev", &pod.host_interface, "ingress"])
            .output()
            .context("running tc (package iproute2)")?;
        let filters = String::from_utf8_lossy(&output.stdout);
        ensure!(
            filters.contains("from_pod"),
            "from_pod is neither a TCX link nor a filter of {}: {filters}",
            pod.host_interface
        );
        Ok("clsact")
    })
}

fn coarse_clock(world: &World) -> Result<&'static str> {
    let log = world.agent.log_tail();
    if log.contains("coarse_clock=1") {
        Ok("yes")
    } else if log.contains("coarse_clock=0") {
        Ok("no")
    } else {
        bail!("the agent's log does not say which clock it uses");
    }
}

/// A kernel that takes entries of tries, or maps of maps, one by one refuses them together, and the
/// agent says so.
fn batches(world: &World) -> &'static str {
    if world.agent.log().contains("a batch was refused") {
        "no"
    } else {
        "yes"
    }
}

/// How many instructions the verifier looked at; kernels before 5.16 do not tell.
fn instructions() -> Result<()> {
    for wanted in PROGRAMS {
        let mut count = None;
        let mut found = false;
        for program in loaded_programs() {
            let program = program?;
            if program.name_as_str() == Some(wanted) {
                found = true;
                count = count.max(program.verified_instruction_count());
            }
        }
        ensure!(found, "no program {wanted} is loaded");
        let count = count.map_or("n/a".to_owned(), |count| count.to_string());
        println!("@vm fact {wanted} {count}");
    }
    Ok(())
}

/// A line of `/suite`: a program and its arguments.
fn run_program(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().context("empty line in /suite")?;
    println!("@vm begin {program}");
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let output = child.stdout.take().context("the program's output")?;
    // By whole lines, so that nothing of the kernel's gets in between.
    for bytes in BufReader::new(output).split(b'\n') {
        println!("{}", String::from_utf8_lossy(&bytes?));
    }
    let end = if child.wait()?.success() {
        "ok"
    } else {
        "failed"
    };
    println!("@vm end {program} {end}");
    Ok(())
}
