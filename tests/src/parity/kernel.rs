//! The third answer, beside the oracle's and the evaluator's: the kernel's own.
//!
//! Each case's tables are made by the agent's plans and steps, node after node and case after
//! case on one live set of maps, and every question is a packet that the real program judges.

mod frame;
mod node;
mod update;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
use egress_agent::traffic::Family;
use egress_common::event::Reason;
use egress_core::object::{Name, Pod};
use egress_core::store::Store;
use egress_core::workload::{self, SubjectKind};
use egress_oracle::{Answer, Oracle};
use egress_parity::generate::{Case, Coverage, Question, case};
use egress_parity::{Core, Evaluator as _, ask, shrink, store, told};
use serde_json::Value;

pub use node::{Node, in_own_namespaces};
pub use update::{Updates, updates};

pub(super) use frame::frame;

/// Cases between two restarts of the agent, which takes over the tables it finds.
const RESTART_AFTER: u64 = 25;

/// Why no packet was sent for a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// No object that can be read says where the pod is.
    NoPod,
    /// The pod shares the node's network: it has no interface of its own (S87).
    HostNetwork,
    /// The pod has ended: it has no interface any more (S88).
    Finished,
    /// The pod has no address of the destination's family to send from.
    NoSource,
}

/// What came of a question.
type Asked = Result<bool, Skip>;

/// Where the three differ.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The case's seed.
    pub seed: u64,
    /// As few objects as still show it; all, if it takes the tables of the case before.
    pub objects: Vec<Value>,
    /// What was asked.
    pub question: Question,
    /// The oracle's answer to the case.
    pub oracle: Answer,
    /// The evaluator's.
    pub evaluator: Result<Answer, String>,
    /// Whether the kernel let the packet pass.
    pub kernel: bool,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.question)?;
        writeln!(f, "  oracle:    {}", told(&Ok(self.oracle.clone())))?;
        writeln!(f, "  evaluator: {}", told(&self.evaluator))?;
        writeln!(f, "  kernel:    {}", word(self.kernel))?;
        for object in &self.objects {
            writeln!(f, "  {object}")?;
        }
        Ok(())
    }
}

/// What a run has met.
#[derive(Debug, Default)]
pub struct Report {
    /// Cases compared.
    pub cases: u64,
    /// Nodes whose tables were made.
    pub nodes: u64,
    /// Steps that made them.
    pub steps: usize,
    /// Packets by family (whether IPv4) and verdict.
    pub verdicts: BTreeMap<(bool, bool), u64>,
    /// Questions for which no packet was sent.
    pub skipped: BTreeMap<Skip, u64>,
    /// Packets dropped by reason, as the programs counted them.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Statements met.
    pub coverage: Coverage,
    /// Differences, shrunk.
    pub mismatches: Vec<Mismatch>,
}

impl Report {
    /// Packets of a family, of both verdicts.
    #[must_use]
    pub fn packets(&self, v4: bool, allow: bool) -> u64 {
        self.verdicts.get(&(v4, allow)).copied().unwrap_or_default()
    }

    /// Fails unless the programs counted each packet once, by its family, and dropped none
    /// but by policy: a packet that was dropped as malformed would agree with any denial.
    fn check_counters(&mut self, node: &Node) -> Result<()> {
        let readings = node.readings()?;
        for drop in &readings.dropped {
            *self.reasons.entry(drop.reason.name()).or_default() += drop.packets;
            ensure!(
                matches!(drop.reason, Reason::NoRule | Reason::Frontend),
                "dropped, but not by policy: {drop:?}"
            );
        }
        for (v4, family) in [(true, Family::V4), (false, Family::V6)] {
            let passed = readings.allowed.get(&family).copied().unwrap_or_default();
            let dropped = readings
                .dropped
                .iter()
                .filter(|count| count.family == Some(family));
            let dropped: u64 = dropped.map(|count| count.packets).sum();
            let sent = (self.packets(v4, true), self.packets(v4, false));
            ensure!(
                (passed, dropped) == sent,
                "{family:?}: passed and dropped {sent:?}, counted {:?}",
                (passed, dropped)
            );
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "statements drawn:\n{}", self.coverage)?;
        for ((v4, allow), count) in &self.verdicts {
            let family = if *v4 { "IPv4" } else { "IPv6" };
            writeln!(f, "{family} {:5} {count:>7}", word(*allow))?;
        }
        writeln!(f, "dropped: {:?}", self.reasons)?;
        writeln!(f, "no packet: {:?}", self.skipped)?;
        write!(
            f,
            "{} cases, {} nodes by {} steps, {} packets, {} mismatches",
            self.cases,
            self.nodes,
            self.steps,
            self.verdicts.values().sum::<u64>(),
            self.mismatches.len()
        )
    }
}

const fn word(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

/// Compares cases, seed after seed, until there are so many mismatches.
pub fn run(node: Node, seeds: impl Iterator<Item = u64>, most_mismatches: usize) -> Result<Report> {
    let mut node = node;
    let mut report = Report::default();
    let mut near = Near::default();
    for seed in seeds {
        if report.cases % RESTART_AFTER == RESTART_AFTER - 1 {
            node = node.restarted()?;
        }
        let case = case(seed);
        report.cases += 1;
        report.coverage.add(&case.coverage);
        let first = compare(&mut node, &mut near, &case, &mut report)?;
        if let Some((question, kernel)) = first {
            let found = found(&mut node, &mut near, &case, question, kernel)?;
            report.mismatches.push(found);
            if report.mismatches.len() >= most_mismatches {
                break;
            }
        }
    }
    // Shrinking sends packets of its own.
    if report.mismatches.is_empty() {
        report.check_counters(&node)?;
    }
    Ok(report)
}

/// Asks everything, and returns the first question that the kernel answers otherwise.
fn compare<'a>(
    node: &mut Node,
    near: &mut Near,
    case: &'a Case,
    report: &mut Report,
) -> Result<Option<(&'a Question, bool)>> {
    let store = store(&case.objects);
    let oracle = Oracle::new(&case.objects);
    let mut first = None;
    let (nodes, unplaced) = by_node(&store, &case.questions);
    if unplaced > 0 {
        *report.skipped.entry(Skip::NoPod).or_default() += unplaced;
    }
    for (name, questions) in nodes {
        report.steps += node.become_node(&store, name)?;
        report.nodes += 1;
        for (question, pod) in questions {
            match send(node, near, pod, question)? {
                Ok(kernel) => {
                    let kind = (question.address.is_ipv4(), kernel);
                    *report.verdicts.entry(kind).or_default() += 1;
                    if kernel != ask(&oracle, question).allow && first.is_none() {
                        first = Some((question, kernel));
                    }
                }
                Err(skip) => *report.skipped.entry(skip).or_default() += 1,
            }
        }
    }
    Ok(first)
}

/// Questions with the pods that ask them.
type Asking<'s, 'q> = Vec<(&'q Question, &'s Pod)>;

/// Who asks, by node, and how many questions are of pods that are not there.
fn by_node<'s, 'q>(
    store: &'s Store,
    questions: &'q [Question],
) -> (BTreeMap<&'s str, Asking<'s, 'q>>, u64) {
    let mut nodes: BTreeMap<&str, Asking<'_, '_>> = BTreeMap::new();
    let mut unplaced = 0;
    for question in questions {
        match store.pod(&Name::new(
            question.namespace.as_str(),
            question.pod.as_str(),
        )) {
            Some(pod) => nodes.entry(&pod.node).or_default().push((question, pod)),
            None => unplaced += 1,
        }
    }
    (nodes, unplaced)
}

fn send(node: &mut Node, near: &mut Near, pod: &Pod, question: &Question) -> Result<Asked> {
    match workload::subject(pod) {
        SubjectKind::HostNetwork => return Ok(Err(Skip::HostNetwork)),
        SubjectKind::Finished => return Ok(Err(Skip::Finished)),
        SubjectKind::Enforced | SubjectKind::Unreadable => {}
    }
    let Some(frame) = frame(question, &pod.addresses, near.next(), &[]) else {
        return Ok(Err(Skip::NoSource));
    };
    node.send(&pod.name, &frame).map(Ok)
}

/// Source ports: another for each packet, so that every one opens a flow and none is let
/// through as part of one that is known. When they begin again, many nodes later, the policies
/// that known flows were judged by are gone.
#[derive(Debug, Default)]
pub(super) struct Near(u16);

impl Near {
    pub(super) fn next(&mut self) -> u16 {
        self.0 = self.0.checked_add(1).unwrap_or(1);
        self.0
    }
}

fn found(
    node: &mut Node,
    near: &mut Near,
    case: &Case,
    question: &Question,
    kernel: bool,
) -> Result<Mismatch> {
    let wanted = ask(&Oracle::new(&case.objects), question).allow;
    let again = RefCell::new((node, near));
    let objects = shrink(&case.objects, |objects| {
        let (node, near) = &mut *again.borrow_mut();
        ask(&Oracle::new(objects), question).allow == wanted
            && matches!(alone(node, near, objects, question), Ok(Some(Ok(allow))) if allow == kernel)
    });
    let oracle = ask(&Oracle::new(&objects), question);
    let evaluator = Core
        .answers(&objects, std::slice::from_ref(question))?
        .pop();
    Ok(Mismatch {
        seed: case.seed,
        objects,
        question: question.clone(),
        oracle,
        evaluator: evaluator.unwrap_or_else(|| Err("no answer".to_owned())),
        kernel,
    })
}

/// One question by itself; nothing when there is no such pod.
fn alone(
    node: &mut Node,
    near: &mut Near,
    objects: &[Value],
    question: &Question,
) -> Result<Option<Asked>> {
    let store = store(objects);
    let Some(pod) = store.pod(&Name::new(
        question.namespace.as_str(),
        question.pod.as_str(),
    )) else {
        return Ok(None);
    };
    node.become_node(&store, &pod.node)?;
    send(node, near, pod, question).map(Some)
}
