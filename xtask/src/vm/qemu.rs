//! One machine, from power on to power off, as its console tells it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::process;
use crate::target::Architecture;

/// What a machine is made of.
pub(super) struct Hardware {
    /// The program, and Debian's package of it.
    pub(super) program: (&'static str, &'static str),
    machine: &'static str,
    processor: &'static str,
    /// What the kernel calls the serial line.
    console: &'static str,
}

/// Without a processor's help, its newest features only cost: five levels of page tables and
/// the guards of user memory make this one three times as fast as `max`. Random numbers it
/// must have, or the guest waits for its own. `cmpxchg16b` it must not: qemu 7.2 at times
/// leaves garbage in the flags behind it, of which a 6.12 died.
const AMD64: Hardware = Hardware {
    program: ("qemu-system-x86_64", "qemu-system-x86"),
    machine: "pc",
    processor: "Nehalem,+rdrand,-cx16",
    console: "ttyS0",
};

/// The processor of many a cloud. It has atomic instructions, which older ones make of loops, and no pointer
/// authentication, which costs most of an emulated processor's time.
const ARM64: Hardware = Hardware {
    program: ("qemu-system-aarch64", "qemu-system-arm"),
    machine: "virt",
    processor: "neoverse-n1",
    console: "ttyAMA0",
};

/// In MiB. The programs in memory, twice at the start, and what the maps of a few agents take.
const MEMORY: &str = "1536";

/// What the kernel is told. Words that it does not know and that have a `=` are the
/// environment of the first process.
const COMMAND_LINE: &str = "quiet panic=-1 nokaslr mitigations=off nowatchdog \
    egress.vm PATH=/bin EGRESS_AGENT_BIN=/bin/egress-agent EGRESS_TESTS_LENGTH=sample";

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself.
    Off,
    /// It was ended at the time limit.
    TimeLimit,
}

impl Hardware {
    pub(super) const fn of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::Amd64 => AMD64,
            Architecture::Arm64 => ARM64,
        }
    }

    /// Boots `kernel` with `files` and hands every line of the console to `line`; `log` keeps
    /// them.
    pub(super) fn boot(
        &self,
        kernel: &Path,
        files: &Path,
        log: &Path,
        limit: Duration,
        mut line: impl FnMut(&str),
    ) -> Result<End> {
        let mut command = Command::new(self.program.0);
        command
            .args(["-accel", "tcg", "-machine", self.machine])
            .args(["-cpu", self.processor, "-smp", "1", "-m", MEMORY])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-serial", "stdio", "-append"])
            .arg(format!("console={} {COMMAND_LINE}", self.console))
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(files);
        println!("$ {}", process::shown(&command));
        let start = Instant::now();
        let mut machine = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting qemu")?;
        let console = machine.stdout.take().context("the machine's console")?;
        let mut log = File::create(log).with_context(|| format!("making {}", log.display()))?;
        // A machine that writes faster than it is read waits: memory stays bounded.
        let (send, receive) = mpsc::sync_channel(1024);
        let reader = thread::spawn(move || {
            for bytes in BufReader::new(console).split(b'\n') {
                let Ok(bytes) = bytes else { break };
                if send.send(bytes).is_err() {
                    break;
                }
            }
        });
        let end = loop {
            let left = limit.saturating_sub(start.elapsed());
            match receive.recv_timeout(left) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes);
                    let text = text.trim_end();
                    writeln!(log, "{text}")?;
                    line(text);
                }
                Err(RecvTimeoutError::Disconnected) => break End::Off,
                Err(RecvTimeoutError::Timeout) => break End::TimeLimit,
            }
        };
        if end == End::TimeLimit {
            machine.kill().context("ending qemu")?;
        }
        drop(receive);
        machine.wait().context("waiting for qemu")?;
        if reader.join().is_err() {
            log.write_all(b"the thread that reads the console panicked\n")?;
        }
        Ok(end)
    }
}
