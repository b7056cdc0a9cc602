//! `cargo xtask mutants`: would the tests notice if a statement of the semantics were broken?
//!
//! `tests/mutants` keeps mistakes, each a small replacement in the source and the statements that it
//! breaks. One after the other is planted in a copy of the sources, and the tests that should notice
//! are run. A mistake that none of them notices has survived, and then a test is missing.

mod list;
mod scratch;
mod splice;

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::workspace::Workspace;
use list::{Mutant, Tests};
use scratch::{Outcome, Scratch};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those whose name or file contains this
    #[arg(long)]
    filter: Option<String>,
}

/// A mutant, and what became of it.
struct Row {
    mutant: Mutant,
    fate: Fate,
}

enum Fate {
    /// By these tests.
    Killed(String),
    Survived,
    /// It does not compile, or its place is not found, and so shows nothing.
    Broken(String),
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let filter = args.filter.as_deref().unwrap_or_default();
    let chosen: Vec<Mutant> = list::read(&workspace.root)?
        .into_iter()
        .filter(|mutant| mutant.name.contains(filter) || mutant.file.contains(filter))
        .collect();
    let scratch = Scratch::new(workspace)?;
    let mut needed: Vec<Tests> = chosen
        .iter()
        .flat_map(|mutant| mutant.tests.clone())
        .collect();
    needed.sort_unstable();
    needed.dedup();
    for tests in needed {
        let without = scratch.test(tests)?;
        ensure!(
            without == Outcome::Passed,
            "{tests:?}, without any mutant: {without:?}"
        );
    }
    let mut rows = Vec::new();
    for mutant in chosen {
        let fate = fate(&scratch, &mutant)?;
        println!("{}", line(&mutant, &fate));
        rows.push(Row { mutant, fate });
    }
    println!("\n{}", table(&rows));
    let count = |wanted: fn(&Fate) -> bool| rows.iter().filter(|row| wanted(&row.fate)).count();
    let (killed, survived, broken) = (
        count(|fate| matches!(fate, Fate::Killed(_))),
        count(|fate| matches!(fate, Fate::Survived)),
        count(|fate| matches!(fate, Fate::Broken(_))),
    );
    // Programs read the last line; nothing may follow it.
    println!("{killed} killed, {survived} survived, {broken} broken");
    Ok(if killed > 0 && survived == 0 && broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What becomes of one.
fn fate(scratch: &Scratch<'_>, mutant: &Mutant) -> Result<Fate> {
    let planted = match scratch.plant(mutant) {
        Ok(planted) => planted,
        Err(error) => return Ok(Fate::Broken(format!("{error:#}"))),
    };
    let fate = tested(scratch, mutant);
    planted.restore()?;
    fate
}

/// Runs the tests that should notice, until some do.
fn tested(scratch: &Scratch<'_>, mutant: &Mutant) -> Result<Fate> {
    for tests in &mutant.tests {
        match scratch.test(*tests)? {
            Outcome::Passed => {}
            Outcome::Failed(names) => return Ok(Fate::Killed(shortened(*tests, &names))),
            Outcome::NotBuilt => return Ok(Fate::Broken("does not compile".to_owned())),
        }
    }
    Ok(Fate::Survived)
}

/// The first of the tests that failed, and how many there are.
fn shortened(tests: Tests, names: &[String]) -> String {
    let (package, _) = tests.of();
    match names {
        [] => format!("{package}, which did not end"),
        [one] => format!("{package}: {one}"),
        [first, rest @ ..] => format!("{package}: {first} and {} more", rest.len()),
    }
}

fn line(mutant: &Mutant, fate: &Fate) -> String {
    match fate {
        Fate::Killed(by) => format!("killed    {} ({by})", mutant.name),
        Fate::Survived => format!("SURVIVED  {}", mutant.name),
        Fate::Broken(why) => format!("BROKEN    {}: {why}", mutant.name),
    }
}

/// As tests/mutants/README.md keeps it.
fn table(rows: &[Row]) -> String {
    let mut text = String::from("| mistake | breaks | killed by |\n| --- | --- | --- |\n");
    for Row { mutant, fate } in rows {
        let by = match fate {
            Fate::Killed(by) => by.as_str(),
            Fate::Survived => "nothing",
            Fate::Broken(why) => why,
        };
        let line = format!("| {} | {} | {by} |\n", mutant.name, mutant.cited());
        text.push_str(&line);
    }
    text
}
