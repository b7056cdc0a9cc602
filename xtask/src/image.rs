//! `cargo xtask image`: the container image, as a file, without a daemon.
//!
//! * [`archive`]: any image as a file; the cluster's own images are made with it too.
//! * [`binary`]: the agent as one static binary.

mod archive;
mod binary;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

pub(crate) use self::archive::{Image, Reference};
use crate::process;
use crate::target::Architecture;
use crate::toolchain::{self, Purpose};
use crate::workspace::Workspace;

/// Where the image has the agent, and what it starts.
const PROGRAM: &str = "/egress-agent";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the image is called once it is imported
    #[arg(long, value_name = "NAME:TAG")]
    tag: Reference,
    /// The file to write: for `docker load`, `ctr images import`, `kind load image-archive`
    #[arg(long, value_name = "FILE.tar")]
    output: PathBuf,
    /// What the image runs on [default: what this machine is]
    #[arg(long)]
    arch: Option<Architecture>,
    /// Take this static binary of the agent, and build none
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    make(workspace, args)?;
    Ok(ExitCode::SUCCESS)
}

/// The agent's image for this machine, under the name that `deploy/` has.
pub(crate) fn make_default(workspace: &Workspace, output: PathBuf) -> Result<()> {
    let tag = concat!("docker.io/library/egress-agent:", env!("CARGO_PKG_VERSION"));
    let args = Args {
        tag: tag.parse()?,
        output,
        arch: None,
        binary: None,
    };
    make(workspace, &args)
}

fn make(workspace: &Workspace, args: &Args) -> Result<()> {
    let architecture = args.arch.map_or_else(Architecture::own, Ok)?;
    let binary = if let Some(binary) = &args.binary {
        binary.clone()
    } else {
        toolchain::ensure(workspace, Purpose::Build)?;
        binary::build(workspace, architecture)?
    };
    let content = fs::read(&binary).with_context(|| format!("reading {}", binary.display()))?;
    binary::check(&content, architecture).with_context(|| binary.display().to_string())?;
    let size = content.len();

    let mut image = Image::new(architecture, &[PROGRAM]);
    image.program(PROGRAM, content)?;
    for (name, value) in labels(workspace) {
        image.label(&format!("org.opencontainers.image.{name}"), &value);
    }
    let id = image.write(&args.tag, &args.output)?;
    println!(
        "{}: {} for {architecture}, {id}, the binary has {size} bytes",
        args.output.display(),
        args.tag
    );
    Ok(())
}

/// What the OCI image specification calls pre-defined annotation keys. The time of the build is
/// none of them: two builds of one revision are one image.
fn labels(workspace: &Workspace) -> Vec<(&'static str, String)> {
    let mut labels = vec![
        ("title", "egress-agent".to_owned()),
        (
            "description",
            "eBPF egress enforcer for Kubernetes nodes".to_owned(),
        ),
        ("licenses", "MIT OR Apache-2.0".to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    labels.extend(revision(workspace).map(|revision| ("revision", revision)));
    labels
}

/// The commit, if the sources are those of a commit.
fn revision(workspace: &Workspace) -> Option<String> {
    let git = |arguments: &[&str]| {
        process::output(
            Command::new("git")
                .args(arguments)
                .current_dir(&workspace.root),
        )
        .ok()
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let revision = git(&["rev-parse", "HEAD"])?;
    changed.is_empty().then(|| revision.trim().to_owned())
}
