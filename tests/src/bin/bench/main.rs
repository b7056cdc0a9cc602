//! `cargo xtask bench`: what a packet costs, as a multiple of a program that does nothing; what pods
//! notice of it ([`node`]); what the agent itself costs ([`control`], [`cluster`]); what a starting pod
//! waits for ([`starting`]).
//!
//! Programs, tables and plans are the agent's own, opened by `egress_agent::datapath` over objects
//! that are made in memory. Packets go through `BPF_PROG_TEST_RUN`; nothing is attached anywhere.
//! How a path is measured is [`measure`]'s and [`driver`]'s documentation. No time is asserted, but
//! that every packet got the verdict its path is named after is.

#![expect(clippy::print_stdout, reason = "a bench is what it prints")]

mod api;
mod assembly;
mod chart;
mod cluster;
mod control;
mod driver;
mod flood;
mod kernel;
mod measure;
mod memory;
mod node;
mod paths;
mod report;
mod rig;
mod scene;
mod starting;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::report::Report;

const USAGE: &str =
    "usage: bench [--flood] [--rounds N] [--only TEXT] [--except TEXT]... [--compare FILE]

  --rounds N      how often each path is measured, between measurements of the
                  empty program; the medians are reported (default 21)
  --only TEXT     only what has this in its id, as `established-v4`, `node`
                  (throughput through a pod's interface), `control` (the
                  agent itself), `cluster` (its memory in a large one) or `starting`
                  (the CNI plugin)
  --except TEXT   nothing that has this in its id, as `1m`; may be repeated
  --flood         instead: what other pods notice of one that sends a million
                  datagrams a second and may send none of them; through real
                  interfaces
  --compare FILE  the JSON of an earlier run: adds its multiples to the table

Needs root: it loads BPF programs, in namespaces of its own.";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    flood: bool,
    rounds: u32,
    only: String,
    except: Vec<String>,
    compare: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match options(&arguments).and_then(|options| bench(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> Result<Options> {
    let mut options = Options {
        flood: false,
        rounds: 21,
        only: String::new(),
        except: Vec::new(),
        compare: None,
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || {
            rest.next()
                .with_context(|| format!("{argument} needs a value\n\n{USAGE}"))
        };
        match argument.as_str() {
            "--flood" => options.flood = true,
            "--rounds" => {
                let text = value()?;
                options.rounds = text
                    .parse()
                    .ok()
                    .filter(|rounds| *rounds > 0)
                    .with_context(|| format!("--rounds {text}: not a number above 0"))?;
            }
            "--only" => value()?.clone_into(&mut options.only),
            "--except" => options.except.push(value()?.clone()),
            "--compare" => options.compare = Some(value()?.into()),
            other => bail!("{other:?} is not known\n\n{USAGE}"),
        }
    }
    Ok(options)
}

fn bench(options: &Options) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the bench loads BPF programs and makes namespaces, which needs root: run it as root"
        );
    }
    if options.flood {
        return flood::measure(options.rounds);
    }
    // Before anything is measured: a file that cannot be read should not cost two minutes.
    let before = options
        .compare
        .as_deref()
        .map(report::read)
        .transpose()?
        .unwrap_or_default();
    let mut report = Report::new(options.rounds, &options.only, &options.except);
    // These have namespaces of their own, and more than one thread.
    node::measure(&mut report)?;
    control::measure(&mut report)?;
    cluster::measure(&mut report)?;
    starting::measure(&mut report)?;
    if paths::are_wanted(&report) {
        kernel::enter_own_namespaces()?;
        report.stays_on(kernel::stay_on_this_cpu()?);
        paths::measure_all(&mut report)?;
    }
    println!("{}", report.text(&before));
    let written = report.write()?;
    for file in written {
        println!("written to {}", file.display());
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "the one message that is no result")]
fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        options(&arguments)
    }

    #[test]
    fn options_are_read() {
        assert_eq!(
            parse("--compare a.json --rounds 5 --only drop --except v6").unwrap(),
            Options {
                flood: false,
                rounds: 5,
                only: "drop".to_owned(),
                except: vec!["v6".to_owned()],
                compare: Some("a.json".into())
            }
        );
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for line in ["--rounds", "--rounds 0", "--rounds x", "--only", "--fast"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
