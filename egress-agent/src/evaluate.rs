//! From a question as it is asked to the core's answer as it is told.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};

use egress_core::check::{self, Checker, Transport};
use egress_core::object::Name;

use crate::answer::{AddressAnswer, Answer, SCHEMA};
use crate::query::{Destination, Place, Subject, Traffic};

/// Where a question goes, a DNS name being resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// To whom.
    pub place: check::Destination,
    /// With what.
    pub transport: Transport,
}

/// A question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The objects have no answer.
    #[error(transparent)]
    Check(#[from] check::Error),
    /// The name has no address.
    #[error(
        "{name} cannot be resolved here; a pod is written NS/POD, a Service NS/svc/NAME: {source}"
    )]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        source: io::Error,
    },
}

impl Target {
    /// Where a destination is. Resolves a name by the system's resolver, which blocks.
    pub fn of(to: &Destination) -> Result<Self, Error> {
        let place = match &to.place {
            Place::Address(address) => check::Destination::Address(*address),
            Place::Pod(name) => check::Destination::Pod(name.clone()),
            Place::Service(name) => check::Destination::Service(name.clone()),
            Place::Host(name) => check::Destination::Host(name.clone(), resolve(name)?),
        };
        let transport = match to.traffic {
            Traffic::Port(protocol, port) => Transport::Port(protocol, port),
            Traffic::Icmp => Transport::Icmp,
        };
        Ok(Self { place, transport })
    }
}

fn resolve(name: &str) -> Result<BTreeSet<IpAddr>, Error> {
    match (name, 0).to_socket_addrs() {
        Ok(found) => Ok(found.map(|address| address.ip()).collect()),
        Err(source) => Err(Error::Resolve {
            name: name.to_owned(),
            source,
        }),
    }
}

/// Asks the core for the verdict alone.
pub fn evaluate(
    checker: &mut Checker<'_>,
    from: &Subject,
    to: &Target,
) -> Result<Answer, check::Error> {
    let answer = checker.check(&from.0, &to.place, to.transport)?;
    Ok(told(&answer))
}

/// Asks the core for the verdict and the steps to it.
pub fn explain(
    checker: &mut Checker<'_>,
    from: &Subject,
    to: &Target,
) -> Result<Answer, check::Error> {
    let (answer, explanation) = checker.explain(&from.0, &to.place, to.transport)?;
    Ok(Answer {
        schema: Some(SCHEMA.to_owned()),
        steps: Some(explanation.into()),
        ..told(&answer)
    })
}

fn told(answer: &check::Answer) -> Answer {
    let check::Answer {
        allow,
        reason,
        isolated_by,
        allowed_by,
        addresses,
    } = answer;
    let names = |names: &[Name]| names.iter().map(ToString::to_string).collect();
    Answer {
        schema: None,
        verdict: (*allow).into(),
        reason: (*reason).to_owned(),
        isolated_by: names(isolated_by),
        allowed_by: names(allowed_by),
        addresses: addresses
            .iter()
            .map(|(address, allow)| AddressAnswer {
                address: *address,
                verdict: (*allow).into(),
            })
            .collect(),
        steps: None,
        live: Vec::new(),
        drift: Vec::new(),
    }
}
