//! The kept mistakes: `tests/mutants/*.yaml`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// Where they are, below the workspace's folder.
const FOLDER: &str = "tests/mutants";
/// Statements that nothing here can break, each with the place that shows it.
const ELSEWHERE: &str = "elsewhere.yaml";

/// A mistake that tests must notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mutant {
    /// What is wrong, as a sentence.
    pub(super) name: String,
    /// The statements of docs/semantics.md that it breaks.
    pub(super) statements: Vec<u8>,
    /// Where it is planted.
    pub(super) file: String,
    /// Stands there once, however it is broken into lines.
    pub(super) before: String,
    /// Stands there instead.
    pub(super) after: String,
    /// Which tests should notice, the ones to ask first first.
    pub(super) tests: Vec<Tests>,
}

/// Tests of one crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tests {
    /// The oracle beside the evaluator.
    Parity,
    /// The core's own.
    Core,
    /// The hooks over tables in memory.
    Common,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tests: Vec<Tests>,
    mutants: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    statements: Vec<u8>,
    file: String,
    before: String,
    after: String,
}

impl Tests {
    /// The package, and further arguments of `cargo test`.
    pub(super) const fn of(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Parity => (
                "egress-parity",
                &[
                    "--test",
                    "evaluator",
                    "the_agents_evaluator_answers_as_the_oracle_does",
                ],
            ),
            Self::Core => ("egress-core", &["--lib"]),
            Self::Common => ("egress-common", &[]),
        }
    }
}

impl Mutant {
    /// `S14, S30`
    pub(super) fn cited(&self) -> String {
        let cited: Vec<String> = self.statements.iter().map(|s| format!("S{s}")).collect();
        cited.join(", ")
    }
}

/// All of them, file by file.
pub(super) fn read(root: &Path) -> Result<Vec<Mutant>> {
    let folder = root.join(FOLDER);
    let entries = fs::read_dir(&folder).with_context(|| format!("reading {FOLDER}"))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_list = path
            .extension()
            .is_some_and(|extension| extension == "yaml");
        if is_list && !path.ends_with(ELSEWHERE) {
            files.push(path);
        }
    }
    files.sort();
    let mut found = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path)?;
        let File { tests, mutants } =
            serde_saphyr::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        found.extend(mutants.into_iter().map(|entry| Mutant {
            name: entry.name,
            statements: entry.statements,
            file: entry.file,
            before: entry.before,
            after: entry.after,
            tests: tests.clone(),
        }));
    }
    Ok(found)
}

/// The statements that no mistake here breaks, with what shows them.
#[cfg_attr(not(test), expect(dead_code, reason = "only the list's own test asks"))]
pub(super) fn elsewhere(root: &Path) -> Result<BTreeMap<u8, String>> {
    let text = fs::read_to_string(root.join(FOLDER).join(ELSEWHERE))?;
    serde_saphyr::from_str(&text).context("reading elsewhere.yaml")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use anyhow::ensure;

    use super::super::splice::splice;
    use super::*;

    fn root() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn every_mutant_has_its_place_in_the_present_source() -> Result<()> {
        let mutants = read(&root())?;
        ensure!(mutants.len() > 50, "only {} mutants", mutants.len());
        for Mutant {
            name,
            file,
            before,
            after,
            ..
        } in &mutants
        {
            let text = fs::read_to_string(root().join(file)).with_context(|| name.clone())?;
            let mutated = splice(&text, before, after)
                .with_context(|| format!("{name}: mend its `before`, or plant it elsewhere"))?;
            ensure!(mutated != text, "{name} changes nothing");
        }
        let names: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
        ensure!(names.len() == mutants.len(), "a name stands there twice");
        Ok(())
    }

    /// S1 to S97, as docs/semantics.md numbers them.
    #[test]
    fn every_statement_has_a_mutant_or_a_place_that_shows_it() -> Result<()> {
        let elsewhere = elsewhere(&root())?;
        let broken: BTreeSet<u8> = read(&root())?
            .into_iter()
            .flat_map(|mutant| mutant.statements)
            .collect();
        let missing: Vec<u8> = (1..=97)
            .filter(|statement| broken.contains(statement) == elsewhere.contains_key(statement))
            .collect();
        ensure!(
            missing.is_empty(),
            "S{missing:?}: neither a mutant nor a reason in {ELSEWHERE}, or both"
        );
        let semantics = fs::read_to_string(root().join("docs/semantics.md"))?;
        for statement in broken.iter().chain(elsewhere.keys()) {
            ensure!(
                semantics.contains(&format!("**S{statement}**")),
                "docs/semantics.md has no S{statement}"
            );
        }
        Ok(())
    }
}
