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
    for service in store.services() {
        let versions = service.versions().iter();
        let declaring = versions.filter(|version| !version.headless && !version.external_name);
        let mut declared = declaring
            .flat_map(|version| version.ports.iter().map(move |port| (version, port)))
            .peekable();
        if declared.peek().is_none() {
            continue;
        }
        let endpoints = endpoints(store, service);
        for (version, port) in declared {
            // A node port stands on every node, with the same backends.
            let mut known = BTreeMap::new();
            for (address, number, reach) in fronts(version, port, &nodes) {
                let pool = Pool {
                    ipv4: address.is_ipv4(),
                    only_on: reach.limit(version, node),
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

/// Whether some Service of a namespace finds its endpoints by its selector, so that any pod there may be
/// one.
pub fn selects(store: &Store, namespace: &str) -> bool {
    let mut services = store.services_in(namespace);
    services.any(|service| {
        service.selector.is_some() && store.slices_of(&service.name).next().is_none()
    })
}

/// Whether some slice names a pod: it counts as soon as its object is there (S84).
pub fn names(store: &Store, pod: &Name) -> bool {
    let mut endpoints = store.slices().flat_map(|slice| &slice.endpoints);
    endpoints.any(|endpoint| endpoint.pod.as_ref() == Some(pod))
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
            // Which of the two Services packets reach is not known: the endpoints of both are behind
            // the place. One Service may stand there twice, a node's address among its external ones.
            let old = taken.get_mut();
            old.closed = old.closed.take().or(new.closed);
            old.backends = if old.closed.is_some() {
                Backends::default()
            } else {
                old.backends.iter().chain(&*new.backends).copied().collect()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use serde_json::{Value, json};

    use super::*;
    use crate::cidr;
    use crate::fixture::{name, object, pod_value, service_value, slice_value, store, with};
    use crate::store::{Changed, Event};

    /// What packets to `ADDRESS:PORT` meet on node-1: `None` when judged literally.
    fn at(values: &[Value], spot: &str) -> Option<Result<Vec<String>, Closed>> {
        at_protocol(values, spot, Protocol::Tcp)
    }

    fn at_protocol(
        values: &[Value],
        spot: &str,
        protocol: Protocol,
    ) -> Option<Result<Vec<String>, Closed>> {
        let (address, port) = spot.rsplit_once('|').unwrap();
        let spot = (
            cidr::address(address).unwrap(),
            protocol,
            port.parse().unwrap(),
        );
        let all = frontends(&store(values), "node-1");
        let found = all
            .into_iter()
            .find(|f| (f.address, f.protocol, f.port) == spot)?;
        assert_eq!(found.closed.is_some(), found.backends.is_empty());
        let backends = found
            .backends
            .iter()
            .map(|b| format!("{}|{}", b.address, b.port));
        Some(found.closed.map_or_else(|| Ok(backends.collect()), Err))
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with what at() gives")]
    fn backends(list: &[&str]) -> Option<Result<Vec<String>, Closed>> {
        Some(Ok(list.iter().map(|text| (*text).to_owned()).collect()))
    }

    fn web(extra: &[(&str, Value)]) -> Value {
        let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80, "targetPort": 8080}]});
        let value = service_value("x/web", &spec);
        extra.iter().fold(value, |value, (field, new)| {
            with(value, &format!("/spec/{field}"), new.clone())
        })
    }

    fn slice(endpoints: &[Value]) -> Value {
        slice_value("x/web", &json!(endpoints), &json!([{"port": 8080}]))
    }

    fn ready(ip: &str) -> Value {
        json!({"addresses": [ip]})
    }

    fn conditions(ip: &str, conditions: Value) -> Value {
        with(ready(ip), "/conditions", conditions)
    }

    fn on(endpoint: Value, node: &str) -> Value {
        with(endpoint, "/nodeName", json!(node))
    }

    fn of_pod(endpoint: Value, pod: &str) -> Value {
        with(endpoint, "/targetRef", json!({"kind": "Pod", "name": pod}))
    }

    fn node(name: &str, ip: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
        })
    }

    #[test]
    fn a_cluster_ip_is_its_endpoints_at_their_port_s68_s72() {
        let values = [web(&[]), slice(&[ready("10.0.0.1"), ready("10.0.0.2")])];
        assert_eq!(
            at(&values, "10.96.0.1|80"),
            backends(&["10.0.0.1|8080", "10.0.0.2|8080"])
        );
    }

    #[test]
    fn an_undeclared_port_or_protocol_is_literal_s86() {
        let values = [web(&[]), slice(&[ready("10.0.0.1")])];
        assert_eq!(at(&values, "10.96.0.1|8080"), None);
        assert_eq!(at_protocol(&values, "10.96.0.1|80", Protocol::Udp), None);
    }

    #[test]
    fn headless_external_name_and_endpointless_services_are_literal_s69() {
        let endpoints = || slice(&[ready("10.0.0.1")]);
        let external = json!(["192.0.2.1"]);
        let headless = web(&[
            ("clusterIP", json!("None")),
            ("externalIPs", external.clone()),
        ]);
        let alias = web(&[("type", json!("ExternalName")), ("externalIPs", external)]);
        for service in [headless, alias] {
            assert_eq!(frontends(&store(&[service, endpoints()]), "node-1"), []);
        }
        assert_eq!(frontends(&store(&[web(&[]), slice(&[])]), "node-1"), []);
        assert_eq!(frontends(&store(&[web(&[])]), "node-1"), []);
        let dead = slice(&[conditions("10.0.0.1", json!({"ready": false}))]);
        assert_eq!(frontends(&store(&[web(&[]), dead]), "node-1"), []);
    }

    #[test]
    fn of_contradicting_services_each_closes_what_it_declares_and_nothing_else_s96_s86() {
        let spec = |cluster_ip: &str, port: u16, kind: &str| {
            let ports = json!([{"port": port}]);
            service_value(
                "x/s",
                &json!({"clusterIP": cluster_ip, "ports": ports, "type": kind}),
            )
        };
        let values = [
            spec("10.96.0.1", 80, "ClusterIP"),
            spec("10.96.0.2", 81, "ClusterIP"),
            spec("10.96.0.1", 82, "ExternalName"),
        ];
        let merged = values
            .iter()
            .map(object)
            .reduce(|one, other| one.merge_conflict(&other))
            .unwrap();
        let mut store = Store::default();
        assert_eq!(store.apply(Event::Applied(merged)), Changed::Yes);
        let spots: Vec<_> = frontends(&store, "node-1")
            .into_iter()
            .map(|frontend| {
                assert_eq!(frontend.closed, Some(Closed::Unreadable));
                (frontend.address.to_string(), frontend.port)
            })
            .collect();
        assert_eq!(
            spots,
            [("10.96.0.1".to_owned(), 80), ("10.96.0.2".to_owned(), 81)]
        );
    }

    #[test]
    fn ready_endpoints_come_first_then_those_that_drain_s84() {
        let not_ready = || conditions("10.0.0.2", json!({"ready": false, "serving": false}));
        let draining = || {
            conditions(
                "10.0.0.3",
                json!({"ready": false, "serving": true, "terminating": true}),
            )
        };
        let gone = || {
            conditions(
                "10.0.0.4",
                json!({"ready": false, "serving": false, "terminating": true}),
            )
        };
        let unknown = || conditions("10.0.0.5", json!({"ready": null}));
        let values = [
            web(&[]),
            slice(&[ready("10.0.0.1"), not_ready(), draining(), unknown()]),
        ];
        assert_eq!(
            at(&values, "10.96.0.1|80"),
            backends(&["10.0.0.1|8080", "10.0.0.5|8080"])
        );
        let values = [web(&[]), slice(&[not_ready(), draining(), gone()])];
        assert_eq!(at(&values, "10.96.0.1|80"), backends(&["10.0.0.3|8080"]));
    }

    #[test]
    fn internal_local_is_the_own_node_alone_s84() {
        let local = || web(&[("internalTrafficPolicy", json!("Local"))]);
        let endpoints = [
            on(ready("10.0.0.1"), "node-1"),
            on(ready("10.0.0.2"), "node-2"),
            ready("10.0.0.3"),
        ];
        assert_eq!(
            at(&[local(), slice(&endpoints)], "10.96.0.1|80"),
            backends(&["10.0.0.1|8080"])
        );
        let draining = conditions(
            "10.0.0.4",
            json!({"ready": false, "serving": true, "terminating": true}),
        );
        let endpoints = [on(ready("10.0.0.2"), "node-2"), on(draining, "node-1")];
        assert_eq!(
            at(&[local(), slice(&endpoints)], "10.96.0.1|80"),
            backends(&["10.0.0.4|8080"])
        );
        let elsewhere = [on(ready("10.0.0.2"), "node-2")];
        assert_eq!(
            at(&[local(), slice(&elsewhere)], "10.96.0.1|80"),
            None,
            "S69"
        );
    }

    #[test]
    fn external_local_holds_for_node_ports_and_balancers_only_s84() {
        let service = web(&[
            ("externalTrafficPolicy", json!("Local")),
            ("ports", json!([{"port": 80, "nodePort": 30080}])),
        ]);
        let service = with(
            service,
            "/status",
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}),
        );
        let endpoints = [
            on(ready("10.0.0.1"), "node-1"),
            on(ready("10.0.0.2"), "node-2"),
        ];
        let values = [service, slice(&endpoints), node("node-1", "192.0.2.1")];
        assert_eq!(
            at(&values, "10.96.0.1|80"),
            backends(&["10.0.0.1|8080", "10.0.0.2|8080"])
        );
        assert_eq!(at(&values, "192.0.2.7|80"), backends(&["10.0.0.1|8080"]));
        assert_eq!(at(&values, "192.0.2.1|30080"), backends(&["10.0.0.1|8080"]));
    }

    #[test]
    fn node_ports_stand_on_every_known_node_and_external_addresses_count_s70_s86() {
        let service = web(&[
            ("externalIPs", json!(["192.0.2.9"])),
            ("ports", json!([{"port": 80, "nodePort": 30080}])),
        ]);
        let ingress = json!([{"ip": "192.0.2.7"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}]);
        let service = with(
            service,
            "/status",
            json!({"loadBalancer": {"ingress": ingress}}),
        );
        let nodes = [
            node("node-1", "192.0.2.1"),
            node("node-2", "192.0.2.2"),
            node("node-3", "2001:db8::3"),
        ];
        let mut values = vec![service, slice(&[ready("10.0.0.1")])];
        values.extend(nodes);
        for spot in [
            "192.0.2.9|80",
            "192.0.2.7|80",
            "192.0.2.1|30080",
            "192.0.2.2|30080",
        ] {
            assert_eq!(at(&values, spot), backends(&["10.0.0.1|8080"]), "{spot}");
        }
        for spot in [
            "192.0.2.8|80",
            "2001:db8::3|30080",
            "192.0.2.1|80",
            "192.0.2.9|30080",
        ] {
            assert_eq!(at(&values, spot), None, "{spot}");
        }
    }

    #[test]
    fn pods_not_seen_yet_do_not_count_and_alone_they_close_s84() {
        let seen = || pod_value("x/seen", &["10.0.0.1"], &json!({}));
        let endpoints = || {
            [
                of_pod(ready("10.0.0.1"), "seen"),
                of_pod(ready("10.0.0.2"), "unseen"),
            ]
        };
        let values = [web(&[]), slice(&endpoints()), seen()];
        assert_eq!(at(&values, "10.96.0.1|80"), backends(&["10.0.0.1|8080"]));
        let values = [web(&[]), slice(&endpoints())];
        assert_eq!(at(&values, "10.96.0.1|80"), Some(Err(Closed::Unseen)));
    }

    #[test]
    fn an_unreadable_service_or_slice_closes() {
        let closed = Some(Err(Closed::Unreadable));
        let bad_service = web(&[("internalTrafficPolicy", json!("here"))]);
        assert_eq!(
            at(&[bad_service, slice(&[ready("10.0.0.1")])], "10.96.0.1|80"),
            closed
        );
        let bad_slice = slice(&[ready("10.0.0.1"), ready("10.0.0")]);
        assert_eq!(at(&[web(&[]), bad_slice], "10.96.0.1|80"), closed);
        let of_whom = with(slice(&[]), "/metadata/labels", json!(5));
        let of_whom = with(of_whom, "/metadata/name", json!("other"));
        assert_eq!(
            at(
                &[web(&[]), slice(&[ready("10.0.0.1")]), of_whom.clone()],
                "10.96.0.1|80"
            ),
            closed
        );
        let elsewhere = with(of_whom, "/metadata/namespace", json!("y"));
        let values = [web(&[]), slice(&[ready("10.0.0.1")]), elsewhere];
        assert_eq!(at(&values, "10.96.0.1|80"), backends(&["10.0.0.1|8080"]));
    }

    #[test]
    fn slices_of_a_service_add_up_and_ports_go_by_name_and_protocol() {
        let ports = json!([
            {"name": "a", "port": 80, "targetPort": 1}, {"name": "b", "port": 81},
            {"name": "a-udp", "port": 80, "protocol": "UDP"},
        ]);
        let service = web(&[
            ("ports", ports),
            ("clusterIPs", json!(["10.96.0.1", "fd96::1"])),
        ]);
        let listed = json!([
            {"name": "a", "port": 8080}, {"name": "b", "port": 8081}, {"name": "a-udp", "port": 53, "protocol": "UDP"},
        ]);
        let v4 = slice_value("x/web", &json!([ready("10.0.0.1")]), &listed);
        let v6 = slice_value(
            "x/web",
            &json!([ready("fd00::1")]),
            &json!([{"name": "a", "port": 9}]),
        );
        let v6 = with(v6, "/metadata/name", json!("web-v6"));
        let values = [service, v4, v6];
        assert_eq!(
            at(&values, "10.96.0.1|80"),
            backends(&["10.0.0.1|8080"]),
            "not the other family"
        );
        assert_eq!(at(&values, "10.96.0.1|81"), backends(&["10.0.0.1|8081"]));
        assert_eq!(
            at_protocol(&values, "10.96.0.1|80", Protocol::Udp),
            backends(&["10.0.0.1|53"])
        );
        assert_eq!(at(&values, "fd96::1|80"), backends(&["fd00::1|9"]));
        assert_eq!(at(&values, "fd96::1|81"), None);
    }

    #[test]
    fn two_services_at_one_place_have_the_endpoints_of_both_behind_it_s84() {
        let other = |name: &str| {
            let spec = json!({"clusterIP": "10.96.0.9", "externalIPs": ["10.96.0.1"], "ports": [{"port": 80}]});
            [
                service_value(name, &spec),
                slice_value(name, &json!([ready("10.0.0.9")]), &json!([{"port": 80}])),
            ]
        };
        for service in ["a/first", "z/last"] {
            let mut values = vec![web(&[]), slice(&[ready("10.0.0.1")])];
            values.extend(other(service));
            assert_eq!(
                at(&values, "10.96.0.1|80"),
                backends(&["10.0.0.1|8080", "10.0.0.9|80"])
            );
            assert_eq!(
                at(&values, "10.96.0.9|80"),
                backends(&["10.0.0.9|80"]),
                "only there"
            );
            let unseen = slice(&[of_pod(ready("10.0.0.1"), "unseen")]);
            let mut values = vec![web(&[]), unseen];
            values.extend(other(service));
            assert_eq!(
                at(&values, "10.96.0.1|80"),
                Some(Err(Closed::Unseen)),
                "closed for one, closed for both"
            );
        }
    }

    #[test]
    fn one_service_may_reach_one_place_twice() {
        let service = web(&[
            ("externalIPs", json!(["192.0.2.1"])),
            ("ports", json!([{"port": 80, "nodePort": 80}])),
        ]);
        let values = [
            service,
            slice(&[ready("10.0.0.1")]),
            node("node-1", "192.0.2.1"),
        ];
        assert_eq!(at(&values, "192.0.2.1|80"), backends(&["10.0.0.1|8080"]));
    }

    #[test]
    fn without_any_slice_the_selector_makes_endpoints_s96() {
        let service = web(&[
            ("selector", json!({"app": "web"})),
            (
                "ports",
                json!([{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8081}]),
            ),
        ]);
        let labels = json!({"app": "web", "more": "1"});
        let pod = |at: &str, ip: &str, port: u16| {
            let ports = json!([{"ports": [{"name": "http", "containerPort": port}]}]);
            with(
                pod_value(at, &[ip, "fd00::1"], &labels),
                "/spec/containers",
                ports,
            )
        };
        let a = || pod("x/a", "10.0.0.1", 8080);
        let nameless = pod_value("x/nameless", &["10.0.0.3"], &labels);
        let values = [
            service.clone(),
            a(),
            pod("x/b", "10.0.0.2", 9090),
            nameless,
            pod_value("x/other", &["10.0.0.4"], &json!({"app": "db"})),
            pod("y/a", "10.0.0.5", 8080),
            with(
                pod("x/done", "10.0.0.6", 8080),
                "/status/phase",
                json!("Succeeded"),
            ),
        ];
        assert_eq!(
            at(&values, "10.96.0.1|80"),
            backends(&["10.0.0.1|8080", "10.0.0.2|9090"]),
            "S38"
        );
        assert_eq!(
            at(&values, "10.96.0.1|81"),
            backends(&["10.0.0.1|8081", "10.0.0.2|8081", "10.0.0.3|8081"])
        );
        let sliced = [service.clone(), a(), slice(&[ready("10.0.0.9")])];
        assert_eq!(
            at(&sliced, "10.96.0.1|80"),
            backends(&["10.0.0.9|8080"]),
            "a slice says it all"
        );
        let local = with(service, "/spec/internalTrafficPolicy", json!("Local"));
        let far = with(
            pod("x/far", "10.0.0.8", 8080),
            "/spec/nodeName",
            json!("node-2"),
        );
        assert_eq!(
            at(&[local, a(), far], "10.96.0.1|80"),
            backends(&["10.0.0.1|8080"])
        );
    }

    #[test]
    fn a_port_name_that_a_pod_declares_twice_is_the_first_to_a_service_s96() {
        let service = web(&[
            ("selector", json!({"app": "web"})),
            ("ports", json!([{"port": 80, "targetPort": "http"}])),
        ]);
        let pod = with(
            pod_value("x/a", &["10.0.0.1"], &json!({"app": "web"})),
            "/spec/containers",
            json!([
                {"ports": [{"name": "http", "containerPort": 9090}]},
                {"ports": [{"name": "http", "containerPort": 8080}]},
            ]),
        );
        assert_eq!(
            at(&[service, pod], "10.96.0.1|80"),
            backends(&["10.0.0.1|9090"])
        );
    }

    #[test]
    fn readiness_of_selected_pods_is_the_controllers_s84_s96() {
        let service = |publish: bool| {
            web(&[
                ("selector", json!({"a": "b"})),
                ("publishNotReadyAddresses", json!(publish)),
            ])
        };
        let pod = |at: &str, ip: &str, ready: &str| {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            with(
                pod_value(at, &[ip], &json!({"a": "b"})),
                "/status/conditions",
                conditions,
            )
        };
        let sick = || pod("x/sick", "10.0.0.2", "False");
        let leaving = || {
            let since = json!("2024-01-01T00:00:00Z");
            with(
                pod("x/leaving", "10.0.0.3", "True"),
                "/metadata/deletionTimestamp",
                since,
            )
        };
        let values = [
            service(false),
            pod("x/well", "10.0.0.1", "True"),
            sick(),
            leaving(),
        ];
        assert_eq!(at(&values, "10.96.0.1|80"), backends(&["10.0.0.1|8080"]));
        let values = [service(false), sick(), leaving()];
        assert_eq!(at(&values, "10.96.0.1|80"), backends(&["10.0.0.3|8080"]));
        let values = [service(true), sick(), leaving()];
        assert_eq!(
            at(&values, "10.96.0.1|80"),
            backends(&["10.0.0.2|8080", "10.0.0.3|8080"])
        );
    }

    #[test]
    fn an_unreadable_pod_may_be_an_endpoint_of_any_selector() {
        let broken = with(
            pod_value("x/broken", &["10.0.0.2"], &json!({})),
            "/metadata/labels",
            json!(1),
        );
        let values = [web(&[("selector", json!({"a": "b"}))]), broken];
        assert_eq!(at(&values, "10.96.0.1|80"), backends(&["10.0.0.2|8080"]));
    }

    #[test]
    fn a_headless_service_is_its_endpoints_addresses_s69() {
        let headless = || web(&[("clusterIP", json!("None"))]);
        let of = |values: &[Value]| {
            let store = store(values);
            let found = backends_of_headless(&store, store.service(&name("x/web")).unwrap());
            found.map(|ips| ips.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let dead = || conditions("10.0.0.2", json!({"ready": false}));
        let both = slice(&[
            ready("10.0.0.1"),
            dead(),
            of_pod(ready("fd00::1"), "unseen"),
        ]);
        assert_eq!(
            of(&[headless(), both]),
            Some(vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()])
        );
        assert_eq!(of(&[headless()]), Some(vec![]));
        assert_eq!(of(&[headless(), slice(&[ready("10.0.0")])]), None);
    }
}
