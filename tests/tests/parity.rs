//! The agent answers as the oracle does. Longer runs: `cargo run --release -p egress-tests
//! --bin parity -- --cases 100000`.

use anyhow::{Result, ensure};
use egress_oracle::{Answer, Oracle};
use egress_tests::generate::{Question, case};
use egress_tests::harness::{binary, on_world};
use egress_tests::length::{is_long, is_sample, times};
use egress_tests::parity::{Command, Core, Evaluator, Report, ask, kernel, run, wire};
use serde_json::Value;

#[test]
fn the_agents_evaluator_answers_as_the_oracle_does() -> Result<()> {
    let report = run(&Core, 0..1_000, 3)?;
    check(&report)?;
    report.check_coverage()
}

#[test]
fn the_agents_command_answers_as_the_oracle_does() -> Result<()> {
    let command = Command { binary: binary()? };
    check(&run(&command, 1_000_000..1_000_100, 3)?)
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
#[expect(clippy::print_stdout, reason = "what was compared is worth reading")]
fn the_kernel_answers_as_the_oracle_does() -> Result<()> {
    let first = 2_000_000;
    let cases = u64::from(times(300, 10_000));
    let seeds = first..first + cases;
    let report = kernel::in_own_namespaces(|node| kernel::run(node, seeds, 3))?;
    println!("{report}");
    let found: Vec<String> = report.mismatches.iter().map(ToString::to_string).collect();
    ensure!(found.is_empty(), "\n{}", found.join("\n"));
    for (v4, allow) in [(true, true), (true, false), (false, true), (false, false)] {
        let packets = report.packets(v4, allow);
        ensure!(
            packets >= 6 * cases,
            "{packets} packets only, IPv4 {v4}, allowed {allow}"
        );
    }
    Ok(())
}

/// Real frames over a veth, past hooks that the real agent attached.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
#[expect(clippy::print_stdout, reason = "what was compared is worth reading")]
fn frames_on_a_veth_are_let_through_as_the_oracle_says() {
    on_world(|world| {
        let first = 3_000_000;
        let cases = u64::from(times(25, 2_000));
        let report = wire::run(world, first..first + cases)?;
        println!("{report}");
        ensure!(
            report.mismatches.is_empty(),
            "\n{}",
            report.mismatches.join("\n")
        );
        for kind in [(true, true), (true, false), (false, true), (false, false)] {
            let frames = report.verdicts.get(&kind).copied().unwrap_or_default();
            ensure!(
                frames >= 5 * cases,
                "{frames} frames only, (IPv4, passed) {kind:?}"
            );
        }
        let missing = report.coverage.missing();
        // Some statements are too rare for a few clusters; thousands must meet them all.
        let rare = if is_long() { 0 } else { 8 };
        ensure!(
            is_sample() || missing.len() <= rare,
            "never drawn: {missing:?}"
        );
        Ok(())
    });
}

fn check(report: &Report) -> Result<()> {
    let found: Vec<String> = report.mismatches.iter().map(ToString::to_string).collect();
    ensure!(found.is_empty(), "\n{}", found.join("\n"));
    Ok(())
}

/// The oracle, but blind to one field wherever it stands.
struct Blind(&'static str);

impl Evaluator for Blind {
    fn answers(
        &self,
        objects: &[Value],
        questions: &[Question],
    ) -> Result<Vec<Result<Answer, String>>> {
        let mut objects = objects.to_vec();
        for object in &mut objects {
            forget(object, self.0);
        }
        let oracle = Oracle::new(&objects);
        Ok(questions
            .iter()
            .map(|question| Ok(ask(&oracle, question)))
            .collect())
    }
}

fn forget(value: &mut Value, field: &str) {
    match value {
        Value::Object(fields) => {
            fields.remove(field);
            fields.values_mut().for_each(|value| forget(value, field));
        }
        Value::Array(entries) => entries.iter_mut().for_each(|entry| forget(entry, field)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What the coverage by statement cannot show: that what is drawn decides answers.
#[test]
fn an_evaluator_that_is_blind_to_any_field_is_found_out() -> Result<()> {
    let mut unseen = Vec::new();
    for field in [
        "cidr",
        "clusterIP",
        "clusterIPs",
        "conditions",
        "containers",
        "creationTimestamp",
        "deletionTimestamp",
        "egress",
        "egressDeny",
        "endPort",
        "endpoints",
        "except",
        "externalIPs",
        "externalTrafficPolicy",
        "hostNetwork",
        "initContainers",
        "internalTrafficPolicy",
        "ipBlock",
        "ipMode",
        "kubernetes.io/service-name",
        "labels",
        "matchExpressions",
        "matchLabels",
        "namespaceSelector",
        "nodeName",
        "nodePort",
        "operator",
        "phase",
        "podIP",
        "podIPs",
        "podSelector",
        "policyTypes",
        "port",
        "ports",
        "protocol",
        "publishNotReadyAddresses",
        "ready",
        "restartPolicy",
        "selector",
        "serving",
        "status",
        "targetPort",
        "targetRef",
        "terminating",
        "to",
        "type",
        "uid",
        "values",
    ] {
        let report = run(&Blind(field), 0..1_000, 1)?;
        if report.mismatches.is_empty() {
            unseen.push(field);
        }
    }
    ensure!(unseen.is_empty(), "nobody misses {unseen:?}");
    Ok(())
}

#[test]
fn a_difference_is_shrunk_to_what_shows_it() -> Result<()> {
    let report = run(&Blind("except"), 0..1_000, 1)?;
    for mismatch in &report.mismatches {
        let whole = case(mismatch.seed).objects;
        // The pod, its policy, and what the answer may need beside them.
        ensure!(
            mismatch.objects.len() <= 4 && mismatch.objects.len() < whole.len(),
            "{mismatch}"
        );
    }
    Ok(())
}
