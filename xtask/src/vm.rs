//! `cargo xtask vm`: the agent under other kernels.
//!
//! Boots Debian's kernels in qemu, without the help of the processor, so that it runs
//! anywhere; has the agent load and attach its programs there, and runs the tests that send
//! traffic. The first process is `tests/src/bin/vm_suite.rs`; nothing of a distribution is
//! in the machine but the kernel, `ip`, `tc` and what is under test.
//!
//! `--arch arm64` does the same for the other architecture, with programs that are built here for it.

mod cpio;
mod debian;
mod image;
mod kernel;
mod modules;
mod programs;
mod qemu;
mod report;
mod selection;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::target::Architecture;
use crate::test::Tally;
use crate::toolchain::{self, Purpose};
use crate::workspace::Workspace;
use kernel::{KERNELS, Kernel};
use programs::Programs;
use qemu::{End, Hardware};
use report::{Report, Row};
use selection::{Extent, PROGRAMS, Tests};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this one; may be given more than once
    #[arg(long, value_parser = names(), default_value = ALL)]
    kernel: Vec<String>,
    /// What the kernels and the programs are built for [default: what this machine is]
    #[arg(long)]
    arch: Option<Architecture>,
    /// How many of the tests
    #[arg(long, value_enum, default_value_t = Extent::Short)]
    tests: Extent,
    /// Only test programs whose name contains this: faults, policy; may be given more than once
    #[arg(long, value_name = "NAME")]
    program: Vec<String>,
    /// Download the newest of each kernel again
    #[arg(long)]
    refresh: bool,
    /// The agent without optimisation, where building takes longer than running
    #[arg(long)]
    debug: bool,
    /// Seconds that one machine may take, far more than it needs: 30 minutes, two hours for all tests
    #[arg(long)]
    limit: Option<u64>,
    /// Machines at one time, of one processor each; as many as there are processors
    #[arg(long)]
    at_once: Option<NonZeroUsize>,
}

const ALL: &str = "all";

/// Ends a machine that hangs, and none that has to share its processor.
const LIMIT: Duration = Duration::from_mins(30);
const LIMIT_OF_ALL: Duration = Duration::from_hours(2);

/// What must be here, and Debian's package of it; besides qemu.
const NEEDED: [(&str, &str); 3] = [
    ("dpkg-deb", "dpkg"),
    ("xz", "xz-utils"),
    ("objcopy", "binutils"),
];

fn names() -> Vec<&'static str> {
    KERNELS
        .iter()
        .map(|kernel| kernel.name)
        .chain([ALL])
        .collect()
}

impl Args {
    fn kernels(&self) -> impl Iterator<Item = Kernel> {
        KERNELS.into_iter().filter(|kernel| {
            self.kernel
                .iter()
                .any(|name| name == kernel.name || name == ALL)
        })
    }

    /// The test programs that are run: an error where none is meant.
    fn programs(&self) -> Result<Vec<Tests>> {
        let is_meant = |tests: &Tests| {
            let all = self.program.is_empty();
            all || self.program.iter().any(|part| tests.target.contains(part))
        };
        let asked = PROGRAMS
            .into_iter()
            .filter(|tests| tests.are_asked_for(self.tests) && is_meant(tests));
        let asked: Vec<Tests> = asked.collect();
        if asked.is_empty() {
            bail!("no test program is called {}", self.program.join(" or "));
        }
        Ok(asked)
    }

    fn limit(&self) -> Duration {
        let default = match self.tests {
            Extent::Short | Extent::Sample => LIMIT,
            Extent::All => LIMIT_OF_ALL,
        };
        self.limit.map_or(default, Duration::from_secs)
    }

    fn at_once(&self) -> usize {
        let processors = || thread::available_parallelism().ok();
        self.at_once
            .or_else(processors)
            .map_or(1, NonZeroUsize::get)
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let architecture = args.arch.map_or_else(Architecture::own, Ok)?;
    ensure_programs(&Hardware::of(architecture))?;
    let asked = args.programs()?;
    toolchain::ensure(workspace, Purpose::Run)?;
    let folder = workspace.target.join("vm").join(architecture.to_string());
    let programs = Programs::build(workspace, &folder, architecture, args.debug, &asked)?;

    let mut total = Tally::default();
    let mut rows = Vec::new();
    for (tally, row) in machines(&folder, &programs, args) {
        total.add(tally);
        rows.extend(row);
    }

    println!("\n{}", report::table(&rows));
    for (head, lines) in [("Skipped", &total.skips), ("Failed", &total.failures)] {
        if !lines.is_empty() {
            println!("{head}:");
            for line in lines {
                println!("  {line}");
            }
        }
    }
    // Programs read the last line; nothing may follow it.
    println!("{}", total.counts());
    Ok(if total.failed == 0 && total.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Every machine, oldest kernel first, so many at one time.
fn machines(folder: &Path, built: &Programs, args: &Args) -> Vec<(Tally, Option<Row>)> {
    let todo = Mutex::new(args.kernels().enumerate());
    let next = || todo.lock().unwrap_or_else(PoisonError::into_inner).next();
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..args.at_once() {
            scope.spawn(|| {
                while let Some((place, kernel)) = next() {
                    let architecture = built.architecture;
                    println!(
                        "== Linux {} of Debian {} for {architecture}",
                        kernel.name, kernel.suite
                    );
                    let folder = folder.join(kernel.suite);
                    let result = match machine(&folder, kernel, built, args) {
                        Ok((tally, row)) => (tally, Some(row)),
                        Err(error) => (not_run(kernel, &error), None),
                    };
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.insert(place, result);
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.into_values().collect()
}

fn not_run(kernel: Kernel, error: &anyhow::Error) -> Tally {
    Tally {
        failed: 1,
        failures: vec![format!("{}: {error:#}", kernel.name)],
        ..Tally::default()
    }
}

fn machine(folder: &Path, kernel: Kernel, built: &Programs, args: &Args) -> Result<(Tally, Row)> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let unpacked = debian::kernel(folder, &kernel, built.architecture, args.refresh)?;
    let modules = modules::in_order(&unpacked.root)?;
    let suite: Vec<String> = built
        .tests
        .iter()
        .map(|(path, tests)| {
            let arguments = tests.arguments(&kernel, args.tests);
            format!("{path} {}", arguments.join(" "))
        })
        .collect();
    let files = folder.join("initramfs");
    fs::write(
        &files,
        image::build(&modules, &built.files, &suite.join("\n"))?,
    )
    .with_context(|| format!("writing {}", files.display()))?;

    let log = folder.join("console.log");
    let mut report = Report::new(kernel, &built.tests, args.tests);
    let limit = args.limit();
    let start = Instant::now();
    let machine = Hardware::of(built.architecture);
    let end = machine.boot(&unpacked.image, &files, &log, limit, |line| {
        if report.read(line) {
            let seconds = start.elapsed().as_secs();
            println!("{:>4} {seconds:>4} s | {line}", kernel.name);
        }
    })?;
    if end == End::TimeLimit {
        println!("ended at the limit of {} s", limit.as_secs());
    }
    let (tally, row) = report.close(end, limit);
    println!(
        "{}: {}; console: {}",
        kernel.name,
        tally.counts(),
        log.display()
    );
    Ok((tally, row))
}

/// Installs what is missing, after saying so.
fn ensure_programs(hardware: &Hardware) -> Result<()> {
    let missing: Vec<(&str, &str)> = NEEDED
        .into_iter()
        .chain([hardware.program])
        .filter(|(program, _)| process::find(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    println!("Missing here, and coming from Debian:");
    for (program, package) in &missing {
        println!("  - {program} of package {package}");
    }
    if !toolchain::may_install_packages()? {
        bail!(
            "installing packages takes root and apt-get; by hand: apt-get install {}",
            packages.join(" ")
        );
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    process::run(apt().args(["update", "--quiet"]))?;
    process::run(
        apt()
            .args(["install", "--quiet", "--yes"])
            .args(["--no-install-recommends", "--no-remove"])
            .args(&packages),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(kernel: &[&str], tests: Extent) -> Args {
        Args {
            kernel: kernel.iter().map(ToString::to_string).collect(),
            arch: None,
            tests,
            program: Vec::new(),
            refresh: false,
            debug: false,
            limit: None,
            at_once: None,
        }
    }

    #[test]
    fn kernels_run_oldest_first_and_once() {
        let chosen: Vec<&str> = args(&["sid", "5.10", "sid"], Extent::Short)
            .kernels()
            .map(|kernel| kernel.name)
            .collect();
        assert_eq!(chosen, ["5.10", "sid"]);
        assert_eq!(args(&[ALL], Extent::Short).kernels().count(), KERNELS.len());
        assert!(args(&[ALL], Extent::All).limit() > args(&[ALL], Extent::Short).limit());
    }

    #[test]
    fn only_the_programs_that_are_named_run() {
        let of = |program: &str, tests| Args {
            program: vec![program.to_owned()],
            ..args(&[ALL], tests)
        };
        let names = |args: Args| -> Option<Vec<&str>> {
            let tests = args.programs().ok()?;
            Some(tests.into_iter().map(|tests| tests.target).collect())
        };
        assert_eq!(names(of("fault", Extent::Sample)), Some(vec!["faults"]));
        assert_eq!(names(of("fault", Extent::Short)), None, "it has none there");
        assert!(names(args(&[ALL], Extent::Short)).is_some_and(|all| all.len() > 4));
    }
}
