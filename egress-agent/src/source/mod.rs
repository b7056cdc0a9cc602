//! Where objects come from: files, or the API server. Both say it in the same [`Change`]s.

pub mod cluster;
pub mod files;
mod memory;
mod share;

use std::fmt;
use std::path::{Path, PathBuf};

use egress_core::object::Problem;
use egress_core::store::Event;

pub use cluster::{ClusterSource, ConnectError};
pub use files::{LoadError, ManifestSource, load_once, state_folder};

use crate::status;

/// Which objects are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Those in the files below a folder.
    Manifests(PathBuf),
    /// Those of the cluster that the configuration names, or that this pod runs in.
    Cluster {
        /// `--kubeconfig`.
        kubeconfig: Option<PathBuf>,
    },
}

impl Origin {
    /// Finds out whom to ask; asks nothing yet. Must be called within a Tokio runtime.
    pub async fn resolve(&self) -> Result<Access, ConnectError> {
        match self {
            Self::Manifests(folder) => Ok(Access::Manifests(folder.clone())),
            Self::Cluster { kubeconfig } => {
                let (client, server) = cluster::connect(kubeconfig.as_deref()).await?;
                tracing::info!(%server, "objects come from the API server");
                Ok(Access::Cluster(client))
            }
        }
    }
}

/// How to get at the objects.
pub enum Access {
    /// In the files below a folder.
    Manifests(PathBuf),
    /// Through a client of the API server.
    Cluster(kube::Client),
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifests(folder) => f.debug_tuple("Manifests").field(folder).finish(),
            Self::Cluster(_) => f.debug_tuple("Cluster").finish_non_exhaustive(),
        }
    }
}

/// Objects, and every later change of them.
#[derive(Debug)]
pub enum Source {
    /// Below a folder.
    Manifests(ManifestSource),
    /// In the API server.
    Cluster(ClusterSource),
}

impl Source {
    /// Begins to follow, and says what is known at once: of files everything, of the API
    /// server nothing yet. In `state_dir` the last good text of each file is kept. Blocks
    /// while files are read; must be called within a Tokio runtime.
    pub fn open(access: Access, state_dir: &Path) -> Result<(Self, Change), LoadError> {
        match access {
            Access::Manifests(folder) => {
                let (source, first) = ManifestSource::load(&folder, Some(state_dir))?;
                Ok((Self::Manifests(source), first))
            }
            Access::Cluster(client) => {
                let (source, first) = ClusterSource::start(client);
                Ok((Self::Cluster(source), first))
            }
        }
    }

    /// The next change. Cancel safe: a change is handed out or stays.
    pub async fn next(&mut self) -> Change {
        match self {
            Self::Manifests(source) => source.next().await,
            Self::Cluster(source) => source.next().await,
        }
    }

    /// How to ask the API server for more, where objects come from there.
    pub fn client(&self) -> Option<&kube::Client> {
        match self {
            Self::Manifests(_) => None,
            Self::Cluster(source) => Some(source.client()),
        }
    }
}

/// Everything that is new since the last change, taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// What became of objects, at most one event for each, by key.
    pub events: Vec<Event>,
    /// Every file, or every kind, as it stands now.
    pub sources: Vec<status::Source>,
    /// Everything that is wrong now, sorted.
    pub problems: Vec<SourceProblem>,
    /// What was never seen whole, for people. Until this is empty there are no events, and
    /// nothing follows from what is missing: what is pinned stays as it is.
    pub unseen: Vec<String>,
}

impl Change {
    /// All but the events.
    fn standing(&self) -> Self {
        Self {
            events: Vec::new(),
            sources: self.sources.clone(),
            problems: self.problems.clone(),
            unseen: self.unseen.clone(),
        }
    }

    /// Says once what was not wrong before.
    fn log_since(&self, before: &Self) {
        for problem in self
            .problems
            .iter()
            .filter(|problem| before.problems.binary_search(problem).is_err())
        {
            let SourceProblem {
                place,
                line,
                object,
                field,
                message,
            } = problem;
            tracing::warn!(source = %place, line, object, field, "{message}");
        }
    }
}

/// Something that could not be read: of an object, or a whole file or kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceProblem {
    /// Where.
    pub place: Place,
    /// The line, from 1.
    pub line: Option<usize>,
    /// `KIND NS/NAME`; empty when it is about the whole file or kind.
    pub object: String,
    /// The field, as a path; empty when it is about the whole.
    pub field: String,
    /// What is wrong and what follows from it, for a person.
    pub message: String,
}

/// Where an object was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file; or it is about a folder.
    File(PathBuf),
    /// In the API server, by what the API calls the kind: `networkpolicies`.
    Resource(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Resource(resource) => f.write_str(resource),
        }
    }
}

impl SourceProblem {
    fn in_file(path: &Path, line: Option<usize>, object: &str, problem: &Problem) -> Self {
        Self::new(Place::File(path.to_owned()), line, object, problem)
    }

    fn new(place: Place, line: Option<usize>, object: &str, problem: &Problem) -> Self {
        let Problem { field, message } = problem.clone();
        Self {
            place,
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
            place,
            line,
            object,
            field,
            message,
        } = self;
        write!(f, "{place}")?;
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
            place,
            line,
            object,
            field,
            message,
        } = problem;
        let (whole, file, message) = match place {
            Place::File(path) => (
                status::ProblemKind::File,
                Some(path.display().to_string()),
                message.clone(),
            ),
            Place::Resource(resource) if object.is_empty() => (
                status::ProblemKind::Watch,
                None,
                format!("{resource}: {message}"),
            ),
            Place::Resource(_) => (status::ProblemKind::Watch, None, message.clone()),
        };
        Self {
            kind: if object.is_empty() {
                whole
            } else {
                status::ProblemKind::Object
            },
            object: object.clone(),
            field: Some(field.clone()).filter(|field| !field.is_empty()),
            file,
            line: line.and_then(|line| u32::try_from(line).ok()),
            message,
        }
    }
}
