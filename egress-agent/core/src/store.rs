//! Everything that is known of the cluster, by name.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::object::{EndpointSlice, Key, Kind, Name, Namespace, Node, Object, Pod, Service};
use crate::policy::{Policy, SubjectNamespace};

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was added or replaced.
    Applied(Object),
    /// It is gone.
    Deleted(Key),
}

/// Whether an event said anything new. "No" is where the work ends.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The store is another one than before.
    Yes,
    /// The store is as it was.
    No,
}

/// The objects, and the ways to find them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    policies: BTreeMap<Name, Policy>,
    namespaces: BTreeMap<String, Namespace>,
    pods: BTreeMap<Name, Arc<Pod>>,
    services: BTreeMap<Name, Service>,
    slices: BTreeMap<Name, EndpointSlice>,
    nodes: BTreeMap<String, Node>,
    /// Policies of [`SubjectNamespace::Unknown`].
    placeless: BTreeSet<Name>,
    /// Pods by each of their addresses, whatever their phase, and in the order of their names. Nearly
    /// every address is of one pod.
    pods_by_address: BTreeMap<IpAddr, Vec<Arc<Pod>>>,
    /// Pods by their node, in the order of their names.
    pods_by_node: BTreeMap<String, Vec<Arc<Pod>>>,
    /// Slices by their Service; its name is empty where a slice names none.
    slices_by_service: BTreeSet<(Name, Name)>,
}

impl Store {
    /// Applies one event. An object that is equal to the one there changes nothing.
    pub fn apply(&mut self, event: Event) -> Changed {
        match event {
            Event::Applied(object) => self.put(object),
            Event::Deleted(key) => self.delete(&key),
        }
    }

    /// All policies, by name.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }

    /// A policy.
    pub fn policy(&self, name: &Name) -> Option<&Policy> {
        self.policies.get(name)
    }

    /// The policies of a namespace, by name.
    pub fn policies_in<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Policy> + use<'a> {
        within(&self.policies, namespace)
    }

    /// The policies that may be of any namespace ([`SubjectNamespace::Unknown`]), by name.
    pub fn placeless_policies(&self) -> impl Iterator<Item = &Policy> {
        self.placeless
            .iter()
            .filter_map(|name| self.policies.get(name))
    }

    /// All pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(Arc::as_ref)
    }

    /// A pod.
    pub fn pod(&self, name: &Name) -> Option<&Pod> {
        self.pods.get(name).map(Arc::as_ref)
    }

    /// The pods of a node, by name.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Pod> {
        let pods = self.pods_by_node.get(node);
        pods.into_iter().flatten().map(Arc::as_ref)
    }

    /// The pods of a namespace, by name.
    pub fn pods_in<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Pod> + use<'a> {
        within(&self.pods, namespace).map(Arc::as_ref)
    }

    /// The pods that list an address, by name; whose it is, [`crate::workload::peer_at`] says.
    pub fn pods_at(&self, address: IpAddr) -> impl Iterator<Item = &Pod> {
        let pods = self.pods_by_address.get(&address);
        pods.into_iter().flatten().map(Arc::as_ref)
    }

    /// Every address that a pod lists, with the pods that do.
    pub fn pod_addresses(&self) -> impl Iterator<Item = (IpAddr, &[Arc<Pod>])> {
        let all = self.pods_by_address.iter();
        all.map(|(address, pods)| (*address, pods.as_slice()))
    }

    /// All namespaces, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// A namespace, if its object was seen (S66, S90).
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// A Service.
    pub fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name)
    }

    /// The slices of a Service, by name.
    pub fn slices_of<'a>(
        &'a self,
        service: &Name,
    ) -> impl Iterator<Item = &'a EndpointSlice> + use<'a> {
        under(&self.slices_by_service, service.clone()).filter_map(|name| self.slices.get(name))
    }

    /// The slices of a namespace that name no Service, by name.
    pub fn slices_of_nobody<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = &'a EndpointSlice> + use<'a> {
        self.slices_of(&Name::new(namespace, ""))
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    fn put(&mut self, object: Object) -> Changed {
        // An equal object must not even touch an index, so look first.
        let same = match &object {
            Object::Policy(policy) => self.policies.get(&policy.name) == Some(policy),
            Object::Namespace(namespace) => self.namespaces.get(&namespace.name) == Some(namespace),
            Object::Pod(pod) => self.pod(&pod.name) == Some(pod),
            Object::Service(service) => self.services.get(&service.name) == Some(service),
            Object::EndpointSlice(slice) => self.slices.get(&slice.name) == Some(slice),
            Object::Node(node) => self.nodes.get(&node.name) == Some(node),
        };
        if same {
            return Changed::No;
        }
        // Deleting takes the old object out of the indexes; whether there was one is all the same.
        let (Changed::Yes | Changed::No) = self.delete(&object.key());
        match object {
            Object::Policy(policy) => {
                if policy.subject.namespace == SubjectNamespace::Unknown {
                    self.placeless.insert(policy.name.clone());
                }
                self.policies.insert(policy.name.clone(), policy);
            }
            Object::Namespace(namespace) => {
                self.namespaces.insert(namespace.name.clone(), namespace);
            }
            Object::Pod(pod) => {
                let pod: Arc<Pod> = pod.into();
                for address in &pod.addresses {
                    file(&mut self.pods_by_address, *address, &pod);
                }
                file(&mut self.pods_by_node, pod.node.clone(), &pod);
                self.pods.insert(pod.name.clone(), pod);
            }
            Object::Service(service) => {
                self.services.insert(service.name.clone(), *service);
            }
            Object::EndpointSlice(slice) => {
                self.slices_by_service
                    .insert((service_of(&slice), slice.name.clone()));
                self.slices.insert(slice.name.clone(), slice);
            }
            Object::Node(node) => {
                self.nodes.insert(node.name.clone(), node);
            }
        }
        Changed::Yes
    }

    fn delete(&mut self, key: &Key) -> Changed {
        let Key { kind, name } = key;
        let gone = match kind {
            Kind::NetworkPolicy => {
                self.placeless.remove(name);
                self.policies.remove(name).is_some()
            }
            Kind::Namespace => self.namespaces.remove(&name.name).is_some(),
            Kind::Pod => self.pods.remove(name).is_some_and(|pod| {
                for address in &pod.addresses {
                    unfile(&mut self.pods_by_address, address, name);
                }
                unfile(&mut self.pods_by_node, &pod.node, name);
                true
            }),
            Kind::Service => self.services.remove(name).is_some(),
            Kind::EndpointSlice => self.slices.remove(name).is_some_and(|slice| {
                self.slices_by_service
                    .remove(&(service_of(&slice), name.clone()));
                true
            }),
            Kind::Node => self.nodes.remove(&name.name).is_some(),
        };
        if gone { Changed::Yes } else { Changed::No }
    }
}

fn service_of(slice: &EndpointSlice) -> Name {
    Name::new(slice.name.namespace.as_str(), slice.service.as_str())
}

/// Adds a pod to an index.
fn file<K: Ord>(index: &mut BTreeMap<K, Vec<Arc<Pod>>>, key: K, pod: &Arc<Pod>) {
    let pods = index.entry(key).or_default();
    let place = pods.partition_point(|other| other.name < pod.name);
    if pods.is_empty() {
        // Mostly it stays the only one.
        pods.reserve_exact(1);
    }
    pods.insert(place, Arc::clone(pod));
}

/// Takes a pod out of an index.
fn unfile<K: Ord + Borrow<Q>, Q: Ord + ?Sized>(
    index: &mut BTreeMap<K, Vec<Arc<Pod>>>,
    key: &Q,
    name: &Name,
) {
    if let Some(pods) = index.get_mut(key) {
        pods.retain(|pod| pod.name != *name);
        if pods.is_empty() {
            index.remove(key);
        }
    }
}

/// The names that an index has under a key.
fn under<'a, K: Ord + Clone + 'a>(
    index: &'a BTreeSet<(K, Name)>,
    key: K,
) -> impl Iterator<Item = &'a Name> + use<'a, K> {
    index
        .range((key.clone(), Name::cluster(""))..)
        .take_while(move |(at, _)| *at == key)
        .map(|(_, name)| name)
}

/// Names sort by namespace first, so a namespace is a range.
fn within<'a, T>(
    objects: &'a BTreeMap<Name, T>,
    namespace: &str,
) -> impl Iterator<Item = &'a T> + use<'a, T> {
    let first = Name::new(namespace, "");
    let namespace = namespace.to_owned();
    objects
        .range(first..)
        .take_while(move |(name, _)| name.namespace == namespace)
        .map(|(_, object)| object)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture::{name, object, pod_value, policy_value, slice_value, store, with};

    fn key(kind: Kind, text: &str) -> Key {
        Key {
            kind,
            name: name(text),
        }
    }

    #[test]
    fn an_equal_object_changes_nothing() {
        let pod = object(&pod_value("x/a", &["10.0.0.1"], &json!({})));
        let mut store = Store::default();
        assert_eq!(store.apply(Event::Applied(pod.clone())), Changed::Yes);
        assert_eq!(store.apply(Event::Applied(pod)), Changed::No);
        let relabelled = object(&pod_value("x/a", &["10.0.0.1"], &json!({"a": "b"})));
        assert_eq!(store.apply(Event::Applied(relabelled)), Changed::Yes, "S27");
    }

    #[test]
    fn deleting_what_is_not_there_changes_nothing() {
        let mut store = store(&[pod_value("x/a", &["10.0.0.1"], &json!({}))]);
        assert_eq!(
            store.apply(Event::Deleted(key(Kind::Pod, "x/b"))),
            Changed::No
        );
        assert_eq!(
            store.apply(Event::Deleted(key(Kind::Service, "x/a"))),
            Changed::No
        );
        assert_eq!(
            store.apply(Event::Deleted(key(Kind::Pod, "x/a"))),
            Changed::Yes
        );
        assert_eq!(store, Store::default(), "no index remembers it");
    }

    #[test]
    fn every_kind_comes_and_goes() {
        let named = |api: &str, kind: &str| json!({"apiVersion": api, "kind": kind, "metadata": {"name": "a", "namespace": "x"}});
        let placeless = with(
            policy_value("x/b", &json!({})),
            "/metadata/namespace",
            json!(1),
        );
        for value in [
            named("networking.k8s.io/v1", "NetworkPolicy"),
            named("v1", "Namespace"),
            named("v1", "Pod"),
            named("v1", "Service"),
            named("discovery.k8s.io/v1", "EndpointSlice"),
            named("v1", "Node"),
            placeless,
        ] {
            let object = object(&value);
            let mut store = Store::default();
            assert_eq!(store.apply(Event::Applied(object.clone())), Changed::Yes);
            assert_ne!(store, Store::default());
            assert_eq!(store.apply(Event::Deleted(object.key())), Changed::Yes);
            assert_eq!(store, Store::default(), "{value}");
        }
    }

    #[test]
    fn indexes_follow_a_replaced_object() {
        let slice = slice_value("x/s", &json!([]), &json!([]));
        let moved = with(
            slice.clone(),
            "/metadata/labels",
            json!({"kubernetes.io/service-name": "t"}),
        );
        let store = store(&[
            pod_value("x/a", &["10.0.0.1"], &json!({})),
            pod_value("x/a", &["10.0.0.2"], &json!({})),
            slice,
            moved,
        ]);
        assert_eq!(
            store
                .pod_addresses()
                .map(|(ip, _)| ip.to_string())
                .collect::<Vec<_>>(),
            ["10.0.0.2"]
        );
        assert_eq!(store.slices_of(&name("x/s")).count(), 0);
        assert_eq!(store.slices_of(&name("x/t")).count(), 1);
    }

    #[test]
    fn a_namespace_is_found_whole_and_alone() {
        let values: Vec<Value> = ["a/z", "ab/a", "b/a", "b/b", "b-c/a", "c/a"]
            .map(|at| pod_value(at, &[], &json!({})))
            .into();
        let store = store(&values);
        let of = |namespace| {
            store
                .pods_in(namespace)
                .map(|pod| pod.name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(of("b"), ["b/a", "b/b"]);
        assert_eq!(of("a"), ["a/z"]);
        assert_eq!(of(""), Vec::<String>::new());
    }
}
