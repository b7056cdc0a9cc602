//! A copy of the sources to plant mistakes in.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use super::list::{Mutant, Tests};
use super::splice::splice;
use crate::process;
use crate::workspace::Workspace;

/// A mistake may turn a loop into an endless one.
const PATIENCE: Duration = Duration::from_mins(5);

/// How tests ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    /// These failed; nobody, when a test program had to be ended.
    Failed(Vec<String>),
    NotBuilt,
}

/// The copy, with a target directory of its own.
pub(super) struct Scratch<'w> {
    workspace: &'w Workspace,
    tree: PathBuf,
}

/// A mistake in the copy.
pub(super) struct Planted {
    file: PathBuf,
    original: String,
}

impl<'w> Scratch<'w> {
    /// Copies what git knows or would add, as it is now.
    pub(super) fn new(workspace: &'w Workspace) -> Result<Self> {
        let tree = workspace.target.join("mutants/tree");
        let listed = process::output(
            Command::new("git")
                .args([
                    "ls-files",
                    "-z",
                    "--cached",
                    "--others",
                    "--exclude-standard",
                ])
                .current_dir(&workspace.root),
        )?;
        for name in listed.split('\0').filter(|name| !name.is_empty()) {
            // A file that was deleted and not committed.
            if let Ok(bytes) = fs::read(workspace.root.join(name)) {
                write_if_new(&tree.join(name), &bytes)?;
            }
        }
        Ok(Self { workspace, tree })
    }

    /// Plants a mistake; dropping it leaves the source as it was.
    pub(super) fn plant(&self, mutant: &Mutant) -> Result<Planted> {
        let file = self.tree.join(&mutant.file);
        let original =
            fs::read_to_string(&file).with_context(|| format!("reading {}", mutant.file))?;
        let mutated = splice(&original, &mutant.before, &mutant.after)?;
        fs::write(&file, mutated)?;
        Ok(Planted { file, original })
    }

    /// Builds and runs tests.
    pub(super) fn test(&self, tests: Tests) -> Result<Outcome> {
        let (package, arguments) = tests.of();
        let cargo = || {
            let mut cargo = self.workspace.cargo();
            cargo
                .args(["test", "--quiet", "--package", package])
                .args(arguments)
                .current_dir(&self.tree)
                .env(
                    "CARGO_TARGET_DIR",
                    self.workspace.target.join("mutants/target"),
                );
            cargo
        };
        let built = cargo()
            .arg("--no-run")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("starting cargo")?;
        if !built.success() {
            return Ok(Outcome::NotBuilt);
        }
        let child = cargo()
            .arg("--no-fail-fast")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Cargo and the test programs end together.
            .process_group(0)
            .spawn()
            .context("starting cargo")?;
        watch(child)
    }
}

impl Planted {
    /// Takes the mistake out.
    pub(super) fn restore(self) -> Result<()> {
        fs::write(&self.file, &self.original)
            .with_context(|| format!("restoring {}", self.file.display()))
    }
}

/// Waits for the end, and reads which tests failed.
fn watch(mut child: Child) -> Result<Outcome> {
    let mut output = child.stdout.take().context("the tests' output")?;
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).map(|_| bytes)
    });
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            let group = Pid::from_raw(i32::try_from(child.id())?).context("process id 0")?;
            kill_process_group(group, Signal::KILL).context("ending the tests")?;
            child.wait()?;
            return Ok(Outcome::Failed(Vec::new()));
        }
        thread::sleep(Duration::from_millis(20));
    };
    if status.success() {
        return Ok(Outcome::Passed);
    }
    let bytes = reader
        .join()
        .map_err(|_panic| anyhow::anyhow!("reading the tests' output"))??;
    Ok(Outcome::Failed(failed(&String::from_utf8_lossy(&bytes))))
}

/// libtest lists the failed ones last, below a second `failures:`.
fn failed(output: &str) -> Vec<String> {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("---- ")?.strip_suffix(" stdout ----"))
        .map(str::to_owned)
        .collect()
}

/// A file that is the same keeps its time, so that cargo builds nothing again for it.
fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_failed_tests_are_read() {
        let output = "\nrunning 2 tests\n.F\nfailures:\n\n---- a::b stdout ----\nwhy\n\nfailures:\n    a::b\n";
        assert_eq!(failed(output), ["a::b"]);
    }
}
