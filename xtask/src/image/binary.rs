//! The agent as one file that needs nothing beside it.
//!
//! musl is taken where the compiler has a standard library for it and there is a C compiler
//! (the TLS library has parts in C); otherwise glibc, linked statically. Since 2.34 that
//! resolves names from `/etc/hosts` and by DNS without loading anything; the rest of NSS, which
//! the linker warns about, a container does not have anyway.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use object::elf::PT_INTERP;
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Endianness, Object as _};

use super::archive::Architecture;
use crate::process;
use crate::workspace::Workspace;

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
struct Toolchain {
    target: Target,
    compiler: PathBuf,
}

/// Builds the agent and returns where it is.
pub(super) fn build(workspace: &Workspace, architecture: Architecture) -> Result<PathBuf> {
    let native = Architecture::own().is_ok_and(|own| own == architecture);
    let find = |name: &str| (name != NATIVE || native).then(|| process::find(name))?;
    let Toolchain { target, compiler } = choose(architecture, has_std, find)?;
    let triple = target.triple;
    let variable = triple.replace('-', "_");
    // A folder of its own: other flags than elsewhere rebuild nothing there.
    let folder = workspace.target.join("image");
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "--release", "--locked"])
        .args(["--package", "egress-agent", "--target", triple])
        .arg("--target-dir")
        .arg(&folder)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .env(
            format!("CARGO_TARGET_{}_RUSTFLAGS", variable.to_uppercase()),
            target.flags,
        )
        .env(
            format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()),
            &compiler,
        )
        .env(format!("CC_{variable}"), &compiler);
    process::run(&mut cargo)?;
    Ok(folder.join(triple).join("release/egress-agent"))
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

/// Fails unless it runs on the architecture, and without an interpreter (the dynamic loader).
pub(super) fn check(content: &[u8], architecture: Architecture) -> Result<()> {
    let file = ElfFile64::<Endianness>::parse(content).context("not an ELF file")?;
    let wanted = match architecture {
        Architecture::Amd64 => object::Architecture::X86_64,
        Architecture::Arm64 => object::Architecture::Aarch64,
    };
    let found = file.architecture();
    ensure!(
        found == wanted,
        "built for {found:?}, not for {architecture}"
    );
    let endian = file.endian();
    let dynamic = file
        .elf_program_headers()
        .iter()
        .any(|header| header.p_type(endian) == PT_INTERP);
    ensure!(
        !dynamic,
        "it wants a dynamic loader, which an image from scratch does not have"
    );
    Ok(())
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

    #[test]
    fn a_program_that_wants_a_loader_is_refused() -> Result<()> {
        let own = fs::read(env::current_exe()?)?;
        let error = check(&own, Architecture::own()?).unwrap_err();
        assert!(error.to_string().contains("dynamic loader"), "{error:#}");
        let other = match Architecture::own()? {
            Architecture::Amd64 => Architecture::Arm64,
            Architecture::Arm64 => Architecture::Amd64,
        };
        let error = check(&own, other).unwrap_err();
        assert!(error.to_string().contains("built for"), "{error:#}");
        Ok(())
    }
}
