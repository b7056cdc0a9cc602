//! The agent's evaluator, in this process.

use std::collections::BTreeMap;

use anyhow::Result;
use egress_core::check::{Checker, Destination, Transport};
use egress_core::compile::Options;
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
pub(super) fn store(objects: &[Value]) -> Store {
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
    let answer = checker
        .check(
            &Name::new(&question.namespace, &question.pod),
            &Destination::Address(question.address),
            transport,
        )
        .map_err(|error| error.to_string())?;
    let names = |names: &[Name]| names.iter().map(ToString::to_string).collect();
    Ok(Answer {
        allow: answer.allow,
        isolated_by: names(&answer.isolated_by),
        allowed_by: names(&answer.allowed_by),
    })
}
