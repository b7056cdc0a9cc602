//! Command lines of the agent in documents.

use std::collections::BTreeSet;

use clap::error::ErrorKind;

use crate::page::{Page, Part};

const NAME: &str = "egress-agent";

/// A command line.
pub(crate) struct Line {
    /// Its words, from `egress-agent` on.
    pub(crate) words: Vec<String>,
    /// Whether it is one to be typed; a mention in prose may leave out what it is not about.
    pub(crate) whole: bool,
    /// Where in the page, from 1.
    pub(crate) number: usize,
}

/// Every command line of a page, those behind `kubectl exec … --` and in pipes included.
pub(crate) fn lines(page: &Page) -> Vec<Line> {
    let mut lines = Vec::new();
    for part in &page.parts {
        let (text, number, whole) = match part {
            Part::Line { text, number } => (text, *number, true),
            Part::Span { text, number } => (text, *number, false),
        };
        for mut words in commands(text) {
            // `…` stands for whatever comes there: then only the command is looked at.
            let whole = whole && !text.contains('…');
            if text.contains('…') {
                words.truncate(2);
            }
            lines.push(Line {
                words,
                whole,
                number,
            });
        }
    }
    lines
}

/// Parses as the agent would. Of a mention a missing argument is no fault.
pub(crate) fn parse(words: &[String], whole: bool) -> Result<(), String> {
    let Err(error) = egress_agent::cli::command().try_get_matches_from(words) else {
        return Ok(());
    };
    let kind = error.kind();
    let help = matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let left_out = matches!(
        kind,
        ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    // `completions SHELL`, `explain NS/POD`
    let refused = matches!(kind, ErrorKind::InvalidValue | ErrorKind::ValueValidation);
    let placeholder = refused && words.iter().any(|word| is_placeholder(word));
    if help || (!whole && (left_out || placeholder)) {
        return Ok(());
    }
    Err(format!("{}\n{error}", words.join(" ")))
}

/// Every long flag of every command.
pub(crate) fn flags() -> BTreeSet<String> {
    fn of(command: &clap::Command, flags: &mut BTreeSet<String>) {
        for argument in command.get_arguments() {
            flags.extend(argument.get_long().map(str::to_owned));
        }
        for sub in command.get_subcommands() {
            of(sub, flags);
        }
    }
    let mut command = egress_agent::cli::command();
    command.build();
    let mut flags = BTreeSet::new();
    of(&command, &mut flags);
    flags
}

fn commands(text: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let mut words = Vec::new();
    // A prompt is no comment, and `#` within a line begins one.
    let text = text.trim_start();
    let text = text
        .strip_prefix("$ ")
        .or(text.strip_prefix("# "))
        .unwrap_or(text);
    let words_of_line = shlex::split(text).unwrap_or_default();
    let mut inside = false;
    // `helm upgrade egress-agent …` does not run it: it stands where a command does.
    let mut start = true;
    for word in words_of_line {
        let ends = matches!(
            word.as_str(),
            "|" | "||" | "&&" | "&" | ";" | ">" | ">>" | "2>" | "<"
        );
        // In front of a command, as in `kubectl exec POD --`.
        let before = matches!(word.as_str(), "--" | "sudo");
        let (word, last) = match word.strip_suffix(';') {
            Some(rest) => (rest.to_owned(), true),
            None => (word, false),
        };
        if start && is_agent(&word) {
            inside = true;
            words = vec![NAME.to_owned()];
        } else if ends {
            commands.extend(inside.then(|| std::mem::take(&mut words)));
            inside = false;
        } else if inside {
            words.push(word);
        }
        start = ends || last || before;
        if last && inside {
            commands.push(std::mem::take(&mut words));
            inside = false;
        }
    }
    commands.extend(inside.then_some(words));
    // `egress-agent` alone is the program and no command line; so is a Debian package, a path.
    commands.retain(|words| words.get(1).is_some_and(|word| is_argument(word)));
    commands
}

/// The program by its name or by a path; `ds/egress-agent` is neither.
fn is_agent(word: &str) -> bool {
    let path = word.starts_with('/') || word.starts_with("./") || word.starts_with("target/");
    word == NAME || (path && word.ends_with("/egress-agent"))
}

fn is_placeholder(word: &str) -> bool {
    word.len() > 1
        && word
            .chars()
            .all(|c| c.is_ascii_uppercase() || "/:[]".contains(c))
}

/// A subcommand or a flag; not the rest of a sentence.
fn is_argument(word: &str) -> bool {
    word.starts_with('-') || word.starts_with(|c: char| c.is_ascii_lowercase())
}

#[test]
fn command_lines_are_found_where_people_write_them() {
    for (text, wanted) in [
        ("# egress-agent run --x   # as root", "egress-agent run --x"),
        ("$ egress-agent drops -f | head", "egress-agent drops -f"),
        (
            "kubectl exec ds/egress-agent -- egress-agent status",
            "egress-agent status",
        ),
        (
            "target/release/egress-agent status &",
            "egress-agent status",
        ),
    ] {
        let found: Vec<String> = commands(text).iter().map(|words| words.join(" ")).collect();
        assert!(found.contains(&wanted.to_owned()), "{text}: {found:?}");
    }
    for text in [
        "helm install egress-agent ./chart --wait",
        "kubectl rollout status daemonset/egress-agent -n x",
        "kind load image egress-agent:0.1.0",
    ] {
        assert!(commands(text).is_empty(), "{text}");
    }
}
