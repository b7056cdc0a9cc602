//! Two different objects of one kind and name: both are unreadable (S96).
//!
//! Which of them the cluster would have is anybody's guess, so the result is what closes
//! for either.

use super::{EndpointSlice, Namespace, Node, Object, Phase, Pod, Problem, Service};
use crate::policy::{self, Policy};

impl Object {
    /// What stands for two different objects of one key; the order does not matter.
    ///
    /// Objects of different kinds cannot be of one key, so then this is `self`.
    #[must_use]
    pub fn merge_conflict(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Policy(a), Self::Policy(b)) => Self::Policy(policies(a, b)),
            (Self::Namespace(a), Self::Namespace(b)) => Self::Namespace(namespaces(a, b)),
            (Self::Pod(a), Self::Pod(b)) => Self::Pod(Box::new(pods(a, b))),
            (Self::Service(a), Self::Service(b)) => Self::Service(Box::new(services(a, b))),
            (Self::EndpointSlice(a), Self::EndpointSlice(b)) => Self::EndpointSlice(slices(a, b)),
            (Self::Node(a), Self::Node(b)) => Self::Node(nodes(a, b)),
            (one, _) => one.clone(),
        }
    }
}

fn problems(a: &[Problem], b: &[Problem], consequence: &str) -> Vec<Problem> {
    let conflict = Problem::new(
        "metadata.name",
        "there are two different objects of this name",
    )
    .so(consequence);
    let mut all: Vec<Problem> = a.iter().chain(b).cloned().chain([conflict]).collect();
    all.sort();
    all.dedup();
    all
}

fn policies(a: &Policy, b: &Policy) -> Policy {
    let problems = problems(
        &a.problems,
        &b.problems,
        "what either selects is isolated and allowed nothing",
    );
    policy::unreadable(a.name.clone(), a.subject.union(&b.subject), problems)
}

fn namespaces(a: &Namespace, b: &Namespace) -> Namespace {
    let problems = problems(
        &a.problems,
        &b.problems,
        "no namespaceSelector matches this namespace",
    );
    Namespace {
        name: a.name.clone(),
        labels: None,
        problems,
    }
}

fn pods(a: &Pod, b: &Pod) -> Pod {
    Pod {
        name: a.name.clone(),
        uid: String::new(),
        created: a.created.max(b.created),
        labels: super::Labels::new(),
        node: a.node.clone().max(b.node.clone()),
        // Only what both say exempts it from being closed.
        host_network: a.host_network && b.host_network,
        addresses: a.addresses.union(&b.addresses).copied().collect(),
        phase: if a.phase == b.phase {
            a.phase
        } else {
            Phase::Other
        },
        ready: if a.ready == b.ready { a.ready } else { None },
        terminating: a.terminating && b.terminating,
        ports: std::collections::BTreeMap::new(),
        netns: a.netns.clone().max(b.netns.clone()),
        owner: a
            .owner
            .clone()
            .filter(|owner| b.owner.as_ref() == Some(owner)),
        unreadable: true,
        problems: problems(
            &a.problems,
            &b.problems,
            "the pod may send nothing and is nobody's peer",
        ),
    }
}

fn services(a: &Service, b: &Service) -> Service {
    let mut ports: Vec<_> = a.ports.iter().chain(&b.ports).cloned().collect();
    ports.sort();
    ports.dedup();
    Service {
        name: a.name.clone(),
        cluster_ips: a.cluster_ips.union(&b.cluster_ips).copied().collect(),
        external_ips: a.external_ips.union(&b.external_ips).copied().collect(),
        load_balancer_ips: a
            .load_balancer_ips
            .union(&b.load_balancer_ips)
            .copied()
            .collect(),
        headless: a.headless && b.headless,
        external_name: a.external_name && b.external_name,
        selector: None,
        ports,
        internal_local: a.internal_local && b.internal_local,
        external_local: a.external_local && b.external_local,
        publish_not_ready: a.publish_not_ready && b.publish_not_ready,
        unreadable: true,
        problems: problems(&a.problems, &b.problems, "what goes to either is denied"),
    }
}

fn slices(a: &EndpointSlice, b: &EndpointSlice) -> EndpointSlice {
    EndpointSlice {
        name: a.name.clone(),
        // Empty closes every Service of the namespace, so both of theirs.
        service: if a.service == b.service {
            a.service.clone()
        } else {
            String::new()
        },
        endpoints: Vec::new(),
        ports: Vec::new(),
        unreadable: true,
        problems: problems(
            &a.problems,
            &b.problems,
            "what goes to their Service is denied",
        ),
    }
}

fn nodes(a: &Node, b: &Node) -> Node {
    Node {
        name: a.name.clone(),
        labels: super::Labels::new(),
        addresses: a.addresses.union(&b.addresses).copied().collect(),
        problems: problems(
            &a.problems,
            &b.problems,
            "it has the addresses of both and no labels",
        ),
    }
}
