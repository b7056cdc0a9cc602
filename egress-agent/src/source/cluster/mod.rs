//! Objects from the API server: `run` without `--manifests`.
//!
//! ```text
//! connect ─Client→ follow ─Said→ mirror ─Change→ the agent's store
//!   (a task a kind)  session ┘     (one task)
//!                   item trim
//! ```
//!
//! * Each kind is listed once and then watched; nothing polls. What is not read of an object
//!   is never built (`trim`).
//! * What cannot be read closes, as in files: both use `egress_core::object::read`.
//! * Nothing is handed out before all kinds were seen whole (`mirror`). Afterwards a server that
//!   is gone changes nothing: what is known stays, and its age shows.

mod connect;
mod failure;
mod follow;
mod item;
mod mirror;
mod resource;
mod session;
mod trim;

use std::fmt;
use std::time::Duration;

use egress_core::object::Problem;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

pub use connect::{ConnectError, connect};

use self::follow::{Heard, follow};
use self::mirror::Mirror;
use self::resource::{KINDS, Resource};
use self::session::Said;
use super::{Change, Place, SourceProblem, memory};

/// What arrives within this time of each other is one change …
const QUIET: Duration = Duration::from_millis(1);

/// … unless it goes on for longer than this: of the 10 ms that a policy may take, the half.
const BURST: Duration = Duration::from_millis(5);

/// Objects that wait to be taken in; beyond it the server is read more slowly.
const BACKLOG: usize = 256;

/// The objects of a cluster, and every later change of them.
pub struct ClusterSource {
    client: Client,
    changes: mpsc::Receiver<Change>,
    /// As last handed out.
    last: Change,
    /// It was a large one.
    large: bool,
    stopped: bool,
    /// End with the source.
    _tasks: JoinSet<()>,
}

impl fmt::Debug for ClusterSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterSource")
            .field("unseen", &self.last.unseen)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

impl ClusterSource {
    /// Begins to ask, and says what is known: nothing yet.
    ///
    /// Must be called within a Tokio runtime.
    pub fn start(client: Client) -> (Self, Change) {
        let (said, heard) = mpsc::channel(BACKLOG);
        let (sender, changes) = mpsc::channel(1);
        let mut mirror = Mirror::new();
        let first = mirror.change().unwrap_or_default();
        let mut tasks = JoinSet::new();
        for kind in KINDS {
            tasks.spawn(follow(client.clone(), Resource::of(kind), said.clone()));
        }
        tasks.spawn(collect(mirror, heard, sender));
        let source = Self {
            client,
            changes,
            last: first.clone(),
            large: false,
            stopped: false,
            _tasks: tasks,
        };
        (source, first)
    }

    /// The next change. Cancel safe: a change is handed out or stays.
    pub async fn next(&mut self) -> Change {
        // Who asks for the next one is done with the last.
        if std::mem::take(&mut self.large) {
            memory::give_back();
        }
        if let Some(change) = self.changes.recv().await {
            change.log_since(&self.last);
            if change.unseen.is_empty() && !self.last.unseen.is_empty() {
                tracing::info!(objects = change.events.len(), "every kind was seen whole");
            }
            self.last = change.standing();
            self.large = change.events.len() >= memory::LARGE_CHANGE;
            return change;
        }
        if self.stopped {
            return std::future::pending().await;
        }
        // A task panicked: what is known stays, and it is said that it ages.
        self.stopped = true;
        let problem = Problem::new(
            "",
            "the API server is no longer followed; restart the agent",
        );
        let place = Place::Resource("watches");
        self.last
            .problems
            .push(SourceProblem::new(place, None, "", &problem));
        self.last.clone()
    }

    /// The client that the objects come through.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// Makes changes of what is heard, until either end is gone. While nobody takes one, what is
/// heard goes into the next.
async fn collect(
    mut mirror: Mirror,
    mut heard: mpsc::Receiver<Heard>,
    changes: mpsc::Sender<Change>,
) {
    while let Some((kind, said)) = heard.recv().await {
        let end = Instant::now() + BURST;
        let mut complete = said == Said::Complete;
        mirror.hear(kind, said, Timestamp::now());
        while let Ok(next) = timeout_at(end.min(Instant::now() + QUIET), heard.recv()).await {
            let Some((kind, said)) = next else {
                return;
            };
            complete |= said == Said::Complete;
            mirror.hear(kind, said, Timestamp::now());
        }
        let permit = loop {
            tokio::select! {
                permit = changes.reserve() => match permit {
                    Ok(permit) => break permit,
                    Err(_) => return,
                },
                Some((kind, said)) = heard.recv() => {
                    complete |= said == Said::Complete;
                    mirror.hear(kind, said, Timestamp::now());
                }
            }
        };
        if let Some(change) = mirror.change() {
            permit.send(change);
        }
        if complete {
            memory::give_back();
        }
    }
}
