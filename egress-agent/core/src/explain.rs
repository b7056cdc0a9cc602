//! Why a verdict is what it is, step by step.
//!
//! The verdict itself is [`crate::check`]'s, reached over the tables as in the kernel. The steps here
//! are read off the objects, in the words of the specification: which policies isolate the pod (S2),
//! and how near each of their rules comes (S12, S14). Two ways to one answer: the parity tests compare
//! them over generated clusters.

mod fit;
mod rules;

use std::net::IpAddr;

use crate::check::Transport;
use crate::compile::Options;
use crate::label::Selector;
use crate::object::{Name, Phase, Pod, Problem};
use crate::policy::{Egress, Policy, Protocol, SubjectNamespace};
use crate::service::{self, Closed, Frontend};
use crate::store::Store;
use crate::workload::{self, SubjectKind};

pub use fit::{NoPod, PeerFit, PortFit};
pub use rules::{Entry, Part, PolicyStep, RuleStep, nearest};

/// Backends of a Service that are told of. A Service may have thousands, and one that is denied
/// decides (S84).
const BACKENDS: usize = 64;

/// The steps of a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Who sends, and what isolates it.
    pub sender: Sender,
    /// Each address that is asked about. Empty for a sender that is not enforced.
    pub destinations: Vec<Destination>,
}

/// The pod that sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Which pod.
    pub pod: Name,
    /// On which node it runs.
    pub node: String,
    /// Whether policies hold for it at all.
    pub kind: SubjectKind,
    /// Every policy that could isolate it, and whether it does, by name.
    pub policies: Vec<Selection>,
}

/// What a policy does to the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The policy.
    pub policy: Name,
    /// What it does.
    pub effect: Effect,
    /// Nothing of it could be read but, perhaps, its name: it isolates and allows nothing (S91).
    pub unreadable: bool,
}

/// Whether a policy isolates a pod, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It selects the pod by this, and says something of egress (S2).
    Isolates(Selector),
    /// The pod cannot be read, so that the policy may select it.
    MayIsolate,
    /// It selects the pod, but does not mention egress (S3, S5).
    IngressOnly(Selector),
    /// Its selector does not meet these of the pod's labels.
    NotSelected(Selector),
}

/// What becomes of a flow to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The address.
    pub address: IpAddr,
    /// Whether it is allowed, by the tables.
    pub allow: bool,
    /// Why, as a name.
    pub reason: &'static str,
    /// Whose address it is.
    pub owner: Owner,
    /// What decided.
    pub way: Way,
}

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A pod that selectors can mean.
    Pod(Name),
    /// Nobody that selectors can mean.
    NoPod(NoPod),
    /// A node, and no pod that selectors can mean (S60, S73).
    Node(String),
}

/// What decides about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// No policy isolates the sender (S1).
    NotIsolated,
    /// The sender cannot be read, and may send nothing.
    Closed,
    /// It is the sender's own address (S75).
    Own,
    /// It is the own node's, and the operator lets that pass (S73).
    OwnNode,
    /// The rules of the policies that isolate the sender.
    Rules(Vec<PolicyStep>),
    /// The endpoints of the Service that packets are rewritten to (S68, S84).
    Service(ServiceStep),
}

/// A Service frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceStep {
    /// The Service.
    pub service: Name,
    /// The Service's port, or its node port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Why it is denied whatever the rules say.
    pub closed: Option<Closed>,
    /// The usable endpoints that count: those that are denied first, at most [`BACKENDS`].
    pub backends: Vec<BackendStep>,
    /// How many more there are.
    pub further: usize,
    /// How many there are in all that are allowed, and that are denied.
    pub counts: (usize, usize),
}

/// One endpoint of a Service, judged at the port that it receives (S35, S72).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendStep {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whose address it is.
    pub owner: Owner,
    /// Whether a flow to it is allowed.
    pub allow: bool,
    /// It is the sender itself (S85).
    pub own: bool,
    /// What the rules say of it.
    pub policies: Vec<PolicyStep>,
}

impl Destination {
    /// What the steps come to; the tables say the same.
    pub fn steps_allow(&self) -> bool {
        match &self.way {
            Way::NotIsolated | Way::Own | Way::OwnNode => true,
            Way::Closed => false,
            Way::Rules(policies) => policies.iter().any(|policy| policy.allows),
            // S84: at least one is allowed, and none is denied.
            Way::Service(ServiceStep { closed, counts, .. }) => {
                closed.is_none() && counts.0 > 0 && counts.1 == 0
            }
        }
    }
}

/// Who sends, and what isolates it.
pub fn sender(store: &Store, pod: &Pod) -> Sender {
    let own = store
        .policies_in(&pod.name.namespace)
        .filter(|policy| policy.subject.namespace == SubjectNamespace::Own);
    let mut policies: Vec<Selection> = own
        .chain(store.placeless_policies())
        .map(|policy| Selection {
            policy: policy.name.clone(),
            effect: effect(policy, pod),
            unreadable: policy.unreadable,
        })
        .collect();
    policies.sort_by(|a, b| a.policy.cmp(&b.policy));
    Sender {
        pod: pod.name.clone(),
        node: pod.node.to_string(),
        kind: workload::subject(pod),
        policies,
    }
}

fn effect(policy: &Policy, pod: &Pod) -> Effect {
    let selectors = &policy.subject.pods;
    let by = selectors.iter().find(|s| s.matches(&pod.labels));
    match (&policy.egress, by) {
        (Egress::NotMentioned, Some(by)) => Effect::IngressOnly(by.clone()),
        (Egress::Isolated(_), Some(by)) if !pod.unreadable => Effect::Isolates(by.clone()),
        (Egress::Isolated(_), _) if pod.unreadable => Effect::MayIsolate,
        (_, _) => Effect::NotSelected(
            selectors
                .first()
                .map(|selector| selector.unmet(&pod.labels))
                .unwrap_or_default(),
        ),
    }
}

/// Everything that the steps of one question share.
#[derive(Debug)]
pub(crate) struct Explainer<'a> {
    pub(crate) store: &'a Store,
    pub(crate) options: &'a Options,
    pub(crate) pod: &'a Pod,
    /// The policies that isolate the pod.
    pub(crate) policies: Vec<&'a Policy>,
    /// Every frontend as the pod's node sees it.
    pub(crate) frontends: Vec<Frontend>,
}

impl<'a> Explainer<'a> {
    /// For questions of a pod.
    pub(crate) fn new(store: &'a Store, options: &'a Options, pod: &'a Pod) -> Self {
        Self {
            store,
            options,
            pod,
            policies: workload::isolating(store, pod),
            frontends: service::frontends(store, &pod.node),
        }
    }

    /// What decides about an address.
    pub(crate) fn way(&self, address: IpAddr, transport: Transport) -> Way {
        match workload::subject(self.pod) {
            SubjectKind::HostNetwork | SubjectKind::Finished => return Way::NotIsolated,
            SubjectKind::Unreadable if self.pod.addresses.contains(&address) => return Way::Own,
            SubjectKind::Unreadable => return Way::Closed,
            SubjectKind::Enforced => {}
        }
        if self.policies.is_empty() {
            return Way::NotIsolated;
        }
        if self.pod.addresses.contains(&address) {
            return Way::Own;
        }
        if let Transport::Port(protocol, port) = transport {
            let frontend = self.frontends.iter().find(|frontend| {
                (frontend.address, frontend.protocol, frontend.port) == (address, protocol, port)
            });
            if let Some(frontend) = frontend {
                return Way::Service(self.service(frontend));
            }
        }
        if self.is_own_node(address) {
            return Way::OwnNode;
        }
        Way::Rules(rules::policies(self, address, transport))
    }

    fn service(&self, frontend: &Frontend) -> ServiceStep {
        let mut backends: Vec<BackendStep> = Vec::new();
        let mut counts = (0_usize, 0_usize);
        let mut allowed = Vec::new();
        for backend in &frontend.backends {
            let own = self.pod.addresses.contains(&backend.address);
            let transport = Transport::Port(frontend.protocol, backend.port);
            let policies = rules::policies(self, backend.address, transport);
            let allow =
                own || self.is_own_node(backend.address) || policies.iter().any(|p| p.allows);
            let step = BackendStep {
                address: backend.address,
                port: backend.port,
                owner: owner(self.store, backend.address),
                allow,
                own,
                policies,
            };
            let (list, count) = if allow {
                (&mut allowed, &mut counts.0)
            } else {
                (&mut backends, &mut counts.1)
            };
            *count = count.saturating_add(1);
            if list.len() < BACKENDS {
                list.push(step);
            }
        }
        backends.append(&mut allowed);
        backends.truncate(BACKENDS);
        ServiceStep {
            service: frontend.service.clone(),
            port: frontend.port,
            protocol: frontend.protocol,
            closed: frontend.closed.clone(),
            further: frontend.backends.len().saturating_sub(backends.len()),
            backends,
            counts,
        }
    }

    fn is_own_node(&self, address: IpAddr) -> bool {
        self.options.allow_own_node
            && self
                .store
                .node(&self.pod.node)
                .is_some_and(|node| node.addresses.contains(&address))
    }
}

/// Whose an address is (S60–S65, S89).
pub fn owner(store: &Store, address: IpAddr) -> Owner {
    if let Some(pod) = workload::peer_at(store, address) {
        return Owner::Pod(pod.name.clone());
    }
    let node = store.nodes().find(|node| node.addresses.contains(&address));
    node.map_or_else(
        || Owner::NoPod(no_pod(store, address)),
        |node| Owner::Node(node.name.clone()),
    )
}

/// Why selectors mean nobody at an address; only for one that [`workload::peer_at`] knows nobody at.
pub(crate) fn no_pod(store: &Store, address: IpAddr) -> NoPod {
    let claims: Vec<&Pod> = store.pods_at(address).collect();
    let first = |wanted: &dyn Fn(&Pod) -> bool| {
        let pod = claims.iter().find(|pod| wanted(pod));
        pod.map(|pod| pod.name.clone())
    };
    if let Some(pod) = first(&|pod| pod.unreadable) {
        NoPod::Unreadable(pod)
    } else if let Some(pod) = first(&|pod| pod.host_network) {
        NoPod::HostNetwork(pod)
    } else if let Some(pod) = first(&|pod| pod.phase == Phase::Finished) {
        NoPod::Finished(pod)
    } else {
        NoPod::Unknown
    }
}

/// The problems with a field and with what is below it.
fn below(problems: &[Problem], path: &str) -> Vec<Problem> {
    problems
        .iter()
        .filter(|problem| {
            problem
                .field
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
