//! Where the sources and the build's output are.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process;

/// The workspace this program was started in.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    /// The folder with the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, whatever sets it.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo: only it knows all the ways to set a target directory.
    pub(crate) fn find() -> Result<Self> {
        let mut command = Command::new(cargo_program());
        command.args(["metadata", "--no-deps", "--format-version", "1"]);
        let metadata: Value =
            serde_json::from_str(&process::output(&mut command)?).context("cargo metadata")?;
        let folder = |key: &str| {
            metadata
                .get(key)
                .and_then(Value::as_str)
                .map(PathBuf::from)
                .with_context(|| format!("cargo metadata names no {key}"))
        };
        Ok(Self {
            root: folder("workspace_root")?,
            target: folder("target_directory")?,
        })
    }

    /// The cargo that runs this program, in the workspace's folder.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(cargo_program());
        command.current_dir(&self.root);
        command
    }

    /// What `cargo xtask toolchain` builds: `bin/bpf-linker`, and `lib/` with the LLVM it
    /// loads. The build script of egress-agent looks here.
    pub(crate) fn toolchain(&self) -> PathBuf {
        self.target.join("toolchain")
    }

    /// A program after a release build.
    pub(crate) fn released(&self, program: &str) -> PathBuf {
        self.target.join("release").join(program)
    }

    /// A path as a person in the workspace's folder would write it.
    pub(crate) fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

fn cargo_program() -> OsString {
    // Cargo sets it for `cargo run`; a copied binary started by hand has PATH.
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
