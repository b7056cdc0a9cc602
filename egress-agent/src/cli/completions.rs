//! `completions`: what a shell needs to complete this command line.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap_complete::Shell;

/// Prints a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  # for every user, in the next shell
  egress-agent completions bash > /usr/share/bash-completion/completions/egress-agent
  egress-agent completions zsh > /usr/local/share/zsh/site-functions/_egress-agent
  egress-agent completions fish > /usr/share/fish/vendor_completions.d/egress-agent.fish")]
pub(super) struct Args {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        // Not straight to standard output: `generate` panics when nobody reads it.
        let mut script = Vec::new();
        clap_complete::generate(
            self.shell,
            &mut super::command(),
            "egress-agent",
            &mut script,
        );
        io::stdout().lock().write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_learns_every_command() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(
                *shell,
                &mut super::super::command(),
                "egress-agent",
                &mut script,
            );
            let script = String::from_utf8_lossy(&script);
            for command in super::super::command().get_subcommands() {
                assert!(
                    script.contains(command.get_name()),
                    "{shell} {}",
                    command.get_name()
                );
            }
        }
    }
}
