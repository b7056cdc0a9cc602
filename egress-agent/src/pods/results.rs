//! The results of CNI plugins that libcni keeps on the node.
//!
//! containerd and CRI-O call the plugins through libcni, which writes what a network's plugins
//! answered to `<network>-<container>-<interface>` before the first container starts, and
//! removes it when the sandbox goes. A file may be half written, of another version, or left
//! behind: what cannot be read says nothing, and what it names must be there now.
//! Source: containernetworking/cni `libcni/api.go`, `cachedInfo`; the specification, "Result
//! types".

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use egress_core::object::Name;
use serde::Deserialize;

use super::PodId;
use super::links::{Link, Mac};

/// Where libcni keeps them by default.
pub const CACHE_DIR: &str = "/var/lib/cni/results";

/// A sandbox's result, as far as it says where a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Whose sandbox.
    pub pod: PodId,
    /// Interfaces that are not in the sandbox, by name.
    links: Vec<(String, Option<Mac>)>,
    /// What the plugins gave it.
    pub addresses: BTreeSet<IpAddr>,
}

/// The results in one folder, as last read.
#[derive(Debug, Default)]
pub(super) struct Results {
    folder: Option<PathBuf>,
    read: BTreeMap<OsString, (Stamp, Option<Attachment>)>,
}

/// Tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Results {
    /// Of this folder, which need not exist (yet).
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: Some(folder.to_owned()),
            read: BTreeMap::new(),
        }
    }

    /// Reads what changed since the last time.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.read.clear();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut before = std::mem::take(&mut self.read);
        for entry in entries {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else {
                continue; // it is gone by now
            };
            let stamp = Stamp {
                length: metadata.len(),
                modified: metadata.modified().ok(),
            };
            let name = entry.file_name();
            let known = before
                .remove(&name)
                .filter(|(as_of, _)| *as_of == stamp && stamp.modified.is_some());
            let attachment = match known {
                Some((_, attachment)) => attachment,
                None => fs::read(entry.path())
                    .ok()
                    .and_then(|text| Attachment::read(&text)),
            };
            self.read.insert(name, (stamp, attachment));
        }
        Ok(())
    }

    /// What is kept about a pod, a network and interface each.
    pub(super) fn of<'a>(&'a self, pod: &PodId) -> impl Iterator<Item = &'a Attachment> {
        let pod = pod.clone();
        self.read
            .values()
            .filter_map(|(_, attachment)| attachment.as_ref())
            .filter(move |attachment| attachment.pod == pod)
    }
}

impl Attachment {
    /// Reads a file of the cache; `None` when it is of no pod, or nothing that libcni writes.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Self> {
        let Cached { cni_args, result } = serde_json::from_slice(text).ok()?;
        let argument = |wanted: &str| {
            cni_args
                .iter()
                .find_map(|(key, value)| (key == wanted).then(|| value.clone()))
                .filter(|value| !value.is_empty())
        };
        let pod = PodId {
            name: Name::new(argument("K8S_POD_NAMESPACE")?, argument("K8S_POD_NAME")?),
            // Without it the result may be an older pod's of the same name.
            uid: argument("K8S_POD_UID")?,
        };
        Some(Self {
            pod,
            links: result
                .interfaces
                .into_iter()
                .filter(|interface| interface.sandbox.as_deref().unwrap_or_default().is_empty())
                .map(|interface| {
                    let mac = interface.mac.as_deref().and_then(mac);
                    (interface.name, mac)
                })
                .collect(),
            addresses: result
                .ips
                .iter()
                .filter_map(|ip| ip.address.split('/').next()?.parse().ok())
                .collect(),
        })
    }

    /// The links that it names and that are there.
    pub(super) fn find<'a>(&self, host: &'a [Link]) -> impl Iterator<Item = &'a Link> {
        self.links.iter().filter_map(|(name, mac)| {
            host.iter()
                .find(|link| link.name == *name && (mac.is_none() || link.mac == *mac))
        })
    }
}

/// `02:00:00:00:00:01`.
fn mac(text: &str) -> Option<Mac> {
    let mut parts = text.split(':');
    let mut mac = Mac::default();
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    #[serde(default)]
    cni_args: Vec<(String, String)>,
    result: CniResult,
}

#[derive(Deserialize)]
struct CniResult {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Address>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    mac: Option<String>,
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    address: String,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

    use serde_json::{Value, json};

    use super::*;

    fn cached(uid: &str, interfaces: &Value, ips: &Value) -> Value {
        json!({
            "kind": "cniCacheV1", "containerId": "c1", "config": "e30=", "ifName": "eth0",
            "networkName": "ptp", "netns": "/var/run/netns/cni-1",
            "cniArgs": [
                ["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "x"], ["K8S_POD_NAME", "a"],
                ["K8S_POD_INFRA_CONTAINER_ID", "c1"], ["K8S_POD_UID", uid],
            ],
            "capabilityArgs": {"portMappings": []},
            "result": {"cniVersion": "1.0.0", "dns": {}, "interfaces": interfaces, "ips": ips},
        })
    }

    fn read(value: &Value) -> Option<Attachment> {
        Attachment::read(value.to_string().as_bytes())
    }

    fn pod(uid: &str) -> PodId {
        PodId {
            name: Name::new("x", "a"),
            uid: uid.to_owned(),
        }
    }

    #[test]
    fn a_result_names_the_interfaces_outside_of_the_sandbox_and_the_addresses() {
        let read = read(&cached(
            "u",
            &json!([
                {"name": "cni0", "mac": "02:00:00:00:00:01"},
                {"name": "veth1", "mac": "02:00:00:00:00:02", "mtu": 1500},
                {"name": "cali1", "sandbox": ""},
                {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/var/run/netns/cni-1"},
            ]),
            &json!([
                {"interface": 3, "address": "10.244.0.5/24", "gateway": "10.244.0.1"},
                {"version": "6", "address": "fd00::5/64"},
            ]),
        ))
        .unwrap();
        assert_eq!(read.pod, pod("u"));
        assert_eq!(
            read.links,
            [
                ("cni0".to_owned(), Some([2, 0, 0, 0, 0, 1])),
                ("veth1".to_owned(), Some([2, 0, 0, 0, 0, 2])),
                ("cali1".to_owned(), None),
            ]
        );
        let addresses: Vec<_> = read.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.244.0.5", "fd00::5"]);
    }

    #[test]
    fn a_result_that_does_not_say_whose_it_is_says_nothing() {
        let whole = cached("u", &json!([]), &json!([]));
        assert!(read(&whole).is_some());
        assert_eq!(read(&cached("", &json!([]), &json!([]))), None);
        for missing in ["cniArgs", "result"] {
            let mut value = whole.clone();
            value.as_object_mut().unwrap().remove(missing);
            assert_eq!(read(&value), None, "{missing}");
        }
        let text = whole.to_string();
        for cut in 0..text.len() {
            assert_eq!(Attachment::read(text.get(..cut).unwrap().as_bytes()), None);
        }
    }

    #[test]
    fn a_folder_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results");
        let mut results = Results::new(&path);
        results.refresh().unwrap();
        assert_eq!(results.of(&pod("u")).count(), 0);

        fs::create_dir(&path).unwrap();
        let interfaces = json!([{"name": "veth1"}]);
        let file = path.join("ptp-c1-eth0");
        let text = cached("u", &interfaces, &json!([])).to_string();
        fs::write(&file, text.get(..20).unwrap()).unwrap();
        results.refresh().unwrap();
        assert_eq!(results.of(&pod("u")).count(), 0, "half written");
        fs::write(&file, text).unwrap();
        results.refresh().unwrap();
        assert_eq!(results.of(&pod("u")).count(), 1);
        assert_eq!(
            results.of(&pod("v")).count(),
            0,
            "an older pod of that name"
        );

        fs::remove_file(&file).unwrap();
        results.refresh().unwrap();
        assert_eq!(results.of(&pod("u")).count(), 0);
    }

    #[test]
    fn hardware_addresses_are_six_bytes() {
        assert_eq!(mac("0a:1B:00:00:00:ff"), Some([10, 27, 0, 0, 0, 255]));
        for wrong in [
            "",
            "0a:1b",
            "0a:1b:00:00:00:ff:00",
            "0a:1b:00:00:00:zz",
            "0a1b000000ff",
        ] {
            assert_eq!(mac(wrong), None, "{wrong}");
        }
    }
}
