//! `check`: the verdict without a kernel.

mod batch;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::FalseyValueParser;
use egress_core::check::Checker;
use egress_core::compile::Options;
use egress_core::store::{Changed, Store};

use super::{ERROR, Output, complain, exit_code};
use crate::answer::{self, Answer};
use crate::evaluate::{Target, explain};
use crate::query::{Destination, Subject};
use crate::source;
use crate::terminal::Colour;

/// Below `--help`. A test of the documents parses every line of it.
const EXAMPLES: &str = r#"Examples:
  egress-agent check --manifests manifests/ --from shop/web --to 192.0.2.10:443
  egress-agent check --manifests manifests/ --from shop/web --to '[2001:db8::1]:53/UDP' -o json
  egress-agent check --manifests manifests/ --from shop/web --to shop/db:5432
  egress-agent check --manifests manifests/ --from shop/web --to shop/svc/db:5432
  egress-agent check --manifests manifests/ --from shop/web --to 192.0.2.10/ICMP
  echo '{"from":"shop/web","to":"192.0.2.10:443"}' |
    egress-agent check --manifests manifests/ --batch -"#;

/// Says whether a pod may send somewhere, without a kernel.
///
/// Exits with 0 for allow, 1 for deny, 2 for an error.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Folder with the objects: every *.yaml, *.yml and *.json below it.
    #[arg(long, value_name = "DIR", env = "EGRESS_MANIFESTS")]
    manifests: PathBuf,

    /// The pod that sends.
    #[arg(long, value_name = "NS/POD", required_unless_present = "batch")]
    from: Option<Subject>,

    /// Where to: `ADDRESS:PORT[/PROTOCOL]`, `[IPV6]:PORT[/PROTOCOL]`, ADDRESS/ICMP,
    /// `NS/POD:PORT[/PROTOCOL]`, `NS/svc/NAME:PORT[/PROTOCOL]` or `DNS-NAME:PORT[/PROTOCOL]`.
    #[arg(long, value_name = "DESTINATION", required_unless_present = "batch")]
    to: Option<Destination>,

    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,

    /// Read one query a line, {"from":…,"to":…}, from FILE or standard input (-), and write one
    /// JSON answer a line. Exits with 0, or 2 if a line could not be answered.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to", "output"])]
    batch: Option<PathBuf>,

    /// Always allow traffic to the own node's addresses, as an agent does that was started so.
    #[arg(long, env = "EGRESS_ALLOW_OWN_NODE", value_parser = FalseyValueParser::new())]
    allow_own_node: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let store = store(&self.manifests)?;
        let options = Options {
            allow_own_node: self.allow_own_node,
            ..Options::default()
        };
        let mut checker = Checker::new(&store, options);
        let stdout = io::stdout().lock();
        match (self.batch, self.from, self.to) {
            (Some(file), _, _) => {
                let out = BufWriter::new(stdout);
                let questions = if file.as_os_str() == "-" {
                    // Not through `Stdin`, whose own buffer hides whether a line is waiting.
                    File::from(io::stdin().as_fd().try_clone_to_owned()?)
                } else {
                    File::open(&file).with_context(|| format!("opening {}", file.display()))?
                };
                let all_answered = batch::run(BufReader::new(questions), out, &mut checker)?;
                Ok(if all_answered {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::from(ERROR)
                })
            }
            (None, Some(from), Some(to)) => {
                let answer = explain(&mut checker, &from, &Target::of(&to)?)?;
                print(stdout, self.output, &from, &to, &answer)?;
                Ok(exit_code(answer.verdict))
            }
            (None, _, _) => anyhow::bail!("--from and --to are needed"),
        }
    }
}

/// Prints one answer, of `explain` too.
pub(super) fn print(
    mut out: impl io::Write + IsTerminal,
    output: Output,
    from: &Subject,
    to: &Destination,
    answer: &Answer,
) -> anyhow::Result<()> {
    match output {
        Output::Text => writeln!(
            out,
            "{}",
            answer::render(&from.to_string(), &to.to_string(), answer, Colour::of(&out))
        )?,
        Output::Json => writeln!(out, "{}", serde_json::to_string(answer)?)?,
    }
    Ok(out.flush()?)
}

/// The objects below a folder. What cannot be read closes, as in the agent, and is told.
fn store(folder: &Path) -> anyhow::Result<Store> {
    let first = source::load_once(folder)?;
    let mut store = Store::default();
    for event in first.events {
        match store.apply(event) {
            Changed::Yes | Changed::No => {}
        }
    }
    for problem in &first.problems {
        complain(&problem.to_string());
    }
    Ok(store)
}
