//! The endpoints of a Service, out of its slices or, without any, out of its selector.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Closed;
use crate::object::{EndpointPort, Phase, Pod, Service, ServicePort, TargetPort};
use crate::store::Store;

/// One address that packets may be rewritten to.
pub(super) struct Endpoint<'s> {
    pub(super) address: IpAddr,
    /// Used while there is a ready one.
    pub(super) ready: bool,
    /// Serving and terminating: used while there is no ready one.
    pub(super) draining: bool,
    /// Where it runs, if that is known: nothing is on a node without a name.
    pub(super) node: Option<&'s str>,
    /// False for a pod whose object is not there yet (S84).
    pub(super) seen: bool,
    ports: PortsOf<'s>,
}

/// Where an endpoint's port numbers come from.
enum PortsOf<'s> {
    Slice(&'s [EndpointPort]),
    Pod(&'s Pod),
}

impl Endpoint<'_> {
    /// The numbers that a Service port has at this endpoint; none, and it is no endpoint of
    /// that port. More than one only where a slice names two ports alike.
    pub(super) fn numbers(&self, port: &ServicePort) -> BTreeSet<u16> {
        match &self.ports {
            PortsOf::Slice(ports) => ports
                .iter()
                .filter(|listed| listed.name == port.name && listed.protocol == port.protocol)
                .filter_map(|listed| listed.port)
                .collect(),
            PortsOf::Pod(pod) => match &port.target {
                TargetPort::Number(number) => BTreeSet::from([*number]),
                // The controller takes the first that has the name (S96); all of them are S44's,
                // which is about policies.
                TargetPort::Name(name) => pod
                    .ports
                    .get(&(port.protocol, name.clone()))
                    .and_then(|numbers| numbers.first().copied())
                    .into_iter()
                    .collect(),
            },
        }
    }
}

/// The endpoints of a Service, usable or not.
pub(super) fn endpoints<'s>(
    store: &'s Store,
    service: &'s Service,
) -> Result<Vec<Endpoint<'s>>, Closed> {
    // A slice that does not say whose it is may be this Service's.
    let mut stray = store.slices_of_nobody(&service.name.namespace);
    if service.unreadable || stray.any(|slice| slice.unreadable) {
        return Err(Closed::Unreadable);
    }
    let mut found = Vec::new();
    let mut slices = store.slices_of(&service.name).peekable();
    if slices.peek().is_none() {
        return Ok(from_selector(store, service));
    }
    for slice in slices {
        if slice.unreadable {
            return Err(Closed::Unreadable);
        }
        for endpoint in &slice.endpoints {
            let seen = endpoint
                .pod
                .as_ref()
                .is_none_or(|pod| store.pod(pod).is_some());
            found.extend(endpoint.addresses.iter().map(|address| Endpoint {
                address: *address,
                ready: endpoint.ready,
                draining: endpoint.serving && endpoint.terminating,
                node: named(endpoint.node.as_deref()),
                seen,
                ports: PortsOf::Slice(&slice.ports),
            }));
        }
    }
    Ok(found)
}

/// As the controller would make them (S96): of pods that are not finished and have an
/// address. A pod that does not say whether it is ready is. An unreadable pod may be one of
/// any Service of its namespace.
fn from_selector<'s>(store: &'s Store, service: &'s Service) -> Vec<Endpoint<'s>> {
    let Some(selector) = &service.selector else {
        return Vec::new();
    };
    let selected = store.pods_in(&service.name.namespace).filter(|pod| {
        let has_all = selector
            .iter()
            .all(|(key, value)| pod.labels.get(key) == Some(value));
        pod.phase != Phase::Finished && (pod.unreadable || has_all)
    });
    selected
        .flat_map(|pod| {
            let serving = pod.ready != Some(false);
            pod.addresses.iter().map(move |address| Endpoint {
                address: *address,
                ready: service.publish_not_ready || (serving && !pod.terminating),
                draining: serving && pod.terminating,
                node: named(Some(&pod.node)),
                seen: true,
                ports: PortsOf::Pod(pod),
            })
        })
        .collect()
}

fn named(node: Option<&str>) -> Option<&str> {
    node.filter(|node| !node.is_empty())
}
