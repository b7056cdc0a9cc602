//! A machine of the cluster, seen from outside its namespaces.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::harness::{NetNs, until};

/// One with the control plane, or a node.
#[derive(Clone, Debug)]
pub struct Machine {
    name: String,
    /// Its first process, numbered as seen from here.
    init: i64,
    folder: PathBuf,
}

/// Names of all machines.
pub(super) fn names(folder: &Path) -> Result<Vec<String>> {
    machines(folder)?
        .iter()
        .map(|machine| {
            let name = machine.get("name").and_then(Value::as_str);
            name.map(String::from).context("a machine without a name")
        })
        .collect()
}

fn machines(folder: &Path) -> Result<Vec<Value>> {
    let path = folder.join("state.json");
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let state: Value =
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
    let machines = state.get("machines").and_then(Value::as_array);
    machines.cloned().context("a state without machines")
}

impl Machine {
    /// As the cluster's state has it now: a node that was restarted is another machine.
    pub(super) fn load(folder: &Path, name: &str) -> Result<Self> {
        let machines = machines(folder)?;
        let machine = machines
            .iter()
            .find(|machine| machine.get("name").and_then(Value::as_str) == Some(name))
            .with_context(|| format!("the cluster has no machine {name}"))?;
        let init = machine
            .pointer("/init/pid")
            .and_then(Value::as_i64)
            .with_context(|| format!("{name} has no process"))?;
        Ok(Self {
            name: name.to_owned(),
            init,
            folder: folder.join(name),
        })
    }

    /// Its network namespace.
    pub fn network(&self) -> Result<NetNs> {
        NetNs::at(&self.name, format!("/proc/{}/ns/net", self.init).into())
    }

    /// Its IPv4 address among the machines.
    pub fn address(&self) -> Result<IpAddr> {
        let number = match self.name.strip_prefix("node-") {
            Some(index) => 10 + index.parse::<u8>().context("a node's number")?,
            None => 1,
        };
        Ok(Ipv4Addr::new(172, 18, 0, number).into())
    }

    /// Waits until this address is free, and makes it the one that the node's next pod gets:
    /// host-local counts on from the last one.
    pub fn next_address(&self, address: Ipv4Addr) -> Result<()> {
        let taken = self.path(&format!("/run/cni-ipam-state/pods/{address}"));
        until("the address is free", || Ok(!taken.exists()))?;
        let before = Ipv4Addr::from_bits(address.to_bits() - 1);
        let path = self.path("/run/cni-ipam-state/pods/last_reserved_ip.0");
        fs::write(&path, before.to_string()).with_context(|| format!("writing {}", path.display()))
    }

    /// Where one of its files is for everybody else.
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.init)).join(inside.trim_start_matches('/'))
    }

    /// Runs a program in it, and returns what it prints.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new("nsenter")
            .args(["--target", &self.init.to_string()])
            .args(["--net", "--mount", "--uts", "--ipc", "--pid", "--"])
            .arg(program)
            .args(arguments)
            .output()
            .context("running nsenter")?;
        if !output.status.success() {
            bail!(
                "on {}: {program} {}: {}",
                self.name,
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Ends one of its programs and keeps it from being started again, until the returned
    /// value is dropped.
    pub fn hold(&self, program: &'static str) -> Result<Held> {
        let path = self.folder.join("var/lib/cluster/held").join(program);
        fs::write(&path, "").with_context(|| format!("writing {}", path.display()))?;
        Ok(Held { path })
    }
}

/// A program that must not run.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            crate::harness::report(&format!("removing {}: {error}", self.path.display()));
        }
    }
}
