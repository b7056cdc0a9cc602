//! Objects from files: `run --manifests DIR` and `check --manifests DIR`.
//!
//! ```text
//! watch ─heard→ follow ─Listing→ manifests ─Change→ the agent's store
//!                 walk ┘   lease ┘ text ┘ state
//! ```
//!
//! * A file counts when it is closed after writing or renamed into place; it is never read
//!   while somebody writes it (`lease`).
//! * A file that does not parse keeps the objects it had, over a restart too (`state`).
//!   Where nothing is known of it, what looks like a policy closes (`salvage`).
//! * One rename is one change, seen whole: names that move while the files are looked at
//!   make the look begin anew (`follow`).

mod follow;
mod json;
mod lease;
mod lines;
mod manifests;
mod salvage;
mod scalar;
mod state;
#[cfg(test)]
mod tests;
mod text;
mod walk;
mod watch;
mod yaml;

use std::io;
use std::path::{Path, PathBuf};

use egress_core::object::Problem;
use tokio::sync::mpsc;

use self::follow::Follower;
use self::state::State;
use super::{Change, SourceProblem, memory};

/// Why manifests cannot be followed at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder is not there, or is none.
    #[error("the folder {} cannot be read", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread, or no event loop on it.
    #[error("changes cannot be followed")]
    Thread(#[source] io::Error),
}

/// The objects in the files below a folder, and every later change of them.
#[derive(Debug)]
pub struct ManifestSource {
    folder: PathBuf,
    changes: mpsc::Receiver<Change>,
    /// Sources and problems as last handed out.
    last: Change,
    /// It was a large one.
    large: bool,
    stopped: bool,
}

impl ManifestSource {
    /// Reads everything below `folder` and begins to follow it. Blocks; needs no runtime.
    ///
    /// In `state_dir` the last good text of each file is kept, for the next start.
    pub fn load(folder: &Path, state_dir: Option<&Path>) -> Result<(Self, Change), LoadError> {
        let failed = |source| LoadError::Folder {
            path: folder.to_owned(),
            source,
        };
        // The path names kept texts: it must be the same whatever the working directory.
        let root = std::path::absolute(folder).map_err(failed)?;
        let (follower, first) =
            Follower::start(&root, state_dir.map(State::new)).map_err(failed)?;
        first.log_since(&Change::default());
        // A thread of its own: a large file takes seconds to parse, and packets wait for no one.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LoadError::Thread)?;
        // One change may wait; what comes meanwhile becomes one more.
        let (sender, changes) = mpsc::channel(1);
        let follow = move || {
            if let Err(error) = runtime.block_on(follower.run(sender)) {
                tracing::error!(%error, "manifests are no longer followed");
            }
        };
        std::thread::Builder::new()
            .name("manifests".to_owned())
            .spawn(follow)
            .map_err(LoadError::Thread)?;
        let last = first.standing();
        let large = first.events.len() >= memory::LARGE_CHANGE;
        Ok((
            Self {
                folder: root,
                changes,
                last,
                large,
                stopped: false,
            },
            first,
        ))
    }

    /// The next change. Cancel safe: a change is handed out or stays.
    pub async fn next(&mut self) -> Change {
        // Who asks for the next one is done with the last.
        if std::mem::take(&mut self.large) {
            memory::give_back();
        }
        if let Some(change) = self.changes.recv().await {
            change.log_since(&self.last);
            self.last = change.standing();
            self.large = change.events.len() >= memory::LARGE_CHANGE;
            return change;
        }
        if self.stopped {
            return std::future::pending().await;
        }
        self.stopped = true;
        let problem = Problem::new("", "changes are no longer followed; restart the agent");
        self.last
            .problems
            .push(SourceProblem::in_file(&self.folder, None, "", &problem));
        self.last.clone()
    }
}

/// Reads everything below a folder, once. Blocks.
pub fn load_once(folder: &Path) -> Result<Change, LoadError> {
    follow::once(folder).map_err(|source| LoadError::Folder {
        path: folder.to_owned(),
        source,
    })
}

/// Where the agent of a pin root keeps the last good texts, below `state_dir`.
pub fn state_folder(state_dir: &Path, pin_root: &Path) -> PathBuf {
    let mut name = String::new();
    for byte in pin_root.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' => name.push(char::from(*byte)),
            b'/' => name.push('-'),
            other => {
                name.push('%');
                name.push_str(&state::hex(&[*other]));
            }
        }
    }
    state_dir.join(name)
}
