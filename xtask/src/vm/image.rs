//! What the machine finds: modules, programs with the libraries they load, and what to run.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use super::modules::Module;

/// The first file system: `files` of this machine by their path in it; `suite` is a command a line.
pub(super) fn build(
    modules: &[Module],
    files: &BTreeMap<String, PathBuf>,
    suite: &str,
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (path, source) in files {
        let content = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        archive.file(path, &content)?;
    }
    let mut order = String::new();
    for module in modules {
        archive.file(&format!("/modules/{}", module.file), &module.content)?;
        order.push_str(&module.file);
        order.push('\n');
    }
    archive.file("/modules/order", order.as_bytes())?;
    archive.file("/suite", suite.as_bytes())?;
    archive.finish()
}
