//! The command line, as clap knows it.

use clap::{Arg, ArgAction, Command};

use crate::markdown::{GENERATED, code, one_line, table};

/// `docs/reference/cli.md`.
pub(super) fn render(command: &Command) -> String {
    let mut text = format!(
        "# Command line\n\n{GENERATED}\n{}\n\nEvery command exits with 0 for success and 2 for an error. \
         A flag with an environment variable can be given by that too; the flag wins.\n\n",
        about(command)
    );
    let rows: Vec<Vec<String>> = visible(command)
        .map(|sub| {
            let name = sub.get_name();
            vec![
                format!("[`{name}`](#egress-agent-{name})"),
                one_line(&sub.get_about().map(ToString::to_string).unwrap_or_default()),
            ]
        })
        .collect();
    text.push_str(&table(&["command", "does"], &rows));
    for sub in subcommands(command) {
        text.push_str(&section(sub));
    }
    text
}

/// Every command below, those of commands included, parents first.
pub(super) fn subcommands(command: &Command) -> Vec<&Command> {
    visible(command)
        .flat_map(|sub| std::iter::once(sub).chain(subcommands(sub)))
        .collect()
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

fn section(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    let mut text = format!(
        "\n## {name}\n\n{}\n\n```text\n{usage}\n```\n",
        about(command)
    );
    let rows: Vec<Vec<String>> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && !is_builtin(argument))
        .map(row)
        .collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(
            &["argument", "environment", "default", "what it says"],
            &rows,
        ));
    }
    if let Some(after) = command.get_after_help() {
        let after = after.to_string();
        let after = after.strip_prefix("Examples:\n").unwrap_or(&after);
        text.push_str("\n```sh\n");
        text.push_str(&unindented(after.trim_end()));
        text.push_str("\n```\n");
    }
    text
}

fn row(argument: &Arg) -> Vec<String> {
    let default: Vec<String> = argument
        .get_default_values()
        .iter()
        .map(|value| code(&value.to_string_lossy()))
        .collect();
    let default = match (argument.get_action(), argument.is_required_set()) {
        (_, true) => "required".to_owned(),
        (ArgAction::SetTrue, _) => "off".to_owned(),
        _ => default.join(", "),
    };
    let mut help = one_line(
        &argument
            .get_long_help()
            .or_else(|| argument.get_help())
            .map(ToString::to_string)
            .unwrap_or_default(),
    );
    let values = argument.get_possible_values();
    if !matches!(argument.get_action(), ArgAction::SetTrue) && !values.is_empty() {
        let values: Vec<String> = values
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| match value.get_help() {
                Some(help) => format!(
                    "{} {}",
                    code(value.get_name()),
                    one_line(&help.to_string().to_lowercase()).trim_end_matches('.')
                ),
                None => code(value.get_name()),
            })
            .collect();
        help = format!("{help}: {}", values.join(", "));
    }
    vec![
        spelled(argument),
        argument
            .get_env()
            .map(|name| code(&name.to_string_lossy()))
            .unwrap_or_default(),
        default,
        help,
    ]
}

/// `-o`, `--output OUTPUT`
fn spelled(argument: &Arg) -> String {
    let value = if argument.get_action().takes_values() {
        let names = argument.get_value_names().unwrap_or_default();
        names.iter().flat_map(|name| [" ", name.as_str()]).collect()
    } else {
        String::new()
    };
    let short = argument.get_short().map(|short| format!("`-{short}`, "));
    match argument.get_long() {
        Some(long) => format!("{}`--{long}{value}`", short.unwrap_or_default()),
        None => code(value.trim()),
    }
}

fn is_builtin(argument: &Arg) -> bool {
    matches!(argument.get_id().as_str(), "help" | "version")
}

fn about(command: &Command) -> String {
    command
        .get_long_about()
        .or_else(|| command.get_about())
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn unindented(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix("  ").unwrap_or(line))
        .collect();
    lines.join("\n")
}
