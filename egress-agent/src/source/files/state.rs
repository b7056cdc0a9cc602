//! The last good text of each file, kept for the next start.
//!
//! A restart on a broken file then still knows what the file had said. One file an entry,
//! written beside and renamed into place: whatever ends the agent, it is there whole or not
//! at all. Nothing waits for the disk: what a power cut leaves torn does not match its digest
//! and counts as absent, and the pins it would have explained are gone with the power, too.
//!
//! An entry is the file's path, a NUL, the SHA-256 of the text, and the text.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The folder with the texts.
#[derive(Clone, Debug)]
pub(super) struct State {
    dir: PathBuf,
}

/// Names of entries that are being written.
const UNFINISHED: &str = ".unfinished";

impl State {
    /// The texts in `dir`, which is made when the first one is kept.
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Where the texts are.
    pub(super) fn folder(&self) -> &Path {
        &self.dir
    }

    /// The text kept of a file, if there is one.
    pub(super) fn load(&self, file: &Path) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.entry(file)) {
            Ok(bytes) => Ok(split(&bytes)
                .filter(|(path, _)| *path == file)
                .map(|(_, text)| text.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the text kept of a file is this one, of this digest.
    pub(super) fn keeps(&self, file: &Path, text: &[u8], digest: &[u8; 32]) -> bool {
        let kept = fs::read(self.entry(file)).unwrap_or_default();
        let rest = kept.strip_prefix(file.as_os_str().as_bytes());
        let rest = rest.and_then(|rest| rest.strip_prefix(&[0])?.strip_prefix(digest));
        rest == Some(text)
    }

    /// Keeps the text of a file.
    pub(super) fn keep(&self, file: &Path, text: &[u8]) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        let unfinished = self.dir.join(UNFINISHED);
        let mut out = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        // A path has no NUL, so the first one ends it.
        let mut head = file.as_os_str().as_bytes().to_vec();
        head.push(0);
        head.extend_from_slice(&Sha256::digest(text));
        out.write_all(&head)?;
        out.write_all(text)?;
        drop(out);
        fs::rename(&unfinished, self.entry(file))
    }

    /// Forgets a file.
    pub(super) fn forget(&self, file: &Path) -> io::Result<()> {
        match fs::remove_file(self.entry(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The files whose text is kept, but for these.
    pub(super) fn files_but<'a>(
        &self,
        known: impl Iterator<Item = &'a Path>,
    ) -> io::Result<Vec<PathBuf>> {
        let known: BTreeSet<PathBuf> = known.map(|file| self.entry(file)).collect();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            // Folders are others'.
            if entry.file_type()?.is_dir()
                || path.file_name().is_some_and(|name| name == UNFINISHED)
                || known.contains(&path)
            {
                continue;
            }
            if let Some((file, _)) = split(&fs::read(&path)?)
                && self.entry(file) == path
            {
                files.push(file.to_owned());
            }
        }
        files.sort();
        Ok(files)
    }

    /// Where the text of a file is. The digest keeps paths apart and names short; the file's
    /// own name is for people.
    fn entry(&self, file: &Path) -> PathBuf {
        let digest = hex(&Sha256::digest(file.as_os_str().as_bytes()));
        let name: String = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') {
                    c
                } else {
                    '_'
                }
            })
            .take(100)
            .collect();
        self.dir.join(format!("{digest:.32}-{name}"))
    }
}

/// An entry's file and text, if it is whole.
fn split(bytes: &[u8]) -> Option<(&Path, &[u8])> {
    let nul = bytes.iter().position(|b| *b == 0)?;
    let (path, rest) = bytes.split_at(nul);
    let (digest, text) = rest.get(1..)?.split_at_checked(32)?;
    let whole = Sha256::digest(text).as_slice() == digest;
    whole.then(|| (Path::new(std::ffi::OsStr::from_bytes(path)), text))
}

/// Bytes in hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)])
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::iter;

    use super::*;

    #[test]
    fn a_text_that_is_kept_is_found_again_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(&dir.path().join("a/b"));
        let file = Path::new("/m/x.yaml");
        assert_eq!(state.load(file).unwrap(), None);
        let files = || state.files_but(iter::empty()).unwrap();
        assert!(files().is_empty());
        state.keep(file, b"one").unwrap();
        state.keep(file, b"two\0three").unwrap();
        state.keep(Path::new("/m/sub/x.yaml"), b"").unwrap();
        assert_eq!(
            State::new(&dir.path().join("a/b"))
                .load(file)
                .unwrap()
                .unwrap(),
            b"two\0three"
        );
        assert_eq!(
            state.load(Path::new("/m/sub/x.yaml")).unwrap().unwrap(),
            b""
        );
        assert_eq!(files(), [Path::new("/m/sub/x.yaml"), file]);
        let but = state.files_but([file].into_iter()).unwrap();
        assert_eq!(but, [Path::new("/m/sub/x.yaml")]);
        state.forget(file).unwrap();
        state.forget(file).unwrap();
        assert_eq!(state.load(file).unwrap(), None);
    }

    #[test]
    fn a_torn_entry_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path());
        let file = Path::new("/m/x.yaml");
        state.keep(file, b"some text").unwrap();
        let whole = fs::read(state.entry(file)).unwrap();
        let digest = Sha256::digest(b"some text").into();
        assert!(state.keeps(file, b"some text", &digest));
        assert!(!state.keeps(file, b"some tex", &digest));
        assert!(!state.keeps(file, b"some text", &[0; 32]));
        for length in 0..whole.len() {
            fs::write(state.entry(file), whole.get(..length).unwrap()).unwrap();
            assert_eq!(state.load(file).unwrap(), None);
            assert!(!state.keeps(file, b"some text", &digest));
            assert!(state.files_but(iter::empty()).unwrap().is_empty());
        }
    }

    #[test]
    fn names_that_are_long_or_strange_are_fine() {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path());
        let long = PathBuf::from(format!("/{}/{}", "d".repeat(200), "ü\n".repeat(80)));
        let strange = Path::new(std::ffi::OsStr::from_bytes(b"/m/\xff\n.yaml"));
        for file in [&long, strange] {
            state.keep(file, b"text").unwrap();
            assert_eq!(state.load(file).unwrap().unwrap(), b"text");
        }
    }

    #[test]
    fn a_state_that_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let state = State::new(&dir.path().join("file"));
        assert!(state.keep(Path::new("/m/x.yaml"), b"").is_err());
    }
}
