//! A machine of the cluster: namespaces, and a first process that keeps its programs running.
//!
//! Each machine has its own network, mounts, process ids and host name. Its `/run`, `/var`,
//! `/opt`, `/etc` and `/sys/fs/bpf` are its own too, so that everything is where it is on a
//! real node, and several nodes stand side by side. When the first process ends, for
//! whatever reason, the kernel ends the others, undoes the mounts and removes the
//! interfaces: there is nothing to clean up but files and control groups.

mod control_groups;
pub(super) mod init;
mod mounts;
mod supervise;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

pub(super) use control_groups::ControlGroup;
pub(super) use mounts::SHARED;
pub(super) use supervise::{Program, Restart};

/// How long the kernel may take to end all of a machine's processes.
const END: Duration = Duration::from_mins(1);

/// A process by what no later process with its number has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    started: u64,
}

impl Process {
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split_whitespace();
        // A zombie is no process any more, only waited for.
        if fields.next()? == "Z" {
            return None;
        }
        // Field 3 was the first of these.
        let started = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, started })
    }

    pub(super) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// A machine that was started, and may have ended since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) name: String,
    /// Outside the machine's namespaces; ends it by ending.
    keeper: Process,
    /// The machine's first process, numbered as seen from here.
    pub(super) init: Process,
}

impl Machine {
    /// Starts this program anew as the first process of a machine, which then becomes
    /// whatever `arguments` say.
    pub(super) fn start(
        name: &str,
        arguments: &[&str],
        stdin: Option<OwnedFd>,
        log: &Path,
    ) -> Result<Self> {
        let log = fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        // Not by its path: a build may have put another file there meanwhile.
        let own = format!("/proc/{}/exe", std::process::id());
        let mut command = Command::new("setsid");
        command
            .arg("unshare")
            .args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork"])
            .args(["--kill-child=SIGKILL", "--propagation", "private"])
            .arg(own)
            .args(arguments)
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(log.try_clone().context("sharing the log")?)
            .stderr(log);
        let mut child = command.spawn().context("starting setsid unshare")?;
        let pid = i32::try_from(child.id()).context("a process id")?;
        let deadline = Instant::now() + END;
        loop {
            if let (Some(keeper), Some(init)) = (Process::of(pid), first_child(pid)) {
                return Ok(Self {
                    name: name.into(),
                    keeper,
                    init,
                });
            }
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("{name}: unshare started no process");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.init.is_alive()
    }

    /// A command inside the machine. Programs are looked up there.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg("--target")
            .arg(self.init.pid.to_string())
            .args(["--net", "--mount", "--uts", "--ipc", "--pid", "--"])
            .arg("env")
            .arg(format!("PATH={}", search_path()))
            .arg(program);
        command
    }

    /// Ends it and waits until nothing of it is left.
    pub(super) fn end(&self) -> Result<()> {
        for process in [self.init, self.keeper] {
            if process.is_alive()
                && let Some(pid) = Pid::from_raw(process.pid)
            {
                match kill_process(pid, Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(error) => {
                        return Err(io::Error::from(error))
                            .with_context(|| format!("ending {}", self.name));
                    }
                }
            }
        }
        let deadline = Instant::now() + END;
        while self.init.is_alive() || self.keeper.is_alive() {
            if Instant::now() > deadline {
                bail!("{} did not end within {} s", self.name, END.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// What is searched for programs inside a machine.
fn search_path() -> String {
    format!(
        "{}:{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        mounts::ASSETS,
        mounts::PROGRAMS
    )
}

/// `None` until `unshare` has forked.
fn first_child(pid: i32) -> Option<Process> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let child = children.split_whitespace().next()?.parse().ok()?;
    Process::of(child)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() -> Result<()> {
        let own = i32::try_from(std::process::id())?;
        let process = Process::of(own).context("this process")?;
        assert!(process.is_alive());
        let other = Process {
            started: process.started + 1,
            ..process
        };
        assert!(!other.is_alive());
        Ok(())
    }

    #[test]
    fn a_machine_that_was_ended_is_gone_even_before_anybody_waits_for_it() -> Result<()> {
        let mut child = Command::new("sleep").arg("60").spawn()?;
        let process = Process::of(i32::try_from(child.id())?).context("it runs")?;
        let machine = Machine {
            name: "test".into(),
            keeper: process,
            init: process,
        };
        assert!(machine.is_alive());
        machine.end()?;
        assert!(!machine.is_alive());
        child.wait()?;
        Ok(())
    }
}
