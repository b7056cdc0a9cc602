//! The archive that the kernel unpacks as its first file system: cpio's "newc" format.
//! Source: the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

/// `S_IFDIR | 0755`.
const FOLDER: u32 = 0o040_755;
/// `S_IFREG | 0755`: what is not a program is not hurt by being executable.
const FILE: u32 = 0o100_755;

/// An archive in the making.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    paths: BTreeSet<String>,
}

impl Archive {
    /// Adds a file at an absolute path, with the folders above it. The first of a path
    /// stays.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let slashes: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        for folder in slashes.into_iter().filter_map(|at| path.get(..at)) {
            if !folder.is_empty() && self.paths.insert(folder.to_owned()) {
                self.entry(folder, FOLDER, &[])?;
            }
        }
        if self.paths.insert(path.to_owned()) {
            self.entry(path, FILE, content)?;
        }
        Ok(())
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let name = path.trim_start_matches('/');
        let number = self
            .entries
            .checked_add(1)
            .context("too many files for an archive")?;
        self.entries = number;
        let length = u32::try_from(content.len())
            .with_context(|| format!("{path} is too large for an archive"))?;
        // With the zero byte behind it.
        let name_length = u32::try_from(name.len())
            .ok()
            .and_then(|length| length.checked_add(1))
            .with_context(|| format!("{path} is too long a name"))?;
        self.bytes.extend(b"070701");
        let owner = [0, 0];
        let links = 1;
        let time = 0;
        let devices = [0; 4];
        let checksum = 0;
        let fields = [number, mode]
            .into_iter()
            .chain(owner)
            .chain([links, time, length])
            .chain(devices)
            .chain([name_length, checksum]);
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
        Ok(())
    }

    /// Names with their header, and contents, end at a multiple of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_once_and_before_what_is_in_them() -> Result<()> {
        let mut archive = Archive::default();
        archive.file("/a/b/one", b"1")?;
        archive.file("/a/b/two", b"2")?;
        archive.file("/a/b/two", b"again")?;
        let bytes = archive.finish()?;
        let names: Vec<String> = String::from_utf8_lossy(&bytes)
            .split("070701")
            .filter_map(|entry| Some(entry.get(104..)?.split('\0').next()?.to_owned()))
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/one", "a/b/two", "TRAILER!!!"]);
        Ok(())
    }

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_reads_it() -> Result<()> {
        let mut archive = Archive::default();
        archive.file("/init", b"hello")?;
        let bytes = archive.finish()?;
        // Thirteen fields of eight digits behind the six of the magic number.
        let head = "070701\
            00000001000081ed0000000000000000000000010000000000000005\
            000000000000000000000000000000000000000500000000";
        assert_eq!(head.len(), 110);
        let mut entry = format!("{head}init\0").into_bytes();
        entry.resize(116, 0);
        entry.extend(b"hello\0\0\0");
        assert!(bytes.starts_with(&entry));
        assert!(bytes.len().is_multiple_of(4));
        Ok(())
    }
}
