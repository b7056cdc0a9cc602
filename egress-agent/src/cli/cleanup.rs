//! `cleanup`: takes back everything the agent ever made on this node.

use std::fs;
use std::io::{self, Write as _};
use std::process::ExitCode;

use super::{ERROR, PlacesArgs, complain};
use crate::datapath;
use crate::source::state_folder;

/// Detaches and unpins everything: pods send freely afterwards.
///
/// Refuses while an agent runs on the pin root.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) places: PlacesArgs,

    /// Even while an agent runs; it will notice and fail.
    #[arg(long)]
    force: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let PlacesArgs {
            pin_root,
            state_dir,
        } = self.places;
        let removed = match datapath::cleanup(&pin_root, self.force) {
            Ok(removed) => removed,
            Err(errors) => {
                for error in errors {
                    complain(&format!("{:#}", anyhow::Error::from(error)));
                }
                return Ok(ExitCode::from(ERROR));
            }
        };
        let state = state_folder(&state_dir, &pin_root);
        match fs::remove_dir_all(&state) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                complain(&format!("removing {}: {error}", state.display()));
                return Ok(ExitCode::from(ERROR));
            }
            _ => {}
        }
        writeln!(
            io::stdout(),
            "removed {} pins and folders below {}",
            removed.len(),
            pin_root.display()
        )?;
        Ok(ExitCode::SUCCESS)
    }
}
