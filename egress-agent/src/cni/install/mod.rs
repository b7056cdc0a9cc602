//! The plugin on a node: its binary, and its place at the end of the pods' network.
//!
//! Container runtimes take the first configuration by file name, and CNIs write theirs whenever
//! they like: most of them when the node boots, before any agent could repair it, and pods would
//! start that nobody has isolated. So the plugin is in a list of our own, which comes first and
//! has the plugins of the one that would be first without it. That list is a state, and
//! [`Installation::establish`] makes it from whatever there is. It may end anywhere; the next
//! time it is finished. Source: containernetworking/cni `libcni/conf.go`; containerd/go-cni `opts.go`.
//!
//! * [`conflist`]: the text of a configuration.
//! * `files`: files that are there whole or not at all.
//! * [`keeper`]: the state is established again when somebody changes it.

pub mod conflist;
mod files;
pub mod keeper;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::conflist::{Entry, Form, Origin};
use self::files::Mode;
use super::PLUGIN;

/// Names of a list of our own. The first that sorts before the file it is made from is used.
const OWN_LISTS: [&str; 4] = [
    "00-egress-agent.conflist",
    "0-egress-agent.conflist",
    "-egress-agent.conflist",
    "!egress-agent.conflist",
];

/// What `execve` needs.
const BINARY_MODE: u32 = 0o755;

/// Why the state could not be established.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("{step} {}", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The first configuration cannot hold our plugin; it is left as it is.
    #[error("the plugin cannot be chained into {}", path.display())]
    Configuration {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: conflist::Error,
    },
    /// Nothing sorts before it.
    #[error("no list can come before {}", .0.display())]
    NothingBefore(PathBuf),
}

/// Where the plugin is to be.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Where the runtime looks for plugins.
    pub bin_dir: PathBuf,
    /// Where it looks for configurations.
    pub conf_dir: PathBuf,
    /// What ours says.
    pub entry: Entry,
}

/// What [`Installation::establish`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The configuration that our plugin is in; `None` when there is no configuration.
    pub network: Option<PathBuf>,
    /// What was written or removed.
    pub changed: Vec<PathBuf>,
}

impl Installation {
    /// Establishes the state. Nothing is written when it is so already.
    pub fn establish(&self) -> Result<Done, Error> {
        let mut done = Done::default();
        // First what the configuration will name.
        self.copy_binary(&mut done)?;
        let Networks { others, own } = Networks::read(&self.conf_dir)?;
        let Some((first, text)) = others.first_key_value() else {
            return self.withdraw(&others, &own, None, &mut done).map(|()| done);
        };
        let path = self.conf_dir.join(first);
        let name = OWN_LISTS
            .iter()
            .find(|name| **name < first.as_str())
            .ok_or_else(|| Error::NothingBefore(path.clone()))?;
        let origin = Origin {
            file: first,
            form: form(first),
            text,
        };
        let before = own.get(*name);
        let new = conflist::own(origin, before.map(String::as_str), &self.entry)
            .map_err(|source| Error::Configuration { path, source })?;
        if before.is_none_or(|before| !conflist::same(before, &new)) {
            self.write(name, &new, &mut done)?;
        }
        done.network = Some(self.conf_dir.join(name));
        let keep = done.network.clone();
        self.withdraw(&others, &own, keep.as_deref(), &mut done)?;
        Ok(done)
    }

    /// Takes everything out again; what goes on without us comes first.
    pub fn remove(&self) -> Result<Done, Error> {
        let mut done = Done::default();
        let Networks { others, own } = Networks::read(&self.conf_dir)?;
        self.withdraw(&others, &own, None, &mut done)?;
        let binary = self.binary();
        if binary.exists() {
            files::remove(&binary).map_err(failed("removing", &binary))?;
            done.changed.push(binary);
        }
        Ok(done)
    }

    /// Where the plugin's binary is.
    pub fn binary(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }

    /// Takes our plugin out of every configuration but `keep`. All are tried; the first error
    /// is told.
    fn withdraw(
        &self,
        others: &BTreeMap<String, String>,
        own: &BTreeMap<String, String>,
        keep: Option<&Path>,
        done: &mut Done,
    ) -> Result<(), Error> {
        let mut outcome = Ok(());
        let left = |name: &String| Some(self.conf_dir.join(name).as_path()) != keep;
        for name in own.keys().filter(|name| left(name)) {
            let path = self.conf_dir.join(name);
            match files::remove(&path) {
                Ok(()) => done.changed.push(path),
                Err(error) => outcome = outcome.and(Err(failed("removing", &path)(error))),
            }
        }
        for (name, text) in others.iter().filter(|(name, _)| form(name) == Form::List) {
            // What cannot be read is not the one we are in: we write no such thing.
            if let Ok(Some(new)) = conflist::unchain(text) {
                outcome = outcome.and(self.write(name, &new, done));
            }
        }
        outcome
    }

    fn write(&self, name: &str, text: &str, done: &mut Done) -> Result<(), Error> {
        let path = self.conf_dir.join(name);
        files::replace(&path, text.as_bytes(), Mode::AsBefore).map_err(failed("writing", &path))?;
        done.changed.push(path);
        Ok(())
    }

    /// Puts this program where the runtime looks for plugins.
    fn copy_binary(&self, done: &mut Done) -> Result<(), Error> {
        let (source, target) = (Path::new("/proc/self/exe"), self.binary());
        let program = fs::read(source).map_err(failed("reading", source))?;
        fs::create_dir_all(&self.bin_dir).map_err(failed("making", &self.bin_dir))?;
        files::sweep(&self.bin_dir).map_err(failed("sweeping", &self.bin_dir))?;
        if is_binary(&target, &program) {
            return Ok(());
        }
        files::replace(&target, &program, Mode::Of(BINARY_MODE))
            .map_err(failed("writing", &target))?;
        done.changed.push(target);
        Ok(())
    }
}

/// The configurations of a folder, by name.
struct Networks {
    /// Others', as the runtime would take them but for ours.
    others: BTreeMap<String, String>,
    /// Lists that we made.
    own: BTreeMap<String, String>,
}

impl Networks {
    fn read(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(failed("making", folder))?;
        files::sweep(folder).map_err(failed("sweeping", folder))?;
        let (mut others, mut own) = (BTreeMap::new(), BTreeMap::new());
        for entry in fs::read_dir(folder).map_err(failed("listing", folder))? {
            let path = entry.map_err(failed("listing", folder))?.path();
            let known = path
                .extension()
                .and_then(OsStr::to_str)
                .is_some_and(|end| ["conf", "conflist", "json"].contains(&end));
            let Some(name) = path.file_name().and_then(OsStr::to_str) else {
                continue;
            };
            if !known || path.is_dir() {
                continue;
            }
            let text = match fs::read(&path) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("reading", &path)(error)),
            };
            let is_own = OWN_LISTS.contains(&name) && conflist::made_from(&text).is_some();
            let group = if is_own { &mut own } else { &mut others };
            group.insert(name.to_owned(), text);
        }
        Ok(Self { others, own })
    }
}

fn form(name: &str) -> Form {
    if Path::new(name).extension() == Some(OsStr::new("conflist")) {
        Form::List
    } else {
        Form::Single
    }
}

fn is_binary(path: &Path, program: &[u8]) -> bool {
    use std::os::unix::fs::MetadataExt as _;

    let Ok(metadata) = fs::metadata(path) else {
        return false;
    };
    metadata.mode() & 0o7777 == BINARY_MODE
        && usize::try_from(metadata.len()) == Ok(program.len())
        && fs::read(path).is_ok_and(|there| there == program)
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { step, path, source }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

    use std::os::unix::fs::MetadataExt as _;

    use serde_json::{Value, json};

    use super::super::spec::WhenAgentDown;
    use super::*;

    struct Node {
        _folder: tempfile::TempDir,
        installation: Installation,
    }

    fn node() -> Node {
        let folder = tempfile::tempdir().unwrap();
        let installation = Installation {
            bin_dir: folder.path().join("bin"),
            conf_dir: folder.path().join("net.d"),
            entry: Entry::new(Path::new("/run/x.sock"), WhenAgentDown::Wait),
        };
        fs::create_dir(&installation.conf_dir).unwrap();
        Node {
            _folder: folder,
            installation,
        }
    }

    impl Node {
        fn path(&self, name: &str) -> PathBuf {
            self.installation.conf_dir.join(name)
        }

        fn put(&self, name: &str, value: &Value) {
            fs::write(self.path(name), value.to_string()).unwrap();
        }

        fn get(&self, name: &str) -> Value {
            serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(&self.installation.conf_dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }

        fn establish(&self) -> Done {
            self.installation.establish().unwrap()
        }

        fn is_chained(&self, name: &str) -> bool {
            self.get(name)
                .pointer("/plugins")
                .and_then(Value::as_array)
                .is_some_and(|plugins| plugins.iter().any(|plugin| plugin["type"] == PLUGIN))
        }
    }

    fn list(kind: &str) -> Value {
        json!({"cniVersion": "1.0.0", "name": kind, "plugins": [{"type": kind}, {"type": "portmap"}]})
    }

    fn single(kind: &str) -> Value {
        json!({"cniVersion": "0.3.1", "name": kind, "type": kind, "mtu": 1400})
    }

    const OWN: &str = "00-egress-agent.conflist";

    #[test]
    fn a_list_of_our_own_comes_before_the_first_one_and_is_taken_out_again() {
        let node = node();
        node.put("20-other.conflist", &list("bridge"));
        node.put("10-net.conflist", &list("ptp"));
        let done = node.establish();
        assert_eq!(done.network, Some(node.path(OWN)));
        assert_eq!(done.changed.len(), 2, "{done:?}");
        assert_eq!(node.names(), [OWN, "10-net.conflist", "20-other.conflist"]);
        assert!(node.is_chained(OWN));
        assert_eq!(
            node.get(OWN).pointer("/plugins/0/type"),
            Some(&json!("ptp"))
        );
        let binary = fs::metadata(node.installation.binary()).unwrap();
        assert_eq!(binary.mode() & 0o7777, 0o755);
        assert_eq!(
            fs::read(node.installation.binary()).unwrap(),
            fs::read("/proc/self/exe").unwrap()
        );
        assert_eq!(
            node.establish().changed,
            Vec::<PathBuf>::new(),
            "once is enough"
        );

        node.installation.remove().unwrap();
        assert_eq!(node.get("10-net.conflist"), list("ptp"));
        assert_eq!(node.names(), ["10-net.conflist", "20-other.conflist"]);
        assert!(!node.installation.binary().exists());
        assert_eq!(node.installation.remove().unwrap(), Done::default());
    }

    #[test]
    fn a_network_that_comes_first_later_is_the_one() {
        let node = node();
        node.put("20-net.conflist", &list("ptp"));
        node.establish();
        node.put("10-new.conflist", &list("bridge"));
        let first = || node.get(OWN).pointer("/plugins/0/type").cloned();
        assert_eq!(first(), Some(json!("ptp")));
        node.establish();
        assert_eq!(first(), Some(json!("bridge")));
        fs::remove_file(node.path("10-new.conflist")).unwrap();
        node.establish();
        assert_eq!(first(), Some(json!("ptp")));
        assert_eq!(node.get("20-net.conflist"), list("ptp"));
    }

    #[test]
    fn a_plugin_that_an_earlier_version_chained_into_the_cnis_own_list_is_taken_out() {
        let node = node();
        let mut chained = list("ptp");
        chained
            .get_mut("plugins")
            .and_then(Value::as_array_mut)
            .unwrap()
            .push(json!({"type": PLUGIN, "socket": "/old"}));
        node.put("10-net.conflist", &chained);
        node.establish();
        assert!(node.is_chained(OWN));
        assert_eq!(node.get("10-net.conflist"), list("ptp"));
    }

    #[test]
    fn what_a_cni_writes_anew_is_never_first_and_is_followed() {
        let node = node();
        node.put("10-net.conflist", &list("ptp"));
        node.establish();
        // As at boot: the same again, and no agent yet.
        node.put("10-net.conflist", &list("ptp"));
        assert_eq!(node.names().first().map(String::as_str), Some(OWN));
        assert!(node.is_chained(OWN));
        assert_eq!(node.establish().changed, Vec::<PathBuf>::new());
        node.put("10-net.conflist", &list("bridge"));
        assert_eq!(node.establish().changed, [node.path(OWN)]);
        assert_eq!(
            node.get(OWN).pointer("/plugins/0/type"),
            Some(&json!("bridge"))
        );
    }

    #[test]
    fn a_single_configuration_becomes_a_list_which_follows_it_and_goes() {
        let node = node();
        node.put("10-net.conf", &single("bridge"));
        let done = node.establish();
        assert_eq!(done.network, Some(node.path(OWN)));
        assert_eq!(node.names(), [OWN, "10-net.conf"]);
        assert_eq!(node.get(OWN).pointer("/plugins/0"), Some(&single("bridge")));
        assert_eq!(node.get("10-net.conf"), single("bridge"));
        assert_eq!(node.establish().changed, Vec::<PathBuf>::new());

        node.put("10-net.conf", &single("ptp"));
        node.establish();
        assert_eq!(node.get(OWN).pointer("/plugins/0"), Some(&single("ptp")));
        node.installation.remove().unwrap();
        assert_eq!(node.names(), ["10-net.conf"]);
    }

    #[test]
    fn a_list_of_our_own_sorts_before_whatever_it_is_made_from() {
        for first in [
            "10-a.conf",
            "00-a.conf",
            "0-a.conf",
            "-a.json",
            "00-egress-agent.conf",
        ] {
            let node = node();
            node.put(first, &single("ptp"));
            node.establish();
            let names = node.names();
            assert_eq!(
                (names.len(), names.last().map(String::as_str)),
                (2, Some(first))
            );
            assert!(node.is_chained(names.first().unwrap()), "{first}");
        }
    }

    #[test]
    fn without_a_network_nothing_is_written_but_the_binary() {
        let node = node();
        node.put("README.txt", &json!("no network"));
        let done = node.establish();
        assert_eq!(
            (done.network, done.changed),
            (None, vec![node.installation.binary()])
        );
        node.put("10-net.conf", &single("ptp"));
        node.establish();
        fs::remove_file(node.path("10-net.conf")).unwrap();
        node.establish();
        assert_eq!(node.names(), ["README.txt"], "its origin is gone");
    }

    #[test]
    fn a_first_configuration_that_cannot_be_read_is_left_and_reported() {
        let node = node();
        node.put("20-net.conflist", &list("ptp"));
        node.establish();
        fs::write(node.path("10-half.conflist"), "{\"cniVersion\"").unwrap();
        let error = node.installation.establish().unwrap_err();
        assert!(error.to_string().contains("10-half.conflist"), "{error}");
        assert_eq!(
            fs::read(node.path("10-half.conflist")).unwrap(),
            b"{\"cniVersion\""
        );
        assert!(node.is_chained(OWN), "what works goes on working");
        node.installation.remove().unwrap();
        assert!(!node.path(OWN).exists());
    }

    #[test]
    fn a_half_written_file_of_ours_is_never_taken_for_a_configuration() {
        let node = node();
        node.put("10-net.conflist", &list("ptp"));
        fs::write(node.path(".10-net.conflist.egress-agent-unfinished"), "{").unwrap();
        node.establish();
        assert_eq!(node.names(), [OWN, "10-net.conflist"]);
    }
}
