//! Starting a cluster, and taking it down.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::machine::Machine;
use super::programs::{self, Programs};
use super::state::{CONTROL, Cluster, Folder, node_name};
use super::{Up, certs, control, images, requirements};
use crate::process;
use crate::workspace::Workspace;

/// What runs in every cluster.
const DNS: &str = include_str!("../../cluster/coredns.yaml");

/// For each thing that is waited for. A cluster starts in a quarter of a minute where nothing
/// else runs.
const PATIENCE: Duration = Duration::from_mins(3);

/// Starts a cluster, unless it is there already.
pub(super) fn up(workspace: &Workspace, name: &str, folder: &Folder, up: &Up) -> Result<Cluster> {
    if let Some(cluster) = Cluster::load(folder)? {
        if cluster.is_whole() {
            if (cluster.nodes, cluster.cni) != (up.nodes, up.cni) {
                bail!(
                    "{name} runs, with {} node(s) and {:?}: take it down first, or give another --name",
                    cluster.nodes,
                    cluster.cni
                );
            }
            println!("{name} is up already.");
            return Ok(cluster);
        }
        println!("{name} did not end well: removing what it left.");
        down(folder)?;
    }
    requirements::ensure()?;
    let programs = programs::ensure_built(workspace)?;
    let started = Instant::now();
    match start(name, folder, &programs, up) {
        Ok(cluster) => {
            println!("{name} is up after {} s.", started.elapsed().as_secs());
            Ok(cluster)
        }
        // What is in the folder tells why, so it stays; the machines do not.
        Err(error) => {
            if let Some(cluster) = Cluster::load(folder)? {
                end(&cluster)?;
            }
            Err(error.context(format!("its logs are below {}", folder.path().display())))
        }
    }
}

fn start(name: &str, folder: &Folder, programs: &Programs, up: &Up) -> Result<Cluster> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("binding a port")?;
    let port = listener.local_addr().context("the port")?.port();
    let mut cluster = Cluster {
        name: name.into(),
        folder: folder.clone(),
        nodes: up.nodes,
        cni: up.cni,
        programs: programs.folder.clone(),
        assets: Programs::assets(),
        port,
        machines: Vec::new(),
    };
    certs::make(&cluster)?;
    images::make(programs, &folder.shared().join("images"))?;
    cluster.save()?;
    let machine = boot(&cluster, CONTROL, Some(listener.into()))?;
    cluster.machines.push(machine);
    cluster.save()?;
    for index in cluster.indices() {
        plug_in(&mut cluster, &node_name(index))?;
    }
    until(&cluster, "the API server is ready", || {
        cluster.kubectl_output(&["get", "--raw=/readyz"]).map(drop)
    })?;
    let manifest = folder.shared().join("coredns.yaml");
    fs::write(&manifest, DNS).with_context(|| format!("writing {}", manifest.display()))?;
    let manifest = manifest.display().to_string();
    until(&cluster, "cluster DNS is applied", || {
        cluster
            .kubectl_output(&["apply", "--filename", &manifest])
            .map(drop)
    })?;
    for index in cluster.indices() {
        wait_for_node(&cluster, &node_name(index))?;
    }
    until(&cluster, "cluster DNS answers", || {
        cluster
            .kubectl_output(&[
                "--namespace=kube-system",
                "wait",
                "--for=condition=Available",
                "deployment/coredns",
                "--timeout=180s",
            ])
            .map(drop)
    })?;
    Ok(cluster)
}

/// Ends a node and starts it again. Its disk stays, as that of a real one: images, and what
/// the kubelet knew.
pub(super) fn restart(cluster: &mut Cluster, name: &str) -> Result<()> {
    let index = cluster.index_of(name)?;
    cluster.machine(name)?.end()?;
    cluster.control_group(index).remove()?;
    cluster.machines.retain(|machine| machine.name != name);
    plug_in(cluster, name)?;
    wait_for_node(cluster, name)
}

/// Removes a cluster, whatever state it is in.
pub(super) fn down(folder: &Folder) -> Result<()> {
    if let Some(cluster) = Cluster::load(folder)? {
        end(&cluster)?;
    }
    match fs::remove_dir_all(folder.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.path().display()))
        }
        _ => Ok(()),
    }
}

/// Everything but the files.
fn end(cluster: &Cluster) -> Result<()> {
    for machine in &cluster.machines {
        machine.end()?;
    }
    for index in cluster.indices() {
        cluster.control_group(index).remove()?;
    }
    Ok(())
}

/// Starts a node and connects it to the control plane's machine.
fn plug_in(cluster: &mut Cluster, name: &str) -> Result<()> {
    let machine = boot(cluster, name, None)?;
    let control = cluster.machine(CONTROL)?;
    let (here, there) = (control.init.pid.to_string(), machine.init.pid.to_string());
    until(cluster, &format!("{name} is plugged in"), || {
        // Refused while the cable of an earlier boot is still being removed.
        process::output(
            Command::new("ip")
                .args(["link", "add", name, "netns", &here, "type", "veth"])
                .args(["peer", "name", "eth0", "netns", &there]),
        )
        .map(drop)
    })?;
    until(cluster, &format!("{name} is switched on"), || {
        let mut command = control.command("ip");
        command.args(["link", "set", name, "master", control::BRIDGE, "up"]);
        process::output(&mut command).map(drop)
    })?;
    cluster.machines.push(machine);
    cluster.save()
}

fn boot(cluster: &Cluster, name: &str, stdin: Option<std::os::fd::OwnedFd>) -> Result<Machine> {
    let folder = cluster.folder.path();
    Machine::start(
        name,
        &["cluster", "machine", &folder.display().to_string(), name],
        stdin,
        &folder.join(name).with_extension("log"),
    )
}

/// The condition is of this boot: a restarted node is `Ready` from before for a while.
fn wait_for_node(cluster: &Cluster, name: &str) -> Result<()> {
    until(cluster, &format!("{name} is ready"), || {
        // The new kubelet answers; what the API server has may be of the one before.
        cluster.kubectl_output(&["get", &format!("--raw=/api/v1/nodes/{name}/proxy/healthz")])?;
        cluster
            .kubectl_output(&[
                "wait",
                "--for=condition=Ready",
                &format!("node/{name}"),
                "--timeout=180s",
            ])
            .map(drop)
    })
}

/// Gives up early when a machine ends, for none comes back by itself.
fn until(cluster: &Cluster, what: &str, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(ended) = cluster.machines.iter().find(|machine| !machine.is_alive()) {
            bail!("{} has ended by itself", ended.name);
        }
        match attempt() {
            Ok(()) => {
                println!("{what}");
                return Ok(());
            }
            Err(error) if Instant::now() > deadline => {
                return Err(error)
                    .with_context(|| format!("waited {} s until {what}", PATIENCE.as_secs()));
            }
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

impl Cluster {
    pub(super) fn kubectl(&self) -> PathBuf {
        Programs {
            folder: self.programs.clone(),
        }
        .path("kubectl")
    }

    fn kubectl_output(&self, arguments: &[&str]) -> Result<String> {
        process::output(
            Command::new(self.kubectl())
                .args(arguments)
                .env("KUBECONFIG", self.folder.kubeconfig()),
        )
    }
}
