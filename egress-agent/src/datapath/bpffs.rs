//! The pin root: a folder of a BPF file system, one owner at a time.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use egress_common::abi::ABI_VERSION;
use rustix::fs::{FlockOperation, flock, statfs};
use rustix::mount::{MountFlags, mount};

use super::error::SetupError;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// A pin root that this process owns until it is dropped. The pins stay.
#[derive(Debug)]
pub struct PinRoot {
    path: PathBuf,
    _lock: File,
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
        for folder in ["maps", "links"] {
            let folder = version_folder(path).join(folder);
            fs::create_dir_all(&folder).map_err(|source| pin(&folder, source))?;
        }
        Ok(Self {
            path: path.to_path_buf(),
            _lock: lock,
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
}

/// Removes everything below a pin root, of every version. Links go first, so that nothing runs with
/// half its maps. Errors are collected: half a clean-up is the worst state. `first` is called once
/// the lock is held, with the folder of this version's maps.
pub(super) fn remove_all(
    path: &Path,
    force: bool,
    first: impl FnOnce(&Path),
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
    first(&version_folder(path).join("maps"));
    let (mut removed, mut errors) = (Vec::new(), Vec::new());
    let mut folders = Vec::new();
    let mut files = Vec::new();
    walk(path, &mut folders, &mut files, &mut errors);
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
    if errors.is_empty() {
        Ok(removed)
    } else {
        Err(errors)
    }
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
