//! What is on this machine. Reads, never writes.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;
use crate::workspace::Workspace;

/// The distribution's compiler. On Debian these are `rustc-web` and `cargo-web`.
const SYSTEM_CARGO: &str = "/usr/bin/cargo";
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

/// Programs that the demo and the kernel tests start, and the Debian package of each.
pub(super) const PROGRAMS: [(&str, &str); 1] = [("ip", "iproute2")];

/// What one compiler is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rustc {
    /// The minor number: 95 for Rust 1.95.
    pub(super) minor: u32,
    /// Major version of the LLVM it writes bitcode for.
    pub(super) llvm: u32,
    /// The source of `core` is beside it.
    pub(super) source: bool,
}

/// A compiler that can build for BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// rustup's nightly with its rust-src component.
    Nightly,
    /// The distribution's, told by `RUSTC_BOOTSTRAP` to accept `-Z build-std`.
    System,
}

impl Compiler {
    /// Its cargo. What a surrounding `cargo run` has set for another compiler is taken
    /// out of the environment.
    pub(crate) fn cargo(self, workspace: &Workspace) -> Command {
        let mut command = match self {
            Self::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo"]);
                command.env_remove("RUSTC");
                command
            }
            Self::System => {
                let mut command = Command::new(SYSTEM_CARGO);
                command.env("RUSTC", SYSTEM_RUSTC);
                command.env("RUSTC_BOOTSTRAP", "1");
                // Its subcommands are looked up by PATH, where rustup's often come first.
                command.env("PATH", with_system_first(env::var_os("PATH")));
                command
            }
        };
        command
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO")
            .current_dir(&workspace.root);
        command
    }

    /// Whether it has a clippy of its own. Another compiler's cannot stand in: it would not
    /// find the source of `core`.
    pub(crate) fn has_clippy(self, workspace: &Workspace) -> bool {
        match self {
            Self::Nightly => {
                process::output(self.cargo(workspace).args(["clippy", "--version"])).is_ok()
            }
            Self::System => Path::new(SYSTEM_CARGO)
                .with_file_name("cargo-clippy")
                .is_file(),
        }
    }
}

fn with_system_first(path: Option<OsString>) -> OsString {
    let mut first = OsString::from("/usr/bin");
    if let Some(path) = path {
        first.push(":");
        first.push(path);
    }
    first
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nightly => f.write_str("rustup's nightly"),
            Self::System => f.write_str(SYSTEM_RUSTC),
        }
    }
}

/// The state of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    pub(super) nightly: Option<Rustc>,
    pub(super) system: Option<Rustc>,
    /// A bpf-linker that runs.
    pub(super) linker: Option<PathBuf>,
    /// The LLVM library to build one with.
    pub(super) llvm: Option<PathBuf>,
    /// Debian packages of the [`PROGRAMS`] that are not there.
    pub(super) packages: BTreeSet<&'static str>,
    /// Prometheus' own checker of metrics and rules; `None` without Prometheus beside it.
    pub(super) promtool: Option<PathBuf>,
}

impl Survey {
    pub(super) fn take(workspace: &Workspace) -> Self {
        Self {
            nightly: nightly(),
            system: rustc(|| Command::new(SYSTEM_RUSTC)),
            linker: linker(workspace),
            llvm: llvm(),
            packages: PROGRAMS
                .into_iter()
                .filter(|(program, _)| process::find(program).is_none())
                .map(|(_, package)| package)
                .collect(),
            promtool: prometheus(workspace, "prometheus")
                .and_then(|_| prometheus(workspace, "promtool")),
        }
    }

    /// Whether the tests that ask promtool and Prometheus can run.
    pub(crate) fn has_promtool(&self) -> bool {
        self.promtool.is_some()
    }

    /// The compiler that egress-agent's build script will choose, in its order.
    pub(crate) fn compiler(&self) -> Option<Compiler> {
        let builds = |rustc: Option<Rustc>| rustc.is_some_and(|rustc| rustc.source && rustc.fits());
        if builds(self.nightly) {
            Some(Compiler::Nightly)
        } else if builds(self.system) {
            Some(Compiler::System)
        } else {
            None
        }
    }
}

impl Rustc {
    /// New enough for the workspace (`rust-version`), and its bitcode not too new for the
    /// linker.
    pub(super) fn fits(self) -> bool {
        self.minor >= 95 && self.llvm <= super::LLVM_MAJOR
    }
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(compiler) = self.compiler() {
            writeln!(f, "compiler for BPF: {compiler}")?;
        }
        if let Some(linker) = &self.linker {
            writeln!(f, "linker for BPF:   {}", linker.display())?;
        }
        f.write_str("Everything is there.")
    }
}

fn nightly() -> Option<Rustc> {
    process::find("rustup")?;
    rustc(|| {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "rustc"]);
        // Looking must not download a toolchain.
        command
            .env("RUSTUP_AUTO_INSTALL", "0")
            .env_remove("RUSTUP_TOOLCHAIN");
        command
    })
}

/// `None` when it does not run: not installed, in every case that matters here.
fn rustc(command: impl Fn() -> Command) -> Option<Rustc> {
    let version = process::output(command().arg("-vV")).ok()?;
    let sysroot = process::output(command().args(["--print", "sysroot"])).ok()?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    let (minor, llvm) = versions(&version)?;
    Some(Rustc {
        minor,
        llvm,
        source: core.is_file(),
    })
}

/// Rust's minor and LLVM's major version, from `rustc -vV`.
fn versions(text: &str) -> Option<(u32, u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let minor = field("release: 1.")?.split('.').next()?.parse().ok()?;
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some((minor, llvm))
}

/// A program of Debian's package `prometheus`: this machine's, or the one that was taken out.
fn prometheus(workspace: &Workspace, program: &str) -> Option<PathBuf> {
    process::find(program).or_else(|| {
        let own = workspace.toolchain().join("bin").join(program);
        own.is_file().then_some(own)
    })
}

fn linker(workspace: &Workspace) -> Option<PathBuf> {
    let own = workspace.toolchain();
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")));
    process::find("bpf-linker")
        .into_iter()
        .chain(home.map(|home| home.join("bin/bpf-linker")))
        .chain([own.join("bin/bpf-linker")])
        .find(|candidate| runs(candidate, &own.join("lib")))
}

/// A linker whose LLVM has gone is not one.
fn runs(linker: &Path, llvm: &Path) -> bool {
    let mut libraries = OsString::from(llvm);
    if let Some(inherited) = env::var_os("LD_LIBRARY_PATH") {
        libraries.push(":");
        libraries.push(inherited);
    }
    process::output(
        Command::new(linker)
            .arg("--version")
            .env("LD_LIBRARY_PATH", libraries),
    )
    .is_ok()
}

/// Debian's name first, then where other distributions put it.
fn llvm() -> Option<PathBuf> {
    let file = format!("libLLVM.so.{}.1", super::LLVM_MAJOR);
    [
        format!("/usr/lib/{}-linux-gnu", env::consts::ARCH),
        format!("/usr/lib/llvm-{}/lib", super::LLVM_MAJOR),
        format!("/usr/lib/llvm{}/lib", super::LLVM_MAJOR),
        "/usr/lib64".into(),
        "/usr/lib".into(),
    ]
    .into_iter()
    .map(|folder| Path::new(&folder).join(&file))
    .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read_from_rustc() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(versions(text), Some((97, 22)));
        assert_eq!(versions("rustc 1.97.0-nightly"), None);
    }
}
