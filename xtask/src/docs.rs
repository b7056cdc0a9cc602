//! `cargo xtask docs`: the references that are written from the code.
//!
//! `docs/reference/` is committed, because people read it where the sources are; `cargo xtask
//! check` compares. Man pages are a packager's, and stay in the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::process;
use crate::toolchain::{self, Purpose};
use crate::workspace::Workspace;

/// Where they are committed.
const COMMITTED: &str = "docs/reference";

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    toolchain::ensure(workspace, Purpose::Build)?;
    let written = write(workspace)?;
    let committed = workspace.root.join(COMMITTED);
    fs::create_dir_all(&committed).with_context(|| format!("creating {}", committed.display()))?;
    for page in pages(&written.join("reference"))? {
        let name = page.file_name().context("a page without a name")?;
        let to = committed.join(name);
        fs::copy(&page, &to).with_context(|| format!("writing {}", to.display()))?;
        println!("{}", workspace.shown(&to));
    }
    println!("{}", workspace.shown(&written.join("man")));
    Ok(ExitCode::SUCCESS)
}

/// A line for each committed page that says something else than the code.
pub(crate) fn outdated(workspace: &Workspace) -> Result<Vec<String>> {
    let written = pages(&write(workspace)?.join("reference"))?;
    Ok(differing(&written, &workspace.root.join(COMMITTED))?
        .iter()
        .map(|path| {
            format!(
                "{}: not what the code says; run `cargo xtask docs`",
                workspace.shown(path)
            )
        })
        .collect())
}

/// The program that writes them is an example of the agent: it reads the agent's own tables,
/// and is not installed with it.
fn write(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target.join("docs");
    process::run(
        workspace
            .cargo()
            .args(["run", "--quiet", "--package", "egress-agent"])
            .args(["--example", "reference", "--"])
            .arg(&folder),
    )?;
    Ok(folder)
}

/// Pages that are missing or different below `committed`.
fn differing(written: &[PathBuf], committed: &Path) -> Result<Vec<PathBuf>> {
    let mut differing = Vec::new();
    for page in written {
        let new = fs::read(page).with_context(|| format!("reading {}", page.display()))?;
        let path = committed.join(page.file_name().context("a page without a name")?);
        // One that cannot be read is not what it should be either.
        if fs::read(&path).ok() != Some(new) {
            differing.push(path);
        }
    }
    Ok(differing)
}

fn pages(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        pages.push(entry?.path());
    }
    pages.sort();
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_missing_or_edited_is_told() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("xtask-docs-{}", std::process::id()));
        let (new, old) = (folder.join("new"), folder.join("old"));
        for (path, text) in [
            (new.join("same.md"), "a"),
            (new.join("edited.md"), "a"),
            (new.join("missing.md"), "a"),
            (old.join("same.md"), "a"),
            (old.join("edited.md"), "b"),
        ] {
            fs::create_dir_all(path.parent().context("no parent")?)?;
            fs::write(path, text)?;
        }
        let differing = differing(&pages(&new)?, &old);
        fs::remove_dir_all(&folder)?;
        assert_eq!(differing?, [old.join("edited.md"), old.join("missing.md")]);
        Ok(())
    }
}
