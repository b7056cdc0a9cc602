//! Two different objects of one kind and name: both are unreadable (S96).
//!
//! Which of them the cluster would have is anybody's guess, so the result is what closes
//! for either.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{EndpointSlice, Namespace, Node, Object, Phase, Pod, Problem, Service};
use crate::policy::{self, Policy};

impl Object {
    /// What stands for two different objects of one key; the order does not matter.
    ///
    /// Objects of different kinds cannot be of one key, so then this is `self`.
    #[must_use]
    pub fn merge_conflict(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Policy(a), Self::Policy(b)) => Self::Policy(policies(a, b).into()),
            (Self::Namespace(a), Self::Namespace(b)) => Self::Namespace(namespaces(a, b).into()),
            (Self::Pod(a), Self::Pod(b)) => Self::Pod(pods(a, b).into()),
            (Self::Service(a), Self::Service(b)) => Self::Service(services(a, b).into()),
            (Self::EndpointSlice(a), Self::EndpointSlice(b)) => {
                Self::EndpointSlice(slices(a, b).into())
            }
            (Self::Node(a), Self::Node(b)) => Self::Node(nodes(a, b).into()),
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
        uid: Arc::default(),
        runtime_uid: Arc::default(),
        created: a.created.max(b.created),
        labels: Arc::default(),
        node: a.node.clone().max(b.node.clone()),
        // Only what both say exempts it from being closed.
        host_network: a.host_network && b.host_network,
        addresses: a.addresses.iter().chain(&b.addresses).copied().collect(),
        phase: if a.phase == b.phase {
            a.phase
        } else {
            Phase::Other
        },
        ready: if a.ready == b.ready { a.ready } else { None },
        terminating: a.terminating && b.terminating,
        ports: Arc::default(),
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
    let versions = a.versions().iter().chain(b.versions());
    let versions: BTreeSet<&Service> = versions.collect();
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
        contradicting: versions.into_iter().cloned().collect(),
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

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests")]
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture::{
        namespace_value, object, pod_value, policy_value, service_value, slice_value, with,
    };
    use crate::policy::Egress;

    /// What stands for both, whichever comes first.
    fn merged(a: &Value, b: &Value) -> Object {
        let (a, b) = (object(a), object(b));
        assert_eq!(a.key(), b.key());
        let both = a.merge_conflict(&b);
        assert_eq!(both, b.merge_conflict(&a), "the order matters");
        assert_eq!(both.key(), a.key());
        assert!(
            both.problems()
                .iter()
                .any(|problem| problem.field == "metadata.name"),
            "reported"
        );
        both
    }

    #[test]
    fn a_policy_isolates_what_either_selects_and_allows_nothing_s96() {
        let labels =
            |value: &str| json!({"podSelector": {"matchLabels": {"a": value}}, "egress": [{}]});
        let Object::Policy(policy) = merged(
            &policy_value("x/p", &labels("1")),
            &policy_value("x/p", &labels("2")),
        ) else {
            panic!("a policy")
        };
        assert!(policy.unreadable);
        assert_eq!(policy.egress, Egress::Isolated(Vec::new()));
        let selects = |value: &str| {
            let labels = [("a".to_owned(), value.to_owned())].into();
            policy
                .subject
                .pods
                .iter()
                .any(|selector| selector.matches(&labels))
        };
        assert!(selects("1") && selects("2") && !selects("3"));
    }

    #[test]
    fn a_pod_is_unreadable_with_the_addresses_of_both_s96() {
        let host = with(
            pod_value("x/p", &["10.0.0.2"], &json!({})),
            "/spec/hostNetwork",
            json!(true),
        );
        let Object::Pod(pod) = merged(&pod_value("x/p", &["10.0.0.1"], &json!({})), &host) else {
            panic!("a pod")
        };
        assert!(pod.unreadable && !pod.host_network);
        assert_eq!(pod.addresses.len(), 2);
    }

    #[test]
    fn a_namespace_has_no_labels_s96() {
        let Object::Namespace(namespace) = merged(
            &namespace_value("x", &json!({})),
            &namespace_value("x", &json!({"a": "b"})),
        ) else {
            panic!("a namespace")
        };
        assert_eq!(namespace.labels, None);
    }

    #[test]
    fn a_service_is_unreadable_at_the_addresses_and_ports_of_both_s96() {
        let spec = |ip: &str, port: u16| {
            service_value("x/s", &json!({"clusterIP": ip, "ports": [{"port": port}]}))
        };
        let Object::Service(service) = merged(&spec("10.96.0.1", 80), &spec("10.96.0.2", 81))
        else {
            panic!("a Service")
        };
        assert!(service.unreadable);
        assert_eq!((service.cluster_ips.len(), service.ports.len()), (2, 2));
    }

    #[test]
    fn a_slice_of_two_services_is_one_of_any_s96() {
        let slice = slice_value("x/s", &json!([]), &json!([]));
        let other = with(
            slice.clone(),
            "/metadata/labels",
            json!({"kubernetes.io/service-name": "t"}),
        );
        let Object::EndpointSlice(both) = merged(&slice, &other) else {
            panic!("a slice")
        };
        assert!(both.unreadable && both.service.is_empty());
    }

    #[test]
    fn three_objects_of_one_name_fold() {
        let of = |value: &str| object(&namespace_value("x", &json!({"a": value})));
        let (a, b, c) = (of("1"), of("2"), of("3"));
        assert_eq!(
            a.merge_conflict(&b).merge_conflict(&c),
            c.merge_conflict(&a).merge_conflict(&b)
        );
    }
}
