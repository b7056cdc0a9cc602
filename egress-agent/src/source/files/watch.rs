//! Hearing of changes: inotify on every folder below DIR, on files behind links, and on the
//! folder DIR is in.
//!
//! What is heard only says that it is time to look. The one thing taken from an event is
//! which file was closed after writing or renamed into place.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

use super::walk::is_manifest;

/// Watches, and what they stand for.
#[derive(Debug)]
pub(super) struct Watcher {
    inotify: Inotify,
    root: PathBuf,
    watches: BTreeMap<WatchDescriptor, PathBuf>,
    /// Those set since [`Watcher::begin`].
    fresh: BTreeSet<WatchDescriptor>,
    /// The folder DIR is in: DIR may be replaced there.
    above: Option<WatchDescriptor>,
    /// Not everything could be watched.
    incomplete: bool,
    /// Where events are read to.
    buffer: Box<[u8]>,
}

/// 64 KiB: some 2,000 events of short names, a tenth of the kernel's queue. Kept: giving back so much
/// has the allocator tidy up all that is free each time.
const BUFFER: usize = 64 << 10;

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Files that were closed after writing or renamed into place.
    pub(super) closed: BTreeSet<PathBuf>,
    /// Names came, went or moved.
    pub(super) moved: bool,
    /// Something was not heard.
    pub(super) lost: bool,
}

impl Heard {
    /// Nothing was heard that matters.
    pub(super) fn is_empty(&self) -> bool {
        self.closed.is_empty() && !self.moved && !self.lost
    }

    /// Adds what was heard later.
    pub(super) fn absorb(&mut self, later: Self) {
        let Self {
            closed,
            moved,
            lost,
        } = later;
        self.closed.extend(closed);
        self.moved |= moved;
        self.lost |= lost;
    }
}

impl Watcher {
    /// Watches nothing yet.
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        Ok(Self {
            inotify: Inotify::init()?,
            root: root.to_owned(),
            watches: BTreeMap::new(),
            fresh: BTreeSet::new(),
            above: None,
            incomplete: false,
            buffer: vec![0; BUFFER].into(),
        })
    }

    /// Readable when there is something to hear.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.inotify.as_fd().try_clone_to_owned()
    }

    /// Something may change unheard.
    pub(super) fn incomplete(&self) -> bool {
        self.incomplete
    }

    /// A walk begins.
    pub(super) fn begin(&mut self) {
        self.fresh.clear();
        self.incomplete = false;
        let above = self
            .root
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let names = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::ONLYDIR;
        self.above = above.and_then(|above| self.inotify.watches().add(above, names).ok());
    }

    /// Watches a folder, or a file behind a link. Watching it again changes nothing.
    pub(super) fn watch(&mut self, path: &Path) {
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        match self.inotify.watches().add(path, mask) {
            Ok(watch) => {
                self.fresh.insert(watch.clone());
                self.watches.insert(watch, path.to_owned());
            }
            // It vanished: the walk notices. Else the limit of watches is reached, or what it
            // leads to may not be read.
            Err(error) => self.incomplete |= error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// The walk was complete: what it did not come by is no longer of interest.
    pub(super) fn finish(&mut self) {
        let stale: Vec<_> = self
            .watches
            .keys()
            .filter(|watch| !self.fresh.contains(watch))
            .cloned()
            .collect();
        for watch in stale {
            self.watches.remove(&watch);
            // EINVAL: the kernel has removed it with its folder.
            drop(self.inotify.watches().remove(watch));
        }
    }

    /// Takes everything there is to hear, without waiting.
    pub(super) fn hear(&mut self) -> Heard {
        let mut heard = Heard::default();
        loop {
            match self.inotify.read_events(&mut self.buffer) {
                Ok(events) => {
                    for event in events {
                        heard.event(
                            &self.root,
                            &mut self.watches,
                            self.above.as_ref(),
                            &event.wd,
                            event.mask,
                            event.name,
                        );
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return heard,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "changes of files cannot be heard; looking every second");
                    self.incomplete = true;
                    heard.lost = true;
                    return heard;
                }
            }
        }
    }
}

impl Heard {
    fn event(
        &mut self,
        root: &Path,
        watches: &mut BTreeMap<WatchDescriptor, PathBuf>,
        above: Option<&WatchDescriptor>,
        watch: &WatchDescriptor,
        mask: EventMask,
        name: Option<&OsStr>,
    ) {
        if mask.contains(EventMask::Q_OVERFLOW) {
            self.lost = true;
        } else if mask.contains(EventMask::IGNORED) {
            watches.remove(watch);
        } else if let Some(path) = watches.get(watch) {
            let path = name.map_or_else(|| path.clone(), |name| path.join(name));
            let manifest = name.is_none_or(is_manifest);
            if mask.contains(EventMask::CLOSE_WRITE) {
                // Another file's text says nothing.
                if manifest {
                    self.closed.insert(path);
                }
            } else {
                self.moved = true;
                if mask.contains(EventMask::MOVED_TO) && manifest {
                    self.closed.insert(path);
                }
            }
        } else if above == Some(watch) {
            self.moved |= name == root.file_name();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_happens_to_manifests_and_names_is_heard_and_other_texts_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m");
        fs::create_dir(&root).unwrap();
        let other = root.join("notes.txt");
        fs::write(&other, "").unwrap();
        let mut watcher = Watcher::new(&root).unwrap();
        watcher.begin();
        watcher.watch(&root);
        watcher.finish();

        fs::write(&other, "text").unwrap();
        fs::write(dir.path().join("beside.yaml"), "").unwrap();
        assert!(watcher.hear().is_empty());

        fs::write(root.join("a.yaml"), "").unwrap();
        let heard = watcher.hear();
        assert!(heard.moved && heard.closed.contains(&root.join("a.yaml")));

        fs::rename(&root, dir.path().join("gone")).unwrap();
        assert!(watcher.hear().moved);
        fs::create_dir(&root).unwrap();
        assert!(watcher.hear().moved, "DIR is back");
    }

    #[test]
    fn folders_that_are_gone_are_no_longer_watched() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        fs::create_dir(&sub).unwrap();
        let mut watcher = Watcher::new(dir.path()).unwrap();
        watcher.begin();
        watcher.watch(dir.path());
        watcher.watch(&sub);
        watcher.finish();
        assert_eq!(watcher.watches.len(), 2);
        watcher.begin();
        watcher.watch(dir.path());
        watcher.finish();
        assert_eq!(watcher.watches.len(), 1);
        drop(watcher.hear());
        fs::write(sub.join("a.yaml"), "").unwrap();
        assert!(watcher.hear().is_empty());
    }
}
