//! Keeping our plugin where it is: CNIs write their configuration again when they restart, are
//! upgraded or reconfigured, and some whenever it is not as they wrote it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use inotify::{Inotify, WatchMask};

use super::{Done, Error, Installation};

/// From the first word of a change to the look: writers that write in place are done by then.
const SETTLE: Duration = Duration::from_millis(100);

/// Between repairs, for somebody who undoes each of them: from the first to the last, doubled each time.
const PAUSES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(1);

/// A folder that is not there or cannot be watched is looked at this often.
const WITHOUT_WATCH: Duration = Duration::from_secs(10);

/// Establishes an installation whenever somebody changes its folders, until it is removed.
#[derive(Clone, Debug)]
pub struct Keeper {
    /// `None` once it is removed: nothing is written any more.
    installation: Arc<Mutex<Option<Installation>>>,
}

impl Keeper {
    /// Establishes it now, and keeps it on a thread of its own.
    pub fn start(installation: Installation) -> io::Result<Self> {
        Self::paced(installation, PAUSES)
    }

    fn paced(installation: Installation, pauses: RangeInclusive<Duration>) -> io::Result<Self> {
        let keeper = Self {
            installation: Arc::new(Mutex::new(Some(installation))),
        };
        let kept = keeper.clone();
        thread::Builder::new()
            .name("cni-conf".to_owned())
            .spawn(move || kept.keep(&pauses))?;
        Ok(keeper)
    }

    /// Takes everything out, for good.
    pub fn remove(&self) -> Result<Done, Error> {
        // Whoever is at it finishes first, and nobody begins afterwards.
        let mut installation = self
            .installation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match installation.take() {
            Some(there) => there.remove(),
            None => Ok(Done::default()),
        }
    }

    fn keep(&self, pauses: &RangeInclusive<Duration>) {
        let mut last_error = String::new();
        let mut pause = *pauses.start();
        let mut repaired: Option<Instant> = None;
        loop {
            let (mut watch, complete) = self.watch();
            let Some(outcome) = self.establish() else {
                return;
            };
            match outcome {
                Ok(Done { network, changed }) => {
                    last_error.clear();
                    let again = !changed.is_empty();
                    for path in &changed {
                        tracing::info!(path = %path.display(), "CNI plugin: written or removed");
                    }
                    if again && network.is_none() {
                        tracing::warn!(
                            "no network is configured yet; the CNI plugin is chained when one is"
                        );
                    }
                    if again {
                        let undone = repaired.is_some_and(|last| last.elapsed() < 2 * pause);
                        pause = if undone {
                            (2 * pause).min(*pauses.end())
                        } else {
                            *pauses.start()
                        };
                        repaired = Some(Instant::now());
                    }
                }
                Err(error) => {
                    let text = super::super::chain(&error);
                    if text != last_error {
                        tracing::warn!(error = text, "pods start without waiting for the agent");
                        last_error = text;
                    }
                }
            }
            wait(watch.as_mut().filter(|_| complete));
            thread::sleep(SETTLE);
            if let Some(early) = repaired.and_then(|last| pause.checked_sub(last.elapsed())) {
                thread::sleep(early);
            }
        }
    }

    /// `None` once it is removed.
    fn establish(&self) -> Option<Result<Done, Error>> {
        let installation = self
            .installation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        installation.as_ref().map(Installation::establish)
    }

    /// Watches before looking: what changes after the look is heard. Whether both folders are.
    fn watch(&self) -> (Option<Inotify>, bool) {
        let installation = self
            .installation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(there) = installation.as_ref() else {
            return (None, false);
        };
        let Ok(inotify) = Inotify::init() else {
            return (None, false);
        };
        let folders: [&Path; 2] = [&there.conf_dir, &there.bin_dir];
        let watched = folders.iter().all(|folder| {
            let what = WatchMask::CLOSE_WRITE
                | WatchMask::MOVE
                | WatchMask::DELETE
                | WatchMask::DELETE_SELF
                | WatchMask::MOVE_SELF
                | WatchMask::ONLYDIR;
            // They will be made anyway, and cannot be watched before.
            fs::create_dir_all(folder).is_ok() && inotify.watches().add(folder, what).is_ok()
        });
        (Some(inotify), watched)
    }
}

/// Until somebody else than us changed something.
fn wait(watch: Option<&mut Inotify>) {
    let Some(watch) = watch else {
        thread::sleep(WITHOUT_WATCH);
        return;
    };
    let mut buffer = [0; 4096];
    loop {
        match watch.read_events_blocking(&mut buffer) {
            Ok(mut events) => {
                // Our own files on the way to their names.
                let ours = |name: Option<&OsStr>| {
                    name.and_then(OsStr::to_str)
                        .is_some_and(|name| name.ends_with("egress-agent-unfinished"))
                };
                if events.any(|event| !ours(event.name)) {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::debug!(%error, "the CNI folders are not watched");
                thread::sleep(WITHOUT_WATCH);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

    use super::super::conflist::Entry;
    use super::*;
    use crate::cni::PLUGIN;
    use crate::cni::spec::WhenAgentDown;

    fn until(what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_mins(1);
        while !holds() {
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn whatever_others_do_it_is_as_it_should_be_soon_after() {
        let folder = tempfile::tempdir().unwrap();
        let installation = Installation {
            bin_dir: folder.path().join("bin"),
            conf_dir: folder.path().join("net.d"),
            entry: Entry::new(Path::new("/run/x.sock"), WhenAgentDown::Start),
        };
        let (binary, conf) = (installation.binary(), installation.conf_dir.clone());
        // Each step below undoes a repair: with the product's pauses it would wait for a minute.
        let pauses = Duration::ZERO..=Duration::ZERO;
        let keeper = Keeper::paced(installation, pauses).unwrap();
        until("the folders are made", || binary.exists() && conf.exists());

        let net = conf.join("10-net.conflist");
        let own = conf.join("00-egress-agent.conflist");
        let text = |main: &str| {
            format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"{main}"}}]}}"#)
        };
        let follows = |main: &str| {
            fs::read_to_string(&own).is_ok_and(|text| text.contains(PLUGIN) && text.contains(main))
        };
        for main in ["ptp", "bridge"] {
            fs::write(&net, text(main)).unwrap();
            until("a written network is followed", || follows(main));
        }
        fs::remove_file(&own).unwrap();
        until("a list that somebody removed is there again", || {
            follows("bridge")
        });
        let first = conf.join("05-net.conflist");
        fs::write(folder.path().join("moved"), text("macvlan")).unwrap();
        fs::rename(folder.path().join("moved"), &first).unwrap();
        until("a network that comes first is followed", || {
            follows("macvlan")
        });
        fs::remove_file(&binary).unwrap();
        until("the binary is there again", || binary.exists());

        keeper.remove().unwrap();
        assert!(!own.exists() && !binary.exists());
        fs::write(&net, text("ptp")).unwrap();
        thread::sleep(Duration::from_millis(500));
        assert!(!own.exists() && !binary.exists(), "removed for good");
    }
}
