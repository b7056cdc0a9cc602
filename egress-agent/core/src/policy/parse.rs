//! Reads a `NetworkPolicy`. Every unit that cannot be read closes alone: an entry of
//! `ports`, a peer, a rule, else the whole policy.
//!
//! Unknown fields count as unreadable inside `spec`: whoever drops a field that narrows a
//! policy widens it (S80).

use super::rule::Rules;
use super::{Egress, Policy, Subject, SubjectNamespace, selector, unreadable};
use crate::object::field::Field;
use crate::object::{Name, Problem, metadata};

/// Stands for a name or a namespace that cannot be read; no object can be called so.
const UNKNOWN: &str = "<unknown>";

/// Reads a policy whose `apiVersion` was looked at before.
pub(crate) fn read(root: &Field<'_, '_>, version: Result<(), Problem>) -> Policy {
    let mut problems = Vec::new();
    let mut closing = Vec::new();
    closing.extend(version.err());
    let (name, place) = name(root, &mut closing);
    let unknown = root.only(&["apiVersion", "kind", "metadata", "spec", "status"]);
    problems.extend(unknown.err().map(|problem| problem.so("it is ignored")));

    let (subject, egress) = match root.get("spec") {
        Ok(Some(spec)) => {
            let egress = egress(&spec, &name.namespace, &mut problems);
            (subject(&spec, place), egress)
        }
        // Every field of it is optional, and the defaults do not mention egress (S3).
        Ok(None) => (Ok(Subject::every_pod(place)), Ok(Egress::NotMentioned)),
        Err(problem) => (Ok(Subject::every_pod(place)), Err(problem)),
    };
    let subject = subject.unwrap_or_else(|problem| {
        let problem = problem.so("the policy selects every pod of its namespace");
        // Whoever is selected, a policy that is readably about ingress alone isolates nobody
        // for egress (S2).
        match egress {
            Ok(Egress::NotMentioned) => problems.push(problem),
            Ok(Egress::Isolated(_)) | Err(_) => closing.push(problem),
        }
        Subject::every_pod(place)
    });
    match egress {
        Ok(egress) if closing.is_empty() => {
            return Policy {
                name,
                subject,
                egress,
                problems,
                unreadable: false,
            };
        }
        Ok(_) => {}
        Err(problem) => closing.push(problem),
    }
    problems.extend(
        closing
            .into_iter()
            .map(|problem| problem.so("the policy isolates and allows nothing")),
    );
    unreadable(name, subject, problems)
}

/// A container port's name: 1–15 of `[a-z0-9-]`, a letter among them, hyphens only inside
/// and never two together (S79).
pub(crate) fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

/// A policy closes even when nobody can say what it is called.
fn name(root: &Field<'_, '_>, closing: &mut Vec<Problem>) -> (Name, SubjectNamespace) {
    let mut place = SubjectNamespace::Own;
    let namespace = metadata::namespace(root).unwrap_or_else(|problem| {
        closing.push(problem.so("the policy may be of any namespace"));
        place = SubjectNamespace::Unknown;
        UNKNOWN.to_owned()
    });
    let name = metadata::name(root).unwrap_or_else(|problem| {
        closing.push(problem);
        UNKNOWN.to_owned()
    });
    (Name { namespace, name }, place)
}

/// `podSelector`, everything when absent (S7).
fn subject(spec: &Field<'_, '_>, namespace: SubjectNamespace) -> Result<Subject, Problem> {
    let selector = spec
        .get("podSelector")?
        .map(|field| selector::read(&field))
        .transpose()?;
    Ok(Subject {
        namespace,
        pods: [selector.unwrap_or_default()].into(),
    })
}

fn egress(
    spec: &Field<'_, '_>,
    namespace: &str,
    problems: &mut Vec<Problem>,
) -> Result<Egress, Problem> {
    spec.only(&["podSelector", "policyTypes", "ingress", "egress"])?;
    let rules = spec.get("egress")?;
    let mentioned = match policy_types(spec)? {
        PolicyTypes::Stated { egress } => egress,
        // The default (S3).
        PolicyTypes::Absent => match &rules {
            Some(rules) => rules.items()?.next().is_some(),
            None => false,
        },
    };
    if !mentioned {
        // Rules may be there all the same, and mean nothing (S5).
        return Ok(Egress::NotMentioned);
    }
    let rules = rules
        .map(|list| {
            Rules {
                namespace,
                problems,
            }
            .read(&list)
        })
        .transpose()?;
    Ok(Egress::Isolated(rules.unwrap_or_default()))
}

enum PolicyTypes {
    /// Absent or empty (S3, S81).
    Absent,
    Stated {
        egress: bool,
    },
}

fn policy_types(spec: &Field<'_, '_>) -> Result<PolicyTypes, Problem> {
    let mut found = PolicyTypes::Absent;
    let Some(list) = spec.get("policyTypes")? else {
        return Ok(found);
    };
    for item in list.items()? {
        let before = matches!(found, PolicyTypes::Stated { egress: true });
        // One type may stand there twice (S6).
        found = match item.string()? {
            "Egress" => PolicyTypes::Stated { egress: true },
            "Ingress" => PolicyTypes::Stated { egress: before },
            other => return Err(item.problem(format!("{other:?} is neither Ingress nor Egress"))),
        };
    }
    Ok(found)
}
