//! Which tests run together, and how they are counted.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::libtest::{self, Line};
use crate::cluster::testbed::Testbed;
use crate::process;
use crate::workspace::Workspace;

/// In this order: the quick and pure ones first.
pub(super) const SUITES: [Suite; 4] = [
    Suite {
        name: "the pure crates",
        packages: &[
            "egress-common",
            "egress-core",
            "egress-oracle",
            "egress-parity",
            "xtask",
        ],
        programs: &[],
        needs: Needs::Helm,
        asks_promtool: false,
    },
    Suite {
        name: "the agent",
        packages: &["egress-agent"],
        programs: &[],
        needs: Needs::Kernel,
        asks_promtool: true,
    },
    Suite {
        name: "traffic, updates and parity",
        packages: &["egress-tests", "egress-fuzz"],
        programs: &[],
        needs: Needs::Kernel,
        asks_promtool: true,
    },
    Suite {
        name: "in a cluster",
        packages: &["egress-tests"],
        programs: &["--features", "cluster", "--test", "cluster_*"],
        needs: Needs::Cluster,
        asks_promtool: true,
    },
];

/// Threads of a suite that makes network namespaces and loads programs: those take turns
/// in the kernel, and timing matters to some.
const KERNEL_THREADS: &str = "--test-threads=2";

/// Part of the name of every test that starts promtool, or Prometheus itself.
const PROMTOOL: &str = "promtool";

/// Tests that can go on for hours look for it: `egress_tests::length`, `egress-core`'s plan tests.
const LENGTH: &str = "EGRESS_TESTS_LENGTH";

/// What this machine can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// Why it cannot run tests in the kernel, if it cannot.
    pub(super) obstacle: Option<String>,
    /// Why no cluster can run on it, if none can.
    pub(super) no_cluster: Option<String>,
    /// Why the chart cannot be rendered, if it cannot.
    pub(super) no_helm: Option<String>,
    pub(super) promtool: bool,
}

/// Tests of some packages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suite {
    pub(super) name: &'static str,
    packages: &'static [&'static str],
    /// Which test programs of the packages; all but those that need a feature where empty.
    programs: &'static [&'static str],
    needs: Needs,
    asks_promtool: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// Its ignored tests render the Helm chart.
    Helm,
    /// Its ignored tests need what [`super::probe`] looks for.
    Kernel,
    /// And a Kubernetes cluster.
    Cluster,
}

/// Counts, and the names behind the ones that are not plain passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) failures: Vec<String>,
    /// One line for each skipped test, ending in the reason.
    pub(crate) skips: Vec<String>,
}

impl Tally {
    pub(crate) fn skipped(&self) -> usize {
        self.skips.len()
    }

    pub(crate) fn counts(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed,
            self.skipped()
        )
    }

    pub(crate) fn add(&mut self, other: Self) {
        let Self {
            passed,
            failed,
            failures,
            skips,
        } = other;
        self.passed += passed;
        self.failed += failed;
        self.failures.extend(failures);
        self.skips.extend(skips);
    }

    /// Counts one line of libtest's output. `obstacle` is why ignored tests were left out,
    /// where that is known better than by the test's own mark.
    pub(crate) fn count(&mut self, line: &str, obstacle: Option<&str>) {
        match libtest::parse(line) {
            Some(Line::Result { passed, failed }) => {
                self.passed += passed;
                self.failed += failed;
            }
            Some(Line::Failed { name }) => self.failures.push(name.into()),
            Some(Line::Ignored { name, reason }) => {
                let reason = obstacle.or(reason).unwrap_or("no reason given");
                self.skips.push(format!("{name}: {reason}"));
            }
            None => {}
        }
    }

    /// Cargo's own exit code has the last word: a test program that was killed, or did not
    /// compile, prints no result.
    pub(crate) fn close(&mut self, succeeded: bool, suite: &str) {
        if !succeeded && self.failed == 0 {
            self.failed = 1;
            self.failures
                .push(format!("{suite}: ended without a result, see above"));
        }
    }
}

impl Suite {
    /// Runs it, passing its output on.
    pub(super) fn run(
        &self,
        workspace: &Workspace,
        filter: Option<&str>,
        machine: &Machine,
        long: bool,
    ) -> Result<Tally> {
        let mut cargo = self.command(workspace, filter, machine)?;
        if long {
            cargo.env(LENGTH, "long");
        }
        // Taken down when the suite is over.
        let cluster = self
            .needs_cluster(workspace, filter, machine)?
            .then(|| Testbed::start(workspace))
            .transpose()?;
        if let Some(cluster) = &cluster {
            cluster.tell(&mut cargo)?;
        }
        println!("$ {}", process::shown(&cargo));
        let mut child = cargo
            .stdout(Stdio::piped())
            .spawn()
            .context("starting cargo test")?;
        let output = child.stdout.take().context("cargo's output")?;
        let mut tally = Tally::default();
        for line in BufReader::new(output).split(b'\n') {
            // A test may print anything, also what is not UTF-8.
            let line = line.context("reading the tests' output")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            tally.count(&line, self.obstacle(machine));
        }
        let status = child.wait().context("waiting for cargo test")?;
        tally.close(status.success(), self.name);
        if self.leaves_promtool_out(machine) {
            tally
                .skips
                .push(format!("tests named {PROMTOOL}: there is no {PROMTOOL}"));
        }
        Ok(tally)
    }

    fn command(
        &self,
        workspace: &Workspace,
        filter: Option<&str>,
        machine: &Machine,
    ) -> Result<Command> {
        let mut cargo = self.cargo_test(workspace);
        cargo.arg("--").args(filter);
        if self.runs_ignored(machine) {
            cargo.args(["--include-ignored", KERNEL_THREADS]);
        }
        if self.leaves_promtool_out(machine) {
            cargo.args(["--skip", PROMTOOL]);
        }
        cargo.env("EGRESS_AGENT_BIN", workspace.released("egress-agent"));
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::split_paths(&path).chain([workspace.toolchain().join("bin")]);
        cargo.env("PATH", env::join_paths(path)?);
        Ok(cargo)
    }

    fn cargo_test(&self, workspace: &Workspace) -> Command {
        let mut cargo = workspace.cargo();
        cargo.args(["test", "--no-fail-fast"]);
        for package in self.packages {
            cargo.args(["--package", package]);
        }
        cargo.args(self.programs);
        cargo
    }

    /// Why its ignored tests stay ignored, if they do.
    fn obstacle<'a>(&self, machine: &'a Machine) -> Option<&'a str> {
        match self.needs {
            Needs::Helm => machine.no_helm.as_deref(),
            Needs::Kernel => machine.obstacle.as_deref(),
            Needs::Cluster => machine
                .obstacle
                .as_deref()
                .or(machine.no_cluster.as_deref()),
        }
    }

    fn runs_ignored(&self, machine: &Machine) -> bool {
        self.obstacle(machine).is_none()
    }

    /// Whether any test is left that needs one: starting it takes a quarter of a minute.
    fn needs_cluster(
        &self,
        workspace: &Workspace,
        filter: Option<&str>,
        machine: &Machine,
    ) -> Result<bool> {
        if self.needs != Needs::Cluster || !self.runs_ignored(machine) {
            return Ok(false);
        }
        let list = process::output(
            self.cargo_test(workspace)
                .args(["--", "--list", "--ignored", "--format=terse"])
                .args(filter),
        )?;
        Ok(list.lines().any(|line| line.ends_with(": test")))
    }

    /// Where ignored tests do not run, libtest lists them itself.
    fn leaves_promtool_out(&self, machine: &Machine) -> bool {
        self.asks_promtool && self.runs_ignored(machine) && !machine.promtool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn programs_add_up_and_the_closing_line_is_what_other_programs_read() {
        let mut tally = Tally::default();
        for line in [RESULT, "test a ... ignored, needs 6.6", RESULT] {
            tally.count(line, None);
        }
        assert_eq!(tally.counts(), "4 passed, 0 failed, 1 skipped");
        assert_eq!(tally.skips, ["a: needs 6.6"]);
    }

    #[test]
    fn this_machines_obstacle_explains_more_than_the_tests_mark() {
        let mut tally = Tally::default();
        tally.count("test a ... ignored, needs root", Some("no CAP_BPF"));
        assert_eq!(tally.skips, ["a: no CAP_BPF"]);
    }

    #[test]
    fn a_test_program_that_was_killed_is_a_failure() {
        let mut tally = Tally::default();
        tally.count(RESULT, None);
        tally.close(false, "the agent");
        assert_eq!(tally.counts(), "2 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn failures_that_were_counted_are_not_counted_again() {
        let mut tally = Tally::default();
        tally.count("test a ... FAILED", None);
        tally.count("test result: FAILED. 0 passed; 1 failed; 0 ignored", None);
        tally.close(false, "the agent");
        assert_eq!(
            (tally.failed, tally.failures.as_slice()),
            (1, ["a".to_owned()].as_slice())
        );
    }

    fn arguments(suite: Suite, obstacle: Option<&str>, promtool: bool) -> Result<String> {
        let workspace = Workspace {
            root: "/src".into(),
            target: "/src/target".into(),
        };
        let machine = Machine {
            obstacle: obstacle.map(String::from),
            no_cluster: None,
            no_helm: obstacle.map(String::from),
            promtool,
        };
        Ok(process::shown(&suite.command(&workspace, None, &machine)?))
    }

    #[test]
    fn ignored_tests_run_only_where_they_can() -> Result<()> {
        for suite in SUITES {
            let with = arguments(suite, None, true)?;
            assert!(with.ends_with("-- --include-ignored --test-threads=2"));
            let without = arguments(suite, Some("not root"), true)?;
            assert!(!without.contains("--include-ignored"));
        }
        Ok(())
    }

    #[test]
    fn what_is_missing_for_some_tests_skips_only_these() {
        let [pure, agent, _, cluster] = SUITES;
        let machine = Machine {
            obstacle: None,
            no_cluster: Some("no go".into()),
            no_helm: Some("no helm".into()),
            promtool: true,
        };
        assert_eq!(pure.obstacle(&machine), Some("no helm"));
        assert!(agent.runs_ignored(&machine));
        assert_eq!(cluster.obstacle(&machine), Some("no go"));
        assert!(!cluster.runs_ignored(&machine));
    }

    #[test]
    fn promtools_tests_are_left_out_where_there_is_none() -> Result<()> {
        let [_, agent, _, _] = SUITES;
        assert!(arguments(agent, None, false)?.ends_with("--skip promtool"));
        assert!(!arguments(agent, None, true)?.contains("--skip"));
        Ok(())
    }
}
