//! Which manifest files there are below a folder.
//!
//! `*.yaml`, `*.yml` and `*.json`, at any depth. Names that begin with a dot are skipped at
//! every level; symbolic links are followed. That is what makes a ConfigMap volume work:
//! `a.yaml` leads to `..data/a.yaml`, and the hidden folders are not read a second time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a look at the folder found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// The manifest files.
    pub(super) files: BTreeMap<PathBuf, Found>,
    /// Folders and links that could not be looked at, and why: what is below is unknown, not
    /// gone.
    pub(super) unreadable: BTreeMap<PathBuf, String>,
    /// Something vanished during the look: it may be elsewhere by now.
    pub(super) torn: bool,
    /// Symbolic links were followed: changes behind them may go unnoticed.
    pub(super) links: bool,
}

/// A manifest file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Changes whenever the file's text does.
    pub(super) stamp: Stamp,
    /// Its name is a symbolic link.
    pub(super) link: bool,
}

/// Tells one text of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// It changed so lately that another change might carry the same time.
    pub(super) fn is_recent(&self) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // A clock that went back leaves times in the future: as good as recent.
        i64::try_from(now.as_secs()).is_ok_and(|now| self.changed.0 >= now - 1)
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// It is named like a manifest.
pub(super) fn is_manifest(name: &OsStr) -> bool {
    let name = Path::new(name);
    !is_hidden(name.as_os_str())
        && name
            .extension()
            .is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json")
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

/// Looks at everything below `root`. `enter` is called with each folder before it is read, so
/// that a watch set there misses nothing, and with each file that is reached by a link.
pub(super) fn walk(root: &Path, mut enter: impl FnMut(&Path)) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let mut seen = BTreeSet::new();
    // Folders proper before linked ones: a folder that is both keeps its own path.
    let mut folders = VecDeque::from([root.to_owned()]);
    let mut linked = VecDeque::new();
    let metadata = fs::metadata(root)?;
    seen.insert((metadata.dev(), metadata.ino()));
    loop {
        let folder = if let Some(folder) = folders.pop_front() {
            folder
        } else if let Some((folder, id)) = linked.pop_front() {
            // A link to what was read already, be it an ancestor: a loop ends here.
            if !seen.insert(id) {
                continue;
            }
            folder
        } else {
            break;
        };
        enter(&folder);
        let entries = match names(&folder) {
            Ok(entries) => entries,
            Err(error) if folder == root => return Err(error),
            Err(error) => {
                listing.miss(folder, &error);
                continue;
            }
        };
        for (name, kind) in entries {
            if is_hidden(&name) || (kind == Kind::Other && !is_manifest(&name)) {
                continue;
            }
            let path = folder.join(&name);
            let link = kind == Kind::Link;
            listing.links |= link;
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                // A link to nothing is no file; one to what cannot be looked at may be one.
                Err(error) if link && error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    listing.miss(path, &error);
                    continue;
                }
            };
            let id = (metadata.dev(), metadata.ino());
            if metadata.is_dir() {
                if link {
                    linked.push_back((path, id));
                } else {
                    // False for a bind mount of what was read already.
                    if seen.insert(id) {
                        folders.push_back(path);
                    }
                }
            } else if is_manifest(&name) {
                if link {
                    enter(&path);
                }
                listing.files.insert(
                    path,
                    Found {
                        stamp: Stamp::from(&metadata),
                        link,
                    },
                );
            }
        }
    }
    Ok(listing)
}

impl Listing {
    fn miss(&mut self, path: PathBuf, error: &io::Error) {
        if error.kind() == io::ErrorKind::NotFound {
            self.torn = true;
        } else {
            self.unreadable.insert(path, error.to_string());
        }
    }
}

/// What a name stands for, as far as the folder itself says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Folder,
    Link,
    Other,
}

/// The names in a folder, sorted: the same folder is read the same way twice.
fn names(folder: &Path) -> io::Result<Vec<(OsString, Kind)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = match entry.file_type() {
            Ok(kind) if kind.is_dir() => Kind::Folder,
            Ok(kind) if kind.is_symlink() => Kind::Link,
            Ok(_) => Kind::Other,
            // Only where the folder does not say and the file is asked, which vanished.
            Err(_) => Kind::Folder,
        };
        names.push((entry.file_name(), kind));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn found(root: &Path) -> Vec<String> {
        let listing = walk(root, |_| {}).unwrap();
        assert!(!listing.torn);
        listing
            .files
            .keys()
            .map(|path| path.strip_prefix(root).unwrap().display().to_string())
            .collect()
    }

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    #[test]
    fn manifests_are_found_by_their_name_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in [
            "a.yaml",
            "b.yml",
            "c.json",
            "d.txt",
            "yaml",
            "e.yaml.bak",
            "x/y/z/f.yaml",
            "g.YAML",
        ] {
            touch(&root.join(name));
        }
        assert_eq!(found(root), ["a.yaml", "b.yml", "c.json", "x/y/z/f.yaml"]);
    }

    #[test]
    fn hidden_names_are_skipped_at_every_level() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in [
            ".a.yaml",
            ".git/b.yaml",
            "x/.y/c.yaml",
            "x/.d.yaml",
            ".yaml",
        ] {
            touch(&root.join(name));
        }
        assert_eq!(found(root), [""; 0]);
    }

    #[test]
    fn links_are_followed_and_loops_end() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let root = dir.path();
        touch(&elsewhere.path().join("sub/a.yaml"));
        touch(&root.join("z/b.yaml"));
        symlink(elsewhere.path(), root.join("other")).unwrap();
        symlink(elsewhere.path().join("sub/a.yaml"), root.join("c.yaml")).unwrap();
        symlink(root, root.join("loop")).unwrap();
        symlink(root.join("z"), root.join("a")).unwrap(); // its own path stays
        symlink("nowhere", root.join("dangling.yaml")).unwrap();
        assert_eq!(found(root), ["c.yaml", "other/sub/a.yaml", "z/b.yaml"]);
    }

    #[test]
    fn a_link_to_itself_is_unreadable_and_the_rest_is_found() {
        let dir = tempfile::tempdir().unwrap();
        symlink("self.yaml", dir.path().join("self.yaml")).unwrap();
        touch(&dir.path().join("a.yaml"));
        let listing = walk(dir.path(), |_| {}).unwrap();
        assert_eq!(listing.files.len(), 1);
        assert_eq!(listing.unreadable.len(), 1);
    }

    #[test]
    fn a_folder_named_like_a_manifest_is_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        touch(&dir.path().join("x.yaml/a.yaml"));
        assert_eq!(found(dir.path()), ["x.yaml/a.yaml"]);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(walk(&dir.path().join("absent"), |_| {}).is_err());
    }
}
