//! `status`: what the running agent enforces.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use super::{Output, SocketArgs, client_runtime};
use crate::serve::client::Client;
use crate::status;
use crate::terminal::Colour;

/// Exit code of `--wait-ready` when the agent answers and is not ready.
const NOT_READY: u8 = 1;

/// Below `--help`. A test of the documents parses every line of it.
const EXAMPLES: &str = r#"Examples:
  egress-agent status
  egress-agent status -o json | jq '.pods[] | select(.state == "denied")'"#;

/// Shows what the running agent enforces: problems and warnings first, then pods, policies, rulesets, tables.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    socket: SocketArgs,

    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,

    /// With json, too: compare the kernel's tables with what the agent wrote, and look for other
    /// programs on the pods' hooks. Text always has it.
    #[arg(long)]
    survey: bool,

    /// Waits so many seconds for the agent to be ready; exits with 1 if it is not by then.
    #[arg(long, value_name = "SECONDS")]
    wait_ready: Option<u64>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let client = Client::new(&self.socket.socket);
        let status = client_runtime()?.block_on(async {
            match self.wait_ready {
                Some(seconds) => client.ready(Duration::from_secs(seconds)).await,
                None if self.survey || self.output == Output::Text => client.survey().await,
                None => client.status().await,
            }
        })?;
        let mut stdout = io::stdout().lock();
        match self.output {
            Output::Text => {
                let colour = Colour::of(&stdout);
                stdout.write_all(status::render(&status, colour).as_bytes())?;
            }
            Output::Json => {
                serde_json::to_writer_pretty(&mut stdout, &status)?;
                stdout.write_all(b"\n")?;
            }
        }
        stdout.flush()?;
        Ok(if self.wait_ready.is_some() && !status.ready {
            ExitCode::from(NOT_READY)
        } else {
            ExitCode::SUCCESS
        })
    }
}
