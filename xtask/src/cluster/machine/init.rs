//! The first process of a machine: sets it up and stays.

use std::convert::Infallible;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::system::sethostname;

use super::super::addresses::{Dual, LINK_LENGTHS};
use super::super::forward;
use super::super::state::{CONTROL, Cluster};
use super::super::{control, node};
use super::mounts::{self, Sources};
use super::supervise;
use crate::process;

/// How long the one who starts the machine may take to plug the cable in.
const CABLE: Duration = Duration::from_mins(2);

/// Never returns: a machine ends by the end of this process.
pub(in super::super) fn run(cluster: &Cluster, name: &str) -> Result<Infallible> {
    sethostname(name.as_bytes()).context("setting the host name")?;
    mounts::make(Sources {
        own: &cluster.folder.machine(name),
        programs: &cluster.programs,
        assets: cluster.assets.as_deref(),
        shared: &cluster.folder.shared(),
    })?;
    ip("link set lo up")?;
    let programs = if name == CONTROL {
        control::network(cluster)?;
        control::configure()?;
        forward::start()?;
        control::programs()
    } else {
        let index = cluster.index_of(name)?;
        cluster.control_group(index).make()?;
        wait_for_cable()?;
        node::network(cluster, index)?;
        node::configure(cluster, index)?;
        node::programs(index)
    };
    supervise::run(&programs)
}

/// One of iproute2's, its words in one string.
pub(in super::super) fn ip(words: &str) -> Result<()> {
    process::output(Command::new("ip").args(words.split_whitespace())).map(drop)
}

/// Gives an interface addresses of both families and starts it.
pub(in super::super) fn address(interface: &str, addresses: Dual) -> Result<()> {
    for (address, length) in addresses.both().into_iter().zip(LINK_LENGTHS) {
        // Nobody else is here to have a duplicate.
        let nodad = if address.is_ipv6() { "nodad" } else { "" };
        ip(&format!(
            "address add {address}/{length} dev {interface} {nodad}"
        ))?;
    }
    ip(&format!("link set {interface} up"))
}

/// Every machine passes on what is not for itself: nodes to their pods, the control plane's
/// between nodes and the world outside.
pub(in super::super) fn forward_packets() -> Result<()> {
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let path = format!("/proc/sys/net/{setting}");
        fs::write(&path, "1").with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}

fn wait_for_cable() -> Result<()> {
    let deadline = Instant::now() + CABLE;
    while ip("link show eth0").is_err() {
        if Instant::now() > deadline {
            bail!("nobody has connected eth0");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
