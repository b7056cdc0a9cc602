//! The steps of a verdict, as they are told.
//!
//! The core's [`explain`], with words where it has types.

use std::net::IpAddr;

use egress_core::explain::{self, Effect, NoPod, Owner};
use egress_core::label::Selector;
use egress_core::object::Problem;
use egress_core::workload::SubjectKind;
use serde::{Deserialize, Serialize};

use super::Verdict;

/// How a verdict was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Steps {
    /// Who sends, and what isolates it.
    pub sender: Sender,
    /// Each address that is asked about; empty when the sender is not enforced.
    pub destinations: Vec<Destination>,
}

/// The pod that sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sender {
    /// `NS/POD`.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// Whether policies hold for it.
    pub state: SenderState,
    /// The policies of its namespace, by name.
    pub policies: Vec<Selected>,
}

/// Whether policies hold for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SenderState {
    /// Those that isolate it hold.
    Enforced,
    /// It is on the host network (S87).
    HostNetwork,
    /// It has finished (S88).
    Finished,
    /// It cannot be read, and may send nothing.
    Unreadable,
}

/// What a policy does to the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selected {
    /// `NS/NAME`.
    pub policy: String,
    /// What it does.
    pub effect: PolicyEffect,
    /// The selector by which it selects the pod, or the terms that the pod does not meet; empty
    /// where it selects every pod.
    pub selector: String,
    /// Nothing of it could be read.
    pub unreadable: bool,
}

/// What a policy does to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyEffect {
    /// It isolates it (S2).
    Isolates,
    /// The pod cannot be read: it may.
    MayIsolate,
    /// It selects it and says nothing of egress (S3, S5).
    IngressOnly,
    /// It does not select it.
    NotSelected,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// The address.
    pub address: IpAddr,
    /// Its verdict.
    pub verdict: Verdict,
    /// Its reason.
    pub reason: String,
    /// Whose it is, in words.
    pub owner: String,
    /// What decides.
    pub way: Way,
    /// With [`Way::Rules`]: each policy that isolates the sender.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicySteps>,
    /// With [`Way::Service`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceSteps>,
}

/// What decides about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Nothing: no policy isolates the sender.
    NotIsolated,
    /// That the sender cannot be read.
    Closed,
    /// That it is its own address (S75).
    OwnAddress,
    /// That it is the own node's, which the agent lets pass (S73).
    OwnNode,
    /// The rules.
    Rules,
    /// The endpoints of a Service (S84).
    Service,
}

/// What one policy says of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicySteps {
    /// `NS/NAME`.
    pub policy: String,
    /// One of its rules allows it.
    pub allows: bool,
    /// Its rules, of many the nearest.
    pub rules: Vec<RuleSteps>,
    /// How many more it has.
    pub more_rules: usize,
    /// Rules, or the whole policy, that could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
}

/// What one rule says of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleSteps {
    /// Index in `spec.egress`.
    pub index: usize,
    /// Peers and ports both match.
    pub allows: bool,
    /// `to`
    pub to: PartStep,
    /// `ports`
    pub ports: PartStep,
    /// Parts that could not be read, and match nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
}

/// `to` or `ports` of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartStep {
    /// It matches.
    pub matches: bool,
    /// It is absent, and matches everything.
    pub any: bool,
    /// The nearest entries, the nearest first.
    pub entries: Vec<EntryStep>,
    /// How many more there are.
    pub more_entries: usize,
}

/// A peer or a port entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryStep {
    /// Index in the list.
    pub index: usize,
    /// What it says.
    pub text: String,
    /// Which part failed; absent when it matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Why, in words; absent when it matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// The Service behind an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSteps {
    /// `NS/NAME`.
    pub name: String,
    /// Its port, or node port.
    pub port: u16,
    /// Why it is denied whatever the rules say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Endpoints that are allowed.
    pub allowed: usize,
    /// Endpoints that are denied.
    pub denied: usize,
    /// The endpoints, those that are denied first; of many some.
    pub endpoints: Vec<Backend>,
    /// How many more there are.
    pub more_endpoints: usize,
}

/// An endpoint of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// The port it receives.
    pub port: u16,
    /// Whose address it is, in words.
    pub owner: String,
    /// Its verdict.
    pub verdict: Verdict,
    /// It is the sender itself (S85).
    pub own: bool,
    /// Each policy that isolates the sender.
    pub policies: Vec<PolicySteps>,
}

impl From<explain::Explanation> for Steps {
    fn from(explanation: explain::Explanation) -> Self {
        let explain::Explanation {
            sender,
            destinations,
        } = explanation;
        Self {
            sender: sender.into(),
            destinations: destinations.into_iter().map(Destination::from).collect(),
        }
    }
}

impl From<explain::Sender> for Sender {
    fn from(sender: explain::Sender) -> Self {
        let explain::Sender {
            pod,
            node,
            kind,
            policies,
        } = sender;
        Self {
            pod: pod.to_string(),
            node,
            state: match kind {
                SubjectKind::Enforced => SenderState::Enforced,
                SubjectKind::HostNetwork => SenderState::HostNetwork,
                SubjectKind::Finished => SenderState::Finished,
                SubjectKind::Unreadable => SenderState::Unreadable,
            },
            policies: policies.into_iter().map(Selected::from).collect(),
        }
    }
}

impl From<explain::Selection> for Selected {
    fn from(selection: explain::Selection) -> Self {
        let explain::Selection {
            policy,
            effect,
            unreadable,
        } = selection;
        let (effect, selector) = match effect {
            Effect::Isolates(by) => (PolicyEffect::Isolates, by),
            Effect::MayIsolate => (PolicyEffect::MayIsolate, Selector::default()),
            Effect::IngressOnly(by) => (PolicyEffect::IngressOnly, by),
            Effect::NotSelected(unmet) => (PolicyEffect::NotSelected, unmet),
        };
        Self {
            policy: policy.to_string(),
            effect,
            selector: selector.to_string(),
            unreadable,
        }
    }
}

impl From<explain::Destination> for Destination {
    fn from(destination: explain::Destination) -> Self {
        let explain::Destination {
            address,
            allow,
            reason,
            owner,
            way,
        } = destination;
        let mut told = Self {
            address,
            verdict: allow.into(),
            reason: reason.to_owned(),
            owner: of_owner(&owner),
            way: Way::Rules,
            policies: Vec::new(),
            service: None,
        };
        match way {
            explain::Way::NotIsolated => told.way = Way::NotIsolated,
            explain::Way::Closed => told.way = Way::Closed,
            explain::Way::Own => told.way = Way::OwnAddress,
            explain::Way::OwnNode => told.way = Way::OwnNode,
            explain::Way::Rules(policies) => told.policies = of_policies(policies),
            explain::Way::Service(service) => {
                told.way = Way::Service;
                told.service = Some(service.into());
            }
        }
        told
    }
}

impl From<explain::ServiceStep> for ServiceSteps {
    fn from(service: explain::ServiceStep) -> Self {
        let explain::ServiceStep {
            service,
            port,
            protocol: _,
            closed,
            backends,
            further,
            counts: (allowed, denied),
        } = service;
        Self {
            name: service.to_string(),
            port,
            closed: closed.map(|why| why.to_string()),
            allowed,
            denied,
            endpoints: backends.into_iter().map(Backend::from).collect(),
            more_endpoints: further,
        }
    }
}

impl From<explain::BackendStep> for Backend {
    fn from(backend: explain::BackendStep) -> Self {
        let explain::BackendStep {
            address,
            port,
            owner,
            allow,
            own,
            policies,
        } = backend;
        Self {
            address,
            port,
            owner: of_owner(&owner),
            verdict: allow.into(),
            own,
            policies: of_policies(policies),
        }
    }
}

fn of_policies(policies: Vec<explain::PolicyStep>) -> Vec<PolicySteps> {
    policies.into_iter().map(PolicySteps::from).collect()
}

impl From<explain::PolicyStep> for PolicySteps {
    fn from(step: explain::PolicyStep) -> Self {
        let explain::PolicyStep {
            policy,
            unreadable: _,
            allows,
            rules,
            further,
            problems,
        } = step;
        Self {
            policy: policy.to_string(),
            allows,
            rules: rules.into_iter().map(RuleSteps::from).collect(),
            more_rules: further,
            unreadable: sentences(&problems),
        }
    }
}

impl From<explain::RuleStep> for RuleSteps {
    fn from(rule: explain::RuleStep) -> Self {
        let explain::RuleStep {
            index,
            allows,
            peers,
            ports,
            problems,
        } = rule;
        Self {
            index,
            allows,
            to: part(peers, |fit| fit.failed().map(|f| (f, fit.to_string()))),
            ports: part(ports, |fit| fit.failed().map(|f| (f, fit.to_string()))),
            unreadable: sentences(&problems),
        }
    }
}

fn part<F>(
    part: explain::Part<F>,
    failed: impl Fn(&F) -> Option<(&'static str, String)>,
) -> PartStep {
    let explain::Part {
        matches,
        any,
        entries,
        further,
    } = part;
    PartStep {
        matches,
        any,
        entries: entries
            .into_iter()
            .map(|entry| {
                let (failed, because) = failed(&entry.fit).unzip();
                EntryStep {
                    index: entry.index,
                    text: entry.text,
                    failed: failed.map(str::to_owned),
                    because,
                }
            })
            .collect(),
        more_entries: further,
    }
}

fn sentences(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn of_owner(owner: &Owner) -> String {
    match owner {
        Owner::Pod(pod) => format!("pod {pod}"),
        Owner::Node(node) => format!("node {node}"),
        Owner::NoPod(NoPod::Unknown) => "no known pod or node".to_owned(),
        Owner::NoPod(NoPod::Unreadable(pod)) => format!("pod {pod}, which cannot be read"),
        Owner::NoPod(NoPod::HostNetwork(pod)) => format!("pod {pod} on the host network"),
        Owner::NoPod(NoPod::Finished(pod)) => format!("pod {pod}, which has finished"),
    }
}
