//! `drops`: what was dropped, and why.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use egress_common::event::{Action, Reason};
use serde::Serialize;

use super::{Output, SocketArgs, client_runtime, complain};
use crate::drops::{self, DropRecord, To};
use crate::serve::client::Client;
use crate::serve::{Line, Wanted};
use crate::terminal::Colour;

/// Below `--help`. A test of the documents parses every line of it.
const EXAMPLES: &str = "\
Examples:
  egress-agent drops
  egress-agent drops -f --pod shop/web
  egress-agent drops -f -n shop --reason no-rule -o json";

/// Of a line of JSON. Other programs read it: fields are added, never renamed or given another meaning.
const SCHEMA: &str = "egress-agent.dev/drop/v1";

/// Shows dropped packets with the policies behind them: the last 1,024, and with -f also those
/// to come.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Go on with drops as they happen.
    #[arg(short, long)]
    follow: bool,

    /// Only of this pod: POD or NS/POD.
    #[arg(long, value_name = "POD")]
    pod: Option<String>,

    /// Only of this namespace.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,

    /// Only for this reason.
    #[arg(long, value_name = "REASON", value_parser = reasons())]
    reason: Option<String>,

    /// Only towards this network, or address, and port.
    #[arg(long, value_name = "CIDR[:PORT]")]
    to: Option<To>,

    #[command(flatten)]
    socket: SocketArgs,

    /// How they are printed; json is one object a line.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self {
            follow,
            pod,
            namespace,
            reason,
            to,
            socket,
            output,
        } = self;
        let wanted = Wanted {
            follow,
            pod,
            namespace,
            reason,
            to: to.map(|to| to.to_string()),
        };
        client_runtime()?.block_on(async {
            let mut drops = Client::new(&socket.socket).drops(&wanted).await?;
            let mut stdout = io::stdout().lock();
            let (terminal, colour) = (stdout.is_terminal(), Colour::of(&stdout));
            while let Some(line) = drops.next().await? {
                match line {
                    Line::Drop(record) => {
                        let line = match output {
                            Output::Text if terminal => drops::render_wrapped(&record, colour),
                            Output::Text => drops::render(&record),
                            Output::Json => json(&record)?,
                        };
                        writeln!(stdout, "{line}")?;
                        stdout.flush()?;
                    }
                    Line::Missed { missed } => complain(&format!("too slow for {missed} records")),
                }
            }
            anyhow::Ok(())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What a packet can be dropped for.
fn reasons() -> PossibleValuesParser {
    let drops = |reason: &Reason| reason.action() == Action::Drop;
    let reasons = Reason::ALL.into_iter().filter(drops);
    PossibleValuesParser::new(reasons.map(Reason::name))
}

/// A record as a line that says what it is.
fn json(record: &DropRecord) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Json<'a> {
        schema: &'static str,
        #[serde(flatten)]
        record: &'a DropRecord,
    }
    serde_json::to_string(&Json {
        schema: SCHEMA,
        record,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use clap::Parser as _;
    use serde_json::Value;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_reason_that_nothing_is_dropped_for_is_refused() {
        let drops = |reason: &str| {
            Cli::try_parse_from(["egress-agent", "drops", "--reason", reason]).is_ok()
        };
        assert!(drops("no-rule"));
        for reason in ["no_rule", "allowed", ""] {
            assert!(!drops(reason), "{reason}");
        }
    }

    #[test]
    fn a_line_is_the_record_and_the_schemas_name() {
        let line = r#"{"time":"2026-11-21T06:00:00Z","namespace":"a","pod":"web","podUid":"","workload":"Pod/web","source":"10.0.0.9","destination":"10.1.2.3","port":443,"sourcePort":40000,"tcpFlags":["SYN"],"interface":"veth7","protocol":"tcp","protocolNumber":6,"family":"4","reason":"no-rule","isolatedBy":[],"count":1}"#;
        let record: DropRecord = serde_json::from_str(line).unwrap();
        let mut told: Value = serde_json::from_str(&json(&record).unwrap()).unwrap();
        let schema = told.as_object_mut().unwrap().remove("schema");
        assert_eq!(schema, Some(Value::from(SCHEMA)));
        assert_eq!(told, serde_json::from_str::<Value>(line).unwrap());
    }
}
