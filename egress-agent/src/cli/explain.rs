//! `explain`: the verdict of the running agent's tables.

use std::io;
use std::process::ExitCode;

use super::{Output, SocketArgs, check, client_runtime, exit_code};
use crate::query::{Destination, Subject};
use crate::serve::client::Client;

/// Below `--help`. A test of the documents parses every line of it.
const EXAMPLES: &str = "\
Examples:
  egress-agent explain shop/web --to 192.0.2.10:443
  egress-agent explain shop/web --to shop/svc/db:5432 -o json";

/// Says whether a pod may send somewhere, by the live tables of the running agent, and where
/// these differ from what the objects ask for.
///
/// Exits with 0 for allow, 1 for deny, 2 for an error.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The pod that sends.
    #[arg(value_name = "NS/POD")]
    from: Subject,

    /// Where to: `ADDRESS:PORT[/PROTOCOL]`, `[IPV6]:PORT[/PROTOCOL]`, ADDRESS/ICMP,
    /// `NS/POD:PORT[/PROTOCOL]`, `NS/svc/NAME:PORT[/PROTOCOL]` or `DNS-NAME:PORT[/PROTOCOL]`.
    #[arg(long, value_name = "DESTINATION")]
    to: Destination,

    #[command(flatten)]
    socket: SocketArgs,

    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self {
            from,
            to,
            socket,
            output,
        } = self;
        let client = Client::new(&socket.socket);
        let answer =
            client_runtime()?.block_on(client.explain(&from.to_string(), &to.to_string()))?;
        check::print(io::stdout().lock(), output, &from, &to, &answer)?;
        Ok(exit_code(answer.verdict))
    }
}
