//! The objects the core knows, cut down to the fields that policies need, and the one way
//! to read them: [`read()`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::policy::{Policy, Protocol};

mod addresses;
mod cluster;
mod conflict;
pub(crate) mod field;
pub(crate) mod metadata;
mod pod;
mod read;
mod service;
mod slice;

pub use addresses::Addresses;
pub use read::{ListOf, Read, expand_list, read};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Numbers of a pod's container ports, by protocol and name.
pub type NamedPorts = BTreeMap<(Protocol, String), Vec<u16>>;

/// `namespace/name`; the namespace is empty for cluster-scoped objects. Copies share the texts: many
/// tables are by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// networking.k8s.io/v1 `NetworkPolicy`
    NetworkPolicy,
    /// v1 `Namespace`
    Namespace,
    /// v1 `Pod`
    Pod,
    /// v1 `Service`
    Service,
    /// discovery.k8s.io/v1 `EndpointSlice`
    EndpointSlice,
    /// v1 `Node`
    Node,
}

impl Name {
    /// The name of a namespaced object.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The name of a cluster-scoped object.
    pub fn cluster(name: impl Into<Arc<str>>) -> Self {
        Self::new("", name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl Kind {
    /// The API's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
}

/// A part of an object that could not be read, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The field, as a path: `spec.egress[0].to[1].ipBlock.cidr`.
    pub field: String,
    /// What is wrong and what follows from it, for a person.
    pub message: String,
}

impl Problem {
    /// A problem with the field at a path.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }

    /// Adds what follows from it.
    #[must_use]
    pub(crate) fn so(mut self, consequence: &str) -> Self {
        self.message.push_str("; ");
        self.message.push_str(consequence);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// An object, parsed. Copies are the same object: who reads it and who judges by it share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A policy, perhaps unreadable.
    Policy(Arc<Policy>),
    /// A namespace.
    Namespace(Arc<Namespace>),
    /// A pod.
    Pod(Arc<Pod>),
    /// A Service.
    Service(Arc<Service>),
    /// Endpoints of a Service.
    EndpointSlice(Arc<EndpointSlice>),
    /// A node.
    Node(Arc<Node>),
}

impl Object {
    /// Which object it is.
    pub fn key(&self) -> Key {
        let (kind, name) = match self {
            Self::Policy(policy) => (Kind::NetworkPolicy, policy.name.clone()),
            Self::Namespace(namespace) => (Kind::Namespace, Name::cluster(namespace.name.as_str())),
            Self::Pod(pod) => (Kind::Pod, pod.name.clone()),
            Self::Service(service) => (Kind::Service, service.name.clone()),
            Self::EndpointSlice(slice) => (Kind::EndpointSlice, slice.name.clone()),
            Self::Node(node) => (Kind::Node, Name::cluster(node.name.as_str())),
        };
        Key { kind, name }
    }

    /// What of it could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Policy(policy) => &policy.problems,
            Self::Namespace(namespace) => &namespace.problems,
            Self::Pod(pod) => &pod.problems,
            Self::Service(service) => &service.problems,
            Self::EndpointSlice(slice) => &slice.problems,
            Self::Node(node) => &node.problems,
        }
    }

    fn problems_mut(&mut self) -> &mut Vec<Problem> {
        match self {
            Self::Policy(policy) => &mut Arc::make_mut(policy).problems,
            Self::Namespace(namespace) => &mut Arc::make_mut(namespace).problems,
            Self::Pod(pod) => &mut Arc::make_mut(pod).problems,
            Self::Service(service) => &mut Arc::make_mut(service).problems,
            Self::EndpointSlice(slice) => &mut Arc::make_mut(slice).problems,
            Self::Node(node) => &mut Arc::make_mut(node).problems,
        }
    }
}

/// v1 `Namespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels, `None` when they could not be read: no selector matches.
    pub labels: Option<Labels>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// v1 `Pod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: Name,
    /// `metadata.uid`, empty when absent.
    pub uid: Arc<str>,
    /// The uid by which the node's runtime and its CNI plugins know the pod: `uid`, but of a
    /// static pod the one in the annotations of its mirror, which is an object of its own.
    pub runtime_uid: Arc<str>,
    /// `metadata.creationTimestamp`, seconds since 1970 (S89).
    pub created: Option<i64>,
    /// Its labels; empty when they could not be read, and `unreadable` then. Behind a counter, as is
    /// all that replicas have in common: whoever keeps many pods lets them share it.
    pub labels: Arc<Labels>,
    /// `spec.nodeName`, empty when not scheduled.
    pub node: Arc<str>,
    /// `spec.hostNetwork` (S59–S61).
    pub host_network: bool,
    /// `status.podIPs` and `status.podIP`.
    pub addresses: Addresses,
    /// `status.phase`.
    pub phase: Phase,
    /// Condition Ready; `None` when it is not there. Only endpoints that are made from a
    /// Service's selector look at it (S64, S96).
    pub ready: Option<bool>,
    /// `metadata.deletionTimestamp` is there (S63, S96).
    pub terminating: bool,
    /// Named container ports, sidecars included (S37, S43, S44): distinct numbers in the order of
    /// the containers, sidecars last.
    pub ports: Arc<NamedPorts>,
    /// Annotation `egress-agent.dev/netns`.
    pub netns: Option<Arc<str>>,
    /// The controlling owner, `KIND/NAME`, of `metadata.ownerReferences`.
    pub owner: Option<Arc<str>>,
    /// It could not be read far enough to be judged: closed as a subject, no peer.
    pub unreadable: bool,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// `status.phase` of a pod, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Pending, Unknown, or absent (S64).
    Other,
    /// Running.
    Running,
    /// Succeeded or Failed: neither subject nor peer (S62, S88).
    Finished,
}

/// v1 `Service`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of the API, all read in one place"
)]
pub struct Service {
    /// Namespace and name.
    pub name: Name,
    /// `spec.clusterIPs`/`clusterIP`; empty for headless and `ExternalName` (S69).
    pub cluster_ips: BTreeSet<IpAddr>,
    /// `spec.externalIPs` (S86).
    pub external_ips: BTreeSet<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode` VIP or absent (S86).
    pub load_balancer_ips: BTreeSet<IpAddr>,
    /// `spec.clusterIP: None`.
    pub headless: bool,
    /// `spec.type: ExternalName`.
    pub external_name: bool,
    /// `spec.selector`, `None` when absent or empty.
    pub selector: Option<Labels>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.internalTrafficPolicy: Local` (S84).
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy: Local` (S84).
    pub external_local: bool,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// It could not be read: every frontend of it that is known denies.
    pub unreadable: bool,
    /// The different objects of this name, if there are any (S96). What each of them declares is closed, and nothing
    /// else: not its ports at the addresses of another one.
    pub contradicting: Vec<Service>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

impl Service {
    /// The different objects of this name, usually itself alone.
    pub fn versions(&self) -> &[Self] {
        match self.contradicting.as_slice() {
            [] => std::slice::from_ref(self),
            versions => versions,
        }
    }
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServicePort {
    /// `name`, empty when absent.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `targetPort` (absent: `port`).
    pub target: TargetPort,
    /// `nodePort`.
    pub node_port: Option<u16>,
}

/// `targetPort` of a Service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// A container port's name.
    Name(String),
}

/// discovery.k8s.io/v1 `EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: Name,
    /// Label `kubernetes.io/service-name`. Empty when there is none: nobody's endpoints,
    /// or, when `unreadable`, perhaps those of any Service of the namespace.
    pub service: String,
    /// `endpoints`.
    pub endpoints: Vec<ServiceEndpoint>,
    /// `ports`: name, protocol, number (`None` number: all ports, not usable).
    pub ports: Vec<EndpointPort>,
    /// It could not be read: the Service's frontends deny.
    pub unreadable: bool,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// One of `ports` of an `EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// `name`, empty when absent; equals the Service port's name.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: Option<u16>,
}

/// One of `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEndpoint {
    /// `addresses` that are IP addresses.
    pub addresses: Addresses,
    /// `conditions.ready` is not false (S84).
    pub ready: bool,
    /// `conditions.serving` is not false.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `targetRef` of kind Pod.
    pub pod: Option<Name>,
}

/// v1 `Node`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// `status.addresses` that are IP addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}
