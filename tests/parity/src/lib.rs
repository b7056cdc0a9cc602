//! The agent's evaluator beside the oracle: the same objects, the same questions.
//!
//! An [`Evaluator`] is anything that answers. [`Core`] is the agent's, in this process: thousands of
//! clusters in a second or so; `egress-tests` has those that need a binary or a kernel. A difference is
//! shrunk until nothing can be taken away from the objects, and printed with its seed.
//!
//! A crate of its own so that it is built in seconds: `cargo xtask mutants` does it a hundred times.

mod core;
pub mod generate;
mod shrink;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
use egress_core::store::Store;
use egress_oracle::{Answer, Oracle};
use serde_json::Value;

pub use core::{Core, store};
pub use shrink::shrink;

use crate::generate::{Case, Coverage, Question, case};

/// Something that claims to answer as the oracle does.
pub trait Evaluator {
    /// One answer a question, in order; a text where a question cannot be answered.
    fn answers(
        &self,
        objects: &[Value],
        questions: &[Question],
    ) -> Result<Vec<Result<Answer, String>>>;
}

/// Where oracle and agent differ.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The case's seed.
    pub seed: u64,
    /// As few objects as still show it.
    pub objects: Vec<Value>,
    /// What was asked.
    pub question: Question,
    /// The oracle's answer.
    pub expected: Answer,
    /// The agent's.
    pub got: Result<Answer, String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.question)?;
        writeln!(f, "  oracle: {}", told(&Ok(self.expected.clone())))?;
        writeln!(f, "  agent:  {}", told(&self.got))?;
        for object in &self.objects {
            writeln!(f, "  {object}")?;
        }
        Ok(())
    }
}

/// An answer in a line.
#[must_use]
pub fn told(answer: &Result<Answer, String>) -> String {
    match answer {
        Ok(answer) => format!(
            "{}, isolated by {:?}, allowed by {:?}",
            if answer.allow { "allow" } else { "deny" },
            answer.isolated_by,
            answer.allowed_by
        ),
        Err(error) => format!("error: {error}"),
    }
}

/// What a run has met.
#[derive(Debug, Default)]
pub struct Report {
    /// Cases compared.
    pub cases: u64,
    /// Questions by (allowed, policies that isolate, policies that allow; at most 2 each).
    pub answers: BTreeMap<(bool, usize, usize), u64>,
    /// Statements met.
    pub coverage: Coverage,
    /// Differences, shrunk.
    pub mismatches: Vec<Mismatch>,
}

impl Report {
    /// Questions asked.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.answers.values().sum()
    }

    /// Fails when something was never met: a run this long that does not meet everything
    /// would prove nothing.
    pub fn check_coverage(&self) -> Result<()> {
        let missing = self.coverage.missing();
        ensure!(missing.is_empty(), "never drawn: {missing:?}");
        // Allowed and denied, with none, one and several policies on either side. A denial
        // without a policy there is not.
        let kinds = [
            (true, 0, 0),
            (true, 1, 1),
            (true, 2, 0),
            (true, 2, 1),
            (true, 2, 2),
            (false, 1, 0),
            (false, 2, 0),
        ];
        for kind in kinds {
            let met = self.answers.get(&kind).copied().unwrap_or_default();
            // The rarest is the Service whose endpoints two policies share (S84).
            ensure!(
                met > 0,
                "no answer of the kind {kind:?}: {:?}",
                self.answers
            );
        }
        Ok(())
    }
}

/// Compares cases, seed after seed, until there are so many mismatches.
pub fn run(
    evaluator: &impl Evaluator,
    seeds: impl Iterator<Item = u64>,
    most_mismatches: usize,
) -> Result<Report> {
    let mut report = Report::default();
    for seed in seeds {
        let case = case(seed);
        report.cases += 1;
        report.coverage.add(&case.coverage);
        let oracle = Oracle::new(&case.objects);
        let got = evaluator.answers(&case.objects, &case.questions)?;
        ensure!(
            got.len() == case.questions.len(),
            "seed {seed}: {} answers to {} questions",
            got.len(),
            case.questions.len()
        );
        let mut first = None;
        for (question, got) in case.questions.iter().zip(got) {
            let expected = ask(&oracle, question);
            let kind = (
                expected.allow,
                expected.isolated_by.len().min(2),
                expected.allowed_by.len().min(2),
            );
            *report.answers.entry(kind).or_default() += 1;
            if difference(&oracle, question, &expected, &got).is_some() && first.is_none() {
                first = Some(question);
            }
        }
        if let Some(question) = first {
            report.mismatches.push(found(evaluator, &case, question)?);
            if report.mismatches.len() >= most_mismatches {
                break;
            }
        }
    }
    Ok(report)
}

/// The node with most pods.
#[must_use]
pub fn busiest(store: &Store) -> String {
    let mut pods: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in store.pods().filter(|pod| !pod.node.is_empty()) {
        *pods.entry(&pod.node).or_default() += 1;
    }
    let most = pods.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(node, _)| node.to_owned()).unwrap_or_default()
}

/// In what two answers differ.
#[derive(Debug, PartialEq, Eq)]
enum Difference {
    Error,
    Answer {
        verdicts: (bool, bool),
        isolated_by: bool,
        allowed_by: bool,
    },
}

/// Nothing when they do not. Of a pod that nobody can know (S96) only the verdicts count: which policies
/// isolate it is a guess, and the agent may say that there is none.
fn difference(
    oracle: &Oracle,
    question: &Question,
    expected: &Answer,
    got: &Result<Answer, String>,
) -> Option<Difference> {
    let is_known = oracle.knows((&question.namespace, &question.pod));
    match got {
        Ok(got) if got == expected => None,
        Ok(got) if !is_known && got.allow == expected.allow => None,
        Err(_) if !is_known && !expected.allow => None,
        Ok(got) => Some(Difference::Answer {
            verdicts: (expected.allow, got.allow),
            isolated_by: expected.isolated_by != got.isolated_by,
            allowed_by: expected.allowed_by != got.allowed_by,
        }),
        Err(_) => Some(Difference::Error),
    }
}

/// What the oracle says.
#[must_use]
pub fn ask(oracle: &Oracle, question: &Question) -> Answer {
    oracle.verdict(
        (&question.namespace, &question.pod),
        question.address,
        question.protocol,
        question.port,
    )
}

fn found(evaluator: &impl Evaluator, case: &Case, question: &Question) -> Result<Mismatch> {
    // The same kind of difference all the way, or shrinking ends at another, smaller one.
    let kind = |objects: &[Value]| {
        let (expected, got) = compare(evaluator, objects, question).ok()?;
        difference(&Oracle::new(objects), question, &expected, &got)
    };
    let found = kind(&case.objects);
    let objects = shrink(&case.objects, |objects| {
        found.is_some() && kind(objects) == found
    });
    let (expected, got) = compare(evaluator, &objects, question)?;
    Ok(Mismatch {
        seed: case.seed,
        objects,
        question: question.clone(),
        expected,
        got,
    })
}

/// Both answers.
fn compare(
    evaluator: &impl Evaluator,
    objects: &[Value],
    question: &Question,
) -> Result<(Answer, Result<Answer, String>)> {
    let expected = ask(&Oracle::new(objects), question);
    let mut got = evaluator.answers(objects, std::slice::from_ref(question))?;
    let got = got.pop().unwrap_or_else(|| Err("no answer".to_owned()));
    Ok((expected, got))
}
