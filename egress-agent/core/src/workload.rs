//! Pods as senders and as destinations: who is isolated by which policies, whom a peer
//! means, and whose an address is.

use std::collections::BTreeMap;
use std::net::IpAddr;

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
/// all, [`subject`] says.
pub fn isolating<'a>(store: &'a Store, pod: &Pod) -> Vec<&'a Policy> {
    let own = store.policies_in(&pod.name.namespace);
    let own = own.filter(|policy| policy.subject.namespace == SubjectNamespace::Own);
    let mut found: Vec<&Policy> = own
        .chain(store.placeless_policies())
        .filter(|policy| match policy.egress {
            Egress::NotMentioned => false,
            Egress::Isolated(_) => true,
        })
        .filter(|policy| {
            pod.unreadable
                || policy
                    .subject
                    .pods
                    .iter()
                    .any(|selector| selector.matches(&pod.labels))
        })
        .collect();
    found.sort_by_key(|policy| &policy.name);
    found
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
    let namespace = &pod.name.namespace;
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

/// Which pod selectors and named ports mean at each address (S28, S59–S66, S87, S89).
pub fn peers(store: &Store) -> BTreeMap<IpAddr, &Pod> {
    store
        .pod_addresses()
        .filter_map(|address| Some((address, peer_at(store, address)?)))
        .collect()
}

/// Which pod selectors and named ports mean at an address.
///
/// Never one on the host network, whose address is the node's (S60, S61), and never a
/// finished one, whose address may be another's by now (S62). Of several the rest decides
/// S89. An unreadable pod takes its addresses from everybody: they may be its own.
pub fn peer_at(store: &Store, address: IpAddr) -> Option<&Pod> {
    let claims = store
        .pods_at(address)
        .filter(|pod| !pod.host_network && pod.phase != Phase::Finished);
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

/// `KIND/NAME` of what the pod belongs to, for people and metrics. A bare pod is itself; the
/// `ReplicaSet` of a Deployment, told by the template hash, is the Deployment.
pub fn workload_name(pod: &Pod) -> String {
    let Some(owner) = &pod.owner else {
        return format!("Pod/{}", pod.name.name);
    };
    let deployment = owner.strip_prefix("ReplicaSet/").and_then(|name| {
        let (deployment, hash) = name.rsplit_once('-')?;
        (pod.labels.get(TEMPLATE_HASH).map(String::as_str) == Some(hash)).then_some(deployment)
    });
    deployment.map_or_else(|| owner.clone(), |name| format!("Deployment/{name}"))
}
