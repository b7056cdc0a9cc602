//! What is written down about pods' interfaces, so that it is still known after a restart.
//!
//! A CNI plugin knows which interface it made for which pod, and tells it once. A record counts
//! for the pod of its uid only: a name may come back, an incarnation does not.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use egress_core::object::Name;
use serde::{Deserialize, Serialize};

use super::PodId;
use super::links::{Link, Mac};

/// What a record file's name ends with.
const EXTENSION: &str = "json";

/// An interface of a pod as it was when somebody who knew named it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedLink {
    /// Index in the agent's namespace.
    pub index: u32,
    /// Name there.
    pub name: String,
    /// Its own hardware address.
    pub mac: Option<Mac>,
}

/// A pod's sandbox and where its traffic comes out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The uid by which the runtime knows it.
    pub uid: String,
    /// Who said so.
    pub way: Way,
    /// Its interfaces on the agent's side.
    pub links: Vec<RecordedLink>,
    /// Its addresses; the API has them only later (S58).
    pub addresses: BTreeSet<IpAddr>,
}

/// Who found a pod's interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "by")]
pub enum Way {
    /// Our CNI plugin, when the sandbox was made.
    #[serde(rename_all = "camelCase")]
    Plugin {
        /// Which sandbox.
        container_id: String,
        /// Which of its attachments.
        interface: String,
    },
    /// The kernel's tables, once.
    Kernel,
}

/// The records of one agent, in memory and as files of one folder.
#[derive(Debug, Default)]
pub struct Records {
    /// `None`: they are not kept.
    folder: Option<PathBuf>,
    known: BTreeMap<String, Record>,
}

impl Record {
    /// Which pod it is about.
    pub fn pod(&self) -> PodId {
        PodId {
            name: Name::new(self.namespace.as_str(), self.name.as_str()),
            uid: self.uid.clone(),
        }
    }

    /// Whether our plugin wrote it.
    pub fn is_of_plugin(&self) -> bool {
        matches!(self.way, Way::Plugin { .. })
    }

    /// The file it is kept in. `None` for what cannot be part of a file name; CNI and the API
    /// allow nothing of the kind.
    fn key(&self) -> Option<String> {
        let parts = match &self.way {
            Way::Plugin {
                container_id,
                interface,
            } => ["plugin", container_id, interface],
            Way::Kernel => ["kernel", &self.uid, ""],
        };
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (!parts[1].is_empty() && parts.iter().all(|part| part.bytes().all(harmless)))
            .then(|| parts.join("-"))
    }
}

impl RecordedLink {
    /// The link that it still is, if it is there: an index may be another's by now, and some
    /// CNIs give all their links one hardware address. A link that has its own may be renamed.
    pub(super) fn find<'a>(&self, host: &'a [Link]) -> Option<&'a Link> {
        let Self { index, name, mac } = self;
        let alone = mac.is_some() && host.iter().filter(|link| link.mac == *mac).count() == 1;
        host.iter()
            .find(|link| link.index == *index && link.mac == *mac)
            .filter(|link| alone || link.name == *name)
    }
}

impl From<&Link> for RecordedLink {
    fn from(link: &Link) -> Self {
        Self {
            index: link.index,
            name: link.name.clone(),
            mac: link.mac,
        }
    }
}

impl Records {
    /// Reads the records of an earlier agent. One that cannot be read is left out and named in
    /// the log: its pod is looked for in the other ways.
    pub fn load(folder: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension() != Some(OsStr::new(EXTENSION)) {
                continue;
            }
            let read = fs::read(&path)
                .and_then(|text| serde_json::from_slice::<Record>(&text).map_err(io::Error::from));
            match read {
                Ok(record) => {
                    if let Some(key) = record.key() {
                        known.insert(key, record);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, record = %path.display(), "a record of a pod's interfaces cannot be read");
                }
            }
        }
        Ok(Self {
            folder: Some(folder.to_owned()),
            known,
        })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.known.values()
    }

    /// Those of a pod, our plugin's before others.
    pub(super) fn of<'a>(&'a self, pod: &PodId) -> impl Iterator<Item = &'a Record> {
        let pod = pod.clone();
        // "plugin" sorts after "kernel".
        self.known
            .values()
            .rev()
            .filter(move |record| record.pod() == pod)
    }

    /// Notes a record, in place of the one of the same attachment. It counts even when it could
    /// not be kept.
    pub fn put(&mut self, record: Record) -> io::Result<()> {
        let key = record
            .key()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a container id"))?;
        if self.known.get(&key) == Some(&record) {
            return Ok(());
        }
        let kept = self.keep(&key, &record);
        self.known.insert(key, record);
        kept
    }

    /// Forgets those that `gone` says are over.
    pub fn forget(&mut self, gone: impl Fn(&Record) -> bool) -> io::Result<()> {
        let over: Vec<String> = self
            .known
            .iter()
            .filter(|(_, record)| gone(record))
            .map(|(key, _)| key.clone())
            .collect();
        let mut outcome = Ok(());
        for key in over {
            self.known.remove(&key);
            if let Some(folder) = &self.folder
                && let Err(error) = fs::remove_file(file(folder, &key))
                && error.kind() != io::ErrorKind::NotFound
            {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Whole or not at all: written aside and renamed. It outlives the process, not the
    /// machine, and neither do the interfaces: so nothing is synced.
    fn keep(&self, key: &str, record: &Record) -> io::Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let aside = folder.join(format!(".{key}"));
        fs::write(&aside, serde_json::to_vec(record)?)?;
        fs::rename(aside, file(folder, key))
    }
}

fn file(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{key}.{EXTENSION}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

    use super::*;

    fn record(container: &str, uid: &str, address: &str) -> Record {
        Record {
            namespace: "x".to_owned(),
            name: "a".to_owned(),
            uid: uid.to_owned(),
            way: Way::Plugin {
                container_id: container.to_owned(),
                interface: "eth0".to_owned(),
            },
            links: vec![RecordedLink {
                index: 7,
                name: "veth7".to_owned(),
                mac: Some([2, 0, 0, 0, 0, 7]),
            }],
            addresses: [address.parse().unwrap()].into(),
        }
    }

    fn all(records: &Records) -> Vec<Record> {
        records.iter().cloned().collect()
    }

    #[test]
    fn a_record_survives_a_restart_and_is_replaced_by_its_attachment() {
        let folder = tempfile::tempdir().unwrap();
        let mut records = Records::load(folder.path()).unwrap();
        records.put(record("c1", "u", "10.0.0.1")).unwrap();
        records.put(record("c2", "u", "10.0.0.2")).unwrap();
        records.put(record("c1", "u", "10.0.0.3")).unwrap();
        let again = Records::load(folder.path()).unwrap();
        assert_eq!(
            all(&again),
            [record("c1", "u", "10.0.0.3"), record("c2", "u", "10.0.0.2")]
        );
        assert_eq!(all(&again), all(&records));
    }

    #[test]
    fn a_forgotten_record_stays_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut records = Records::load(folder.path()).unwrap();
        records.put(record("c1", "u", "10.0.0.1")).unwrap();
        records.put(record("c2", "v", "10.0.0.2")).unwrap();
        records.forget(|record| record.uid == "u").unwrap();
        assert_eq!(
            all(&Records::load(folder.path()).unwrap()),
            [record("c2", "v", "10.0.0.2")]
        );
    }

    #[test]
    fn a_record_counts_for_one_incarnation_only() {
        let mut records = Records::default();
        records.put(record("c1", "u", "10.0.0.1")).unwrap();
        let pod = |uid: &str| PodId {
            name: Name::new("x", "a"),
            uid: uid.to_owned(),
        };
        assert_eq!(records.of(&pod("u")).count(), 1);
        assert_eq!(records.of(&pod("v")).count(), 0);
    }

    #[test]
    fn what_the_plugin_said_comes_before_what_the_tables_said() {
        let mut records = Records::default();
        let seen = Record {
            way: Way::Kernel,
            ..record("", "u", "10.0.0.1")
        };
        records.put(seen).unwrap();
        records.put(record("0", "u", "10.0.0.1")).unwrap();
        let pod = record("0", "u", "10.0.0.1").pod();
        assert!(records.of(&pod).next().unwrap().is_of_plugin());
    }

    #[test]
    fn a_container_id_cannot_climb_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut records = Records::load(folder.path()).unwrap();
        for id in ["../x", "a/b", "", "a\0"] {
            assert!(records.put(record(id, "u", "10.0.0.1")).is_err(), "{id:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_that_are_no_records_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("a.json", "{"), (".plugin-c1-eth0", "{}"), ("b", "{}")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let mut records = Records::load(folder.path()).unwrap();
        assert_eq!(all(&records), []);
        records.put(record("c1", "u", "10.0.0.1")).unwrap();
        assert_eq!(all(&Records::load(folder.path()).unwrap()).len(), 1);
    }
}
