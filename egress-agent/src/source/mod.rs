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
mod memory;
mod salvage;
mod scalar;
mod state;
#[cfg(test)]
mod tests;
mod text;
mod walk;
mod watch;
mod yaml;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use egress_core::object::Problem;
use egress_core::store::Event;
use tokio::sync::mpsc;

use self::follow::Follower;
use self::state::State;
use crate::status;

/// Everything that is new since the last change, taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// What became of objects, at most one event for each, by key.
    pub events: Vec<Event>,
    /// Every file, as it stands now.
    pub sources: Vec<status::Source>,
    /// Everything that is wrong now.
    pub problems: Vec<SourceProblem>,
}

/// Something in a file, or a file, that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceProblem {
    /// The file, or a folder.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: Option<usize>,
    /// `KIND NS/NAME`; empty when it is about the file.
    pub object: String,
    /// The field, as a path; empty when it is about the whole.
    pub field: String,
    /// What is wrong and what follows from it, for a person.
    pub message: String,
}

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
        log(&Change::default(), &first);
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
        let last = Change {
            events: Vec::new(),
            ..first.clone()
        };
        Ok((
            Self {
                folder: root,
                changes,
                last,
                stopped: false,
            },
            first,
        ))
    }

    /// The next change. Cancel safe: a change is handed out or stays.
    pub async fn next(&mut self) -> Change {
        if let Some(change) = self.changes.recv().await {
            log(&self.last, &change);
            self.last = Change {
                events: Vec::new(),
                sources: change.sources.clone(),
                problems: change.problems.clone(),
            };
            return change;
        }
        if self.stopped {
            return std::future::pending().await;
        }
        self.stopped = true;
        let problem = Problem::new("", "changes are no longer followed; restart the agent");
        self.last
            .problems
            .push(SourceProblem::new(&self.folder, None, "", &problem));
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

/// Says once what was not wrong before.
fn log(before: &Change, now: &Change) {
    for problem in now
        .problems
        .iter()
        .filter(|problem| before.problems.binary_search(problem).is_err())
    {
        let SourceProblem {
            path,
            line,
            object,
            field,
            message,
        } = problem;
        tracing::warn!(file = %path.display(), line, object, field, "{message}");
    }
}

impl SourceProblem {
    fn new(path: &Path, line: Option<usize>, object: &str, problem: &Problem) -> Self {
        let Problem { field, message } = problem.clone();
        Self {
            path: path.to_owned(),
            line,
            object: object.to_owned(),
            field,
            message,
        }
    }
}

impl fmt::Display for SourceProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            object,
            field,
            message,
        } = self;
        write!(f, "{}", path.display())?;
        if let Some(line) = line {
            write!(f, ":{line}")?;
        }
        for part in [object, field, message] {
            if !part.is_empty() {
                write!(f, ": {part}")?;
            }
        }
        Ok(())
    }
}

impl From<&SourceProblem> for status::Problem {
    fn from(problem: &SourceProblem) -> Self {
        let SourceProblem {
            path,
            line,
            object,
            field,
            message,
        } = problem;
        let kind = if object.is_empty() {
            status::ProblemKind::File
        } else {
            status::ProblemKind::Object
        };
        Self {
            kind,
            object: object.clone(),
            field: Some(field.clone()).filter(|field| !field.is_empty()),
            file: Some(path.display().to_string()),
            line: line.and_then(|line| u32::try_from(line).ok()),
            message: message.clone(),
        }
    }
}
