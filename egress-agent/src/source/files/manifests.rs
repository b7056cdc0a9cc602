//! All files together: which objects there are, and how they stand.
//!
//! Each file is held with the last text of it that parsed. Where that is unknown, what the
//! present text may hold is closed ([`super::salvage`]). Equal objects in several places are
//! one; different objects of one kind and name are merged into what closes for all (S96).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use egress_core::object::{Key, Object, Problem};
use egress_core::store::Event;
use sha2::{Digest as _, Sha256};

use super::state::{State, hex};
use super::text::{self, Contents, Held};
use super::walk::{Found, Listing, Stamp};
use super::yaml::Error;
use super::{Change, SourceProblem, lease};
use crate::source::memory;
use crate::source::share::Shared;
use crate::status::{FileSource, Source, SourceState};

/// Where nothing tells whether a writer is done, a text counts that did not change for this
/// long; and a file that others are renamed around is gone when it was missing this long.
const SETTLED: Duration = Duration::from_secs(1);

/// Everything known of the files below one folder.
#[derive(Debug)]
pub(super) struct Manifests {
    state: Option<State>,
    files: BTreeMap<PathBuf, File>,
    /// Who says what of each object.
    told: BTreeMap<Key, Told>,
    shared: Shared,
    conflicts: BTreeMap<Key, Vec<SourceProblem>>,
    /// Objects of which something else may have to be said.
    touched: BTreeSet<Key>,
    /// Of the folder, and of what is in it and is no file.
    folders: Vec<SourceProblem>,
    /// Texts that could not be kept.
    unkept: BTreeMap<PathBuf, SourceProblem>,
    /// Sources and problems as last published.
    reported: (Vec<Source>, Vec<SourceProblem>),
    again: bool,
}

/// What is said of one object.
#[derive(Debug, Default)]
struct Told {
    /// By file, and in its order. Nearly always one.
    held: Vec<(Arc<Path>, Held)>,
    /// What was last said to others.
    published: Option<Object>,
}

/// One file.
#[derive(Debug, Default)]
struct File {
    /// Of the text last read; `None`: read it at the next look.
    stamp: Option<Stamp>,
    /// A text of which nobody said that it is whole, and since when it is there.
    unsure: Option<(Stamp, Instant)>,
    /// SHA-256 of the text last read.
    read: Option<[u8; 32]>,
    /// SHA-256 of the text that counts.
    counts: Option<[u8; 32]>,
    /// The objects are of a text that parsed.
    good: bool,
    objects: Vec<Held>,
    problems: Vec<SourceProblem>,
    /// Why the text last read does not parse.
    broken: Option<Error>,
    access: Access,
    /// Since when it is missing, while that may be the half of a rename.
    missing: Option<Instant>,
}

/// Whether a file can be read.
#[derive(Debug, Default, PartialEq, Eq)]
enum Access {
    #[default]
    Read,
    BeingWritten,
    Failed(String),
}

/// What to do with a file that somebody has open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Busy {
    /// It does not count yet.
    Wait,
    /// Nobody will look again: what is there is better than nothing.
    Read,
}

/// One look at the files that a listing names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    /// What was found.
    pub(super) listing: &'a Listing,
    /// Files that were closed after writing, or renamed into place, since the last look.
    pub(super) closed: &'a BTreeSet<PathBuf>,
    /// The first look of all: there is nothing else to go by.
    pub(super) first: bool,
    /// What of files being written.
    pub(super) busy: Busy,
    /// When.
    pub(super) now: Instant,
}

impl Manifests {
    /// Nothing known yet.
    pub(super) fn new(state: Option<State>) -> Self {
        Self {
            state,
            files: BTreeMap::new(),
            told: BTreeMap::new(),
            shared: Shared::default(),
            conflicts: BTreeMap::new(),
            touched: BTreeSet::new(),
            folders: Vec::new(),
            unkept: BTreeMap::new(),
            reported: (Vec::new(), Vec::new()),
            again: false,
        }
    }

    /// Something may be different soon although nobody will say so.
    pub(super) fn look_again(&self) -> bool {
        self.again
    }

    /// Some file is open for writing.
    pub(super) fn any_being_written(&self) -> bool {
        self.files
            .values()
            .any(|file| file.access == Access::BeingWritten)
    }

    /// Events were lost: every file may be another one.
    pub(super) fn distrust(&mut self) {
        self.files.values_mut().for_each(|file| file.stamp = None);
    }

    /// The folder cannot be looked at. What was known stays.
    pub(super) fn folder_gone(&mut self, folder: &Path, error: &std::io::Error) {
        let problem = Problem::new(
            "",
            format!("the folder cannot be read ({error}); what its files had said stays"),
        );
        self.folders = vec![SourceProblem::in_file(folder, None, "", &problem)];
        self.again = true;
    }

    /// Reads what is new. False when a file vanished meanwhile, so that the listing is no
    /// longer true.
    pub(super) fn read(&mut self, look: Look<'_>) -> bool {
        self.again = look.listing.links;
        let mut whole = true;
        for (path, found) in &look.listing.files {
            whole &= self.read_file(path, *found, look);
        }
        whole
    }

    /// Ends a look: what is not listed is gone, unless it cannot be known.
    ///
    /// `quiet`: nothing was renamed or removed while the listing was made. Otherwise a file
    /// may be missing from it only because it was on its way, and is kept for a while.
    pub(super) fn settle(&mut self, look: Look<'_>, quiet: bool) {
        let Listing {
            files, unreadable, ..
        } = look.listing;
        self.folders = unreadable
            .iter()
            .map(|(path, error)| {
                let problem = Problem::new(
                    "",
                    format!("cannot be read ({error}); what the files there had said stays"),
                );
                SourceProblem::in_file(path, None, "", &problem)
            })
            .collect();
        self.again |= !unreadable.is_empty();
        if look.first {
            self.adopt_state(look.listing);
        }
        // Every file that is listed is in `files` since it was read.
        let missing: Vec<PathBuf> = if self.files.len() == files.len() {
            Vec::new()
        } else {
            let gone = self.files.keys().filter(|path| !files.contains_key(*path));
            gone.cloned().collect()
        };
        for path in missing {
            let Some(file) = self.files.get_mut(&path) else {
                continue;
            };
            if let Some(error) = path.ancestors().find_map(|above| unreadable.get(above)) {
                file.access = Access::Failed(error.clone());
                file.stamp = None;
                continue;
            }
            let since = *file.missing.get_or_insert(look.now);
            if quiet || look.now.duration_since(since) >= SETTLED {
                self.forget(&path);
            } else {
                self.again = true;
            }
        }
    }

    /// The difference to what was said before, if there is one.
    pub(super) fn change(&mut self) -> Option<Change> {
        let touched = std::mem::take(&mut self.touched);
        let events: Vec<Event> = touched
            .into_iter()
            .filter_map(|key| self.event(key))
            .collect();
        let sources: Vec<Source> = self
            .files
            .iter()
            .map(|(path, file)| file.source(path))
            .collect();
        let mut problems: Vec<SourceProblem> = self
            .folders
            .iter()
            .chain(self.unkept.values())
            .chain(self.files.values().flat_map(|file| &file.problems))
            .chain(self.conflicts.values().flatten())
            .cloned()
            .chain(
                self.files
                    .iter()
                    .filter_map(|(path, file)| file.problem(path)),
            )
            .collect();
        problems.sort();
        if events.is_empty() && self.reported.0 == sources && self.reported.1 == problems {
            return None;
        }
        self.reported = (sources.clone(), problems.clone());
        Some(Change {
            events,
            sources,
            problems,
            unseen: Vec::new(),
        })
    }

    /// False when it vanished.
    fn read_file(&mut self, path: &Path, found: Found, look: Look<'_>) -> bool {
        let closed = look.closed.contains(path);
        if !self.files.contains_key(path) {
            self.files.insert(path.to_owned(), File::default());
        }
        let Some(file) = self.files.get_mut(path) else {
            return true;
        };
        file.missing = None;
        if file.stamp == Some(found.stamp) && !closed {
            return true;
        }
        file.stamp = None;
        let read = match lease::read(path) {
            Ok(lease::Read::BeingWritten) if look.busy == Busy::Read => lease::read_without(path),
            read => read,
        };
        match read {
            Ok(lease::Read::Bytes {
                bytes,
                metadata,
                leased,
            }) => {
                let stamp = Stamp::from(&*metadata);
                if !leased && !closed && !look.first && !file.sure(stamp, look.now) {
                    self.again = true;
                    return true;
                }
                file.access = Access::Read;
                file.unsure = None;
                // Nobody reports a write behind a link, and two within one tick of the file
                // system's clock look like one: such a text is read once more.
                if found.link && stamp.is_recent() {
                    self.again = true;
                } else {
                    file.stamp = Some(stamp);
                }
                self.text(path, &bytes);
            }
            Ok(lease::Read::BeingWritten) => self.inaccessible(path, Access::BeingWritten),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return false,
            Err(error) => self.inaccessible(path, Access::Failed(error.to_string())),
        }
        true
    }

    /// Takes in a file's text.
    fn text(&mut self, path: &Path, bytes: &[u8]) {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let Some(file) = self.files.get_mut(path) else {
            return;
        };
        if file.read == Some(digest) {
            return;
        }
        let new = file.read.replace(digest).is_none();
        match text::whole(path, bytes, &mut self.shared) {
            Ok(contents) => {
                file.good = true;
                file.broken = None;
                file.counts = Some(digest);
                self.set(path, contents);
                self.keep(path, bytes, &digest, new);
            }
            Err(error) => {
                file.broken = Some(error);
                if !file.good && !self.recall(path) {
                    self.salvage(path, bytes, digest);
                }
            }
        }
        memory::give_back_after(bytes.len());
    }

    /// Uses what can be used of a text that does not parse. Until one does, nothing that
    /// the file was seen to say goes away.
    fn salvage(&mut self, path: &Path, bytes: &[u8], digest: [u8; 32]) {
        let mut contents = text::parts(path, bytes, &mut self.shared);
        let Some(file) = self.files.get_mut(path) else {
            return;
        };
        let keys: BTreeSet<Key> = contents
            .objects
            .iter()
            .map(|held| held.object.key())
            .collect();
        contents.objects.extend(
            file.objects
                .iter()
                .filter(|held| !keys.contains(&held.object.key()))
                .cloned(),
        );
        file.counts = Some(digest);
        self.set(path, contents);
    }

    fn inaccessible(&mut self, path: &Path, access: Access) {
        self.again = true;
        let Some(file) = self.files.get_mut(path) else {
            return;
        };
        file.access = access;
        if !file.good {
            self.recall(path);
        }
    }

    /// Takes what an earlier run kept of a file.
    fn recall(&mut self, path: &Path) -> bool {
        let Some(state) = &self.state else {
            return false;
        };
        let bytes = match state.load(path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return false,
            Err(error) => {
                self.unkept.insert(path.to_owned(), unkept(path, &error));
                return false;
            }
        };
        let Ok(contents) = text::whole(path, &bytes, &mut self.shared) else {
            return false;
        };
        let Some(file) = self.files.get_mut(path) else {
            return false;
        };
        file.good = true;
        file.counts = Some(Sha256::digest(&bytes).into());
        self.set(path, contents);
        true
    }

    fn keep(&mut self, path: &Path, bytes: &[u8], digest: &[u8; 32], new: bool) {
        let Some(state) = &self.state else { return };
        if new && state.keeps(path, bytes, digest) {
            return;
        }
        match state.keep(path, bytes) {
            Ok(()) => self.unkept.remove(path),
            Err(error) => self.unkept.insert(path.to_owned(), unkept(path, &error)),
        };
    }

    /// Of the files of which a text is kept, those that are gone are forgotten, and those
    /// that cannot be looked at say what they had said.
    fn adopt_state(&mut self, listing: &Listing) {
        let Some(state) = &self.state else { return };
        let kept = match state.files_but(self.files.keys().map(PathBuf::as_path)) {
            Ok(kept) => kept,
            Err(error) => {
                let problem = unkept(state.folder(), &error);
                self.unkept.insert(state.folder().to_owned(), problem);
                return;
            }
        };
        for path in kept {
            if path
                .ancestors()
                .any(|above| listing.unreadable.contains_key(above))
            {
                self.files.insert(path.clone(), File::default());
                self.recall(&path);
            } else {
                self.forget(&path);
            }
        }
    }

    fn forget(&mut self, path: &Path) {
        self.set(path, Contents::default());
        self.files.remove(path);
        self.unkept.remove(path);
        if let Some(Err(error)) = self.state.as_ref().map(|state| state.forget(path)) {
            tracing::warn!(file = %path.display(), %error, "the kept text of a file that is gone cannot be removed");
        }
    }

    /// Replaces what a file says.
    fn set(&mut self, path: &Path, contents: Contents) {
        let Some(file) = self.files.get_mut(path) else {
            return;
        };
        let Contents {
            mut objects,
            problems,
        } = contents;
        objects.shrink_to_fit();
        file.problems = problems;
        for held in std::mem::replace(&mut file.objects, objects) {
            let key = held.object.key();
            if let Some(told) = self.told.get_mut(&key) {
                told.held.retain(|(by, _)| **by != *path);
            }
            self.touched.insert(key);
        }
        let path: Arc<Path> = path.into();
        for held in &file.objects {
            let key = held.object.key();
            let told = self.told.entry(key.clone()).or_default();
            let place = told.held.partition_point(|(by, _)| *by <= path);
            told.held.reserve_exact(1);
            told.held.insert(place, (Arc::clone(&path), held.clone()));
            self.touched.insert(key);
        }
    }

    /// What is new of one object.
    fn event(&mut self, key: Key) -> Option<Event> {
        self.conflicts.remove(&key);
        let told = self.told.get_mut(&key)?;
        let mut different: Vec<&Object> = Vec::new();
        for (_, held) in &told.held {
            if !different.contains(&&held.object) {
                different.push(&held.object);
            }
        }
        let object = match different.as_slice() {
            [] => {
                self.told.remove(&key)?.published?;
                return Some(Event::Deleted(key));
            }
            [one] => Object::clone(one),
            [first, others @ ..] => {
                let problems = conflict(&key, &told.held);
                self.conflicts.insert(key, problems);
                others.iter().fold(Object::clone(first), |merged, other| {
                    merged.merge_conflict(other)
                })
            }
        };
        if told.published.as_ref() == Some(&object) {
            return None;
        }
        told.published = Some(object.clone());
        Some(Event::Applied(object))
    }
}

impl File {
    /// The text is as it was long enough.
    fn sure(&mut self, stamp: Stamp, now: Instant) -> bool {
        match self.unsure {
            Some((seen, since)) if seen == stamp => now.duration_since(since) >= SETTLED,
            _ => {
                self.unsure = Some((stamp, now));
                false
            }
        }
    }

    fn source(&self, path: &Path) -> Source {
        let kept = |good| {
            if good {
                SourceState::Kept
            } else {
                SourceState::Unreadable
            }
        };
        let (state, error) = match (&self.access, &self.broken) {
            (Access::BeingWritten, _) => (
                SourceState::BeingWritten,
                Some("somebody has it open for writing".to_owned()),
            ),
            (Access::Failed(error), _) => (kept(self.good), Some(error.clone())),
            (Access::Read, Some(error)) => (kept(self.good), Some(error.to_string())),
            (Access::Read, None) if self.read.is_none() => (SourceState::BeingWritten, None),
            (Access::Read, None) => (SourceState::Read, None),
        };
        Source::File(FileSource {
            path: path.display().to_string(),
            sha256: self.counts.map(|digest| hex(&digest)),
            state,
            error,
        })
    }

    /// What is wrong with the file as a whole. Being written is nothing wrong.
    fn problem(&self, path: &Path) -> Option<SourceProblem> {
        let consequence = if self.good {
            "what it had said stays"
        } else {
            "nothing better is known of it"
        };
        let (line, message) = match (&self.access, &self.broken) {
            (Access::Failed(error), _) => {
                (None, format!("cannot be read ({error}); {consequence}"))
            }
            (_, Some(error)) => (
                error.line,
                format!("does not parse ({}); {consequence}", error.message),
            ),
            (_, None) => return None,
        };
        Some(SourceProblem::in_file(
            path,
            line,
            "",
            &Problem::new("", message),
        ))
    }
}

fn unkept(path: &Path, error: &std::io::Error) -> SourceProblem {
    let message = format!("the last good text cannot be kept for a restart ({error})");
    SourceProblem::in_file(path, None, "", &Problem::new("", message))
}

/// One report for each place, naming the others.
fn conflict(key: &Key, held: &[(Arc<Path>, Held)]) -> Vec<SourceProblem> {
    let label = format!("{} {}", key.kind, key.name);
    let places: Vec<(&Path, usize)> = held
        .iter()
        .map(|(path, held)| (&**path, held.line))
        .collect();
    let report = |(index, (path, line)): (usize, &(&Path, usize))| {
        let others: Vec<String> = places
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index)
            .take(10)
            .map(|(_, (path, line))| format!("{}:{line}", path.display()))
            .collect();
        let message = format!(
            "there are different objects of this name, also at {}; what any of them closes is closed",
            others.join(", ")
        );
        SourceProblem::in_file(
            path,
            Some(*line),
            &label,
            &Problem::new("metadata.name", message),
        )
    };
    places.iter().enumerate().map(report).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn where_there_are_no_leases_a_text_counts_that_stays_the_same_for_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let stamp = |text: &str| {
            let path = dir.path().join("f");
            std::fs::write(&path, text).unwrap();
            Stamp::from(&std::fs::metadata(path).unwrap())
        };
        let (one, two) = (stamp("1"), stamp("22"));
        let begin = Instant::now();
        let after = |millis| begin + Duration::from_millis(millis);
        let mut file = File::default();
        assert!(!file.sure(one, after(0)));
        assert!(!file.sure(one, after(500)));
        assert!(!file.sure(two, after(900)), "it grew");
        assert!(!file.sure(two, after(1_800)));
        assert!(file.sure(two, after(1_900)));
    }

    #[test]
    fn a_file_missing_while_names_move_is_kept_for_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n").unwrap();
        let full = super::super::walk::walk(dir.path(), |_| {}).unwrap();
        let (empty, closed, begin) = (Listing::default(), BTreeSet::new(), Instant::now());
        let mut manifests = Manifests::new(None);
        let mut settle = |listing: &Listing, millis, quiet| {
            let now = begin + Duration::from_millis(millis);
            let look = Look {
                listing,
                closed: &closed,
                first: false,
                busy: Busy::Wait,
                now,
            };
            manifests.read(look);
            manifests.settle(look, quiet);
            manifests
                .change()
                .is_some_and(|change| !change.events.is_empty())
        };
        assert!(settle(&full, 0, true));
        assert!(!settle(&empty, 100, false));
        assert!(!settle(&full, 900, false), "there it is");
        assert!(!settle(&empty, 1_000, false));
        assert!(!settle(&empty, 1_900, false));
        assert!(settle(&empty, 2_000, false), "it is gone");
        assert!(settle(&full, 2_100, true));
        assert!(
            settle(&empty, 2_200, true),
            "nothing moved: it is gone at once"
        );
    }
}
