//! Keeps a machine's programs running, as systemd does on a real node, and buries orphans, as
//! the first process of a process namespace must.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use super::search_path;

/// A program is held while a file of its name is here: it is killed, and not started again.
const HELD: &str = "/var/lib/cluster/held";

/// Between two looks at what has changed.
const PACE: Duration = Duration::from_millis(20);

/// Before a program that ended is started again.
const PAUSE: Duration = Duration::from_millis(500);

/// Something that has to run.
#[derive(Clone, Debug)]
pub(in super::super) struct Program {
    pub(in super::super) name: &'static str,
    pub(in super::super) arguments: Vec<String>,
    /// Not started before this path exists.
    pub(in super::super) after: Option<&'static str>,
    pub(in super::super) restart: Restart,
}

/// What becomes of a program that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Restart {
    Always,
    UnlessSucceeded,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Waiting { until: Instant },
    Running(Pid),
    Done,
}

/// Runs them until the machine ends.
pub(super) fn run(programs: &[Program]) -> Result<Infallible> {
    fs::create_dir_all(HELD).with_context(|| format!("creating {HELD}"))?;
    let now = Instant::now();
    let mut states: Vec<(&Program, State)> = programs
        .iter()
        .map(|program| (program, State::Waiting { until: now }))
        .collect();
    loop {
        bury(&mut states)?;
        for (program, state) in &mut states {
            *state = next(program, *state)?;
        }
        thread::sleep(PACE);
    }
}

fn next(program: &Program, state: State) -> Result<State> {
    let held = Path::new(HELD).join(program.name).exists();
    Ok(match state {
        State::Running(pid) if held => {
            match kill_process(pid, Signal::KILL) {
                // Ended by itself just now, and not yet waited for.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => {
                    return Err(io::Error::from(error))
                        .with_context(|| format!("ending {}", program.name));
                }
            }
            state
        }
        State::Waiting { until }
            if !held
                && Instant::now() >= until
                && program.after.is_none_or(|path| Path::new(path).exists()) =>
        {
            State::Running(start(program)?)
        }
        State::Waiting { .. } | State::Running(_) | State::Done => state,
    })
}

/// Takes note of every process that ended, also of those that nobody here has started.
fn bury(states: &mut [(&Program, State)]) -> Result<()> {
    loop {
        let (pid, status) = match wait(WaitOptions::NOHANG) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(io::Error::from(error)).context("waiting for a process"),
        };
        for (program, state) in &mut *states {
            if !matches!(state, State::Running(running) if *running == pid) {
                continue;
            }
            let succeeded = status.exit_status() == Some(0);
            println!("{} ended: {status:?}", program.name);
            *state = match program.restart {
                Restart::UnlessSucceeded if succeeded => State::Done,
                Restart::Always | Restart::UnlessSucceeded => State::Waiting {
                    until: Instant::now() + PAUSE,
                },
            };
        }
    }
}

fn start(program: &Program) -> Result<Pid> {
    let path = PathBuf::from(format!("/var/log/{}.log", program.name));
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    let child = Command::new("env")
        .arg(format!("PATH={}", search_path()))
        .args(&program.arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("sharing the log")?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", program.name))?;
    let pid = i32::try_from(child.id()).context("a process id")?;
    Pid::from_raw(pid).context("process 0")
}
