//! `cleanup`: takes back everything the agent ever made on this node.

use std::fs;
use std::io::{self, Write as _};
use std::process::ExitCode;

use super::{ERROR, PlacesArgs, complain};
use crate::datapath;
use crate::source::state_folder;

/// Below `--help`. A test of the documents parses every line of it.
const EXAMPLES: &str = "\
Examples:
  # after the agent was stopped for good
  egress-agent cleanup
  # of an agent that had places of its own
  egress-agent cleanup --pin-root /sys/fs/bpf/other --state-dir /run/other";

/// Detaches and unpins everything: pods send freely afterwards.
///
/// Refuses while an agent runs on the pin root.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) places: PlacesArgs,

    /// Even while an agent runs; it will notice and fail.
    #[arg(long)]
    force: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let removed = match remove_all(&self.places, self.force) {
            Ok(removed) => removed,
            Err(errors) => {
                for error in errors {
                    complain(&error);
                }
                return Ok(ExitCode::from(ERROR));
            }
        };
        writeln!(
            io::stdout(),
            "removed {removed} pins and folders below {}",
            self.places.pin_root.display()
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Removes everything an agent with these places ever made. Returns how many pins and folders
/// that were, or a sentence for each that stays.
pub(super) fn remove_all(places: &PlacesArgs, force: bool) -> Result<usize, Vec<String>> {
    let PlacesArgs {
        pin_root,
        state_dir,
    } = places;
    let removed = datapath::cleanup(pin_root, force).map_err(|errors| {
        errors
            .into_iter()
            .map(|error| format!("{:#}", anyhow::Error::from(error)))
            .collect::<Vec<_>>()
    })?;
    let state = state_folder(state_dir, pin_root);
    for (folder, done) in [
        (&state, fs::remove_dir_all(&state)),
        // Of another agent's, if there is one.
        (state_dir, fs::remove_dir(state_dir)),
    ] {
        match done {
            Err(error)
                if ![io::ErrorKind::NotFound, io::ErrorKind::DirectoryNotEmpty]
                    .contains(&error.kind()) =>
            {
                return Err(vec![format!("removing {}: {error}", folder.display())]);
            }
            _ => {}
        }
    }
    Ok(removed.len())
}
