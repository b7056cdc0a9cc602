//! Carries a plan out.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow};

use super::plan::{Plan, by_hand};
use super::survey::Survey;
use super::{LINKER_VERSION, LLVM_MAJOR};
use crate::process;
use crate::workspace::Workspace;

/// Why the plan was not carried out.
#[derive(Debug)]
pub(super) enum Error {
    /// rustup has no rust-src for its nightly; there is another way.
    RustSource(anyhow::Error),
    /// There is none.
    Final(anyhow::Error),
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self::Final(error)
    }
}

impl From<Error> for anyhow::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::RustSource(error) | Error::Final(error) => error,
        }
    }
}

pub(super) fn all(workspace: &Workspace, plan: &Plan, survey: &Survey) -> Result<(), Error> {
    let Plan {
        rust_source,
        packages,
        linker,
        promtool,
    } = plan;
    if *rust_source {
        process::run(
            Command::new("rustup")
                .args(["component", "add", "rust-src", "--toolchain", "nightly"])
                .env("RUST_BACKTRACE", "0"),
        )
        .map_err(Error::RustSource)?;
    }
    if !packages.is_empty() {
        debian(packages.iter().map(String::as_str))?;
    }
    if *linker {
        // The library may have come with the packages just now.
        let llvm = match &survey.llvm {
            Some(llvm) => llvm.clone(),
            None => Survey::take(workspace).llvm.with_context(|| {
                format!(
                    "there is no LLVM {LLVM_MAJOR} to build bpf-linker with{}",
                    by_hand()
                )
            })?,
        };
        bpf_linker(workspace, &llvm)?;
    }
    if *promtool && let Err(error) = extract_prometheus(workspace) {
        println!("no promtool ({error:#}): the tests that ask it are skipped");
    }
    Ok(())
}

pub(super) fn debian<'a>(packages: impl Iterator<Item = &'a str>) -> Result<()> {
    if !super::may_install_packages()? {
        return Err(anyhow!(
            "packages are missing, and installing them takes root and apt-get{}",
            by_hand()
        ));
    }
    process::run(apt().args(["update", "--quiet"]))
        .and_then(|()| {
            // --no-remove: whatever is here was somebody's choice.
            process::run(
                apt()
                    .args(["install", "--quiet", "--yes"])
                    .args(["--no-install-recommends", "--no-remove"])
                    .args(packages),
            )
        })
        .map_err(|error| anyhow!("{error:#}{}", by_hand()))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Installing the package would start a Prometheus on this machine, and all that is wanted
/// are its two programs.
fn extract_prometheus(workspace: &Workspace) -> Result<()> {
    let prefix = workspace.toolchain();
    let folder = prefix.join("prometheus");
    let programs = prefix.join("bin");
    for path in [&folder, &programs] {
        fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
    }
    if super::may_install_packages()? {
        process::run(apt().args(["update", "--quiet"]))?;
    }
    process::run(
        apt()
            .args(["download", "--quiet", "prometheus"])
            .current_dir(&folder),
    )?;
    let package = fs::read_dir(&folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    process::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&package)
            .arg(&folder),
    )?;
    for program in ["promtool", "prometheus"] {
        fs::rename(folder.join("usr/bin").join(program), programs.join(program))
            .with_context(|| format!("the package has no {program}"))?;
    }
    fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
}

/// Builds it with the shared LLVM that the distribution has: building LLVM itself would
/// take an hour.
fn bpf_linker(workspace: &Workspace, llvm: &Path) -> Result<()> {
    let prefix = workspace.toolchain();
    let libraries = prefix.join("lib");
    fs::create_dir_all(&libraries).with_context(|| format!("creating {}", libraries.display()))?;
    // The linker's build looks for the name that only a development package has.
    let link = libraries.join("libLLVM.so");
    match fs::remove_file(&link) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("removing {}", link.display())),
    }
    symlink(llvm, &link).with_context(|| format!("linking {}", link.display()))?;

    let objects = prefix.join("build");
    process::run(
        workspace
            .cargo()
            .args([
                "install",
                "bpf-linker",
                "--locked",
                "--force",
                "--version",
                LINKER_VERSION,
            ])
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{LLVM_MAJOR}"),
            ])
            .arg("--root")
            .arg(&prefix)
            .arg("--target-dir")
            .arg(&objects)
            .env("LLVM_PREFIX", &prefix),
    )?;
    fs::remove_dir_all(&objects).with_context(|| format!("removing {}", objects.display()))
}
