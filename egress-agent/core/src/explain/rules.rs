//! How near the rules of each policy come.

use std::fmt::Display;
use std::net::IpAddr;

use super::fit::{self, Flow, PeerFit, PortFit};
use super::{Explainer, below, no_pod};
use crate::check::Transport;
use crate::object::{Name, Problem};
use crate::policy::{Egress, Gaps, Peers, Policy, Ports, Rule};
use crate::workload;

/// Entries of a list that are told of, the nearest first: what is farther is no help, and a list may
/// have a million.
const ENTRIES: usize = 4;

/// Rules of a policy that are told of, the nearest ones.
const RULES: usize = 16;

/// What a policy says of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStep {
    /// The policy.
    pub policy: Name,
    /// Nothing of it could be used (S91).
    pub unreadable: bool,
    /// One of its rules allows the flow (S10).
    pub allows: bool,
    /// Its rules in their order; of many, the nearest.
    pub rules: Vec<RuleStep>,
    /// How many more rules it has.
    pub further: usize,
    /// What could not be read outside of `rules`: whole rules, or the policy.
    pub problems: Vec<Problem>,
}

/// What a rule says of a destination: peers and ports must both match (S12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleStep {
    /// Index in the object's `spec.egress`.
    pub index: usize,
    /// Both match.
    pub allows: bool,
    /// `to`
    pub peers: Part<PeerFit>,
    /// `ports`
    pub ports: Part<PortFit>,
    /// What of the rule could not be read; it matches nothing (S34, S92, S93).
    pub problems: Vec<Problem>,
}

/// One of the two lists of a rule, whose entries are ORed (S14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<F> {
    /// An entry matches, or there is no list (S13).
    pub matches: bool,
    /// There is no list.
    pub any: bool,
    /// The nearest entries, the nearest first.
    pub entries: Vec<Entry<F>>,
    /// How many more there are.
    pub further: usize,
}

/// An entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<F> {
    /// Index in the object's list.
    pub index: usize,
    /// What it says, in words.
    pub text: String,
    /// How near it comes.
    pub fit: F,
}

/// The rule that came nearest of all.
pub fn nearest(policies: &[PolicyStep]) -> Option<(&PolicyStep, &RuleStep)> {
    policies
        .iter()
        .flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)))
        .min_by(|(_, a), (_, b)| a.distance().cmp(&b.distance()))
}

/// What the policies that isolate the pod say of an address.
pub(super) fn policies(
    explainer: &Explainer<'_>,
    address: IpAddr,
    transport: Transport,
) -> Vec<PolicyStep> {
    let store = explainer.store;
    let flow = Flow {
        store,
        address,
        pod: workload::peer_at(store, address).ok_or_else(|| no_pod(store, address)),
        transport,
    };
    explainer
        .policies
        .iter()
        .map(|policy| of_policy(&flow, policy))
        .collect()
}

fn of_policy(flow: &Flow<'_>, policy: &Policy) -> PolicyStep {
    let rules = match &policy.egress {
        Egress::Isolated(rules) => rules.as_slice(),
        Egress::NotMentioned => &[],
    };
    let mut steps: Vec<RuleStep> = Vec::new();
    for (position, rule) in rules.iter().enumerate() {
        steps.push(of_rule(flow, policy, position, rule));
        if steps.len() > RULES {
            steps.sort_by(|a, b| a.distance().cmp(&b.distance()));
            steps.truncate(RULES);
        }
    }
    steps.sort_by_key(|step| step.index);
    // Of rules that were left out, too: a rule that could be read has its problems with it.
    let of_rules: Vec<String> = (0..rules.len())
        .map(|position| field(policy.omitted.rules.index(position)))
        .collect();
    let problems = policy
        .problems
        .iter()
        .filter(|problem| {
            !of_rules
                .iter()
                .any(|path| !below(std::slice::from_ref(problem), path).is_empty())
        })
        .cloned()
        .collect();
    PolicyStep {
        policy: policy.name.clone(),
        unreadable: policy.unreadable,
        allows: steps.iter().any(|step| step.allows),
        further: rules.len().saturating_sub(steps.len()),
        rules: steps,
        problems,
    }
}

fn of_rule(flow: &Flow<'_>, policy: &Policy, position: usize, rule: &Rule) -> RuleStep {
    let none = (Gaps::default(), Gaps::default());
    let (peer_gaps, port_gaps) = policy.omitted.entries.get(&position).unwrap_or(&none);
    let peers = match rule.to() {
        Peers::Any => Part::any(),
        Peers::Only(list) => part(list, peer_gaps, &PeerFit::Matches, |peer| {
            fit::peer(flow, peer)
        }),
    };
    let ports = match rule.ports() {
        Ports::Any => Part::any(),
        Ports::Only(list) => part(list, port_gaps, &PortFit::Matches, |port| {
            fit::port(flow, port)
        }),
    };
    let index = policy.omitted.rules.index(position);
    RuleStep {
        index,
        allows: peers.matches && ports.matches,
        peers,
        ports,
        problems: below(&policy.problems, &field(index)),
    }
}

/// The path of a rule in the object.
fn field(index: usize) -> String {
    format!("spec.egress[{index}]")
}

impl<F> Part<F> {
    const fn any() -> Self {
        Self {
            matches: true,
            any: true,
            entries: Vec::new(),
            further: 0,
        }
    }
}

/// The nearest entries of a list. `matching` is what an entry is that matches, the least of all.
fn part<T: Display, F: Ord>(
    list: &[T],
    gaps: &Gaps,
    matching: &F,
    fit: impl Fn(&T) -> F,
) -> Part<F> {
    let mut nearest: Vec<(F, usize)> = Vec::new();
    for (position, entry) in list.iter().enumerate() {
        let fit = fit(entry);
        let worst = nearest.last();
        if nearest.len() < ENTRIES || worst.is_some_and(|(worst, _)| fit < *worst) {
            nearest.push((fit, position));
            nearest.sort();
            nearest.truncate(ENTRIES);
        }
    }
    Part {
        matches: nearest.first().is_some_and(|(fit, _)| fit == matching),
        any: false,
        further: list.len().saturating_sub(nearest.len()),
        entries: nearest
            .into_iter()
            .filter_map(|(fit, position)| {
                Some(Entry {
                    index: gaps.index(position),
                    text: list.get(position)?.to_string(),
                    fit,
                })
            })
            .collect(),
    }
}

impl RuleStep {
    /// How far it is from allowing: parts that fail, then how the nearest entry of each fails.
    fn distance(&self) -> impl Ord + use<'_> {
        let peer = self.peers.entries.first().map(|entry| &entry.fit);
        let port = self.ports.entries.first().map(|entry| &entry.fit);
        let failed = u8::from(!self.peers.matches) + u8::from(!self.ports.matches);
        // The peer first: its author meant a place more than a number.
        (failed, !self.peers.matches, peer, port, self.index)
    }
}
