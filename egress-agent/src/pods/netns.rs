//! Which network namespace an annotation means.
//!
//! A value without a slash is a name as `ip netns` knows it, a file in `/run/netns`; any
//! other must be an absolute path. Such a file may appear, vanish or be replaced at any
//! time, so a namespace is known by the device and inode of its nsfs file and never by
//! its path. Source: `namespaces(7)`, `ip-netns(8)`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Where `ip netns` keeps its names. The second is the older name of the first, and a
/// folder of its own where `/var/run` is no link.
pub(super) const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Filesystem type of namespace files. Source: `linux/magic.h`.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Which namespace: stable while the namespace lives, possibly reused afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId {
    /// Device of the nsfs file.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

/// Why an annotation leads to no namespace that can be enforced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a name nor an absolute path.
    #[error("{0:?} is neither the name of a network namespace nor an absolute path")]
    Name(String),
    /// There is no such file.
    #[error("network namespace {} does not exist", .0.display())]
    Missing(PathBuf),
    /// The file is something else, or no namespace is mounted on it (yet).
    #[error("{} is not a network namespace", .0.display())]
    Other(PathBuf),
    /// The agent's own namespace: hooks there would judge the node, not a pod.
    #[error("{} is the agent's own network namespace, which no pod may claim", .0.display())]
    Own(PathBuf),
    /// It cannot be opened.
    #[error("network namespace {} cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
}

/// A network namespace, kept alive by the open file.
///
/// Hold it for one look only: while the file is open a deleted namespace and its
/// interfaces stay.
#[derive(Debug)]
pub(super) struct Namespace {
    file: File,
    id: NamespaceId,
}

impl Namespace {
    /// The namespace of the calling thread.
    pub(super) fn own() -> Result<Self, Error> {
        // Not /proc/self: that is the main thread's.
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace that an annotation means, which must not be `own`.
    pub(super) fn find(annotation: &str, own: NamespaceId) -> Result<(Self, PathBuf), Error> {
        let mut missing = None;
        for path in candidates(annotation)? {
            match Self::open(&path) {
                Ok(found) if found.id == own => return Err(Error::Own(path)),
                Ok(found) => return Ok((found, path)),
                Err(Error::Missing(path)) => missing = missing.or(Some(path)),
                Err(error) => return Err(error),
            }
        }
        Err(missing.map_or_else(|| Error::Name(annotation.to_owned()), Error::Missing))
    }

    /// Which one it is.
    pub(super) fn id(&self) -> NamespaceId {
        self.id
    }

    fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source: io::Error| {
            if source.kind() == io::ErrorKind::NotFound {
                Error::Missing(path.to_owned())
            } else {
                let path = path.to_owned();
                Error::Open { path, source }
            }
        };
        // Asked before the file is opened: the path is an operator's text, and opening a
        // device can do things.
        if !is_nsfs(rustix::fs::statfs(path).map_err(|errno| failed(errno.into()))?) {
            return Err(Error::Other(path.to_owned()));
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(failed)?;
        // Asked again of what was opened: the path may lead elsewhere by now.
        if !is_nsfs(rustix::fs::fstatfs(&file).map_err(|errno| failed(errno.into()))?) {
            return Err(Error::Other(path.to_owned()));
        }
        let metadata = file.metadata().map_err(failed)?;
        let id = NamespaceId {
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        Ok(Self { file, id })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Paths an annotation may mean, the first that exists counts.
fn candidates(annotation: &str) -> Result<Vec<PathBuf>, Error> {
    let refused = || Error::Name(annotation.to_owned());
    if annotation.is_empty()
        || annotation.contains('\0')
        || annotation.split('/').any(|part| part == "..")
    {
        return Err(refused());
    }
    if annotation.starts_with('/') {
        return Ok(vec![PathBuf::from(annotation)]);
    }
    if annotation.contains('/') || annotation == "." {
        return Err(refused());
    }
    Ok(NAMED
        .iter()
        .map(|folder| Path::new(folder).join(annotation))
        .collect())
}

fn is_nsfs(filesystem: rustix::fs::StatFs) -> bool {
    // The field's type differs between architectures.
    u64::try_from(filesystem.f_type).is_ok_and(|magic| magic == NSFS_MAGIC)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

    use super::*;

    fn somebody_else() -> NamespaceId {
        NamespaceId {
            device: 0,
            inode: 0,
        }
    }

    #[test]
    fn a_bare_name_is_looked_for_where_ip_netns_keeps_it() {
        assert_eq!(
            candidates("blue").unwrap(),
            [
                PathBuf::from("/run/netns/blue"),
                PathBuf::from("/var/run/netns/blue")
            ]
        );
        assert_eq!(candidates("..blue").unwrap().len(), 2);
    }

    #[test]
    fn an_absolute_path_is_taken_as_it_is() {
        assert_eq!(
            candidates("/proc/7/ns/net").unwrap(),
            [PathBuf::from("/proc/7/ns/net")]
        );
    }

    #[test]
    fn a_relative_path_and_one_that_climbs_are_refused() {
        for annotation in [
            "",
            ".",
            "..",
            "a/b",
            "./a",
            "../a",
            "a/..",
            "/run/netns/../x",
            "/..",
            "a\0b",
        ] {
            assert!(
                matches!(candidates(annotation), Err(Error::Name(_))),
                "{annotation:?}"
            );
        }
    }

    #[test]
    fn a_name_nobody_made_does_not_exist() {
        let error =
            Namespace::find("egress-agent-test-nobody-made-this", somebody_else()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "network namespace /run/netns/egress-agent-test-nobody-made-this does not exist"
        );
    }

    #[test]
    fn other_files_are_not_network_namespaces() {
        let fifo_is_not_opened = tempfile::tempdir().unwrap();
        let fifo = fifo_is_not_opened.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        for path in ["/", "/dev/null", "/etc/passwd", fifo.to_str().unwrap()] {
            assert!(
                matches!(Namespace::find(path, somebody_else()), Err(Error::Other(_))),
                "{path}"
            );
        }
    }

    #[test]
    fn the_own_namespace_is_refused_by_whatever_path() {
        let own = Namespace::own().unwrap().id();
        for path in ["/proc/self/ns/net", "/proc/thread-self/ns/net"] {
            assert!(
                matches!(Namespace::find(path, own), Err(Error::Own(_))),
                "{path}"
            );
        }
    }
}
