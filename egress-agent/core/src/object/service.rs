//! Reads Services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::field::{Field, Notes};
use super::{Problem, Service, ServicePort, TargetPort, metadata};
use crate::cidr;

/// What `clusterIP` says of a headless Service.
const HEADLESS: &str = "None";

pub(super) fn read(root: &Field<'_, '_>) -> Result<Service, Problem> {
    let mut service = Service {
        name: metadata::full_name(root)?,
        cluster_ips: BTreeSet::new(),
        external_ips: BTreeSet::new(),
        load_balancer_ips: BTreeSet::new(),
        headless: false,
        external_name: false,
        selector: None,
        ports: Vec::new(),
        internal_local: false,
        external_local: false,
        publish_not_ready: false,
        unreadable: false,
        contradicting: Vec::new(),
        problems: Vec::new(),
    };
    let mut notes = Notes::default();
    // Everything decides which backends a frontend has, so everything is needed.
    if let Some(spec) = notes.needed(root.get("spec")) {
        let read = cluster_ips(&spec, &mut notes, &mut service);
        notes.needed(read);
        let read = each(&spec, "externalIPs", &mut notes, |field| {
            address(field).map(Some)
        });
        service.external_ips = read.into_iter().collect();
        service.external_name = notes.needed(spec.text("type")) == Some("ExternalName");
        service.selector = notes.needed(selector(&spec));
        service.ports = each(&spec, "ports", &mut notes, |field| port(field).map(Some));
        service.internal_local = notes.needed(local(&spec, "internalTrafficPolicy"));
        service.external_local = notes.needed(local(&spec, "externalTrafficPolicy"));
        service.publish_not_ready = notes.needed(spec.flag("publishNotReadyAddresses"));
    }
    if let Some(status) = notes.needed(root.get("status"))
        && let Some(balancer) = notes.needed(status.get("loadBalancer"))
    {
        let read = each(&balancer, "ingress", &mut notes, ingress);
        service.load_balancer_ips = read.into_iter().collect();
    }
    service.unreadable = notes.unreadable;
    service.problems = notes.problems;
    Ok(service)
}

/// The items of an optional list that could be read and are of interest.
fn each<T>(
    parent: &Field<'_, '_>,
    list: &str,
    notes: &mut Notes,
    read: impl Fn(&Field<'_, '_>) -> Result<Option<T>, Problem>,
) -> Vec<T> {
    let Some(list) = notes.needed(parent.get(list)) else {
        return Vec::new();
    };
    let items = notes.needed(list.items().map(Some));
    items
        .into_iter()
        .flatten()
        .filter_map(|item| notes.needed(read(&item)))
        .collect()
}

fn cluster_ips(
    spec: &Field<'_, '_>,
    notes: &mut Notes,
    service: &mut Service,
) -> Result<(), Problem> {
    let mut take = |field: &Field<'_, '_>| match field.string()? {
        "" => Ok(()),
        HEADLESS => {
            service.headless = true;
            Ok(())
        }
        _ => {
            service.cluster_ips.insert(address(field)?);
            Ok(())
        }
    };
    if let Some(field) = spec.get("clusterIP")? {
        notes.needed(take(&field));
    }
    if let Some(list) = spec.get("clusterIPs")? {
        for field in list.items()? {
            notes.needed(take(&field));
        }
    }
    Ok(())
}

fn address(field: &Field<'_, '_>) -> Result<IpAddr, Problem> {
    let text = field.string()?;
    cidr::address(text).ok_or_else(|| field.problem(format!("{text:?} is not an IP address")))
}

/// An empty selector is none: its endpoints are somebody else's to make.
fn selector(spec: &Field<'_, '_>) -> Result<Option<super::Labels>, Problem> {
    let selector = spec
        .get("selector")?
        .map(|field| field.labels())
        .transpose()?;
    Ok(selector.filter(|labels| !labels.is_empty()))
}

fn local(spec: &Field<'_, '_>, policy: &str) -> Result<bool, Problem> {
    let Some(field) = spec.get(policy)? else {
        return Ok(false);
    };
    match field.string()? {
        "Local" => Ok(true),
        "Cluster" | "" => Ok(false),
        other => Err(field.problem(format!("{other:?} is neither Cluster nor Local"))),
    }
}

fn port(field: &Field<'_, '_>) -> Result<ServicePort, Problem> {
    let port = field.require("port")?.port()?;
    let target = match field.get("targetPort")? {
        None => TargetPort::Number(port),
        Some(target) if target.is_string() => match target.string()? {
            "" => TargetPort::Number(port),
            name => TargetPort::Name(name.to_owned()),
        },
        // 0 is what an absent target looks like once it has been through the API's types.
        Some(target) if target.is_zero() => TargetPort::Number(port),
        Some(target) => TargetPort::Number(target.port()?),
    };
    Ok(ServicePort {
        name: field.text("name")?.unwrap_or_default().to_owned(),
        protocol: field.protocol()?,
        port,
        target,
        node_port: node_port(field)?,
    })
}

fn node_port(field: &Field<'_, '_>) -> Result<Option<u16>, Problem> {
    match field.get("nodePort")? {
        Some(number) if !number.is_zero() => number.port().map(Some),
        _ => Ok(None),
    }
}

/// An address that is rewritten on the client's node, not one behind which a proxy stands (S86).
fn ingress(entry: &Field<'_, '_>) -> Result<Option<IpAddr>, Problem> {
    let Some(ip) = entry.get("ip")?.filter(|ip| ip.string() != Ok("")) else {
        return Ok(None);
    };
    match entry.text("ipMode")? {
        None | Some("VIP") => address(&ip).map(Some),
        Some("Proxy") => Ok(None),
        Some(other) => Err(entry.problem(format!("ipMode {other:?} is neither VIP nor Proxy"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture::{service, service_value, with};
    use crate::policy::Protocol;

    fn spec(spec: &Value) -> Service {
        service(&service_value("x/a", spec))
    }

    fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts
            .iter()
            .filter_map(|text| cidr::address(text))
            .collect()
    }

    #[test]
    fn both_fields_give_cluster_ips_s69() {
        let both = spec(&json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd96::1"]}));
        assert_eq!(both.cluster_ips, ips(&["10.96.0.1", "fd96::1"]));
        assert!(!both.headless);
        let pending = spec(&json!({"clusterIP": ""}));
        assert_eq!((pending.cluster_ips.len(), pending.headless), (0, false));
        for headless in [
            json!({"clusterIP": "None"}),
            json!({"clusterIPs": ["None"]}),
        ] {
            let read = spec(&headless);
            assert_eq!(
                (read.cluster_ips.len(), read.headless, read.unreadable),
                (0, true, false)
            );
        }
        assert!(spec(&json!({"type": "ExternalName", "externalName": "a.b"})).external_name);
    }

    #[test]
    fn ports_have_defaults_s96() {
        let read = spec(&json!({"ports": [
            {"port": 80},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns", "nodePort": 30053},
            {"port": 81, "targetPort": 8081, "nodePort": 0},
        ]}));
        let port = |name: &str, protocol, port, target, node_port| ServicePort {
            name: name.to_owned(),
            protocol,
            port,
            target,
            node_port,
        };
        assert_eq!(
            read.ports,
            [
                port("", Protocol::Tcp, 80, TargetPort::Number(80), None),
                port(
                    "dns",
                    Protocol::Udp,
                    53,
                    TargetPort::Name("dns".to_owned()),
                    Some(30053)
                ),
                port("", Protocol::Tcp, 81, TargetPort::Number(8081), None),
            ]
        );
        assert_eq!(read.problems, []);
    }

    #[test]
    fn only_addresses_that_are_rewritten_here_are_the_balancers_s70_s86() {
        let ingress = json!([
            {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "VIP"}, {"ip": "192.0.2.3", "ipMode": "Proxy"},
            {"hostname": "lb.example"}, {"ip": ""},
        ]);
        let value = service_value("x/a", &json!({"externalIPs": ["192.0.2.9"]}));
        let read = service(&with(
            value,
            "/status",
            json!({"loadBalancer": {"ingress": ingress}}),
        ));
        assert_eq!(read.load_balancer_ips, ips(&["192.0.2.1", "192.0.2.2"]));
        assert_eq!(read.external_ips, ips(&["192.0.2.9"]));
        assert_eq!(read.problems, []);
    }

    #[test]
    fn traffic_policies_and_the_selector_s84() {
        let read = spec(&json!({
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Cluster",
            "selector": {"a": "b"}, "publishNotReadyAddresses": true,
        }));
        assert!(read.internal_local && !read.external_local && read.publish_not_ready);
        assert!(read.selector.is_some());
        assert_eq!(spec(&json!({"selector": {}})).selector, None);
    }

    #[test]
    fn what_cannot_be_read_makes_it_unreadable_and_the_rest_stays() {
        for (wrong, field) in [
            (json!({"clusterIP": "10.0.0"}), "spec.clusterIP"),
            (json!({"clusterIPs": "10.0.0.1"}), "spec.clusterIPs"),
            (
                json!({"clusterIPs": ["10.0.0.1", "x"]}),
                "spec.clusterIPs[1]",
            ),
            (json!({"externalIPs": ["x"]}), "spec.externalIPs[0]"),
            (
                json!({"ports": [{"port": 80}, {"port": 0}]}),
                "spec.ports[1].port",
            ),
            (
                json!({"ports": [{"port": 80, "targetPort": 70000}]}),
                "spec.ports[0].targetPort",
            ),
            (
                json!({"ports": [{"port": 80, "protocol": "tcp"}]}),
                "spec.ports[0].protocol",
            ),
            (json!({"ports": {"port": 80}}), "spec.ports"),
            (json!({"selector": ["a"]}), "spec.selector"),
            (
                json!({"internalTrafficPolicy": "local"}),
                "spec.internalTrafficPolicy",
            ),
        ] {
            let read = spec(&wrong);
            assert!(read.unreadable, "{wrong}");
            assert_eq!(read.problems.first().map(|p| p.field.as_str()), Some(field));
        }
        let half = spec(&json!({"clusterIPs": ["10.0.0.1", "x"], "ports": [{"port": 80}, 7]}));
        assert_eq!(
            (half.cluster_ips.len(), half.ports.len()),
            (1, 1),
            "what is known is denied"
        );
    }
}
