//! The agent's evaluator answers as the oracle does, and would be found out if it did not.

use anyhow::{Result, ensure};
use egress_oracle::{Answer, Oracle};
use egress_parity::generate::{Question, case};
use egress_parity::{Core, Evaluator, Report, ask, run};
use serde_json::Value;

#[test]
fn the_agents_evaluator_answers_as_the_oracle_does() -> Result<()> {
    let report = run(&Core, 0..1_000, 3)?;
    check(&report)?;
    report.check_coverage()
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
