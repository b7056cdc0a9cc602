//! Reads the egress rules of a policy: peers and ports.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::parse::is_port_name;
use super::{Block, NamespaceScope, Peer, Peers, Port, Ports, Rule, selector};
use crate::cidr;
use crate::label::Selector;
use crate::object::Problem;
use crate::object::field::Field;

/// What the rules of one policy are read with.
pub(super) struct Rules<'a> {
    /// The policy's own namespace, that of a `podSelector` alone (S19).
    pub(super) namespace: &'a str,
    /// What could not be read.
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Rules<'_> {
    /// `egress`. A rule that cannot be read is left out: it matches nothing.
    pub(super) fn read(&mut self, list: &Field<'_, '_>) -> Result<Vec<Rule>, Problem> {
        let mut rules = Vec::new();
        for item in list.items()? {
            let rule = self.rule(&item);
            rules.extend(self.keep(rule, "this rule matches nothing"));
        }
        Ok(rules)
    }

    fn rule(&mut self, field: &Field<'_, '_>) -> Result<Rule, Problem> {
        field.only(&["to", "ports"])?;
        let to = self.entries(field, "to", "this peer matches nothing", Self::peer)?;
        let ports = self.entries(field, "ports", "this entry is ignored", |_, field| {
            port(field)
        })?;
        Ok(Rule {
            to: to.map_or(Peers::Any, Peers::Only),
            ports: ports.map_or(Ports::Any, Ports::Only),
        })
    }

    /// The readable entries of a list. `None` when it is absent or empty, which are the same
    /// and match everything (S13, S81); a list of which nothing could be read is an empty
    /// `Some`, which matches nothing (S92, S93).
    fn entries<T>(
        &mut self,
        rule: &Field<'_, '_>,
        list: &str,
        otherwise: &str,
        read: impl Fn(&mut Self, &Field<'_, '_>) -> Result<T, Problem>,
    ) -> Result<Option<Vec<T>>, Problem> {
        let Some(list) = rule.get(list)? else {
            return Ok(None);
        };
        let mut found = None;
        for item in list.items()? {
            let entries = found.get_or_insert_with(Vec::new);
            let entry = read(self, &item);
            entries.extend(self.keep(entry, otherwise));
        }
        Ok(found)
    }

    fn keep<T>(&mut self, part: Result<T, Problem>, otherwise: &str) -> Option<T> {
        part.map_err(|problem| self.problems.push(problem.so(otherwise)))
            .ok()
    }

    fn peer(&mut self, field: &Field<'_, '_>) -> Result<Peer, Problem> {
        field.only(&["podSelector", "namespaceSelector", "ipBlock"])?;
        let pods = field.get("podSelector")?;
        let namespaces = field.get("namespaceSelector")?;
        let selector = |field: Option<Field<'_, '_>>| field.map(|f| selector::read(&f)).transpose();
        match (field.get("ipBlock")?, pods, namespaces) {
            (None, None, None) => Err(field.problem("has neither ipBlock nor a selector")),
            (Some(block), None, None) => block_of(&block).map(Peer::Block),
            (Some(_), _, _) => Err(field.problem("has both ipBlock and a selector")),
            (None, pods, None) => Ok(Peer::Pods {
                namespaces: NamespaceScope::Named(self.namespace.to_owned()),
                pods: selector(pods)?.unwrap_or_default(),
            }),
            // No podSelector is every pod of those namespaces (S20, S23).
            (None, pods, Some(namespaces)) => Ok(Peer::Pods {
                namespaces: NamespaceScope::Matching(selector::read(&namespaces)?),
                pods: selector(pods)?.unwrap_or_else(Selector::default),
            }),
        }
    }
}

/// `ipBlock`. An `except` that cannot be read spoils the block, because without it the block
/// would be wider than was meant (S93).
fn block_of(field: &Field<'_, '_>) -> Result<Block, Problem> {
    field.only(&["cidr", "except"])?;
    let net = network(&field.require("cidr")?)?;
    let mut except = BTreeSet::new();
    if let Some(list) = field.get("except")? {
        for item in list.items()? {
            except.insert(network(&item)?);
        }
    }
    Ok(Block { net, except })
}

fn network(field: &Field<'_, '_>) -> Result<IpNet, Problem> {
    let text = field.string()?;
    cidr::network(text).map_err(|error| field.problem(format!("{text:?} {error}")))
}

/// One entry of `ports` (S15, S16, S36, S45, S92).
fn port(field: &Field<'_, '_>) -> Result<Port, Problem> {
    field.only(&["protocol", "port", "endPort"])?;
    let protocol = field.protocol()?;
    let port = field.get("port")?;
    let end = field.get("endPort")?;
    match (port, end) {
        (None, None) => Ok(Port::Range {
            protocol,
            from: 0,
            to: u16::MAX,
        }),
        (None, Some(end)) => Err(end.problem("needs port")),
        (Some(name), None) if name.is_string() => match name.string()? {
            text if is_port_name(text) => Ok(Port::Named {
                protocol,
                name: text.to_owned(),
            }),
            text => Err(name.problem(format!("{text:?} is a text and not a port name"))),
        },
        (Some(name), Some(end)) if name.is_string() => {
            Err(end.problem("needs a port that is a number"))
        }
        (Some(from), None) => {
            let number = from.port()?;
            Ok(Port::Range {
                protocol,
                from: number,
                to: number,
            })
        }
        (Some(from), Some(end)) => match (from.port()?, end.port()?) {
            (from, to) if from <= to => Ok(Port::Range { protocol, from, to }),
            (from, to) => Err(end.problem(format!("{to} is below port {from}"))),
        },
    }
}
