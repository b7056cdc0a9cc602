//! When to look for pods again.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::netns::NAMED;

/// Look at least this often: paths outside of the watched folders, and what changes
/// inside a pod's namespace, send no word. Half of the second within which a change must be followed.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// From the first word of a change to the look. `ip netns add` makes the file first and
/// mounts the namespace on it a few microseconds later, silently.
const SETTLE: Duration = Duration::from_millis(10);

/// Between two looks: while hundreds of pods start, one look follows many of them.
const GAP: Duration = Duration::from_millis(50);

/// The bit of `RTNLGRP_LINK`: links of our namespace come, go and change. Source:
/// `linux/rtnetlink.h`.
const RTMGRP_LINK: u32 = 1;

/// Neighbours and routes of both families, forwarding tables among the former.
const RTMGRP_WAYS: u32 = 0x4 | 0x40 | 0x400;

/// How much is read in one go; what is left over causes the next look.
const DRAIN: usize = 1024;

/// Tells when pods' namespaces or interfaces may have changed.
#[derive(Debug)]
pub struct Changes {
    names: Option<AsyncFd<OwnedFd>>,
    links: Option<AsyncFd<OwnedFd>>,
    /// Routes and neighbours, while somebody is looked for by them.
    ways: Option<AsyncFd<OwnedFd>>,
    /// Where libcni keeps its results.
    cni_cache: Option<PathBuf>,
    /// From one look to the next at the latest.
    tick: Duration,
    looked: Instant,
    due: Option<Instant>,
}

impl Changes {
    /// Watches the folders of named namespaces, the folder where libcni keeps its results, and
    /// the links of the calling thread's network namespace. Must be called within a tokio
    /// runtime.
    pub fn new(cni_cache: Option<&Path>) -> io::Result<Self> {
        Self::with_tick(cni_cache, TICK)
    }

    pub(super) fn with_tick(cni_cache: Option<&Path>, tick: Duration) -> io::Result<Self> {
        let names = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let changes = Self {
            names: Some(register(names)?),
            links: Some(listen(RTMGRP_LINK)?),
            ways: None,
            cni_cache: cni_cache.map(Path::to_owned),
            tick,
            looked: Instant::now(),
            due: None,
        };
        changes.watch_folders();
        Ok(changes)
    }

    /// Whether a pod is looked for whose interface only routes and neighbours can tell. They
    /// change all the time, and are listened to only then.
    pub fn search(&mut self, searching: bool) {
        if !searching {
            self.ways = None;
        } else if self.ways.is_none() {
            match listen(RTMGRP_WAYS) {
                Ok(ways) => self.ways = Some(ways),
                Err(error) => {
                    tracing::debug!(%error, "routes are not listened to, looked at every half second");
                }
            }
        }
    }

    /// Resolves when something may have changed, and at least every half second.
    ///
    /// May be dropped and called anew without losing a change.
    pub async fn changed(&mut self) {
        if self.due.is_none() {
            tokio::select! {
                () = readable(self.names.as_ref()) => {}
                () = readable(self.links.as_ref()) => {}
                () = readable(self.ways.as_ref()) => {}
                () = sleep_until(self.looked + self.tick - SETTLE) => {}
            }
            self.due = Some((Instant::now() + SETTLE).max(self.looked + GAP));
        }
        if let Some(due) = self.due {
            sleep_until(due).await;
        }
        // What comes after this belongs to the next look.
        drain(&mut self.names);
        drain(&mut self.links);
        drain(&mut self.ways);
        self.watch_folders();
        self.due = None;
        self.looked = Instant::now();
    }

    /// `ip netns` makes its folder when it is first used, and anybody may remove it: before each look, which
    /// sees what was there before. Watching what is watched changes nothing.
    fn watch_folders(&self) {
        let Some(names) = &self.names else { return };
        let what = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVE
            | inotify::WatchFlags::ONLYDIR;
        let results = self.cni_cache.as_deref().map(|folder| {
            // libcni writes in place.
            (folder, what | inotify::WatchFlags::CLOSE_WRITE)
        });
        let named = NAMED.iter().map(|folder| (Path::new(folder), what));
        for (folder, what) in named.chain(results) {
            match inotify::add_watch(names, folder, what) {
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => {
                    tracing::debug!(folder = %folder.display(), %error, "not watched, looked at every half second");
                }
            }
        }
    }
}

/// A socket that is told of changes of these groups.
fn listen(groups: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None, // NETLINK_ROUTE
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    register(socket)
}

#[expect(
    unsafe_code,
    reason = "tokio offers no safe way to register a file descriptor"
)]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and stays the same descriptor until it is dropped, and
    // nothing here takes it out of the AsyncFd.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(registered?)
}

/// Waits for `source`, forever when there is none.
async fn readable(source: Option<&AsyncFd<OwnedFd>>) {
    match source {
        // An error is seen again, and reported, by the one who reads.
        Some(source) => drop(source.readable().await),
        None => std::future::pending().await,
    }
}

/// Reads what is there; what it says does not matter, a look sees everything. A source
/// that fails is given up: looking at every tick remains.
fn drain(slot: &mut Option<AsyncFd<OwnedFd>>) {
    let Some(source) = slot else { return };
    for _ in 0..DRAIN {
        let read = source.try_io(Interest::READABLE, |fd| {
            Ok(rustix::io::read(fd, &mut [0; 4096])?)
        });
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // More changed than the socket could hold; the next read goes on after it.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!(%error, "no longer told of changes, pods are looked at every half second");
                *slot = None;
                return;
            }
        }
    }
}
