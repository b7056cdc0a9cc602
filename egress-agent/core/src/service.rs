//! Services as destinations (S68–S70, S84–S86).
//!
//! A packet to a virtual address is rewritten to one of the Service's endpoints after our
//! hook saw it, and the specification judges the endpoint. So an address and port that will
//! be rewritten is a [`Frontend`], and its verdict is that of its backends: allowed when at
//! least one is allowed and none is denied.

mod endpoint;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, btree_set};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use crate::object::{Name, Service, ServicePort};
use crate::policy::Protocol;
use crate::store::Store;
use endpoint::{Endpoint, endpoints};

/// An address and port that is rewritten to an endpoint of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    /// The Service; of several the first by name.
    pub service: Name,
    /// The virtual address, or a node's.
    pub address: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The Service's port, or its node port.
    pub port: u16,
    /// Where packets end up. Empty: denied, and [`Self::closed`] says why.
    pub backends: Backends,
    /// Why there are no backends.
    pub closed: Option<Closed>,
}

/// An endpoint as packets reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port, which rules speak of (S35, S72).
    pub port: u16,
}

/// Backends; a Service's frontends share one set, as a node port stands on every node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backends(Arc<BTreeSet<Backend>>);

impl Deref for Backends {
    type Target = BTreeSet<Backend>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromIterator<Backend> for Backends {
    fn from_iter<I: IntoIterator<Item = Backend>>(backends: I) -> Self {
        Self(Arc::new(backends.into_iter().collect()))
    }
}

impl<'b> IntoIterator for &'b Backends {
    type Item = &'b Backend;
    type IntoIter = btree_set::Iter<'b, Backend>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Why a frontend is denied whatever the rules say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Closed {
    /// The Service, or one of its slices, could not be read.
    #[error("the Service or its endpoints cannot be read")]
    Unreadable,
    /// Every usable endpoint is a pod that was not seen yet (S84).
    #[error("none of its pods was seen yet")]
    Unseen,
    /// Another Service has the same address, protocol and port: which one packets reach is
    /// not known.
    #[error("{0} has the same address and port")]
    Shared(Name),
}

/// Every frontend as a pod on `node` meets it, ordered by address, protocol and port.
///
/// What is not here is judged as the literal address: headless and `ExternalName` Services,
/// frontends without a usable endpoint (S69), undeclared ports (S86).
pub fn frontends(store: &Store, node: &str) -> Vec<Frontend> {
    let nodes: BTreeSet<IpAddr> = store
        .nodes()
        .flat_map(|node| &node.addresses)
        .copied()
        .collect();
    let mut found = BTreeMap::new();
    for service in store
        .services()
        .filter(|service| !service.headless && !service.external_name)
    {
        let endpoints = endpoints(store, service);
        for port in &service.ports {
            // A node port stands on every node, with the same backends.
            let mut known = BTreeMap::new();
            for (address, number, reach) in fronts(service, port, &nodes) {
                let pool = Pool {
                    ipv4: address.is_ipv4(),
                    only_on: reach.limit(service, node),
                };
                let outcome = known.entry(pool).or_insert_with(|| match &endpoints {
                    Ok(endpoints) => outcome(endpoints, port, pool),
                    Err(closed) => Outcome::Closed(closed.clone()),
                });
                let (backends, closed) = match outcome {
                    Outcome::Literal => continue,
                    Outcome::Backends(backends) => (backends.clone(), None),
                    Outcome::Closed(closed) => (Backends::default(), Some(closed.clone())),
                };
                let frontend = Frontend {
                    service: service.name.clone(),
                    address,
                    protocol: port.protocol,
                    port: number,
                    backends,
                    closed,
                };
                add(&mut found, frontend);
            }
        }
    }
    found.into_values().collect()
}

/// The addresses of a headless Service's endpoints, which are what its name stands for (S69).
/// `None` when they cannot be known because something could not be read.
///
/// Nothing is rewritten on the way to them, so the port is the one that is asked for.
pub fn backends_of_headless(store: &Store, service: &Service) -> Option<BTreeSet<IpAddr>> {
    let endpoints = endpoints(store, service).ok()?;
    let published = usable(endpoints.iter());
    Some(
        published
            .into_iter()
            .map(|endpoint| endpoint.address)
            .collect(),
    )
}

/// Which of a Service's two traffic policies holds.
#[derive(Clone, Copy)]
enum Reach {
    Internal,
    External,
}

impl Reach {
    /// The node whose endpoints alone are used, if the policy is Local (S84).
    fn limit<'n>(self, service: &Service, node: &'n str) -> Option<&'n str> {
        let local = match self {
            Self::Internal => service.internal_local,
            Self::External => service.external_local,
        };
        local.then_some(node)
    }
}

/// Every address and port at which a Service port is reached (S68, S70, S86).
fn fronts(
    service: &Service,
    port: &ServicePort,
    nodes: &BTreeSet<IpAddr>,
) -> Vec<(IpAddr, u16, Reach)> {
    let internal = service
        .cluster_ips
        .iter()
        .map(|address| (*address, port.port, Reach::Internal));
    let external = service.external_ips.union(&service.load_balancer_ips);
    let external = external.map(|address| (*address, port.port, Reach::External));
    let node_ports = port.node_port.into_iter().flat_map(|number| {
        nodes
            .iter()
            .map(move |address| (*address, number, Reach::External))
    });
    internal.chain(external).chain(node_ports).collect()
}

/// Which endpoints of a Service serve a frontend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pool<'n> {
    /// Those of the frontend's family.
    ipv4: bool,
    /// With a traffic policy that is Local, those of this node.
    only_on: Option<&'n str>,
}

/// What packets to a frontend meet.
enum Outcome {
    /// No usable endpoint: nothing is rewritten (S69).
    Literal,
    Backends(Backends),
    Closed(Closed),
}

fn outcome(endpoints: &[Endpoint<'_>], port: &ServicePort, pool: Pool<'_>) -> Outcome {
    let candidates = endpoints.iter().filter(|endpoint| {
        endpoint.address.is_ipv4() == pool.ipv4
            && pool.only_on.is_none_or(|node| endpoint.node == Some(node))
            && !endpoint.numbers(port).is_empty()
    });
    let usable = usable(candidates);
    if usable.is_empty() {
        return Outcome::Literal;
    }
    // A pod that was not seen yet does not count, but it is not nothing either (S84).
    let seen: Backends = usable
        .into_iter()
        .filter(|endpoint| endpoint.seen)
        .flat_map(|endpoint| {
            let address = endpoint.address;
            let numbers = endpoint.numbers(port).into_iter();
            numbers.map(move |port| Backend { address, port })
        })
        .collect();
    if seen.is_empty() {
        Outcome::Closed(Closed::Unseen)
    } else {
        Outcome::Backends(seen)
    }
}

/// The ready ones, or, if there is none, those serving and terminating (S84). As kube-proxy
/// does, this looks only at what the traffic policy left.
fn usable<'e, 's>(
    candidates: impl Iterator<Item = &'e Endpoint<'s>> + Clone,
) -> Vec<&'e Endpoint<'s>>
where
    's: 'e,
{
    let ready: Vec<_> = candidates
        .clone()
        .filter(|endpoint| endpoint.ready)
        .collect();
    if ready.is_empty() {
        candidates.filter(|endpoint| endpoint.draining).collect()
    } else {
        ready
    }
}

/// Where a frontend stands.
type Spot = (IpAddr, Protocol, u16);

fn add(found: &mut BTreeMap<Spot, Frontend>, new: Frontend) {
    match found.entry((new.address, new.protocol, new.port)) {
        Entry::Vacant(free) => {
            free.insert(new);
        }
        Entry::Occupied(mut taken) => {
            let old = taken.get_mut();
            // One Service may reach one place twice: a node's address among its external ones.
            if *old != new {
                old.backends = Backends::default();
                old.closed.get_or_insert(Closed::Shared(new.service));
            }
        }
    }
}
