//! Programs of this machine that a cluster's machines use, beside those that are built.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::privileges::Privileges;
use crate::process;
use crate::toolchain;

/// A program, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("runc", "runc"),
    ("setsid", "util-linux"),
    ("unshare", "util-linux"),
];

/// Installs what is missing, after saying so.
pub(super) fn ensure() -> Result<()> {
    let privileges = Privileges::own()?;
    if !privileges.root {
        bail!("a cluster's machines are namespaces, which only root can make: run this as root");
    }
    let packages = missing();
    if !packages.is_empty() {
        let names: Vec<&str> = packages.iter().copied().collect();
        println!("Missing here:\n  - Debian packages: {}", names.join(" "));
        toolchain::install_packages(&names)?;
    }
    let left = missing();
    if !left.is_empty() {
        bail!("installed, and yet missing: {left:?}");
    }
    Ok(())
}

/// Debian packages of the programs that are not there.
fn missing() -> BTreeSet<&'static str> {
    PROGRAMS
        .into_iter()
        .filter(|(program, _)| process::find(program).is_none())
        .map(|(_, package)| package)
        .collect()
}
