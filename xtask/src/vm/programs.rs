//! What the machine runs: the agent, the tests, `ip` and `tc`; and the libraries that they load.
//!
//! For this machine's architecture they are what is built and installed here. For another they are linked
//! statically, and `ip` and `tc` come out of Debian's packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::debian;
use super::selection::Tests;
use crate::process;
use crate::target::{Architecture, Toolchain};
use crate::workspace::Workspace;

/// Where the guest finds its programs: on the kernel's default search path.
const FOLDER: &str = "/bin";

/// The guest's first process.
const INIT: &str = "vm_suite";

/// What the tests start besides the agent, of the package iproute2.
const TOOLS: [&str; 2] = ["ip", "tc"];

/// Everything that goes into every machine, beside its modules.
pub(super) struct Programs {
    pub(super) architecture: Architecture,
    /// Files of this machine by their path in the guest.
    pub(super) files: BTreeMap<String, PathBuf>,
    /// Those of them that are tests, by their path in the guest.
    pub(super) tests: Vec<(String, Tests)>,
}

impl Programs {
    /// Builds the agent, as it is released unless `debug` is wanted, and the tests that are asked for.
    pub(super) fn build(
        workspace: &Workspace,
        folder: &Path,
        architecture: Architecture,
        debug: bool,
        asked: &[Tests],
    ) -> Result<Self> {
        let own = Architecture::own().is_ok_and(|own| own == architecture);
        let builder = Builder {
            workspace,
            foreign: if own {
                None
            } else {
                Some(Toolchain::find(architecture)?)
            },
            lean: folder.join("programs"),
        };
        fs::create_dir_all(&builder.lean)
            .with_context(|| format!("making {}", builder.lean.display()))?;
        let mut programs = Self {
            architecture,
            files: BTreeMap::new(),
            tests: Vec::new(),
        };
        let agent: &[&str] = if debug { &[] } else { &["--release"] };
        let agent = builder.program("egress-agent", "egress-agent", agent)?;
        programs.add(&format!("{FOLDER}/egress-agent"), agent);
        programs.add("/init", builder.program("egress-tests", INIT, &[])?);
        programs.add_tests(&builder, asked)?;
        if own {
            for name in TOOLS {
                let tool = process::find(name).with_context(|| format!("there is no {name}"))?;
                programs.add(&format!("{FOLDER}/{name}"), tool);
            }
            programs.add_libraries()?;
        } else {
            programs.add_packaged(&debian::tools(folder, architecture)?)?;
        }
        Ok(programs)
    }

    fn add(&mut self, path: &str, source: PathBuf) {
        self.files.insert(path.to_owned(), source);
    }

    fn add_tests(&mut self, builder: &Builder<'_>, asked: &[Tests]) -> Result<()> {
        let packages: BTreeSet<&str> = asked.iter().map(|tests| tests.package).collect();
        for package in packages {
            let of_package = asked.iter().filter(|tests| tests.package == package);
            let targets: Vec<Tests> = of_package.copied().collect();
            for (tests, source) in targets.iter().zip(builder.tests(&targets)?) {
                let path = format!("{FOLDER}/{}-{}", tests.package, tests.target);
                self.add(&path, source);
                self.tests.push((path, *tests));
            }
        }
        Ok(())
    }

    /// What this machine's loader finds for them.
    fn add_libraries(&mut self) -> Result<()> {
        let programs: Vec<PathBuf> = self.files.values().cloned().collect();
        for program in programs {
            let text = process::output(Command::new("ldd").arg(program))?;
            for library in libraries(&text) {
                self.add(&library, PathBuf::from(&library));
            }
        }
        Ok(())
    }

    /// The tools in a folder of unpacked packages, and every library there.
    fn add_packaged(&mut self, root: &Path) -> Result<()> {
        for name in TOOLS {
            let places =
                ["bin", "sbin", "usr/bin", "usr/sbin"].map(|folder| root.join(folder).join(name));
            let tool = places.into_iter().find(|place| place.is_file());
            let tool =
                tool.with_context(|| format!("there is no {name} below {}", root.display()))?;
            self.add(&format!("{FOLDER}/{name}"), tool);
        }
        for folder in ["lib", "usr/lib"] {
            self.add_shared(&root.join(folder), &format!("/{folder}"), 1)?;
        }
        Ok(())
    }

    /// Shared libraries in a folder and those below, so many levels deep: plug-ins are deeper.
    fn add_shared(&mut self, folder: &Path, path: &str, levels: u32) -> Result<()> {
        let Ok(entries) = fs::read_dir(folder) else {
            return Ok(());
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let inside = format!("{path}/{name}");
            if entry.path().is_dir() {
                if let Some(levels) = levels.checked_sub(1) {
                    self.add_shared(&entry.path(), &inside, levels)?;
                }
            } else if name.contains(".so") && entry.path().is_file() {
                self.add(&inside, entry.path());
            }
        }
        Ok(())
    }
}

struct Builder<'a> {
    workspace: &'a Workspace,
    /// What builds for another architecture than this machine's.
    foreign: Option<Toolchain>,
    /// Where copies without debug information are.
    lean: PathBuf,
}

impl Builder<'_> {
    /// A program of the workspace.
    fn program(&self, package: &str, name: &str, profile: &[&str]) -> Result<PathBuf> {
        let mut cargo = self.workspace.cargo();
        cargo
            .args(["build", "--package", package, "--bin", name])
            .args(profile);
        let folder = self.direct(&mut cargo);
        process::run(&mut cargo)?;
        let profile = if profile.is_empty() {
            "debug"
        } else {
            "release"
        };
        self.lean(folder.join(profile).join(name))
    }

    /// Test targets of one package, as `cargo xtask test` has built them, so that running both builds nothing
    /// twice. Only cargo's messages tell where it put the programs.
    fn tests(&self, targets: &[Tests]) -> Result<Vec<PathBuf>> {
        let mut cargo = self.workspace.cargo();
        cargo.args(["test", "--no-run"]);
        if let Some(tests) = targets.first() {
            cargo.args(["--package", tests.package]);
        }
        for tests in targets {
            cargo.args(["--test", tests.target]);
        }
        cargo.args(["--message-format", "json-render-diagnostics"]);
        self.direct(&mut cargo);
        println!("$ {}", process::shown(&cargo));
        let output = cargo
            .stderr(Stdio::inherit())
            .output()
            .context("starting cargo")?;
        if !output.status.success() {
            bail!("{} ended with {}", process::shown(&cargo), output.status);
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let built = targets.iter().map(|tests| {
            let built = messages
                .lines()
                .find_map(|line| executable(line, tests.target));
            self.lean(built.with_context(|| {
                format!("cargo names no program of the test target {}", tests.target)
            })?)
        });
        built.collect()
    }

    /// Has cargo build for the machine's architecture; returns where the profiles' folders are.
    fn direct(&self, cargo: &mut Command) -> PathBuf {
        match &self.foreign {
            // Here the linker leaves debug information out: this machine's objcopy would not know the format.
            Some(toolchain) => toolchain.direct(
                cargo.env("CARGO_PROFILE_DEV_STRIP", "debuginfo"),
                self.workspace,
            ),
            None => self.workspace.target.clone(),
        }
    }

    /// A tenth of the size: the machine has its files in memory.
    fn lean(&self, program: PathBuf) -> Result<PathBuf> {
        if self.foreign.is_some() {
            return Ok(program);
        }
        let name = program.file_name().context("a program without a name")?;
        let copy = self.lean.join(name);
        process::output(
            Command::new("objcopy")
                .arg("--strip-debug")
                .arg(&program)
                .arg(&copy),
        )?;
        Ok(copy)
    }
}

fn executable(message: &str, target: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let built = message.get("target")?;
    let is_test = built
        .get("kind")?
        .as_array()?
        .iter()
        .any(|kind| kind == "test");
    if !is_test || built.get("name")? != target {
        return None;
    }
    message.get("executable")?.as_str().map(PathBuf::from)
}

/// The paths in what `ldd` prints: `name => /path (0x…)`, and `/path (0x…)` of the loader.
fn libraries(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007f6a0bcdc000)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f6a0b13e000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f6a0bcde000)\n";
        assert_eq!(
            libraries(text),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }

    #[test]
    fn the_program_of_a_test_target_is_what_cargo_says() {
        let message = |kind: &str, name: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"{name}"}},"executable":"/t/x"}}"#
            )
        };
        assert_eq!(
            executable(&message("test", "policy"), "policy"),
            Some("/t/x".into())
        );
        assert_eq!(executable(&message("test", "other"), "policy"), None);
        assert_eq!(executable(&message("bin", "policy"), "policy"), None);
        assert_eq!(executable("not json", "policy"), None);
    }
}
