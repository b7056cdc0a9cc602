//! A world's folder: socket, logs, state, manifests and a bpffs of its own; and the removal
//! of what runs that were killed have left.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::netns::{names_starting_with, report, run};

/// Prefix of every namespace and folder of the harness, followed by the process id.
pub(super) const PREFIX: &str = "egt";

/// The world's folder with the bpffs in it.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes it, and mounts its bpffs at `bpf`.
    pub(super) fn new(id: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(id);
        let pins = path.join("bpf");
        fs::create_dir_all(&pins).with_context(|| format!("making {}", pins.display()))?;
        let dir = Self(path);
        mount("bpf", &pins, "bpf", MountFlags::empty(), None)
            .with_context(|| format!("mounting a bpffs on {} (needs root)", pins.display()))?;
        Ok(dir)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove_dir(&self.0);
    }
}

fn remove_dir(path: &Path) {
    let pins = path.join("bpf");
    // Lazily: an agent that was killed a moment ago may still hold a file.
    if let Err(error) = unmount(&pins, UnmountFlags::DETACH)
        && error != rustix::io::Errno::INVAL
    {
        report(&format!("unmounting {}: {error}", pins.display()));
    }
    if let Err(error) = fs::remove_dir_all(path) {
        report(&format!("removing {}: {error}", path.display()));
    }
}

/// Removes what runs that were killed have left: their agents, folders and namespaces.
pub(super) fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let Some(id) = name.to_str().filter(|name| is_orphan(name)) else {
            continue;
        };
        end_orphaned_agent(&path);
        for namespace in names_starting_with(&format!("{id}-")) {
            if let Err(error) = run("ip", &["netns", "del", &namespace]) {
                report(&format!("{error:#}"));
            }
        }
        remove_dir(&path);
    }
}

/// Whether `name` is of this harness and its process is gone.
fn is_orphan(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'))
        .and_then(|(pid, _)| pid.parse().ok())
        .and_then(Pid::from_raw)
        .is_some_and(|pid| test_kill_process(pid).is_err())
}

/// Ends the agent whose id the folder names, if that process still is that agent: its
/// command line names the folder.
fn end_orphaned_agent(dir: &Path) {
    let pid = fs::read_to_string(dir.join("agent.pid"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .and_then(Pid::from_raw);
    let Some(pid) = pid else { return };
    let command =
        fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    if dir.to_str().is_some_and(|dir| command.contains(dir))
        && let Err(error) = kill_process(pid, Signal::KILL)
    {
        report(&format!("killing an agent left behind: {error}"));
    }
}
