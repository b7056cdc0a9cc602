//! `status`: what the running agent enforces.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use super::{Output, SocketArgs, client_runtime};
use crate::serve::client::Client;
use crate::status::{self, Colour};

/// Shows what the running agent enforces: problems, pods, policies, rulesets, map fill.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    socket: SocketArgs,

    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let status = client_runtime()?.block_on(Client::new(&self.socket.socket).status())?;
        let mut stdout = io::stdout().lock();
        match self.output {
            Output::Text => {
                // https://no-color.org
                let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                let colour = if stdout.is_terminal() && !plain {
                    Colour::Ansi
                } else {
                    Colour::None
                };
                stdout.write_all(status::render(&status, colour).as_bytes())?;
            }
            Output::Json => {
                serde_json::to_writer_pretty(&mut stdout, &status)?;
                stdout.write_all(b"\n")?;
            }
        }
        stdout.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}
