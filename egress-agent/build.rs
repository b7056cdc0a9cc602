//! Builds the kernel programs and leaves them at `$OUT_DIR/egress-ebpf`, which the datapath
//! embeds.
//!
//! BPF has no prebuilt `core`, so its source is needed, and `bpf-linker`. Whichever is there is
//! used, in the order in which `cargo xtask toolchain` installs; or none of it, when
//! `EGRESS_EBPF_OBJECT` names an object that was built elsewhere.

#![expect(clippy::print_stderr, reason = "how a build script says why it failed")]
#![expect(
    unsafe_code,
    reason = "the environment of the inner cargo is this process' own"
)]

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

const OBJECT: &str = "egress-ebpf";
const PREBUILT: &str = "EGRESS_EBPF_OBJECT";

/// The newest LLVM whose bitcode the bpf-linker of `cargo xtask toolchain` reads.
const LLVM_MAJOR: u32 = 22;
/// `rust-version` of the workspace.
const RUST_MINOR: u32 = 95;

/// Where the distribution's compiler is. rustup takes a path for a toolchain.
const SYSTEM: &str = "/usr";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={PREBUILT}");
    // Not `-> Result`: cargo would show a backtrace of this script under the message.
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);

    if let Some(prebuilt) = env::var_os(PREBUILT) {
        println!("cargo::rerun-if-changed={}", Path::new(&prebuilt).display());
        fs::copy(&prebuilt, out.join(OBJECT))
            .with_context(|| format!("{PREBUILT}={}", prebuilt.display()))?;
        return Ok(());
    }

    let root =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?)
            .parent()
            .context("the package has no parent folder")?
            .to_path_buf();
    let ebpf = root.join("egress-ebpf");
    println!(
        "cargo::rerun-if-changed={}",
        root.join("egress-common").display()
    );

    let compiler =
        compiler().with_context(|| missing("no Rust compiler with the source of `core`"))?;
    let linker = Linker::find(&out).with_context(|| missing("no bpf-linker"))?;
    linker.put_on_path()?;
    if let Compiler::System = compiler {
        // Without rustup aya-build takes the first cargo and rustc on PATH.
        put_on_path(&Path::new(SYSTEM).join("bin"));
        // SAFETY: no thread was started yet. Only this process and the cargo that it starts see
        // the variable; the rest of the workspace is built without it.
        unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    }
    aya_build::build_ebpf(
        [Package {
            name: OBJECT,
            root_dir: ebpf
                .to_str()
                .context("the path of the checkout is not UTF-8")?,
            features: if env::var_os("CARGO_FEATURE_DATAPATH_LOG").is_some() {
                &["log"]
            } else {
                &[]
            },
            ..Package::default()
        }],
        match compiler {
            Compiler::Nightly => Toolchain::Nightly,
            Compiler::System => Toolchain::Custom(SYSTEM),
        },
    )?;
    strip(&out.join(OBJECT))
}

/// A compiler with the source of `core`.
#[derive(Clone, Copy)]
enum Compiler {
    /// rustup's nightly with its rust-src component.
    Nightly,
    /// The distribution's, which needs `RUSTC_BOOTSTRAP=1` for `-Z build-std`.
    System,
}

fn compiler() -> Option<Compiler> {
    let nightly = || {
        let mut rustc = Command::new("rustup");
        rustc.args(["run", "nightly", "rustc"]);
        // Looking must not download a toolchain.
        rustc.env("RUSTUP_AUTO_INSTALL", "0");
        rustc
    };
    if builds_core(nightly) {
        return Some(Compiler::Nightly);
    }
    builds_core(|| Command::new(Path::new(SYSTEM).join("bin/rustc"))).then_some(Compiler::System)
}

/// Whether a rustc is there, new enough, not too new for the linker, and has the source.
fn builds_core(rustc: impl Fn() -> Command) -> bool {
    let (Some(version), Some(sysroot)) = (
        output(rustc().arg("-vV")),
        output(rustc().args(["--print", "sysroot"])),
    ) else {
        return false;
    };
    let number = |name: &str| -> Option<u32> {
        let value = version.lines().find_map(|line| line.strip_prefix(name))?;
        value.split('.').next()?.parse().ok()
    };
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    core.is_file()
        && number("release: 1.").is_some_and(|minor| minor >= RUST_MINOR)
        && number("LLVM version: ").is_some_and(|llvm| llvm <= LLVM_MAJOR)
}

/// A bpf-linker that runs.
struct Linker {
    program: PathBuf,
    /// `LD_LIBRARY_PATH` with which it finds its LLVM.
    libraries: OsString,
}

impl Linker {
    /// On `PATH`, where `cargo install` puts it, or where `cargo xtask toolchain` does: in the
    /// target folder, which is one of those above `out`.
    fn find(out: &Path) -> Option<Self> {
        const PROGRAM: &str = "bpf-linker";
        let path = env::var_os("PATH").unwrap_or_default();
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")));
        let own = out
            .ancestors()
            .map(|folder| folder.join("toolchain"))
            .find(|folder| folder.join("bin").join(PROGRAM).is_file());
        let libraries = own.iter().map(|own| own.join("lib"));
        let libraries = before(libraries, env::var_os("LD_LIBRARY_PATH"));

        env::split_paths(&path)
            .chain(home.map(|home| home.join("bin")))
            .chain(own.map(|own| own.join("bin")))
            .map(|folder| folder.join(PROGRAM))
            .filter(|program| program.is_file())
            .find(|program| {
                let mut command = Command::new(program);
                output(command.arg("--version").env("LD_LIBRARY_PATH", &libraries)).is_some()
            })
            .map(|program| Self { program, libraries })
    }

    /// rustc looks for the linker of the BPF target by its name.
    fn put_on_path(&self) -> Result<()> {
        let folder = self.program.parent().context("bpf-linker has no folder")?;
        put_on_path(folder);
        if !self.libraries.is_empty() {
            // SAFETY: no thread was started yet.
            unsafe { env::set_var("LD_LIBRARY_PATH", &self.libraries) };
        }
        Ok(())
    }
}

fn put_on_path(folder: &Path) {
    let path = before([folder.to_path_buf()], env::var_os("PATH"));
    // SAFETY: no thread was started yet.
    unsafe { env::set_var("PATH", path) };
}

/// A search path with folders put in front.
fn before(folders: impl IntoIterator<Item = PathBuf>, path: Option<OsString>) -> OsString {
    let mut joined = OsString::new();
    for part in folders.into_iter().map(PathBuf::into_os_string).chain(path) {
        if part.is_empty() {
            continue;
        }
        if !joined.is_empty() {
            joined.push(":");
        }
        joined.push(part);
    }
    joined
}

/// Takes out the debug information that BTF was made of, 90 of 100 KB. Without an llvm-strip
/// the object is embedded with it, and works just the same.
fn strip(object: &Path) -> Result<()> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let names = [
        OsStr::new("llvm-strip").to_owned(),
        OsString::from(format!("llvm-strip-{LLVM_MAJOR}")),
    ];
    let Some(program) = env::split_paths(&folders)
        .flat_map(|folder| names.each_ref().map(|name| folder.join(name)))
        .find(|program| program.is_file())
    else {
        return Ok(());
    };
    let status = Command::new(&program)
        .arg("-g")
        .arg(object)
        .status()
        .with_context(|| format!("starting {}", program.display()))?;
    if !status.success() {
        bail!("{} -g {}: {status}", program.display(), object.display());
    }
    Ok(())
}

/// What a program prints; `None` when it is not there or fails.
fn output(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn missing(what: &str) -> String {
    format!(
        "{what} for the kernel programs. `cargo xtask toolchain` gets it. By hand, one of\n  \
         - a rustup toolchain named `nightly` with the component rust-src, at least 1.{RUST_MINOR} and of LLVM \
         {LLVM_MAJOR} or older\n  \
         - Debian's packages rustc-web, cargo-web and rust-web-src\n\
         and bpf-linker with an LLVM that is as new as the compiler's, on PATH or in ~/.cargo/bin:\n  \
         LLVM_PREFIX=<folder of lib/libLLVM.so> cargo install bpf-linker --version 0.13.0 --locked \
         --no-default-features --features llvm-{LLVM_MAJOR}\n\
         Or set {PREBUILT} to an object that was built elsewhere, which needs neither."
    )
}
