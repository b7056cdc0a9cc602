//! What the documents say, against what the agent knows.
//!
//! Command lines in them must parse, flags, metrics and fields of JSON must exist, links must lead somewhere.
//! Whether a command *does* what its page says is for the person who wrote the page: they ran it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "an integration test's helpers are not under #[test]"
)]

mod commands;
mod links;
mod page;
mod schemas;

use std::collections::BTreeSet;

use egress_agent::metrics::catalogue::{self, Kind};

use crate::page::{Page, Part};

/// Words that look like metrics: crates and modules of this workspace.
const CRATES: [&str; 5] = [
    "egress_agent",
    "egress_common",
    "egress_core",
    "egress_ebpf",
    "egress_oracle",
];

/// Flags of other programs.
const OF_OTHERS: [(&str, &str); 3] = [
    ("arch", "cargo xtask image"),
    ("disable-network-policy", "k3s"),
    ("wait", "helm"),
];

#[test]
fn every_command_line_in_the_documents_parses() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for page in page::all() {
        for line in commands::lines(&page) {
            seen += 1;
            if let Err(error) = commands::parse(&line.words, line.whole) {
                wrong.push(format!("{}:{}: {error}", page.name, line.number));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 20, "only {seen} command lines were found");
}

#[test]
fn every_example_below_help_parses() {
    for command in egress_agent::cli::command().get_subcommands() {
        let help = command
            .get_after_help()
            .unwrap_or_else(|| panic!("{} has no examples", command.get_name()));
        let page = Page::of_code(command.get_name(), &help.to_string());
        let lines = commands::lines(&page);
        assert!(!lines.is_empty(), "{}", command.get_name());
        for line in lines {
            if let Err(error) = commands::parse(&line.words, true) {
                panic!("{}: {error}", command.get_name());
            }
        }
    }
}

#[test]
fn every_flag_that_is_named_alone_exists() {
    let known = commands::flags();
    let mut wrong = Vec::new();
    for page in page::all() {
        for part in &page.parts {
            let Part::Span { text, number } = part else {
                continue;
            };
            let Some(flag) = text.strip_prefix("--") else {
                continue;
            };
            let flag = flag.split([' ', '=']).next().unwrap_or_default();
            let other = OF_OTHERS.iter().any(|(known, _)| *known == flag);
            if !flag.is_empty() && !known.contains(flag) && !other {
                wrong.push(format!("{}:{number}: --{flag}", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "no command has:\n{}", wrong.join("\n"));
}

#[test]
fn every_metric_that_is_named_exists() {
    let known: BTreeSet<String> = catalogue::ALL
        .into_iter()
        .flat_map(|metric| {
            let suffixes: &[&str] = match metric.kind {
                Kind::Histogram(_) => &["", "_bucket", "_sum", "_count"],
                Kind::Counter | Kind::Gauge => &[""],
            };
            suffixes
                .iter()
                .map(|suffix| format!("{}{suffix}", metric.name))
        })
        .collect();
    let mut wrong = Vec::new();
    for page in page::all() {
        let words = page
            .text
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("egress_") && !CRATES.contains(word));
        for word in words {
            if !known.contains(word) {
                wrong.push(format!("{}: {word}", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "there is no metric\n{}", wrong.join("\n"));
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let wrong: Vec<String> = page::all().iter().flat_map(links::broken).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
