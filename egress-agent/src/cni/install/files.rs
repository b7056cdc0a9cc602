//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// What a file's name ends with until it is whole. Not an ending that a container runtime takes
/// for a configuration.
const UNFINISHED: &str = "egress-agent-unfinished";

/// Mode of a file that is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// That of the file it replaces.
    AsBefore,
    /// This one.
    Of(u32),
}

/// Puts `text` in the place of a file in one step, or does nothing.
///
/// A link is followed: what it leads to is replaced, and the link stays.
pub(super) fn replace(path: &Path, text: &[u8], mode: Mode) -> io::Result<()> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_not_there| path.to_owned());
    let before = fs::metadata(path).ok();
    let aside = aside(path)?;
    // A left-over of a crash; writing into it would keep its mode.
    remove(&aside)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    let written = file
        .write_all(text)
        .and_then(|()| dress(&file, before.as_ref(), mode))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&aside, path))
        // Its name, too, is to outlive a power cut.
        .and_then(|()| {
            path.parent()
                .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        });
    if written.is_err() {
        remove(&aside)?;
    }
    written
}

/// Removes a file; one that is not there is removed already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what a crash left of [`replace`] in a folder.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == UNFINISHED) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn dress(file: &File, before: Option<&fs::Metadata>, mode: Mode) -> io::Result<()> {
    let now = file.metadata()?;
    if let Some(before) = before.filter(|b| (b.uid(), b.gid()) != (now.uid(), now.gid())) {
        match fchown(file, Some(before.uid()), Some(before.gid())) {
            // Without CAP_CHOWN it becomes ours. Runtimes read it as root.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            outcome => outcome?,
        }
    }
    let mode = match (mode, before) {
        (Mode::Of(mode), _) => mode,
        (Mode::AsBefore, Some(before)) => before.mode() & 0o7777,
        (Mode::AsBefore, None) => 0o644,
    };
    file.set_permissions(fs::Permissions::from_mode(mode))
}

fn aside(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(UNFINISHED);
    Ok(path.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.conf");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        replace(&path, b"new", Mode::AsBefore).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(after.mode() & 0o7777, 0o640);
        assert_ne!(after.ino(), inode, "never written in place");
        replace(&folder.path().join("b"), b"x", Mode::Of(0o755)).unwrap();
        assert_eq!(
            fs::metadata(folder.path().join("b")).unwrap().mode() & 0o7777,
            0o755
        );
        assert_eq!(names(folder.path()), ["a.conf", "b"]);
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_replaced() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = elsewhere.path().join("t");
        fs::write(&target, "old").unwrap();
        let link = folder.path().join("a.conf");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        replace(&link, b"new", Mode::AsBefore).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn what_a_crash_left_is_swept_and_does_not_hinder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.conf");
        fs::write(aside(&path).unwrap(), "half").unwrap();
        replace(&path, b"whole", Mode::AsBefore).unwrap();
        fs::write(aside(&path).unwrap(), "half").unwrap();
        sweep(folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["a.conf"]);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }
}
