//! Writes the references: the command line and the metrics as Markdown, and the man pages.
//!
//! `cargo xtask docs` runs it; it is no part of what is installed. All of it is read from the
//! definitions that the agent itself uses.
//!
//! ```console
//! $ cargo run -p egress-agent --example reference -- DIR
//! ```

mod command_line;
mod markdown;
mod metrics;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser as _;

/// Writes the references into a folder.
#[derive(Debug, clap::Parser)]
struct Args {
    /// The folder: `reference/*.md` and `man/*.1` appear in it.
    folder: PathBuf,
}

fn main() -> Result<()> {
    let Args { folder } = Args::parse();
    let (reference, man) = (folder.join("reference"), folder.join("man"));
    for folder in [&reference, &man] {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let mut command = egress_agent::cli::command();
    command.build();
    write(
        &reference.join("cli.md"),
        command_line::render(&command).as_bytes(),
    )?;
    write(&reference.join("metrics.md"), metrics::render().as_bytes())?;
    man_pages(&command, &man)
}

/// One page a command: `egress-agent.1`, `egress-agent-run.1` and so on.
fn man_pages(command: &clap::Command, folder: &Path) -> Result<()> {
    for command in std::iter::once(command).chain(command_line::subcommands(command)) {
        // A page's name is one word, `egress-agent-run`; what is typed is two.
        let name = command.get_display_name().unwrap_or(command.get_name());
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone()).render(&mut page)?;
        write(&folder.join(format!("{name}.1")), &page)?;
    }
    Ok(())
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
