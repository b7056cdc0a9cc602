//! Pods as senders and as destinations: who is isolated by which policies, whom a peer
//! means, and whose an address is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::object::{Phase, Pod};
use crate::policy::{Egress, NamespaceScope, Peer, Policy, SubjectNamespace};
use crate::store::Store;

/// The label of a pod of a Deployment that its `ReplicaSet`'s name ends with.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// How a pod is treated as a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubjectKind {
    /// The policies that isolate it hold.
    Enforced,
    /// It shares the node's network and is not enforced (S59, S87).
    HostNetwork,
    /// Succeeded or Failed: it sends nothing any more (S88).
    Finished,
    /// It cannot be known which policies select it: it may send nothing.
    Unreadable,
}

/// How a pod is treated as a sender.
pub fn subject(pod: &Pod) -> SubjectKind {
    match pod {
        Pod {
            phase: Phase::Finished,
            ..
        } => SubjectKind::Finished,
        Pod {
            host_network: true, ..
        } => SubjectKind::HostNetwork,
        Pod {
            unreadable: true, ..
        } => SubjectKind::Unreadable,
        Pod { .. } => SubjectKind::Enforced,
    }
}

/// The policies that isolate a pod for egress, by name (S2–S9); none: it sends anywhere (S1).
///
/// Of an unreadable pod they are those that may select it. Whether they hold for the pod at
/// all, [`subject`] says. For many pods [`Isolating`] is faster.
pub fn isolating<'a>(store: &'a Store, pod: &Pod) -> Vec<&'a Policy> {
    let own = store.policies_in(&pod.name.namespace);
    let mut found: Vec<&Policy> = own
        .filter(|policy| policy.subject.namespace == SubjectNamespace::Own)
        .chain(store.placeless_policies())
        .filter(|policy| isolates(policy, pod))
        .collect();
    found.sort_by_key(|policy| &policy.name);
    found
}

/// The policies that isolate pods, so that a pod is asked only of those that may select it.
#[derive(Debug, Default)]
pub struct Isolating<'a> {
    /// By a namespace, and a label that all pods have that one of the policy's selectors selects.
    by_label: BTreeMap<(&'a str, &'a str, &'a str), Vec<&'a Policy>>,
    /// The others, by namespace.
    others: BTreeMap<&'a str, Vec<&'a Policy>>,
    placeless: Vec<&'a Policy>,
}

impl<'a> Isolating<'a> {
    /// All policies that isolate.
    pub fn of(store: &'a Store) -> Self {
        let mut found = Self::default();
        for policy in store.policies() {
            let namespace = &*policy.name.namespace;
            match policy.subject.namespace {
                SubjectNamespace::Unknown => found.placeless.push(policy),
                SubjectNamespace::Own => {
                    for selector in &policy.subject.pods {
                        let Some((key, values)) = selector.needed() else {
                            found.others.entry(namespace).or_default().push(policy);
                            continue;
                        };
                        for value in values {
                            let label = (namespace, key, value.as_str());
                            found.by_label.entry(label).or_default().push(policy);
                        }
                    }
                }
            }
        }
        found
    }

    /// What [`isolating`] says of a pod.
    pub fn policies(&self, store: &'a Store, pod: &Pod) -> Vec<&'a Policy> {
        if pod.unreadable {
            // Its labels tell nothing.
            return isolating(store, pod);
        }
        let namespace = &*pod.name.namespace;
        let labels = pod.labels.iter();
        let labelled = labels.filter_map(|(key, value)| {
            self.by_label
                .get(&(namespace, key.as_str(), value.as_str()))
        });
        let mut found: Vec<&Policy> = labelled
            .chain(self.others.get(namespace))
            .chain([&self.placeless])
            .flatten()
            .copied()
            .filter(|policy| isolates(policy, pod))
            .collect();
        found.sort_by_key(|policy| &policy.name);
        // It may have several selectors.
        found.dedup_by_key(|policy| &policy.name);
        found
    }
}

/// Whether a policy isolates a pod for egress, as [`isolating`] says.
pub fn is_isolated_by(policy: &Policy, pod: &Pod) -> bool {
    let placed = match policy.subject.namespace {
        SubjectNamespace::Own => policy.name.namespace == pod.name.namespace,
        SubjectNamespace::Unknown => true,
    };
    placed && isolates(policy, pod)
}

/// Whether a policy that is of the pod's namespace, or may be, isolates it.
fn isolates(policy: &Policy, pod: &Pod) -> bool {
    let speaks = match policy.egress {
        Egress::NotMentioned => false,
        Egress::Isolated(_) => true,
    };
    speaks
        && (pod.unreadable
            || policy
                .subject
                .pods
                .iter()
                .any(|selector| selector.matches(&pod.labels)))
}

/// Whether a peer means a pod (S19–S25). [`Peer::Block`] never does: it speaks of addresses,
/// pods' addresses included (S29).
///
/// The pod must be one that owns an address as a peer, see [`peers`].
pub fn peer_matches(store: &Store, peer: &Peer, pod: &Pod) -> bool {
    let (namespaces, pods) = match peer {
        Peer::Pods { namespaces, pods } => (namespaces, pods),
        Peer::Block(_) => return false,
    };
    let namespace = &*pod.name.namespace;
    let placed = match namespaces {
        NamespaceScope::Named(name) => name == namespace,
        // A namespace that was not seen, or whose labels cannot be read, matches nothing,
        // not even the empty selector (S66, S90).
        NamespaceScope::Matching(selector) => {
            let labels = store
                .namespace(namespace)
                .and_then(|seen| seen.labels.as_ref());
            labels.is_some_and(|labels| selector.matches(labels))
        }
    };
    placed && pods.matches(&pod.labels)
}

/// Which pod selectors and named ports mean at each address (S28, S59–S66, S87, S89), by address.
pub fn peers(store: &Store) -> impl Iterator<Item = (IpAddr, &Pod)> {
    store.pod_addresses().filter_map(|(address, pods)| {
        let owner = owner(pods.iter().map(Arc::as_ref))?;
        Some((address, owner))
    })
}

/// Which pod selectors and named ports mean at an address.
pub fn peer_at(store: &Store, address: IpAddr) -> Option<&Pod> {
    owner(store.pods_at(address))
}

/// Of the pods that list an address the one whose it is.
///
/// Never one on the host network, whose address is the node's (S60, S61), and never a
/// finished one, whose address may be another's by now (S62). Of several the rest decides
/// S89. An unreadable pod takes its addresses from everybody: they may be its own.
fn owner<'a>(pods: impl Iterator<Item = &'a Pod>) -> Option<&'a Pod> {
    let claims = pods.filter(|pod| !pod.host_network && pod.phase != Phase::Finished);
    let owner = claims.max_by(|a, b| rank(a).cmp(&rank(b)))?;
    (!owner.unreadable).then_some(owner)
}

/// S89: Running, then the newer, then the greater uid. The name is there so that two pods
/// without any of these do not depend on who came first.
fn rank(pod: &Pod) -> impl Ord {
    (
        pod.unreadable,
        pod.phase == Phase::Running,
        pod.created,
        &pod.uid,
        &pod.name,
    )
}

/// Minutes between a `CronJob`'s schedule and its pod that still tell the two belong together: a day,
/// which is more than a controller that was away catches up with.
const SCHEDULE_SLACK: i64 = 24 * 60;

/// `KIND/NAME` of what the pod belongs to, for people and metrics. A bare pod is itself.
///
/// Two links of the chain are told by convention, so that nobody has to read `ReplicaSet`s and Jobs:
/// the `ReplicaSet` of a Deployment is called `DEPLOYMENT-` and the pod's `pod-template-hash`, the Job
/// of a `CronJob` is called `CRONJOB-` and its schedule in minutes since 1970 (kube-controller-manager,
/// `getJobName`), which must be about the time the pod was made at.
pub fn workload_name(pod: &Pod) -> String {
    let Some(owner) = &pod.owner else {
        return format!("Pod/{}", pod.name.name);
    };
    let parts = owner
        .split_once('/')
        .and_then(|(kind, name)| Some((kind, name.rsplit_once('-')?)));
    match parts {
        Some(("ReplicaSet", (deployment, hash)))
            if pod.labels.get(TEMPLATE_HASH).map(String::as_str) == Some(hash) =>
        {
            format!("Deployment/{deployment}")
        }
        Some(("Job", (cron_job, schedule))) if is_schedule(schedule, pod.created) => {
            format!("CronJob/{cron_job}")
        }
        Some(_) | None => owner.to_string(),
    }
}

/// Whether a text is minutes since 1970 at which a pod made at `created` can have been due.
fn is_schedule(text: &str, created: Option<i64>) -> bool {
    let minutes = text
        .bytes()
        .all(|c| c.is_ascii_digit())
        .then(|| text.parse::<i64>().ok())
        .flatten();
    match (minutes, created) {
        (Some(minutes), Some(created)) => {
            let made = created.div_euclid(60);
            (made.saturating_sub(SCHEDULE_SLACK)..=made).contains(&minutes)
        }
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture::{
        name, namespace_value, pod, pod_value, policy, policy_value, store, with,
    };
    use crate::policy::Peers;

    fn isolates(policies: &[Value], pod_value: &Value) -> Vec<String> {
        let store = store(policies);
        let pod = pod(pod_value);
        let found = isolating(&store, &pod);
        assert_eq!(Isolating::of(&store).policies(&store, &pod), found);
        let asked = store
            .policies()
            .filter(|policy| is_isolated_by(policy, &pod));
        assert_eq!(asked.collect::<Vec<_>>(), found);
        found.iter().map(|policy| policy.name.to_string()).collect()
    }

    fn web() -> Value {
        pod_value("x/a", &["10.0.0.1"], &json!({"app": "web"}))
    }

    #[test]
    fn a_pod_is_isolated_by_egress_policies_of_its_namespace_that_select_it_s1_s2_s8() {
        let select = |value: &str, types: &[&str]| json!({"podSelector": {"matchLabels": {"app": value}}, "policyTypes": types});
        let policies = [
            policy_value("x/own", &select("web", &["Egress"])),
            policy_value("x/both", &select("web", &["Egress", "Ingress"])),
            policy_value("x/ingress", &select("web", &["Ingress"])),
            policy_value("x/other-pods", &select("db", &["Egress"])),
            policy_value("y/other-namespace", &select("web", &["Egress"])),
        ];
        assert_eq!(isolates(&policies, &web()), ["x/both", "x/own"]);
        assert_eq!(isolates(&[], &web()), Vec::<String>::new());
    }

    #[test]
    fn pods_before_policies_are_as_policies_before_pods_s9() {
        let policy = policy_value("x/p", &json!({"policyTypes": ["Egress"]}));
        let one = store(&[policy.clone(), web()]);
        let other = store(&[web(), policy]);
        assert_eq!(one, other);
        let found = one.pod(&name("x/a")).map(|pod| isolating(&one, pod).len());
        assert_eq!(found, Some(1));
    }

    #[test]
    fn a_policy_whose_selector_does_not_compile_isolates_its_namespace_s91() {
        let bad =
            json!({"podSelector": {"matchLabels": {"app": "no no"}}, "policyTypes": ["Egress"]});
        let policies = [policy_value("x/bad", &bad)];
        assert_eq!(isolates(&policies, &web()), ["x/bad"]);
        assert_eq!(
            isolates(&policies, &pod_value("y/a", &[], &json!({}))),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_policy_of_an_unknown_namespace_isolates_in_every_one() {
        let select = json!({"matchLabels": {"app": "web"}});
        let spec = json!({"podSelector": select, "policyTypes": ["Egress"]});
        let policies = [with(
            policy_value("x/p", &spec),
            "/metadata/namespace",
            json!(5),
        )];
        assert_eq!(isolates(&policies, &web()), ["<unknown>/p"]);
        assert_eq!(
            isolates(&policies, &pod_value("y/a", &[], &json!({"app": "db"}))),
            Vec::<String>::new()
        );
    }

    #[test]
    fn an_unreadable_pod_is_closed_and_every_policy_may_select_it() {
        let broken = with(web(), "/metadata/labels", json!(5));
        assert_eq!(subject(&pod(&broken)), SubjectKind::Unreadable);
        let policies = [
            policy_value(
                "x/p",
                &json!({"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Egress"]}),
            ),
            policy_value("x/ingress", &json!({})),
        ];
        assert_eq!(isolates(&policies, &broken), ["x/p"]);
    }

    #[test]
    fn subjects_are_told_apart_s59_s62_s63_s87_s88() {
        assert_eq!(subject(&pod(&web())), SubjectKind::Enforced);
        let terminating = with(
            web(),
            "/metadata/deletionTimestamp",
            json!("2024-01-01T00:00:00Z"),
        );
        assert_eq!(subject(&pod(&terminating)), SubjectKind::Enforced);
        let host = with(web(), "/spec/hostNetwork", json!(true));
        assert_eq!(subject(&pod(&host)), SubjectKind::HostNetwork);
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(
                subject(&pod(&with(host.clone(), "/status/phase", json!(phase)))),
                SubjectKind::Finished
            );
        }
    }

    /// Whether a peer of a policy of namespace x means a pod.
    fn meets(peer: &Value, pod_value: &Value, namespaces: &[Value]) -> bool {
        let policy = policy(&policy_value("x/p", &json!({"egress": [{"to": [peer]}]})));
        let Egress::Isolated(rules) = policy.egress else {
            return false;
        };
        let store = store(namespaces);
        rules.iter().any(|rule| match rule.to() {
            Peers::Any => true,
            Peers::Only(peers) => peers
                .iter()
                .any(|peer| peer_matches(&store, peer, &pod(pod_value))),
        })
    }

    #[test]
    fn peers_mean_pods_by_label_and_place_s19_s20_s21_s22_s25() {
        let namespaces = [
            namespace_value("x", &json!({})),
            namespace_value("y", &json!({"team": "b"})),
        ];
        let theirs = pod_value("y/a", &[], &json!({"app": "web"}));
        let db = pod_value("y/db", &[], &json!({}));
        let web_here = json!({"podSelector": {"matchLabels": {"app": "web"}}});
        assert!(meets(&web_here, &web(), &namespaces));
        assert!(!meets(&web_here, &theirs, &namespaces), "S19");
        let all_of_b = json!({"namespaceSelector": {"matchLabels": {"team": "b"}}});
        assert!(
            meets(&all_of_b, &theirs, &namespaces) && meets(&all_of_b, &db, &namespaces),
            "S20"
        );
        assert!(!meets(&all_of_b, &web(), &namespaces));
        let both = json!({"namespaceSelector": {"matchLabels": {"team": "b"}}, "podSelector": {"matchLabels": {"app": "web"}}});
        assert!(
            meets(&both, &theirs, &namespaces) && !meets(&both, &db, &namespaces),
            "S21"
        );
        assert!(
            meets(&json!({"podSelector": {}}), &web(), &namespaces),
            "S22"
        );
        assert!(
            meets(&json!({"namespaceSelector": {}}), &db, &namespaces),
            "S22"
        );
        let by_name = json!({"namespaceSelector": {"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["x"]},
        ]}});
        assert!(
            meets(&by_name, &db, &namespaces) && !meets(&by_name, &web(), &namespaces),
            "S24, S25"
        );
        assert!(!meets(
            &json!({"ipBlock": {"cidr": "0.0.0.0/0"}}),
            &web(),
            &namespaces
        ));
    }

    #[test]
    fn a_namespace_not_seen_or_not_readable_matches_no_selector_s66_s90() {
        let any = || json!({"namespaceSelector": {}});
        let none = || json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}});
        let broken = [namespace_value("x", &json!(5))];
        for peer in [any(), none()] {
            assert!(!meets(&peer, &web(), &[]));
            assert!(!meets(&peer, &web(), &broken));
        }
        assert!(
            meets(&json!({"podSelector": {}}), &web(), &[]),
            "its own namespace needs no object"
        );
    }

    fn owner(values: &[Value]) -> Option<String> {
        let store = store(values);
        let address = IpAddr::from([10, 0, 0, 1]);
        let all: BTreeMap<IpAddr, &Pod> = peers(&store).collect();
        assert_eq!(all.get(&address).copied(), peer_at(&store, address));
        all.get(&address).map(|pod| pod.name.to_string())
    }

    fn claim(at: &str, phase: &str, created: &str, uid: &str) -> Value {
        let value = pod_value(at, &["10.0.0.1", "fd00::1"], &json!({}));
        let value = with(value, "/status/phase", json!(phase));
        let value = with(value, "/metadata/creationTimestamp", json!(created));
        with(value, "/metadata/uid", json!(uid))
    }

    #[test]
    fn pods_on_the_host_network_and_finished_ones_own_no_address_s60_s61_s62() {
        assert_eq!(owner(&[web()]), Some("x/a".to_owned()));
        assert_eq!(
            owner(&[with(web(), "/spec/hostNetwork", json!(true))]),
            None
        );
        assert_eq!(
            owner(&[with(web(), "/status/phase", json!("Failed"))]),
            None
        );
        let reused = [
            claim("x/old", "Succeeded", "2025-01-01T00:00:00Z", "z"),
            claim("x/new", "Pending", "2024-01-01T00:00:00Z", "a"),
        ];
        assert_eq!(owner(&reused), Some("x/new".to_owned()));
    }

    #[test]
    fn pending_and_terminating_pods_own_their_addresses_s63_s64() {
        assert_eq!(
            owner(&[with(web(), "/status/phase", json!("Pending"))]),
            Some("x/a".to_owned())
        );
        let terminating = with(
            web(),
            "/metadata/deletionTimestamp",
            json!("2024-01-01T00:00:00Z"),
        );
        assert_eq!(owner(&[terminating]), Some("x/a".to_owned()));
    }

    #[test]
    fn of_two_pods_with_one_address_one_owns_it_whatever_the_order_s65_s89() {
        let old = "2024-01-01T00:00:00Z";
        let new = "2025-01-01T00:00:00Z";
        for (winner, loser) in [
            (
                claim("x/w", "Running", old, "a"),
                claim("x/l", "Pending", new, "z"),
            ),
            (
                claim("x/w", "Running", new, "a"),
                claim("x/l", "Running", old, "z"),
            ),
            (
                claim("x/w", "Pending", new, "a"),
                claim("x/l", "Pending", old, "z"),
            ),
            (
                claim("x/a", "Running", old, "z"),
                claim("x/z", "Running", old, "a"),
            ),
        ] {
            let expected = Some(pod(&winner).name.to_string());
            assert_eq!(owner(&[winner.clone(), loser.clone()]), expected);
            assert_eq!(owner(&[loser, winner]), expected);
        }
    }

    #[test]
    fn an_unreadable_pod_is_no_peer_and_nobody_else_is_at_its_address() {
        let broken = with(
            claim("x/b", "Pending", "2020-01-01T00:00:00Z", ""),
            "/metadata/labels",
            json!(1),
        );
        assert_eq!(owner(std::slice::from_ref(&broken)), None);
        assert_eq!(owner(&[web(), broken]), None);
    }

    #[test]
    fn workloads_are_named_by_their_owner() {
        let owned = |kind: &str, owner: &str, labels: Value| {
            let references = json!([{"kind": kind, "name": owner, "controller": true}]);
            workload_name(&pod(&with(
                pod_value("x/a", &[], &labels),
                "/metadata/ownerReferences",
                references,
            )))
        };
        let hash = || json!({"pod-template-hash": "5d4f"});
        assert_eq!(workload_name(&pod(&web())), "Pod/a");
        assert_eq!(owned("StatefulSet", "db", json!({})), "StatefulSet/db");
        assert_eq!(owned("ReplicaSet", "web-5d4f", hash()), "Deployment/web");
        assert_eq!(
            owned("ReplicaSet", "web-5d4f", json!({})),
            "ReplicaSet/web-5d4f"
        );
        assert_eq!(
            owned("ReplicaSet", "web-other", hash()),
            "ReplicaSet/web-other"
        );
        assert_eq!(owned("Job", "web-5d4f", hash()), "Job/web-5d4f");
    }

    #[test]
    fn a_job_is_a_cron_jobs_when_its_name_ends_with_the_schedule() {
        let job = |name: &str, created: Option<&str>| {
            let references = json!([{"kind": "Job", "name": name, "controller": true}]);
            let value = pod_value("x/a", &[], &json!({}));
            let value = with(value, "/metadata/ownerReferences", references);
            workload_name(&pod(&match created {
                Some(time) => with(value, "/metadata/creationTimestamp", json!(time)),
                None => value,
            }))
        };
        // 29,887,920 minutes since 1970.
        let noon = Some("2026-10-29T12:00:07Z");
        assert_eq!(job("backup-29887920", noon), "CronJob/backup");
        assert_eq!(
            job("backup-29887840", noon),
            "CronJob/backup",
            "an hour late"
        );
        assert_eq!(job("backup-29887921", noon), "Job/backup-29887921", "later");
        assert_eq!(
            job("backup-20240101", noon),
            "Job/backup-20240101",
            "a date"
        );
        assert_eq!(job("backup-29887920", None), "Job/backup-29887920");
        assert_eq!(job("backup", noon), "Job/backup");
        assert_eq!(job("backup-x", noon), "Job/backup-x");
    }
}
