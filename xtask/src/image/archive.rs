//! A container image as a file, made without a daemon: the format of `docker save`, which
//! `docker load`, `ctr images import` and `kind load image-archive` read.
//!
//! The same content gives the same bytes, and so the same image id, on every machine: entries
//! come in order of their paths, times are zero, everything belongs to uid and gid 0.
//!
//! Source: the Docker Image Specification v1.2 ("Combined Image JSON + Filesystem Changeset
//! Format"), the OCI image configuration, and POSIX.1-2001's ustar.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::target::Architecture;

/// `NAME:TAG`. Whether the name is one that a registry takes is left to who imports it; here
/// it only must not be taken for another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference(String);

impl FromStr for Reference {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, tag) = text
            .rsplit_once(':')
            .filter(|(_, tag)| !tag.contains('/'))
            .with_context(|| format!("{text:?} has no tag: NAME:TAG is wanted"))?;
        let word = |text: &str, more: &str| {
            text.starts_with(|first: char| first.is_ascii_alphanumeric())
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        ensure!(
            word(name, "._-/:") && word(tag, "._-"),
            "{text:?} is no NAME:TAG of an image"
        );
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is at a path.
#[derive(Clone, Debug)]
enum Entry {
    Folder,
    /// Readable and executable by all: what is not a program is not hurt by it.
    Program(Vec<u8>),
}

/// An image in the making, from scratch: one layer, run as root.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    architecture: Architecture,
    entrypoint: Vec<String>,
    labels: BTreeMap<String, String>,
    /// By path without the leading slash.
    entries: BTreeMap<String, Entry>,
}

impl Image {
    /// An empty one that starts this command.
    pub(crate) fn new(architecture: Architecture, entrypoint: &[&str]) -> Self {
        Self {
            architecture,
            entrypoint: entrypoint.iter().map(ToString::to_string).collect(),
            labels: BTreeMap::new(),
            entries: BTreeMap::new(),
        }
    }

    /// Adds an executable file at an absolute path.
    pub(crate) fn program(&mut self, path: &str, content: Vec<u8>) -> Result<&mut Self> {
        self.add(path, Entry::Program(content))
    }

    /// Sets a label, by convention one of `org.opencontainers.image.…`.
    pub(crate) fn label(&mut self, name: &str, value: &str) -> &mut Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Writes the archive, whole or not at all, and returns the image's id.
    pub(crate) fn write(&self, reference: &Reference, output: &Path) -> Result<String> {
        let (id, bytes) = self.archive(reference)?;
        let mut partial = output.as_os_str().to_owned();
        partial.push(".partial");
        let partial = Path::new(&partial);
        fs::write(partial, bytes)
            .and_then(|()| fs::rename(partial, output))
            .with_context(|| format!("writing {}", output.display()))?;
        Ok(id)
    }

    fn add(&mut self, path: &str, entry: Entry) -> Result<&mut Self> {
        let name = path
            .strip_prefix('/')
            .filter(|name| !name.is_empty() && !name.split('/').any(|part| part == ".."))
            .with_context(|| format!("{path:?} is no absolute path of a file"))?;
        for (at, _) in name.match_indices('/') {
            let folder = name.get(..at).unwrap_or_default();
            let there = self
                .entries
                .entry(folder.to_owned())
                .or_insert(Entry::Folder);
            ensure!(
                matches!(there, Entry::Folder),
                "/{folder} is no folder, and {path} would be in it"
            );
        }
        let before = self.entries.insert(name.to_owned(), entry);
        ensure!(before.is_none(), "{path} is in the image twice");
        Ok(self)
    }

    /// The id, which is the digest of the configuration, and the archive.
    fn archive(&self, reference: &Reference) -> Result<(String, Vec<u8>)> {
        let layer = self.layer().context("making the layer")?;
        let layer_digest = digest(&layer)?;
        let Self {
            architecture,
            entrypoint,
            labels,
            entries: _,
        } = self;
        let config = json!({
            "architecture": architecture.to_string(),
            "os": "linux",
            "created": EPOCH,
            "config": {
                "User": "0:0",
                "WorkingDir": "/",
                "Entrypoint": entrypoint,
                "Env": ["PATH=/:/bin"],
                "Labels": labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
            "history": [{ "created": EPOCH, "created_by": "cargo xtask image" }],
        });
        let config = serde_json::to_vec(&config)?;
        let id = digest(&config)?;
        let (config_name, layer_name) = (format!("{id}.json"), format!("{layer_digest}.tar"));
        let manifest = json!([{
            "Config": config_name,
            "RepoTags": [reference.to_string()],
            "Layers": [layer_name],
        }]);

        let mut archive = Builder::new(Vec::new());
        let files = [
            (config_name.as_str(), config),
            (layer_name.as_str(), layer),
            ("manifest.json", serde_json::to_vec(&manifest)?),
        ];
        for (name, content) in files {
            append(&mut archive, name, EntryType::Regular, 0o644, &content)
                .with_context(|| format!("adding {name} to the archive"))?;
        }
        let bytes = archive.into_inner().context("closing the archive")?;
        Ok((format!("sha256:{id}"), bytes))
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::Folder => append(
                    &mut layer,
                    &format!("{path}/"),
                    EntryType::Directory,
                    0o755,
                    &[],
                )?,
                Entry::Program(content) => {
                    append(&mut layer, path, EntryType::Regular, 0o755, content)?;
                }
            }
        }
        layer.into_inner()
    }
}

/// When everything was made, for the sake of equal bytes.
const EPOCH: &str = "1970-01-01T00:00:00Z";

fn append(
    archive: &mut Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(u64::try_from(content.len()).map_err(io::Error::other)?);
    archive.append_data(&mut header, path, content)
}

fn digest(content: &[u8]) -> Result<String> {
    let mut text = String::new();
    for byte in Sha256::digest(content) {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use serde_json::Value;
    use tar::Archive;

    use super::*;

    fn image() -> Result<Image> {
        let mut image = Image::new(Architecture::Arm64, &["/bin/one", "serve"]);
        image
            .program("/two", b"second".to_vec())?
            .program("/bin/one", b"first".to_vec())?
            .label("org.opencontainers.image.title", "a test");
        Ok(image)
    }

    fn reference() -> Result<Reference> {
        "registry.example:5000/team/a:1.2_3".parse()
    }

    /// Name, mode, uid, gid, mtime and content of every entry.
    type Listed = (String, u32, u64, u64, u64, Vec<u8>);

    fn list(bytes: &[u8]) -> Result<Vec<Listed>> {
        let mut archive = Archive::new(bytes);
        let mut listed = Vec::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            let header = entry.header();
            listed.push((
                entry.path()?.display().to_string(),
                header.mode()?,
                header.uid()?,
                header.gid()?,
                header.mtime()?,
                content,
            ));
        }
        Ok(listed)
    }

    fn content<'a>(files: &'a [Listed], name: &str) -> Result<&'a [u8]> {
        let file = files.iter().find(|file| file.0 == name);
        Ok(&file.with_context(|| format!("no {name}"))?.5)
    }

    #[test]
    fn names_in_the_manifest_are_digests_of_what_they_name() -> Result<()> {
        let (id, bytes) = image()?.archive(&reference()?)?;
        let files = list(&bytes)?;
        let manifest: Value = serde_json::from_slice(content(&files, "manifest.json")?)?;
        let text = |pointer: &str| {
            let found = manifest.pointer(pointer).and_then(Value::as_str);
            found.with_context(|| format!("no {pointer}"))
        };
        assert_eq!(text("/0/RepoTags/0")?, "registry.example:5000/team/a:1.2_3");

        let config = content(&files, text("/0/Config")?)?;
        assert_eq!(text("/0/Config")?, format!("{}.json", digest(config)?));
        assert_eq!(id, format!("sha256:{}", digest(config)?));

        let config: Value = serde_json::from_slice(config)?;
        let layer = content(&files, text("/0/Layers/0")?)?;
        assert_eq!(
            config.pointer("/rootfs/diff_ids"),
            Some(&json!([format!("sha256:{}", digest(layer)?)]))
        );
        assert_eq!(config.pointer("/architecture"), Some(&json!("arm64")));
        assert_eq!(
            config.pointer("/config/Entrypoint"),
            Some(&json!(["/bin/one", "serve"]))
        );
        assert_eq!(
            config.pointer("/config/Labels"),
            Some(&json!({ "org.opencontainers.image.title": "a test" }))
        );
        Ok(())
    }

    #[test]
    fn a_layer_is_sorted_timeless_and_roots() -> Result<()> {
        let root = |name: &str, mode, content: &[u8]| -> Listed {
            (name.into(), mode, 0, 0, 0, content.to_vec())
        };
        assert_eq!(
            list(&image()?.layer()?)?,
            [
                root("bin/", 0o755, b""),
                root("bin/one", 0o755, b"first"),
                root("two", 0o755, b"second"),
            ]
        );
        Ok(())
    }

    #[test]
    fn the_same_content_added_in_another_order_is_the_same_image() -> Result<()> {
        let mut other = Image::new(Architecture::Arm64, &["/bin/one", "serve"]);
        other
            .label("org.opencontainers.image.title", "a test")
            .program("/bin/one", b"first".to_vec())?
            .program("/two", b"second".to_vec())?;
        assert_eq!(
            other.archive(&reference()?)?,
            image()?.archive(&reference()?)?
        );
        Ok(())
    }

    #[test]
    fn a_path_that_leads_elsewhere_or_is_taken_is_refused() -> Result<()> {
        for path in ["relative", "/", "/a/../b", ""] {
            assert!(image()?.program(path, Vec::new()).is_err(), "{path:?}");
        }
        assert!(image()?.program("/two", Vec::new()).is_err());
        assert!(image()?.program("/two/three", Vec::new()).is_err());
        Ok(())
    }

    #[test]
    fn a_reference_needs_a_tag() {
        for good in ["a:1", "localhost:5000/a/b-c:v1.0", "e.example/a:latest"] {
            assert!(good.parse::<Reference>().is_ok(), "{good}");
        }
        for bad in [
            "a",
            "localhost:5000/a",
            "a:",
            ":1",
            "a:b c",
            "a@sha256:00",
            "-a:1",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
