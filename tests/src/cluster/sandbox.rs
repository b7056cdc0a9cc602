//! Where a pod's network is, as the container runtime's network library has noted it.
//!
//! Source: containernetworking/cni `libcni/api.go`, `cachedInfo`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Machine;
use crate::harness::NetNs;

/// Where it remembers what it did.
const RESULTS: &str = "/var/lib/cni/results";

/// The sandbox of a pod, which the runtime keeps by a file in the machine's `/run`.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) ns: NetNs,
    addresses: Vec<IpAddr>,
}

impl Sandbox {
    /// An address of each family.
    pub(super) fn families(&self) -> Result<(Ipv4Addr, Ipv6Addr)> {
        let v4 = self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        let v6 = self.addresses.iter().find_map(|address| match address {
            IpAddr::V6(v6) => Some(*v6),
            IpAddr::V4(_) => None,
        });
        v4.zip(v6).with_context(|| format!("{self:?}"))
    }
}

/// That of the pod with this uid; the newest one, should the older one's record still be there.
pub(super) fn of(machine: &Machine, uid: &str) -> Result<Option<Sandbox>> {
    let folder = machine.path(RESULTS);
    let mut newest = None;
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let (Ok(text), Ok(written)) = (fs::read(&path), path.metadata().and_then(|m| m.modified()))
        else {
            // Deleted just now.
            continue;
        };
        let Ok(result) = serde_json::from_slice::<Value>(&text) else {
            // Being written.
            continue;
        };
        if is_of(&result, uid)
            && newest
                .as_ref()
                .is_none_or(|(earlier, _)| *earlier < written)
        {
            newest = Some((written, result));
        }
    }
    newest
        .map(|(_, result)| read(machine, &result).with_context(|| result.to_string()))
        .transpose()
}

fn is_of(result: &Value, uid: &str) -> bool {
    let arguments = result.get("cniArgs").and_then(Value::as_array);
    arguments.into_iter().flatten().any(|pair| {
        pair.get(0).and_then(Value::as_str) == Some("K8S_POD_UID")
            && pair.get(1).and_then(Value::as_str) == Some(uid)
    })
}

fn read(machine: &Machine, result: &Value) -> Result<Sandbox> {
    let text = |key| result.get(key).and_then(Value::as_str);
    // `/var/run` is a link that would lead to this machine's `/run`.
    let inside = text("netns")
        .context("no network namespace")?
        .replacen("/var/run/", "/run/", 1);
    let name = Path::new(&inside).file_name().unwrap_or_default();
    let mut addresses = Vec::new();
    let list = result.pointer("/result/ips").and_then(Value::as_array);
    for entry in list.into_iter().flatten() {
        let address = entry.get("address").and_then(Value::as_str);
        let (address, _length) = address
            .and_then(|address| address.split_once('/'))
            .context("no address")?;
        addresses.push(address.parse()?);
    }
    Ok(Sandbox {
        id: text("containerId").context("no container")?.to_owned(),
        ns: NetNs::at(&name.to_string_lossy(), machine.path(&inside))?,
        addresses,
    })
}
