//! Everything that is known of the cluster, by name.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
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
    policies: BTreeMap<Name, Arc<Policy>>,
    namespaces: BTreeMap<String, Arc<Namespace>>,
    /// Stores that are equal have equal pods, too: each is in `pods_by_node`.
    pods: BTreeSet<ByName>,
    services: BTreeMap<Name, Arc<Service>>,
    slices: BTreeMap<Name, Arc<EndpointSlice>>,
    nodes: BTreeMap<String, Arc<Node>>,
    /// Policies of [`SubjectNamespace::Unknown`].
    placeless: BTreeSet<Name>,
    /// Pods by each of their addresses, whatever their phase.
    pods_by_address: BTreeMap<IpAddr, Pods>,
    /// Pods by their node.
    pods_by_node: BTreeMap<Arc<str>, Pods>,
    /// Slices by their Service; its name is empty where a slice names none.
    slices_by_service: BTreeSet<(Name, Name)>,
}

/// A pod that stands for its name: a map by name would keep that once more.
#[derive(Clone, Debug)]
struct ByName(Arc<Pod>);

/// Pods of one address or node, in the order of their names. Nearly every address is of one pod, and
/// there are as many as pods: the others' list stands elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pods {
    One(Arc<Pod>),
    #[expect(clippy::box_collection, reason = "a third smaller for the one")]
    Several(Box<Vec<Arc<Pod>>>),
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
        self.policies.values().map(Arc::as_ref)
    }

    /// A policy.
    pub fn policy(&self, name: &Name) -> Option<&Policy> {
        self.policies.get(name).map(Arc::as_ref)
    }

    /// The policies of a namespace, by name.
    pub fn policies_in<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Policy> + use<'a> {
        within(&self.policies, namespace).map(Arc::as_ref)
    }

    /// The policies that may be of any namespace ([`SubjectNamespace::Unknown`]), by name.
    pub fn placeless_policies(&self) -> impl Iterator<Item = &Policy> {
        self.placeless.iter().filter_map(|name| self.policy(name))
    }

    /// All pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().map(|ByName(pod)| &**pod)
    }

    /// A pod.
    pub fn pod(&self, name: &Name) -> Option<&Pod> {
        self.pods.get(name).map(|ByName(pod)| &**pod)
    }

    /// The pods of a node, by name.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Pod> {
        let pods = self.pods_by_node.get(node);
        pods.into_iter().flat_map(Pods::all).map(Arc::as_ref)
    }

    /// The pods of a namespace, by name.
    pub fn pods_in<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Pod> + use<'a> {
        let first = Name::new(namespace, "");
        let namespace = Arc::clone(&first.namespace);
        self.pods
            .range(first..)
            .map(|ByName(pod)| &**pod)
            .take_while(move |pod| pod.name.namespace == namespace)
    }

    /// The pods that list an address, by name; whose it is, [`crate::workload::peer_at`] says.
    pub fn pods_at(&self, address: IpAddr) -> impl Iterator<Item = &Pod> {
        let pods = self.pods_by_address.get(&address);
        pods.into_iter().flat_map(Pods::all).map(Arc::as_ref)
    }

    /// Every address that a pod lists, with the pods that do.
    pub fn pod_addresses(&self) -> impl Iterator<Item = (IpAddr, &[Arc<Pod>])> {
        let all = self.pods_by_address.iter();
        all.map(|(address, pods)| (*address, pods.all()))
    }

    /// All namespaces, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values().map(Arc::as_ref)
    }

    /// A namespace, if its object was seen (S66, S90).
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name).map(Arc::as_ref)
    }

    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(Arc::as_ref)
    }

    /// The Services of a namespace, by name.
    pub fn services_in<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Service> + use<'a> {
        within(&self.services, namespace).map(Arc::as_ref)
    }

    /// A Service.
    pub fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name).map(Arc::as_ref)
    }

    /// All slices, by name.
    pub fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.values().map(Arc::as_ref)
    }

    /// The slices of a Service, by name.
    pub fn slices_of<'a>(
        &'a self,
        service: &Name,
    ) -> impl Iterator<Item = &'a EndpointSlice> + use<'a> {
        under(&self.slices_by_service, service.clone())
            .filter_map(|name| self.slices.get(name))
            .map(Arc::as_ref)
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
        self.nodes.values().map(Arc::as_ref)
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).map(Arc::as_ref)
    }

    fn put(&mut self, object: Object) -> Changed {
        // An equal object must not even touch an index, so look first.
        let same = match &object {
            Object::Policy(policy) => self.policies.get(&policy.name) == Some(policy),
            Object::Namespace(namespace) => self.namespaces.get(&namespace.name) == Some(namespace),
            Object::Pod(pod) => self.pod(&pod.name) == Some(&**pod),
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
                for address in &pod.addresses {
                    file(&mut self.pods_by_address, *address, &pod);
                }
                file(&mut self.pods_by_node, Arc::clone(&pod.node), &pod);
                self.pods.insert(ByName(pod));
            }
            Object::Service(service) => {
                self.services.insert(service.name.clone(), service);
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
            Kind::Namespace => self.namespaces.remove(&*name.name).is_some(),
            Kind::Pod => self.pods.take(name).is_some_and(|ByName(pod)| {
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
            Kind::Node => self.nodes.remove(&*name.name).is_some(),
        };
        if gone { Changed::Yes } else { Changed::No }
    }
}

impl ByName {
    fn name(&self) -> &Name {
        &self.0.name
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl Borrow<Name> for ByName {
    fn borrow(&self) -> &Name {
        self.name()
    }
}

impl Pods {
    fn all(&self) -> &[Arc<Pod>] {
        match self {
            Self::One(pod) => std::slice::from_ref(pod),
            Self::Several(pods) => pods,
        }
    }

    fn add(&mut self, pod: &Arc<Pod>) {
        match self {
            Self::One(other) => {
                let mut pods = vec![Arc::clone(other), Arc::clone(pod)];
                pods.sort_by(|a, b| a.name.cmp(&b.name));
                *self = Self::Several(Box::new(pods));
            }
            Self::Several(pods) => {
                let place = pods.partition_point(|other| other.name < pod.name);
                pods.insert(place, Arc::clone(pod));
            }
        }
    }

    /// Says whether any is left.
    fn remove(&mut self, name: &Name) -> bool {
        match self {
            Self::One(pod) => pod.name != *name,
            Self::Several(pods) => {
                pods.retain(|pod| pod.name != *name);
                if let [pod] = pods.as_slice() {
                    *self = Self::One(Arc::clone(pod));
                }
                true
            }
        }
    }
}

fn service_of(slice: &EndpointSlice) -> Name {
    Name::new(Arc::clone(&slice.name.namespace), slice.service.as_str())
}

/// Adds a pod to an index.
fn file<K: Ord>(index: &mut BTreeMap<K, Pods>, key: K, pod: &Arc<Pod>) {
    match index.entry(key) {
        Entry::Vacant(place) => {
            place.insert(Pods::One(Arc::clone(pod)));
        }
        Entry::Occupied(mut pods) => pods.get_mut().add(pod),
    }
}

/// Takes a pod out of an index.
fn unfile<K: Ord + Borrow<Q>, Q: Ord + ?Sized>(
    index: &mut BTreeMap<K, Pods>,
    key: &Q,
    name: &Name,
) {
    if index.get_mut(key).is_some_and(|pods| !pods.remove(name)) {
        index.remove(key);
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
    let namespace = Arc::clone(&first.namespace);
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
    fn pods_of_one_address_are_in_the_order_of_their_names_whoever_came_and_went() {
        let pods = ["x/a", "x/b", "x/c", "x/d"].map(|at| pod_value(at, &["10.0.0.1"], &json!({})));
        let [a, b, c, d] = &pods;
        let mut mixed = store([c, a, d, b]);
        assert_eq!(mixed, store(&pods));
        let address = IpAddr::from([10, 0, 0, 1]);
        let names: Vec<_> = mixed.pods_at(address).map(|p| &*p.name.name).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        for gone in ["x/b", "x/d", "x/a"] {
            let (Changed::Yes | Changed::No) = mixed.apply(Event::Deleted(key(Kind::Pod, gone)));
        }
        assert_eq!(mixed, store([c]));
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
