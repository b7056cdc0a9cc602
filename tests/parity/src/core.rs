//! The agent's evaluator, in this process.

use std::collections::BTreeMap;

use anyhow::Result;
use egress_core::check::{Checker, Destination, Transport};
use egress_core::compile::Options;
use egress_core::explain::{self, Effect, Explanation, Way};
use egress_core::object::{Key, Name, Object, Read, read};
use egress_core::policy;
use egress_core::store::{Changed, Event, Store};
use egress_oracle::{Answer, Protocol};
use serde_json::Value;

use super::Evaluator;
use crate::generate::Question;

/// `egress-core`, as `check` uses it.
#[derive(Clone, Copy, Debug)]
pub struct Core;

impl Evaluator for Core {
    fn answers(
        &self,
        objects: &[Value],
        questions: &[Question],
    ) -> Result<Vec<Result<Answer, String>>> {
        let store = store(objects);
        let mut checker = Checker::new(&store, Options::default());
        Ok(questions
            .iter()
            .map(|question| answer(&mut checker, question))
            .collect())
    }
}

/// The objects as the manifests' source hands them over: once each, and merged into what
/// closes where two of one name differ (S96).
#[must_use]
pub fn store(objects: &[Value]) -> Store {
    let mut by_key: BTreeMap<Key, Vec<Object>> = BTreeMap::new();
    for object in objects {
        if let Read::Object(object) = read(object) {
            let versions = by_key.entry(object.key()).or_default();
            if !versions.contains(&object) {
                versions.push(object);
            }
        }
    }
    let mut store = Store::default();
    for versions in by_key.into_values() {
        let merged = versions
            .into_iter()
            .reduce(|merged, other| merged.merge_conflict(&other));
        match merged.map(|object| store.apply(Event::Applied(object))) {
            Some(Changed::Yes | Changed::No) | None => {}
        }
    }
    store
}

fn answer(checker: &mut Checker<'_>, question: &Question) -> Result<Answer, String> {
    let transport = match question.protocol {
        Protocol::Tcp => Transport::Port(policy::Protocol::Tcp, question.port),
        Protocol::Udp => Transport::Port(policy::Protocol::Udp, question.port),
        Protocol::Sctp => Transport::Port(policy::Protocol::Sctp, question.port),
        Protocol::Icmp => Transport::Icmp,
        Protocol::Other(number) => return Err(format!("cannot be asked about protocol {number}")),
    };
    let (answer, explanation) = checker
        .explain(
            &Name::new(question.namespace.as_str(), question.pod.as_str()),
            &Destination::Address(question.address),
            transport,
        )
        .map_err(|error| error.to_string())?;
    let explained = explained(&explanation);
    let told = (
        answer.allow,
        answer.isolated_by.clone(),
        answer.allowed_by.clone(),
    );
    if !explanation.destinations.is_empty() && explained != told {
        return Err(format!(
            "the steps come to {explained:?}, the verdict is {told:?}: {explanation:?}"
        ));
    }
    let names = |names: &[Name]| names.iter().map(ToString::to_string).collect();
    Ok(Answer {
        allow: answer.allow,
        isolated_by: names(&answer.isolated_by),
        allowed_by: names(&answer.allowed_by),
    })
}

/// What the steps come to: the verdict, the policies that isolate, those that allow.
fn explained(explanation: &Explanation) -> (bool, Vec<Name>, Vec<Name>) {
    let isolate =
        explanation.sender.policies.iter().filter(|selection| {
            matches!(selection.effect, Effect::Isolates(_) | Effect::MayIsolate)
        });
    let isolated_by: Vec<Name> = isolate.map(|selection| selection.policy.clone()).collect();
    let allow = explanation
        .destinations
        .iter()
        .all(explain::Destination::steps_allow);
    let mut allowed_by: Vec<Name> = Vec::new();
    for destination in &explanation.destinations {
        match &destination.way {
            Way::Rules(policies) => allowed_by.extend(
                policies
                    .iter()
                    .filter(|policy| policy.allows)
                    .map(|policy| policy.policy.clone()),
            ),
            // Alone, a policy must allow every endpoint that counts.
            Way::Service(service) if service.closed.is_none() => {
                allowed_by.extend(
                    isolated_by
                        .iter()
                        .filter(|name| {
                            !service.backends.is_empty()
                                && service.backends.iter().all(|backend| {
                                    backend.own
                                        || backend
                                            .policies
                                            .iter()
                                            .any(|policy| policy.policy == **name && policy.allows)
                                })
                        })
                        .cloned(),
                );
            }
            Way::Service(_) | Way::NotIsolated | Way::Closed | Way::Own | Way::OwnNode => {}
        }
    }
    (allow, isolated_by, allowed_by)
}
