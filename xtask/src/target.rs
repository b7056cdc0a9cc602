//! What programs are built for that need nothing of the machine they run on: static ones, of this
//! architecture or another.
//!
//! musl is taken where the compiler has a standard library for it and there is a C compiler
//! (the TLS library has parts in C); otherwise glibc, linked statically. Since 2.34 that
//! resolves names from `/etc/hosts` and by DNS without loading anything; the rest of NSS, which
//! the linker warns about, a container does not have anyway.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// What a program runs on. The names are Debian's and those of container images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Architecture {
    /// x86-64
    Amd64,
    /// AArch64
    Arm64,
}

impl Architecture {
    /// This machine's, where programs can be built for it.
    pub(crate) fn own() -> Result<Self> {
        match env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("nothing is built for {other}: give --arch"),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}

/// Something that a static binary can be built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    architecture: Architecture,
    triple: &'static str,
    flags: &'static str,
    /// C compilers that also link for it, the first that is there.
    compilers: &'static [&'static str],
    /// What Debian calls the package of the compiler.
    package: &'static str,
}

/// The C compiler of this machine, for this machine: not every distribution gives it the longer
/// name too.
const NATIVE: &str = "cc";

/// In the order of preference.
const TARGETS: [Target; 4] = [
    Target {
        architecture: Architecture::Amd64,
        triple: "x86_64-unknown-linux-musl",
        flags: "",
        compilers: &["x86_64-linux-musl-gcc", "musl-gcc"],
        package: "musl-tools",
    },
    Target {
        architecture: Architecture::Amd64,
        triple: "x86_64-unknown-linux-gnu",
        flags: "-C target-feature=+crt-static",
        compilers: &["x86_64-linux-gnu-gcc", NATIVE],
        package: "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
    },
    Target {
        architecture: Architecture::Arm64,
        triple: "aarch64-unknown-linux-musl",
        flags: "",
        compilers: &["aarch64-linux-musl-gcc"],
        package: "musl-tools",
    },
    Target {
        architecture: Architecture::Arm64,
        triple: "aarch64-unknown-linux-gnu",
        flags: "-C target-feature=+crt-static",
        compilers: &["aarch64-linux-gnu-gcc", NATIVE],
        package: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    },
];

/// A target, and what is there to build for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    target: Target,
    compiler: PathBuf,
}

impl Toolchain {
    /// What there is to build for an architecture.
    pub(crate) fn find(architecture: Architecture) -> Result<Self> {
        let native = Architecture::own().is_ok_and(|own| own == architecture);
        let find = |name: &str| (name != NATIVE || native).then(|| process::find(name))?;
        choose(architecture, has_std, find)
    }

    /// Has cargo build for it, in a folder of its own: other flags than elsewhere rebuild nothing there.
    /// Returns where the profiles' folders are.
    pub(crate) fn direct(&self, cargo: &mut Command, workspace: &Workspace) -> PathBuf {
        let Self { target, compiler } = self;
        let triple = target.triple;
        let variable = triple.replace('-', "_");
        let prefix = format!("CARGO_TARGET_{}", variable.to_uppercase());
        let folder = workspace.target.join("image");
        cargo
            .args(["--target", triple])
            .arg("--target-dir")
            .arg(&folder)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTFLAGS")
            .env(format!("{prefix}_RUSTFLAGS"), target.flags)
            .env(format!("{prefix}_LINKER"), compiler)
            .env(format!("CC_{variable}"), compiler);
        folder.join(triple)
    }
}

/// The first target of the architecture for which both a standard library and a C compiler are
/// there.
fn choose(
    architecture: Architecture,
    has_std: impl Fn(&str) -> bool,
    find: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Toolchain> {
    let mut missing = Vec::new();
    for target in TARGETS {
        if target.architecture != architecture {
            continue;
        }
        let compiler = target.compilers.iter().find_map(|name| find(name));
        match (has_std(target.triple), compiler) {
            (true, Some(compiler)) => return Ok(Toolchain { target, compiler }),
            (std, compiler) => {
                let mut wants = Vec::new();
                if !std {
                    wants.push(format!("`rustup target add {}`", target.triple));
                }
                if compiler.is_none() {
                    wants.push(format!(
                        "{} (Debian: {})",
                        target.compilers.join(" or "),
                        target.package
                    ));
                }
                missing.push(format!(
                    "\n  {} needs {}",
                    target.triple,
                    wants.join(" and ")
                ));
            }
        }
    }
    bail!(
        "a static binary for {architecture} cannot be built here:{}",
        missing.concat()
    )
}

/// Asks the compiler that cargo will use. Debian's has no rustup to ask.
fn has_std(triple: &str) -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let folder =
        process::output(Command::new(rustc).args(["--print", "target-libdir", "--target", triple]));
    folder.is_ok_and(|folder| {
        fs::read_dir(Path::new(folder.trim())).is_ok_and(|mut files| {
            files.any(|file| {
                file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
            })
        })
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn chosen(
        has_std: impl Fn(&str) -> bool,
        find: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<&'static str> {
        choose(Architecture::Amd64, has_std, find).map(|chosen| chosen.target.triple)
    }

    #[test]
    fn musl_is_taken_where_it_is_whole() -> Result<()> {
        let everywhere = |name: &str| Some(Path::new("/usr/bin").join(name));
        let (musl, gnu) = ("x86_64-unknown-linux-musl", "x86_64-unknown-linux-gnu");
        assert_eq!(chosen(|_| true, everywhere)?, musl);
        assert_eq!(chosen(|triple| triple == gnu, everywhere)?, gnu);
        let without_musl = |name: &str| everywhere(name).filter(|_| !name.contains("musl"));
        assert_eq!(chosen(|_| true, without_musl)?, gnu);
        Ok(())
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = choose(Architecture::Arm64, |_| false, |_| None).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("rustup target add aarch64-unknown-linux-gnu"));
        assert!(text.contains("gcc-aarch64-linux-gnu"), "{text}");
    }
}
