//! The log: to standard error, so that answers on standard output stay clean.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is not understood.
    #[error("log level")]
    Level(#[from] ParseError),
    /// There is a log already.
    #[error("setting up the log")]
    Twice(#[source] TryInitError),
}

/// kube-rs logs each failed attempt as an error without saying which or why; the sources say both,
/// once. Who names this very target in the level gets it all the same.
const MUTED: &str = "kube_client::client::builder=off";

/// Starts the log of this process.
///
/// `level` is `error`, `warn`, `info`, `debug` or `trace`, or such levels by module:
/// `info,egress_agent::datapath=debug`.
pub fn init(format: Format, level: &str) -> Result<(), Error> {
    // Not `EnvFilter`: for names of spans, which we do not offer, it takes a regular expression engine
    // along.
    let levels: Targets = format!("{MUTED},{level}").parse()?;
    let log = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match format {
        Format::Text => log.finish().with(levels).try_init(),
        Format::Json => {
            let log = log.json().flatten_event(true);
            log.finish().with(levels).try_init()
        }
    }
    .map_err(Error::Twice)
}
