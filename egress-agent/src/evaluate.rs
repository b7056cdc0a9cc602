//! From a question as it is asked to the core's answer as it is told.

use egress_core::check::{self, Checker, Transport};

use crate::answer::{AddressAnswer, Answer, Verdict};
use crate::query::{Destination, Place, Subject, Traffic};

/// Asks the core.
pub fn evaluate(
    checker: &mut Checker<'_>,
    from: &Subject,
    to: &Destination,
) -> Result<Answer, check::Error> {
    let place = match &to.place {
        Place::Address(address) => check::Destination::Address(*address),
        Place::Pod(name) => check::Destination::Pod(name.clone()),
        Place::Service(name) => check::Destination::Service(name.clone()),
    };
    let transport = match to.traffic {
        Traffic::Port(protocol, port) => Transport::Port(protocol, port),
        Traffic::Icmp => Transport::Icmp,
    };
    let answer = checker.check(&from.0, &place, transport)?;
    let names = |names: &[egress_core::object::Name]| {
        names
            .iter()
            .map(|n| format!("{}/{}", n.namespace, n.name))
            .collect()
    };
    Ok(Answer {
        verdict: verdict(answer.allow),
        reason: answer.reason.to_owned(),
        isolated_by: names(&answer.isolated_by),
        allowed_by: names(&answer.allowed_by),
        addresses: answer
            .addresses
            .iter()
            .map(|(address, allow)| AddressAnswer {
                address: *address,
                verdict: verdict(*allow),
            })
            .collect(),
        drift: Vec::new(),
    })
}

const fn verdict(allow: bool) -> Verdict {
    if allow { Verdict::Allow } else { Verdict::Deny }
}
