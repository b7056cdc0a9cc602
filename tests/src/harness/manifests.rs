//! The folder that the agent reads, and every way to change a file in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A folder of manifests.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    /// Makes an empty folder.
    pub fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Path of a file in it.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Writes one object and renames it into place: one change, seen whole.
    pub fn put(&self, file: &str, object: &Value) -> Result<()> {
        self.put_text(file, &serde_json::to_string_pretty(object)?)
    }

    /// Writes text and renames it into place.
    pub fn put_text(&self, file: &str, text: &str) -> Result<()> {
        let hidden = self.dir.join(format!(".{file}.new"));
        fs::write(&hidden, text).with_context(|| format!("writing {}", hidden.display()))?;
        fs::rename(&hidden, self.path(file)).with_context(|| format!("renaming {file} into place"))
    }

    /// Writes text to the file itself, open, written, closed.
    pub fn write_in_place(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.path(file), text).with_context(|| format!("writing {file}"))
    }

    /// Opens the file for writing, cuts it to nothing and writes the beginning of a text.
    /// Whoever holds what is returned has not closed the file yet.
    pub fn write_half(&self, file: &str, text: &str) -> Result<File> {
        let mut handle =
            File::create(self.path(file)).with_context(|| format!("opening {file}"))?;
        handle.write_all(text.as_bytes())?;
        handle.sync_data()?;
        Ok(handle)
    }

    /// Deletes the file.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.path(file)).with_context(|| format!("deleting {file}"))
    }

    /// Every file that the agent must read, by its path below the folder, with the SHA-256
    /// of its content in hexadecimal.
    pub fn digests(&self) -> Result<BTreeMap<String, String>> {
        let mut digests = BTreeMap::new();
        collect(&self.dir, "", &mut digests)?;
        Ok(digests)
    }
}

fn collect(dir: &Path, prefix: &str, digests: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = entry.path();
        let relative = format!("{prefix}{name}");
        if name.starts_with('.') {
        } else if path.is_dir() {
            collect(&path, &format!("{relative}/"), digests)?;
        } else if ["yaml", "yml", "json"]
            .iter()
            .any(|extension| path.extension().is_some_and(|have| have == *extension))
        {
            digests.insert(relative, hex(&Sha256::digest(fs::read(&path)?)));
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
