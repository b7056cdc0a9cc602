//! Looking when it is time to: one change for everything that happened together.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::Change;
use super::manifests::{Busy, Look, Manifests};
use super::state::State;
use super::walk::walk;
use super::watch::{Heard, Watcher};

/// A burst of events is over when nothing came for this long …
const QUIET: Duration = Duration::from_millis(10);

/// … or when it has lasted this long.
const BURST: Duration = Duration::from_millis(100);

/// A look is begun anew while names move under it, for this long.
const STORM: Duration = Duration::from_millis(100);

/// What nobody reports is looked at this often.
pub(super) const RECHECK: Duration = Duration::from_secs(1);

/// A one-shot look waits this long for writers.
const PATIENCE: Duration = Duration::from_secs(1);

/// The files below a folder, followed.
#[derive(Debug)]
pub(super) struct Follower {
    root: PathBuf,
    manifests: Manifests,
    watcher: Watcher,
    /// Heard, and not looked at yet.
    heard: Heard,
    /// Device and inode of DIR at the last look.
    identity: Option<(u64, u64)>,
}

impl Follower {
    /// The first look.
    pub(super) fn start(root: &Path, state: Option<State>) -> io::Result<(Self, Change)> {
        // A folder that is not there is a mistake, not an empty folder.
        std::fs::read_dir(root)?;
        let mut follower = Self {
            root: root.to_owned(),
            manifests: Manifests::new(state),
            watcher: Watcher::new(root)?,
            heard: Heard::default(),
            identity: None,
        };
        let change = follower.look(true).unwrap_or_default();
        Ok((follower, change))
    }

    /// Looks at everything, again and again until nothing moves meanwhile.
    fn look(&mut self, first: bool) -> Option<Change> {
        let begin = Instant::now();
        let mut heard = std::mem::take(&mut self.heard);
        loop {
            if heard.lost {
                self.manifests.distrust();
            }
            self.identity = identity(&self.root);
            self.watcher.begin();
            let watcher = &mut self.watcher;
            let listing = match walk(&self.root, |path| watcher.watch(path)) {
                Ok(listing) => listing,
                Err(error) => {
                    self.manifests.folder_gone(&self.root, &error);
                    break;
                }
            };
            let look = Look {
                listing: &listing,
                closed: &heard.closed,
                first,
                busy: Busy::Wait,
                now: Instant::now(),
            };
            let whole = self.manifests.read(look);
            let later = self.watcher.hear();
            let quiet = whole && !listing.torn && !later.moved && !later.lost;
            if (quiet && later.is_empty()) || begin.elapsed() >= STORM {
                self.manifests.settle(look, quiet);
                if quiet {
                    self.watcher.finish();
                }
                self.heard = later;
                break;
            }
            heard = later;
        }
        self.manifests.change()
    }

    /// What is to be looked at although nothing was heard.
    fn must_recheck(&self) -> bool {
        self.manifests.look_again()
            || self.watcher.incomplete()
            || self.identity != identity(&self.root)
    }

    /// Follows until nobody takes the changes any more.
    pub(super) async fn run(mut self, changes: mpsc::Sender<Change>) -> io::Result<()> {
        let descriptor = register(self.watcher.descriptor()?)?;
        let mut recheck = tokio::time::Instant::now() + RECHECK;
        loop {
            let due = if self.heard.is_empty() {
                tokio::select! {
                    () = changes.closed() => return Ok(()),
                    ready = descriptor.readable() => {
                        ready?.clear_ready();
                        let heard = self.watcher.hear();
                        self.heard.absorb(heard);
                        false
                    }
                    () = sleep_until(recheck) => {
                        recheck = tokio::time::Instant::now() + RECHECK;
                        self.must_recheck()
                    }
                }
            } else {
                // Heard during the last look.
                false
            };
            if !self.heard.is_empty() {
                self.wait_for_quiet(&descriptor).await?;
            } else if !due {
                continue;
            }
            if let Some(change) = self.look(false)
                && changes.send(change).await.is_err()
            {
                return Ok(());
            }
        }
    }

    async fn wait_for_quiet(&mut self, descriptor: &AsyncFd<OwnedFd>) -> io::Result<()> {
        let begin = Instant::now();
        while let Some(left) = BURST.checked_sub(begin.elapsed()) {
            let Ok(ready) = timeout(QUIET.min(left), descriptor.readable()).await else {
                break;
            };
            ready?.clear_ready();
            let heard = self.watcher.hear();
            self.heard.absorb(heard);
        }
        Ok(())
    }
}

fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        unsafe_code,
        reason = "there is no safe way to register a descriptor any more"
    )]
    // SAFETY: an OwnedFd is open and answers with the same descriptor until it is dropped,
    // and nothing takes it out of the AsyncFd before.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(registered?)
}

fn identity(root: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(root)
        .ok()
        .map(|metadata| (metadata.dev(), metadata.ino()))
}

/// One look, with nobody to look again.
pub(super) fn once(root: &Path) -> io::Result<Change> {
    let begin = Instant::now();
    let mut manifests = Manifests::new(None);
    let mut before = walk(root, |_| {})?;
    loop {
        let patient = begin.elapsed() < PATIENCE;
        let busy = if patient { Busy::Wait } else { Busy::Read };
        let closed = BTreeSet::new();
        let look = Look {
            listing: &before,
            closed: &closed,
            first: true,
            busy,
            now: Instant::now(),
        };
        let whole = manifests.read(look);
        let after = walk(root, |_| {})?;
        let same = whole && !before.torn && before == after;
        if !patient || (same && !manifests.any_being_written()) {
            manifests.settle(look, true);
            return Ok(manifests.change().unwrap_or_default());
        }
        if !same {
            before = after;
        }
        std::thread::sleep(QUIET);
    }
}
