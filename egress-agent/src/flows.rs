//! The flow log: who opened what, allowed or denied, for a SIEM. Off unless it is asked for.
//!
//! Like drops, records are for people: the kernel limits their rate, and what is left out is counted.
//! The document of a line is `docs/flow-log.md`.

mod collect;
mod record;
mod sink;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use egress_common::event::Record;

use crate::attribution::Attribution;
use crate::drops::Clocks;
use collect::Collector;
use sink::{Sink, Writer};

pub use record::{FlowRecord, SCHEMA};

/// What the operator chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where lines go.
    pub target: Target,
    /// Equal flows within this time are one line.
    pub interval: Duration,
    /// One flow in so many is logged; 1 logs all.
    pub sample: u32,
    /// Lines a second at most.
    pub rate: u32,
    /// New flows that one pod may cause records of a second.
    pub pod_rate: u32,
    /// Bytes after which a file is put aside.
    pub size: u64,
    /// Files that are kept beside the present one.
    pub kept: u32,
    /// This node.
    pub node: String,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output; the log is on standard error.
    Stdout,
    /// A file.
    File(PathBuf),
}

impl FromStr for Target {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "stdout" => Self::Stdout,
            path => Self::File(path.into()),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The log cannot be written to.
#[derive(Debug, thiserror::Error)]
#[error("flow log {target}")]
pub struct OpenError {
    target: Target,
    #[source]
    source: std::io::Error,
}

/// Why lines are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Another line a second than `--flow-log-rate` allows.
    Rate,
    /// The writer was behind.
    Queue,
    /// Writing failed.
    Write,
    /// The kernel had more new flows of a pod than `--flow-log-pod-rate` allows, or its ring was full.
    Kernel,
}

impl Loss {
    /// Every cause.
    pub const ALL: [Self; 4] = [Self::Rate, Self::Queue, Self::Write, Self::Kernel];

    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Queue => "queue",
            Self::Write => "write",
            Self::Kernel => "kernel",
        }
    }
}

/// Lines written and lost, as far as this process knows; what the kernel lost it counts itself.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    rate: AtomicU64,
    queue: AtomicU64,
    write: AtomicU64,
}

impl Tally {
    /// Lines that were written.
    pub fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// Records and lines that were left out; of [`Loss::Kernel`] nothing is known here.
    pub fn lost(&self, loss: Loss) -> u64 {
        self.place(loss)
            .map_or(0, |place| place.load(Ordering::Relaxed))
    }

    fn wrote(&self, lines: u64) {
        self.0.written.fetch_add(lines, Ordering::Relaxed);
    }

    fn lose(&self, loss: Loss, records: u64) {
        if let Some(place) = self.place(loss) {
            place.fetch_add(records, Ordering::Relaxed);
        }
    }

    fn place(&self, loss: Loss) -> Option<&AtomicU64> {
        match loss {
            Loss::Rate => Some(&self.0.rate),
            Loss::Queue => Some(&self.0.queue),
            Loss::Write => Some(&self.0.write),
            Loss::Kernel => None,
        }
    }
}

/// The running log.
#[derive(Debug)]
pub struct FlowLog {
    collector: Collector,
    writer: Writer,
    tally: Tally,
}

impl FlowLog {
    /// Opens the target and starts its writer.
    pub fn start(settings: &Settings, tally: Tally) -> Result<Self, OpenError> {
        let sink = Sink::open(settings).map_err(|source| OpenError {
            target: settings.target.clone(),
            source,
        })?;
        Ok(Self {
            collector: Collector::new(settings, tally.clone(), Instant::now()),
            writer: Writer::start(sink, tally.clone()).map_err(|source| OpenError {
                target: settings.target.clone(),
                source,
            })?,
            tally,
        })
    }

    /// Takes a record of a new flow or of a drop.
    pub fn take(&mut self, record: &Record, clocks: Clocks, owners: &Attribution) {
        self.collector.take(record, clocks, owners);
    }

    /// Hands the lines of an interval that has passed to the writer. Call it now and then.
    pub fn advance(&mut self, now: Instant) {
        if let Some(lines) = self.collector.due(now) {
            self.write(lines);
        }
    }

    fn write(&self, lines: Vec<FlowRecord>) {
        if let Err(lines) = self.writer.write(lines) {
            self.tally
                .lose(Loss::Queue, u64::try_from(lines.len()).unwrap_or(u64::MAX));
        }
    }
}

impl Drop for FlowLog {
    /// The interval that is not over yet is written too.
    fn drop(&mut self) {
        let lines = self.collector.rest();
        self.write(lines);
        self.writer.finish();
    }
}
