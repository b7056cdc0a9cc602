//! The log: to standard error, so that answers on standard output stay clean.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

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
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// kube-rs logs each failed attempt as an error without saying which or why; the sources say both,
/// once. Who names this very target in the level gets it all the same.
const MUTED: &str = "kube_client::client::builder=off";

/// Starts the log of this process.
///
/// `level` is `error`, `warn`, `info`, `debug` or `trace`, or such levels by module:
/// `info,egress_agent::datapath=debug`.
pub fn init(format: Format, level: &str) -> Result<(), Error> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(format!("{MUTED},{level}"))?)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match format {
        Format::Text => log.try_init(),
        Format::Json => log.json().flatten_event(true).try_init(),
    }
    .map_err(Error::Twice)
}
