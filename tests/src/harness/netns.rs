//! Named network namespaces, and running code inside them.

use std::fs::{self, File};
use std::io::Write as _;
use std::mem;
use std::os::fd::AsFd as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where iproute2 keeps named namespaces, and where the agent's annotation looks.
const RUN_NETNS: &str = "/run/netns";

/// A network namespace. One that was made here is removed when this is dropped.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    path: PathBuf,
    file: File,
    /// Whoever made another one removes it.
    made_here: bool,
}

/// A second handle on a [`NetNs`]; dropping it removes nothing.
#[derive(Debug)]
pub(super) struct Inside {
    name: String,
    file: File,
}

impl NetNs {
    /// Makes the namespace `name`, visible below `/run/netns`, with the loopback up.
    ///
    /// Duplicate address detection and router solicitations are off, so that addresses
    /// work at once and no frame is sent that no test asked for.
    pub fn new(name: &str) -> Result<Self> {
        run("ip", &["netns", "add", name])?;
        let path = Path::new(RUN_NETNS).join(name);
        let file = File::open(&path).with_context(|| format!("opening namespace {name}"))?;
        let ns = Self {
            name: name.to_owned(),
            path,
            file,
            made_here: true,
        };
        ns.sysctls(&[
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/router_solicitations", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ])?;
        ip_batch(name, "link set lo up\n")?;
        Ok(ns)
    }

    /// A namespace that somebody else has made: a process's, or one that is kept by a file.
    pub fn at(name: &str, path: PathBuf) -> Result<Self> {
        let file = File::open(&path)
            .with_context(|| format!("opening namespace {name} at {}", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            path,
            file,
            made_here: false,
        })
    }

    /// The name below `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it can be entered from here.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Runs `task` on a thread of its own inside the namespace.
    ///
    /// Sockets and child processes made there stay in the namespace and can be used
    /// from anywhere afterwards.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        enter(&self.name, &self.file, task)
    }

    /// A second handle, for a thread that outlives a borrow.
    pub(super) fn again(&self) -> Result<Inside> {
        Ok(Inside {
            name: self.name.clone(),
            file: self.file.try_clone()?,
        })
    }

    /// Takes the name away and with it, once the last socket is closed, the namespace and
    /// its interfaces.
    pub fn delete(&mut self) -> Result<()> {
        run("ip", &["netns", "del", &self.name])?;
        // The open file would keep the namespace alive.
        self.file = File::open("/dev/null")?;
        Ok(())
    }

    /// Makes a new namespace of the same name, after [`NetNs::delete`].
    pub fn make_again(&mut self) -> Result<()> {
        let mut new = Self::new(&self.name)?;
        mem::swap(self, &mut new);
        // What is left has the name of the new one; dropping it would delete that.
        mem::forget(new);
        Ok(())
    }

    /// Writes settings below `/proc/sys` as the namespace sees it.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in settings {
                fs::write(Path::new("/proc/sys").join(name), value)
                    .with_context(|| format!("setting {name} to {value} in {}", self.name))?;
            }
            Ok(())
        })
    }
}

impl Inside {
    /// As [`NetNs::run`].
    pub(super) fn run<T: Send>(&self, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        enter(&self.name, &self.file, task)
    }
}

fn enter<T: Send>(name: &str, file: &File, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("entering namespace {name}"))?;
            task()
        });
        match worker.join() {
            Ok(result) => result,
            Err(payload) => panic::resume_unwind(payload),
        }
    })
}

impl Drop for NetNs {
    fn drop(&mut self) {
        // A test may have removed it already, to see what the agent does.
        if self.made_here
            && self.path.exists()
            && let Err(error) = run("ip", &["netns", "del", &self.name])
        {
            report(&format!("{error:#}"));
        }
    }
}

/// Runs `ip` commands, one a line, inside namespace `name`.
pub fn ip_batch(name: &str, commands: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", name, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("running ip (package iproute2)")?;
    child
        .stdin
        .take()
        .context("ip has no standard input")?
        .write_all(commands.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "ip -n {name} -batch: {}in\n{commands}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Runs a program to its end; its error text becomes the error.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Names below `/run/netns` that start with `prefix`.
pub(super) fn names_starting_with(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(RUN_NETNS) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Says what went wrong where nobody is left to take an error: in a `drop`.
#[expect(
    clippy::print_stderr,
    reason = "a drop has no caller that could be told"
)]
pub fn report(what: &str) {
    eprintln!("{what}");
}
