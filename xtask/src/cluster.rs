//! `cargo xtask cluster`: a real Kubernetes on this machine, without Docker and without
//! anything from a registry of images.
//!
//! A cluster is a handful of [`machine`]s. One has the control plane ([`control`]), the
//! others are [`node`]s; all run the programs that Kubernetes' own modules build
//! ([`programs`]). Several clusters stand side by side, and what one leaves behind when it
//! is taken down, or killed, is files in the target directory.

mod addresses;
mod certs;
mod control;
mod forward;
mod images;
mod machine;
mod node;
mod programs;
mod requirements;
mod state;
pub(crate) mod testbed;
mod up;

use std::env;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::workspace::Workspace;
use state::{Cluster, Cni, Folder};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Tells several clusters on this machine apart
    #[arg(long, global = true, default_value = "default")]
    name: String,
    #[command(subcommand)]
    command: Subcommand,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    /// Build the programs that a cluster needs, once
    Build,
    /// Start a cluster and wait until pods can run (needs root)
    Up(Up),
    /// Remove a cluster, also one that was killed
    Down,
    /// Which clusters there are, and how they are
    Status,
    /// Give a file with an image to every node
    Load {
        /// A docker-archive, as `cargo xtask image` writes it
        archive: PathBuf,
    },
    /// Measure an agent in a new cluster, as docs/performance.md says
    Bench,
    /// End a node, everything on it with it, and start it again
    Restart {
        /// As `status` names it
        node: String,
    },
    /// kubectl, of the cluster
    Kubectl {
        /// Handed to kubectl as they are
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The first process of a machine; started by `up`
    #[command(hide = true)]
    Machine { folder: PathBuf, machine: String },
}

#[derive(Debug, clap::Args)]
struct Up {
    /// How many nodes
    #[arg(long, default_value_t = 1, value_parser = state::number_of_nodes())]
    nodes: u8,
    /// How pods are connected
    #[arg(long, value_enum, default_value_t = Cni::Ptp)]
    cni: Cni,
}

impl Args {
    /// What runs inside a machine, where there is no workspace to be found.
    pub(crate) fn run_machine(&self) -> Option<Result<ExitCode>> {
        let Subcommand::Machine { folder, machine } = &self.command else {
            return None;
        };
        Some(run_machine(&Folder::at(folder.clone()), machine))
    }
}

fn run_machine(folder: &Folder, machine: &str) -> Result<ExitCode> {
    let cluster = Cluster::load(folder)?.context("there is no such cluster")?;
    match machine::init::run(&cluster, machine)? {}
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let folder = Folder::new(workspace, &args.name)?;
    match &args.command {
        Subcommand::Build => {
            let programs = programs::ensure_built(workspace)?;
            println!("{}", programs.folder.display());
        }
        Subcommand::Up(up) => return up_or_given(workspace, &args.name, &folder, up),
        Subcommand::Down => {
            let _lock = lock(&folder)?;
            up::down(&folder)?;
        }
        Subcommand::Status => return status(workspace),
        Subcommand::Load { archive } => {
            let cluster = running(&folder)?;
            for index in cluster.indices() {
                node::import(cluster.machine(&state::node_name(index))?, archive)?;
            }
        }
        Subcommand::Bench => testbed::bench(workspace)?,
        Subcommand::Restart { node } => {
            let _lock = lock(&folder)?;
            let mut cluster = running(&folder)?;
            up::restart(&mut cluster, node)?;
        }
        Subcommand::Kubectl { arguments } => return kubectl(workspace, &folder, arguments),
        Subcommand::Machine { .. } => bail!("only `up` starts this"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Why no cluster can run here, if none can.
pub(crate) fn obstacle(workspace: &Workspace) -> Result<Option<String>> {
    programs::obstacle(workspace)
}

/// Builds the programs of a cluster, where they are not there yet.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    programs::ensure_built(workspace).map(drop)
}

/// A program that was built for clusters. Builds nothing.
pub(crate) fn program(workspace: &Workspace, name: &str) -> Result<Option<PathBuf>> {
    Ok(programs::built(workspace)?.map(|programs| programs.path(name)))
}

/// Two commands at once would start half a cluster each.
fn lock(folder: &Folder) -> Result<fs::File> {
    let path = folder.path().with_extension("lock");
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    let file = fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    file.lock()
        .with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

/// Where `KUBECONFIG` names a cluster, that one is meant, and none is started.
fn up_or_given(workspace: &Workspace, name: &str, folder: &Folder, up: &Up) -> Result<ExitCode> {
    if let Some(given) = given()
        && given != folder.kubeconfig()
    {
        println!(
            "KUBECONFIG is {}: using that cluster, and starting none.",
            given.display()
        );
        return kubectl(workspace, folder, &["get".into(), "nodes".into()]);
    }
    let _lock = lock(folder)?;
    let cluster = up::up(workspace, name, folder, up)?;
    println!(
        "\nexport KUBECONFIG={}\nexport PATH={}:$PATH",
        cluster.folder.kubeconfig().display(),
        cluster.programs.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn given() -> Option<PathBuf> {
    env::var_os("KUBECONFIG")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn running(folder: &Folder) -> Result<Cluster> {
    Cluster::load(folder)?
        .filter(Cluster::is_whole)
        .context("there is no such cluster: `cargo xtask cluster up` starts one")
}

fn status(workspace: &Workspace) -> Result<ExitCode> {
    let all = workspace.target.join("cluster/run");
    let mut none = true;
    if all.exists() {
        for entry in fs::read_dir(&all).with_context(|| format!("reading {}", all.display()))? {
            let path = entry
                .with_context(|| format!("reading {}", all.display()))?
                .path();
            let Some(cluster) = path
                .is_dir()
                .then(|| Cluster::load(&Folder::at(path)))
                .transpose()?
                .flatten()
            else {
                continue;
            };
            none = false;
            println!("{}:", cluster.name);
            for machine in &cluster.machines {
                let how = if machine.is_alive() {
                    "runs"
                } else {
                    "is gone"
                };
                println!("  {} {how} (process {})", machine.name, machine.init.pid);
            }
            println!("  KUBECONFIG={}", cluster.folder.kubeconfig().display());
        }
    }
    if none {
        println!("No cluster was started.");
    }
    Ok(ExitCode::SUCCESS)
}

fn kubectl(workspace: &Workspace, folder: &Folder, arguments: &[String]) -> Result<ExitCode> {
    let (program, config) = match (given(), Cluster::load(folder)?) {
        (Some(given), _) => {
            let found = process::find("kubectl");
            let program = match found {
                Some(found) => found,
                None => programs::ensure_built(workspace)?.path("kubectl"),
            };
            (program, given)
        }
        (None, Some(cluster)) => (cluster.kubectl(), cluster.folder.kubeconfig()),
        (None, None) => bail!("there is no such cluster: `cargo xtask cluster up` starts one"),
    };
    let failure = Command::new(&program)
        .args(arguments)
        .env("KUBECONFIG", config)
        .exec();
    Err(failure).with_context(|| format!("starting {}", program.display()))
}
