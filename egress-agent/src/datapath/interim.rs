//! Interfaces of starting pods, whose hooks are filters until a thread has put links in their place.
//!
//! It holds the lock of all links while it waits for the kernel, and every CNI plugin wants that lock: so it
//! begins when a burst of starting pods is over, or soon enough for containers to find links in place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::error::AttachError;
use super::links::{self, Programs};
use crate::pods::HostInterface;

/// Where links could not take over from filters, and why.
pub(super) type Failed = Vec<(HostInterface, AttachError)>;

/// Without another starting pod for so long, a burst is over.
const LULL: Duration = Duration::from_millis(30);

/// No filter waits longer for the thread to begin. From the end of its network to a pod's first container it
/// takes a container runtime some hundred milliseconds.
const LONGEST: Duration = Duration::from_millis(100);

/// Between two looks at whether the thread is done.
const LOOK: Duration = Duration::from_millis(10);

/// What waits for links, and what gets them now.
pub(super) struct Interim {
    programs: Arc<Programs>,
    waiting: BTreeMap<u32, HostInterface>,
    /// When [`Interim::replace`] is to be called.
    due: Option<Instant>,
    /// When the first of those that wait began to.
    since: Option<Instant>,
    /// At work on these interfaces.
    thread: Option<(BTreeSet<u32>, JoinHandle<Failed>)>,
    failed: Failed,
}

impl Interim {
    pub(super) fn new(programs: Programs) -> Self {
        Self {
            programs: Arc::new(programs),
            waiting: BTreeMap::new(),
            due: None,
            since: None,
            thread: None,
            failed: Failed::new(),
        }
    }

    /// Filters hold the hooks of an interface.
    pub(super) fn add(&mut self, interface: &HostInterface, now: Instant) {
        self.waiting.insert(interface.index, interface.clone());
        let since = *self.since.get_or_insert(now);
        if self.thread.is_none() {
            self.due = Some((now + LULL).min(since + LONGEST));
        }
    }

    /// When [`Interim::replace`] is to be called; never while every hook is held for good.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Somebody else decides about an interface now. Waits for the thread while it is at work there.
    pub(super) fn leave(&mut self, index: u32) {
        self.waiting.remove(&index);
        if self
            .thread
            .as_ref()
            .is_some_and(|(interfaces, _)| interfaces.contains(&index))
        {
            self.finish();
        }
        self.failed.retain(|(failed, _)| failed.index != index);
    }

    /// Starts the thread for what waits, unless it is at work; does not wait for it. Returns what it did not
    /// manage before.
    pub(super) fn replace(&mut self, pins: PathBuf, now: Instant) -> Failed {
        self.due = Some(now + LOOK);
        if self
            .thread
            .as_ref()
            .is_some_and(|(_, thread)| !thread.is_finished())
        {
            return Failed::new();
        }
        self.finish();
        self.since = None;
        if self.waiting.is_empty() {
            self.due = None;
        } else {
            let waiting = std::mem::take(&mut self.waiting);
            let indexes = waiting.keys().copied().collect();
            let interfaces: Vec<_> = waiting.into_values().collect();
            let programs = Arc::clone(&self.programs);
            let thread =
                thread::spawn(move || links::replace_filters(&programs, &pins, &interfaces));
            self.thread = Some((indexes, thread));
        }
        std::mem::take(&mut self.failed)
    }

    fn finish(&mut self) {
        if let Some((_, thread)) = self.thread.take() {
            // One that panicked leaves filters, which hold as well.
            self.failed.extend(thread.join().unwrap_or_default());
        }
    }
}

/// Whoever takes everything away afterwards must not be overtaken by a pin.
impl Drop for Interim {
    fn drop(&mut self) {
        self.finish();
    }
}
