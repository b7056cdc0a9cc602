//! The pin root: a folder of a BPF file system, one owner at a time.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use egress_common::abi::ABI_VERSION;
use rustix::fs::{FlockOperation, flock, fstat, stat, statfs};
use rustix::mount::{MountFlags, mount};

use super::error::SetupError;
use super::sys;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// What is pinned of a version, a folder each.
const FOLDERS: [&str; 3] = ["maps", "links", "programs"];

/// A pin root that this process owns until it is dropped. The pins stay.
#[derive(Debug)]
pub struct PinRoot {
    path: PathBuf,
    lock: File,
}

impl PinRoot {
    /// Makes the folder, on a BPF file system, and takes its lock. Where the folder's parent is an
    /// empty mount point of no BPF file system, one is mounted there, as is customary at
    /// `/sys/fs/bpf`.
    pub fn open(path: &Path) -> Result<Self, SetupError> {
        let parent = path.parent().unwrap_or(path);
        if !on_bpffs(path) && !on_bpffs(parent) {
            let failed = |source| SetupError::Mount {
                path: parent.to_path_buf(),
                source,
            };
            fs::create_dir_all(parent).map_err(failed)?;
            mount("bpf", parent, "bpf", MountFlags::empty(), c"mode=0700")
                .map_err(|e| failed(e.into()))?;
            tracing::info!(path = %parent.display(), "mounted a BPF file system");
        }
        fs::create_dir_all(path).map_err(|source| pin(path, source))?;
        let lock = lock(path)?;
        for folder in FOLDERS {
            let folder = version_folder(path).join(folder);
            fs::create_dir_all(&folder).map_err(|source| pin(&folder, source))?;
        }
        Ok(Self {
            path: path.to_path_buf(),
            lock,
        })
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        version_folder(&self.path).join("maps").join(name)
    }

    /// Where links are pinned.
    pub fn links(&self) -> PathBuf {
        version_folder(&self.path).join("links")
    }

    /// Where programs are pinned.
    pub(super) fn programs(&self) -> PathBuf {
        version_folder(&self.path).join("programs")
    }

    /// Whether the folder is still where it was. Somebody may have unmounted the file system; what it
    /// holds then lives as long as this process.
    pub(super) fn is_in_place(&self) -> bool {
        match (fstat(&self.lock), stat(&self.path)) {
            (Ok(held), Ok(found)) => (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino),
            _ => false,
        }
    }

    /// Pins everything again at the same path, on a file system that is mounted there by now or by this.
    pub(super) fn restore(&mut self) -> Result<(), SetupError> {
        let new = Self::open(&self.path)?;
        // The way into a file system that has no name any more.
        let held = PathBuf::from(format!("/proc/self/fd/{}", self.lock.as_raw_fd()));
        for folder in FOLDERS {
            let old = version_folder(&held).join(folder);
            for entry in fs::read_dir(&old).map_err(|source| pin(&old, source))? {
                let old = entry.map_err(|source| pin(&old, source))?.path();
                let name = old.file_name().unwrap_or_default();
                let place = version_folder(&self.path).join(folder).join(name);
                match sys::pin_again(&old, &place) {
                    // From an attempt that got no further.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    result => result.map_err(|source| pin(&place, source))?,
                }
            }
        }
        *self = new;
        Ok(())
    }

    /// What agents of other ABI versions have left here.
    pub(super) fn others(&self) -> Result<Vec<Foreign>, SetupError> {
        let mut others = foreign(&self.path)?;
        others.retain(|other| other.version != ABI_VERSION);
        Ok(others)
    }
}

/// The pins of one ABI version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Foreign {
    /// Whose.
    pub(super) version: u32,
    /// Its folder.
    folder: PathBuf,
}

impl Foreign {
    /// Where its links are pinned.
    pub(super) fn links(&self) -> PathBuf {
        self.folder.join("links")
    }

    /// Removes what is left of it. The errors are collected.
    pub(super) fn remove(&self) -> Result<(), Vec<SetupError>> {
        let mut errors = Vec::new();
        remove_below(&self.folder, &mut errors);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

/// The version folders of a pin root, own and others'.
fn foreign(path: &Path) -> Result<Vec<Foreign>, SetupError> {
    let failed = |source| pin(path, source);
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let version = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix('v')?.parse().ok());
        if let Some(version) = version {
            found.push(Foreign {
                version,
                folder: entry.path(),
            });
        }
    }
    found.sort();
    Ok(found)
}

/// Removes everything below a pin root, of every version. Links go first, so that nothing runs with
/// half its maps. Errors are collected: half a clean-up is the worst state. `first` is called once
/// the lock is held, with each version that has pins here.
pub(super) fn remove_all(
    path: &Path,
    force: bool,
    first: impl Fn(&Foreign),
) -> Result<Vec<PathBuf>, Vec<SetupError>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    // Held until the end, so that no agent starts over what is being removed.
    let _held = match lock(path) {
        Ok(held) => Some(held),
        Err(_) if force => None,
        Err(error) => return Err(vec![error]),
    };
    foreign(path)
        .map_err(|error| vec![error])?
        .iter()
        .for_each(first);
    let mut errors = Vec::new();
    let removed = remove_below(path, &mut errors);
    if errors.is_empty() {
        Ok(removed)
    } else {
        Err(errors)
    }
}

/// Removes a folder with everything in it, links first; returns what was removed.
fn remove_below(path: &Path, errors: &mut Vec<SetupError>) -> Vec<PathBuf> {
    let mut removed = Vec::new();
    let mut folders = Vec::new();
    let mut files = Vec::new();
    walk(path, &mut folders, &mut files, errors);
    files.sort_by_key(|file| !file.components().any(|part| part.as_os_str() == "links"));
    for file in files {
        match fs::remove_file(&file) {
            Ok(()) => removed.push(file),
            Err(source) => errors.push(pin(&file, source)),
        }
    }
    // Deepest first.
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
    for folder in folders {
        match fs::remove_dir(&folder) {
            Ok(()) => removed.push(folder),
            Err(source) => errors.push(pin(&folder, source)),
        }
    }
    removed
}

fn walk(
    folder: &Path,
    folders: &mut Vec<PathBuf>,
    files: &mut Vec<PathBuf>,
    errors: &mut Vec<SetupError>,
) {
    folders.push(folder.to_path_buf());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) => {
            errors.push(pin(folder, source));
            return;
        }
    };
    for entry in entries {
        match entry.and_then(|e| Ok((e.path(), e.file_type()?))) {
            Ok((path, kind)) if kind.is_dir() => walk(&path, folders, files, errors),
            Ok((path, _)) => files.push(path),
            Err(source) => errors.push(pin(folder, source)),
        }
    }
}

fn version_folder(path: &Path) -> PathBuf {
    path.join(format!("v{ABI_VERSION}"))
}

fn lock(path: &Path) -> Result<File, SetupError> {
    // A folder can be locked as well as a file, and a BPF file system has no ordinary files.
    let folder = File::open(path).map_err(|source| pin(path, source))?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(folder),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SetupError::Locked {
            path: path.to_path_buf(),
        }),
        Err(error) => Err(pin(path, error.into())),
    }
}

fn on_bpffs(path: &Path) -> bool {
    #[expect(
        clippy::useless_conversion,
        reason = "the field's type differs between architectures"
    )]
    statfs(path).is_ok_and(|found| i64::from(found.f_type) == BPF_FS_MAGIC)
}

fn pin(path: &Path, source: io::Error) -> SetupError {
    SetupError::Pin {
        path: path.to_path_buf(),
        source,
    }
}
