//! The control group below which a node's kubelet makes those of its pods.
//!
//! It is the one thing of a machine that outlives its processes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// A name below the root of every hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct ControlGroup(String);

impl ControlGroup {
    pub(in super::super) fn new(name: String) -> Self {
        Self(name)
    }

    /// As the kubelet's configuration names it.
    pub(in super::super) fn path(&self) -> String {
        format!("/{}", self.0)
    }

    /// Makes it where there are controllers.
    pub(super) fn make(&self) -> Result<()> {
        for hierarchy in hierarchies()? {
            let folder = hierarchy.join(&self.0);
            delegate(&hierarchy)
                .and_then(|()| fs::create_dir_all(&folder))
                .and_then(|()| inherit_processors(&hierarchy, &folder))
                .with_context(|| format!("making {}", folder.display()))?;
        }
        Ok(())
    }

    /// Removes it with all below, whose processes are ending.
    pub(in super::super) fn remove(&self) -> Result<()> {
        for hierarchy in hierarchies()? {
            let folder = hierarchy.join(&self.0);
            if folder.exists() {
                remove(&folder).with_context(|| format!("removing {}", folder.display()))?;
            }
        }
        Ok(())
    }
}

/// One with cgroup v2; one a controller with v1.
fn hierarchies() -> Result<Vec<PathBuf>> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return Ok(vec![ROOT.into()]);
    }
    let entries = fs::read_dir(ROOT).with_context(|| format!("reading {ROOT}"))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("reading {ROOT}"))?.path();
        // `cpu` may be a link to `cpu,cpuacct`, which is there too.
        if path.join("cgroup.procs").exists() && !path.is_symlink() {
            found.push(path);
        }
    }
    Ok(found)
}

/// cgroup v2 gives a child only the controllers that its parent was told to pass on.
fn delegate(hierarchy: &Path) -> io::Result<()> {
    let Ok(controllers) = fs::read_to_string(hierarchy.join("cgroup.controllers")) else {
        return Ok(());
    };
    let wanted: Vec<String> = controllers
        .split_whitespace()
        .map(|controller| format!("+{controller}"))
        .collect();
    fs::write(hierarchy.join("cgroup.subtree_control"), wanted.join(" "))
}

/// cpuset v1 starts without processors and memory, and then takes no process.
fn inherit_processors(hierarchy: &Path, folder: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (hierarchy.join(file), folder.join(file));
        if from.exists() && to.exists() {
            fs::write(to, fs::read(from)?.trim_ascii())?;
        }
    }
    Ok(())
}

/// The files in it are not to be removed, only the folders, the innermost first.
fn remove(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        match fs::remove_dir(folder) {
            // The kernel is still taking the last process out of it.
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => return result,
        }
    }
}
