//! The command line: a file per subcommand, what several share in here.
//!
//! Every subcommand exits with 0 for success and 2 for an error; `check` and `explain` exit
//! with 1 for "deny".

mod check;
mod cleanup;
mod cni;
mod completions;
mod drops;
mod ending;
mod explain;
mod flow_log;
mod listen;
mod run;
mod sizes;
mod status;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::answer::Verdict;
use crate::serve::SOCKET;

/// Exit code of "deny".
const DENIED: u8 = 1;

/// Exit code of every error, as clap has it for a wrong command line.
const ERROR: u8 = 2;

/// Decides, in the kernel, what each pod of a Kubernetes node may send.
#[derive(Debug, Parser)]
#[command(
    name = "egress-agent",
    version,
    propagate_version = true,
    after_help = "\
What would happen to a packet, on any machine:
  egress-agent check --manifests manifests/ --from shop/web --to 192.0.2.10:443
What an agent on this node enforces, and what it dropped:
  egress-agent status
  egress-agent drops"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Check(check::Args),
    Status(status::Args),
    Explain(explain::Args),
    Drops(drops::Args),
    Cni(cni::Args),
    Cleanup(cleanup::Args),
    Completions(completions::Args),
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Where the agent is.
#[derive(Debug, clap::Args)]
struct SocketArgs {
    /// The agent's unix socket.
    #[arg(
        long,
        value_name = "PATH",
        env = "EGRESS_SOCKET",
        default_value = SOCKET
    )]
    socket: PathBuf,
}

/// Where the agent keeps what outlives it.
#[derive(Clone, Debug, clap::Args)]
struct PlacesArgs {
    /// Folder on a BPF file system below which programs, links and maps are pinned; one agent
    /// a folder.
    #[arg(
        long,
        value_name = "DIR",
        env = "EGRESS_PIN_ROOT",
        default_value = "/sys/fs/bpf/egress"
    )]
    pin_root: PathBuf,

    /// Folder below which the last good text of each manifest is kept.
    #[arg(
        long,
        value_name = "DIR",
        env = "EGRESS_STATE_DIR",
        default_value = "/run/egress-agent/state"
    )]
    state_dir: PathBuf,
}

/// The command line as data: for completions, the reference, and tests of what documents say.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line of this process, and does what it says.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(Cli { command }) => command,
        Err(error) => {
            // Help and version go to standard output, a complaint to standard error. When
            // neither can be written there is nobody to tell.
            let printed = error.print();
            return match u8::try_from(error.exit_code()) {
                Ok(code) if printed.is_ok() => ExitCode::from(code),
                _ => ExitCode::from(ERROR),
            };
        }
    };
    let done = match command {
        Command::Run(args) => args.run(),
        Command::Check(args) => args.run(),
        Command::Status(args) => args.run(),
        Command::Explain(args) => args.run(),
        Command::Drops(args) => args.run(),
        Command::Cni(args) => args.run(),
        Command::Cleanup(args) => args.run(),
        Command::Completions(args) => args.run(),
    };
    done.unwrap_or_else(|error| {
        if reader_is_gone(&error) {
            // `drops | head` has what it wanted.
            return ExitCode::SUCCESS;
        }
        complain(&format!("{error:#}"));
        ExitCode::from(ERROR)
    })
}

/// Writes to standard error. When that is closed there is nobody to tell.
fn complain(message: &str) {
    let _nobody_to_tell: io::Result<()> = writeln!(io::stderr(), "egress-agent: {message}");
}

/// A client's runtime: one connection needs one thread.
fn client_runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Exit code of a verdict.
fn exit_code(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Allow => ExitCode::SUCCESS,
        Verdict::Deny => ExitCode::from(DENIED),
    }
}

fn reader_is_gone(error: &anyhow::Error) -> bool {
    let io = |cause: &(dyn std::error::Error + 'static)| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause
            .downcast_ref::<serde_json::Error>()
            .and_then(serde_json::Error::io_error_kind);
        kind.or(json) == Some(io::ErrorKind::BrokenPipe)
    };
    error.chain().any(io)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_definition_is_consistent_and_every_flag_has_help() {
        let mut command = command();
        command.build();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            for arg in sub.get_arguments() {
                assert!(
                    arg.get_help().is_some(),
                    "{} {}",
                    sub.get_name(),
                    arg.get_id()
                );
            }
        }
    }

    #[test]
    fn a_closed_pipe_is_told_from_other_errors() {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(reader_is_gone(
            &anyhow::Error::from(closed()).context("writing")
        ));
        assert!(reader_is_gone(&serde_json::Error::io(closed()).into()));
        assert!(!reader_is_gone(
            &io::Error::from(io::ErrorKind::NotFound).into()
        ));
    }

    #[test]
    fn places_have_the_defaults_of_the_contract() {
        let cli = Cli::try_parse_from(["egress-agent", "cleanup"]).unwrap();
        let Command::Cleanup(args) = cli.command else {
            unreachable!()
        };
        assert_eq!(args.places.pin_root, PathBuf::from("/sys/fs/bpf/egress"));
        assert_eq!(
            args.places.state_dir,
            PathBuf::from("/run/egress-agent/state")
        );
    }
}
