//! Services: which destinations kube-proxy rewrites, and to what (section I, S84–S86).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::address::parse_address;
use crate::json::{Fields, Unreadable, below, field, flag, labels, list, port_number, text, texts};
use crate::objects::{Kind, Named, Objects};
use crate::pod::{Phase, Pod, Pods, transport};
use crate::{Destination, Protocol};

/// What stands behind a destination that a Service declares.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Backends {
    /// Denied. A Service or a slice of it cannot be read, so nobody knows; or all usable endpoints of a
    /// Service are pods that are not seen yet (S84).
    Closed,
    /// The usable endpoints without the pods that are not seen yet (S84). May be empty (S69).
    Usable(Vec<Endpoint>),
}

/// One address that a Service may rewrite to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// False when it is a pod that is not seen yet (S84).
    pod_seen: bool,
    node: Option<String>,
    condition: Condition,
}

/// What an endpoint's conditions make of it (S84).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Ready,
    /// Serving and terminating: used where nothing is ready.
    Draining,
    Unusable,
}

impl Condition {
    fn of(ready: bool, serving: bool, terminating: bool) -> Self {
        if ready {
            Self::Ready
        } else if serving && terminating {
            Self::Draining
        } else {
            Self::Unusable
        }
    }
}

/// Services, their slices, and the nodes on which node ports are open.
#[derive(Debug)]
pub(crate) struct Services {
    services: Vec<Service>,
    node_addresses: Vec<IpAddr>,
}

/// A Service, with the slices that are labelled as its own.
#[derive(Debug)]
struct Service {
    namespace: String,
    /// Several when they contradict each other (S96).
    versions: Vec<Fields>,
    slices: Vec<Vec<Fields>>,
}

impl Services {
    pub(crate) fn read(objects: &Objects) -> Self {
        Self {
            services: objects
                .of(Kind::Service)
                .map(|named| Service {
                    namespace: named.namespace.clone(),
                    versions: named.versions.clone(),
                    slices: objects
                        .of(Kind::EndpointSlice)
                        .filter(|slice| belongs(slice, named))
                        .map(|slice| slice.versions.clone())
                        .collect(),
                })
                .collect(),
            node_addresses: objects
                .of(Kind::Node)
                .filter_map(Named::single)
                .flat_map(node_addresses)
                .collect(),
        }
    }

    /// What is behind this destination. Nothing where no Service declares it (S86); protocols
    /// without ports are never declared. Where several Services do, nobody knows which of them
    /// gets it: the endpoints of all, and what one of them closes is closed.
    pub(crate) fn behind(&self, to: Destination, own_node: &str, pods: &Pods) -> Backends {
        let mut behind = Vec::new();
        for service in &self.services {
            for version in &service.versions {
                for port in ports(version) {
                    let Some(facing) = self.facing(version, &port, to) else {
                        continue;
                    };
                    let only_node = facing.local_only(version).then_some(own_node);
                    match service.backends(&port, to.address, only_node, pods) {
                        Backends::Usable(endpoints) => behind.extend(endpoints),
                        Backends::Closed => return Backends::Closed,
                    }
                }
            }
        }
        Backends::Usable(behind)
    }

    /// How this port of this Service declares the destination, if it does.
    fn facing(&self, service: &Fields, port: &ServicePort, to: Destination) -> Option<Facing> {
        let spec = below(service, "spec").ok()?;
        let kind = text(&spec, "type").ok()?.unwrap_or("ClusterIP");
        let cluster_addresses = cluster_addresses(&spec);
        // S69: nothing is rewritten for these.
        if kind == "ExternalName" || cluster_addresses.contains(&"None") {
            return None;
        }
        if to.protocol != port.protocol {
            return None;
        }
        let is_to = |text: &str| parse_address(text) == Some(to.address);
        // S68
        if to.port == port.number && cluster_addresses.into_iter().any(is_to) {
            return Some(Facing::Inside);
        }
        // S86
        let external = texts(&spec, "externalIPs").unwrap_or_default();
        if to.port == port.number && external.into_iter().any(is_to) {
            return Some(Facing::Outside);
        }
        if to.port == port.number
            && kind == "LoadBalancer"
            && balancer_addresses(service).contains(&to.address)
        {
            return Some(Facing::Outside);
        }
        if port.node_port == Some(to.port)
            && matches!(kind, "NodePort" | "LoadBalancer")
            && self.node_addresses.contains(&to.address)
        {
            return Some(Facing::Outside);
        }
        None
    }
}

/// Which of a Service's traffic policies holds for an address of it.
#[derive(Clone, Copy, Debug)]
enum Facing {
    Inside,
    Outside,
}

impl Facing {
    /// S84: whether only endpoints of the own node are usable.
    fn local_only(self, service: &Fields) -> bool {
        let name = match self {
            Self::Inside => "internalTrafficPolicy",
            Self::Outside => "externalTrafficPolicy",
        };
        below(service, "spec").is_ok_and(|spec| text(&spec, name) == Ok(Some("Local")))
    }
}

impl Service {
    /// The usable endpoints of one port, in the address family of the destination; of one
    /// node only where that is given.
    fn backends(
        &self,
        port: &ServicePort,
        to: IpAddr,
        only_node: Option<&str>,
        pods: &Pods,
    ) -> Backends {
        let [service] = self.versions.as_slice() else {
            return Backends::Closed;
        };
        let mut endpoints = Vec::new();
        if self.slices.is_empty() {
            endpoints.extend(self.selected(service, port, pods));
        }
        for slice in &self.slices {
            let [slice] = slice.as_slice() else {
                return Backends::Closed;
            };
            let Ok(of_slice) = slice_endpoints(&self.namespace, slice, port, pods) else {
                return Backends::Closed;
            };
            endpoints.extend(of_slice);
        }
        endpoints.retain(|endpoint| {
            endpoint.address.is_ipv4() == to.is_ipv4()
                && only_node
                    .is_none_or(|node| !node.is_empty() && endpoint.node.as_deref() == Some(node))
        });
        let in_condition = |wanted| {
            endpoints
                .iter()
                .filter(|endpoint| endpoint.condition == wanted)
                .cloned()
                .collect::<Vec<_>>()
        };
        let mut usable = in_condition(Condition::Ready);
        if usable.is_empty() {
            usable = in_condition(Condition::Draining);
        }
        let all_are_unseen = usable.iter().all(|endpoint| !endpoint.pod_seen);
        if all_are_unseen && !usable.is_empty() {
            return Backends::Closed;
        }
        usable.retain(|endpoint| endpoint.pod_seen);
        Backends::Usable(usable)
    }

    /// S96: what the controller would write into slices. A pod that reports no Ready
    /// condition at all counts as ready, as an endpoint without one does. A contradicted pod
    /// may carry any labels.
    fn selected(&self, service: &Fields, port: &ServicePort, pods: &Pods) -> Vec<Endpoint> {
        let spec = below(service, "spec").unwrap_or_default();
        let selector = labels(&spec, "selector").unwrap_or_default();
        let publish_unready = field(&spec, "publishNotReadyAddresses") == Some(&Value::Bool(true));
        pods.iter()
            .filter(|pod| !selector.is_empty() && pod.namespace == self.namespace)
            .filter(|pod| pod.contradicted() || carries(&pod.labels, &selector))
            .filter(|pod| pod.phase != Phase::Finished)
            .flat_map(|pod| {
                let serving = pod.ready.unwrap_or(true);
                let number = port.target(pod);
                pod.addresses.iter().filter_map(move |address| {
                    Some(Endpoint {
                        address: *address,
                        port: number?,
                        pod_seen: true,
                        node: Some(pod.node.clone()),
                        condition: Condition::of(
                            publish_unready || (serving && !pod.terminating),
                            serving,
                            pod.terminating,
                        ),
                    })
                })
            })
            .collect()
    }
}

fn carries(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether any object of this name is a slice of the Service.
fn belongs(slice: &Named, service: &Named) -> bool {
    slice.namespace == service.namespace
        && slice.versions.iter().any(|version| {
            below(version, "metadata")
                .and_then(|metadata| labels(&metadata, "labels"))
                // One that does not say whose it is may be this Service's.
                .map_or(true, |labels| {
                    labels.get("kubernetes.io/service-name") == Some(&service.name)
                })
        })
}

/// The endpoints of a slice, with the number it gives to the Service port.
///
/// Every part of it must be readable, also where nothing seems to follow from it: what an endpoint
/// that cannot be read is, nobody knows, and one that is denied closes the others (S84).
fn slice_endpoints(
    namespace: &str,
    slice: &Fields,
    port: &ServicePort,
    pods: &Pods,
) -> Result<Vec<Endpoint>, Unreadable> {
    labels(&below(slice, "metadata")?, "labels")?;
    let number = slice_port(slice, port)?;
    let mut endpoints = Vec::new();
    for endpoint in list(slice, "endpoints")? {
        let endpoint = endpoint.as_object().ok_or(Unreadable)?;
        let conditions = below(endpoint, "conditions")?;
        let condition = Condition::of(
            flag(&conditions, "ready")?.unwrap_or(true),
            flag(&conditions, "serving")?.unwrap_or(true),
            flag(&conditions, "terminating")?.unwrap_or(false),
        );
        let pod_seen = pod_seen(namespace, endpoint, pods)?;
        let node = text(endpoint, "nodeName")?;
        for address in endpoint_addresses(slice, endpoint)? {
            endpoints.extend(number.map(|port| Endpoint {
                address,
                port,
                pod_seen,
                node: node.map(str::to_owned),
                condition,
            }));
        }
    }
    Ok(endpoints)
}

/// Nothing is rewritten to names.
fn endpoint_addresses(slice: &Fields, endpoint: &Fields) -> Result<Vec<IpAddr>, Unreadable> {
    match text(slice, "addressType")? {
        None | Some("IPv4" | "IPv6") => {
            // The API refuses an endpoint that does not say where it is.
            field(endpoint, "addresses").ok_or(Unreadable)?;
            texts(endpoint, "addresses")?
                .into_iter()
                .map(|address| parse_address(address).ok_or(Unreadable))
                .collect()
        }
        Some("FQDN") => Ok(Vec::new()),
        Some(_) => Err(Unreadable),
    }
}

/// False when the endpoint says that it is a pod, and there is no such pod.
fn pod_seen(namespace: &str, endpoint: &Fields, pods: &Pods) -> Result<bool, Unreadable> {
    let target = below(endpoint, "targetRef")?;
    if text(&target, "kind")? != Some("Pod") {
        return Ok(true);
    }
    // A pod that is not named may be any, or none.
    let name = text(&target, "name")?.ok_or(Unreadable)?;
    let namespace = text(&target, "namespace")?.unwrap_or(namespace);
    Ok(pods.has(namespace, name))
}

/// A slice numbers the Service's ports by their names; a port without a number is no target.
fn slice_port(slice: &Fields, port: &ServicePort) -> Result<Option<u16>, Unreadable> {
    let mut number = None;
    for entry in list(slice, "ports")? {
        let entry = entry.as_object().ok_or(Unreadable)?;
        let name = text(entry, "name")?.unwrap_or_default();
        let protocol = transport(text(entry, "protocol")?).ok_or(Unreadable)?;
        let listed = match field(entry, "port") {
            None => None,
            Some(number) => Some(port_number(number).ok_or(Unreadable)?),
        };
        if number.is_none() && (name, protocol) == (port.name.as_str(), port.protocol) {
            number = listed;
        }
    }
    Ok(number)
}

/// One entry of a Service's `ports`.
#[derive(Debug)]
struct ServicePort {
    name: String,
    protocol: Protocol,
    number: u16,
    node_port: Option<u16>,
    target: Option<Value>,
}

impl ServicePort {
    fn read(entry: &Value) -> Option<Self> {
        let entry = entry.as_object()?;
        Some(Self {
            name: text(entry, "name").ok()?.unwrap_or_default().to_owned(),
            protocol: transport(text(entry, "protocol").ok()?)?,
            number: field(entry, "port").and_then(port_number)?,
            node_port: field(entry, "nodePort").and_then(port_number),
            target: field(entry, "targetPort").cloned(),
        })
    }

    /// The number of this port on a pod; nothing when the pod has none for its name.
    fn target(&self, pod: &Pod) -> Option<u16> {
        match &self.target {
            None => Some(self.number),
            Some(Value::String(name)) => pod.numbers(name, self.protocol).first().copied(),
            Some(number) => port_number(number).or(Some(self.number)),
        }
    }
}

fn ports(service: &Fields) -> Vec<ServicePort> {
    below(service, "spec")
        .ok()
        .as_ref()
        .and_then(|spec| list(spec, "ports").ok())
        .unwrap_or_default()
        .iter()
        .filter_map(ServicePort::read)
        .collect()
}

fn cluster_addresses(spec: &Fields) -> Vec<&str> {
    let mut addresses = texts(spec, "clusterIPs").unwrap_or_default();
    addresses.extend(text(spec, "clusterIP").ok().flatten());
    addresses
}

/// S86: those that kube-proxy takes for itself; `ipMode: Proxy` is not one of them.
fn balancer_addresses(service: &Fields) -> Vec<IpAddr> {
    let ingress = below(service, "status")
        .and_then(|status| below(&status, "loadBalancer"))
        .and_then(|balancer| list(&balancer, "ingress").map(<[Value]>::to_vec))
        .unwrap_or_default();
    ingress
        .iter()
        .filter_map(Value::as_object)
        .filter(|entry| text(entry, "ipMode").is_ok_and(|mode| matches!(mode, None | Some("VIP"))))
        .filter_map(|entry| parse_address(text(entry, "ip").ok()??))
        .collect()
}

fn node_addresses(node: &Fields) -> Vec<IpAddr> {
    let addresses = below(node, "status")
        .and_then(|status| list(&status, "addresses").map(<[Value]>::to_vec))
        .unwrap_or_default();
    addresses
        .iter()
        .filter_map(Value::as_object)
        .filter_map(|entry| parse_address(text(entry, "address").ok()??))
        .collect()
}
