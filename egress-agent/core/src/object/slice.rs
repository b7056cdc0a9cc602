//! Reads `EndpointSlices`.

use std::net::IpAddr;
use std::sync::Arc;

use super::field::{Field, Notes};
use super::{Addresses, EndpointPort, EndpointSlice, Name, Problem, ServiceEndpoint, metadata};
use crate::cidr;

/// Says whose endpoints these are.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Everything decides which backends a frontend has, so everything is needed, the version too.
pub(super) fn read(
    root: &Field<'_, '_>,
    version: Result<(), Problem>,
) -> Result<EndpointSlice, Problem> {
    let name = metadata::full_name(root)?;
    let mut notes = Notes::default();
    notes.needed(version);
    let service = notes
        .needed(metadata::label(root, SERVICE_LABEL))
        .unwrap_or_default();
    let kind = notes.needed(address_kind(root));
    let mut endpoints = Vec::new();
    if let Some(list) = notes.needed(root.get("endpoints")) {
        for item in notes.needed(list.items().map(Some)).into_iter().flatten() {
            let one = endpoint(&item, kind, &name.namespace);
            endpoints.extend(notes.needed(one.map(Some)));
        }
    }
    let mut ports = Vec::new();
    if let Some(list) = notes.needed(root.get("ports")) {
        for item in notes.needed(list.items().map(Some)).into_iter().flatten() {
            ports.extend(notes.needed(port(&item).map(Some)));
        }
    }
    let Notes {
        problems,
        unreadable,
    } = notes;
    Ok(EndpointSlice {
        name,
        service,
        endpoints,
        ports,
        unreadable,
        problems,
    })
}

/// What `addresses` are.
#[derive(Clone, Copy, Default)]
enum AddressKind {
    #[default]
    Ip,
    /// Nothing is rewritten to these.
    Fqdn,
}

fn address_kind(root: &Field<'_, '_>) -> Result<AddressKind, Problem> {
    let Some(field) = root.get("addressType")? else {
        return Ok(AddressKind::Ip);
    };
    match field.string()? {
        "IPv4" | "IPv6" => Ok(AddressKind::Ip),
        "FQDN" => Ok(AddressKind::Fqdn),
        other => Err(field.problem(format!("{other:?} is none of IPv4, IPv6 and FQDN"))),
    }
}

fn endpoint(
    field: &Field<'_, '_>,
    kind: AddressKind,
    namespace: &str,
) -> Result<ServiceEndpoint, Problem> {
    let addresses = match kind {
        AddressKind::Ip => field
            .require("addresses")?
            .items()?
            .map(|item| address(&item))
            .collect::<Result<_, _>>()?,
        AddressKind::Fqdn => Addresses::default(),
    };
    let conditions = field.get("conditions")?;
    let condition = |name: &str| -> Result<Option<bool>, Problem> {
        let Some(conditions) = &conditions else {
            return Ok(None);
        };
        conditions
            .get(name)?
            .map(|field| field.boolean())
            .transpose()
    };
    Ok(ServiceEndpoint {
        addresses,
        // As kube-proxy reads them: what is not said is good.
        ready: condition("ready")?.unwrap_or(true),
        serving: condition("serving")?.unwrap_or(true),
        terminating: condition("terminating")?.unwrap_or(false),
        node: field.text("nodeName")?.map(Arc::from),
        pod: pod(field, namespace)?,
    })
}

fn address(field: &Field<'_, '_>) -> Result<IpAddr, Problem> {
    let text = field.string()?;
    cidr::address(text).ok_or_else(|| field.problem(format!("{text:?} is not an IP address")))
}

/// The pod that is the endpoint, if one is.
fn pod(endpoint: &Field<'_, '_>, namespace: &str) -> Result<Option<Name>, Problem> {
    let Some(target) = endpoint.get("targetRef")? else {
        return Ok(None);
    };
    if target.text("kind")? != Some("Pod") {
        return Ok(None);
    }
    let name = target.require("name")?.string()?;
    Ok(Some(Name::new(
        target.text("namespace")?.unwrap_or(namespace),
        name,
    )))
}

fn port(field: &Field<'_, '_>) -> Result<EndpointPort, Problem> {
    Ok(EndpointPort {
        name: field.text("name")?.unwrap_or_default().to_owned(),
        protocol: field.protocol()?,
        port: field.get("port")?.map(|port| port.port()).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests")]
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture::{name, object, slice_value, with};
    use crate::object::Object;
    use crate::policy::Protocol;

    fn slice(value: &Value) -> EndpointSlice {
        let Object::EndpointSlice(slice) = object(value) else {
            panic!("no slice: {value}")
        };
        Arc::unwrap_or_clone(slice)
    }

    fn endpoint(value: &Value) -> ServiceEndpoint {
        let read = slice(&slice_value("x/a", &json!([value]), &json!([])));
        match <[ServiceEndpoint; 1]>::try_from(read.endpoints) {
            Ok([endpoint]) => endpoint,
            Err(other) => panic!("{other:?} {:?}", read.problems),
        }
    }

    #[test]
    fn conditions_have_their_defaults_s84() {
        let of = |conditions: Value| {
            let read = endpoint(&json!({"addresses": ["10.0.0.1"], "conditions": conditions}));
            (read.ready, read.serving, read.terminating)
        };
        assert_eq!(of(json!(null)), (true, true, false));
        assert_eq!(of(json!({"ready": null})), (true, true, false));
        assert_eq!(of(json!({"ready": false})), (false, true, false));
        assert_eq!(
            of(json!({"ready": false, "serving": true, "terminating": true})),
            (false, true, true)
        );
    }

    #[test]
    fn an_endpoint_may_be_a_pod_of_some_node() {
        let read = endpoint(&json!({
            "addresses": ["10.0.0.1", "10.0.0.2"], "nodeName": "n", "targetRef": {"kind": "Pod", "name": "p"},
        }));
        assert_eq!(
            (read.addresses.len(), read.node.as_deref(), read.pod),
            (2, Some("n"), Some(name("x/p")))
        );
        let other = endpoint(
            &json!({"addresses": ["10.0.0.1"], "targetRef": {"kind": "Node", "name": "p"}}),
        );
        assert_eq!(other.pod, None);
    }

    #[test]
    fn ports_may_lack_name_and_number() {
        let ports = json!([{"port": 80}, {"name": "dns", "protocol": "UDP", "port": null}]);
        let read = slice(&slice_value("x/a", &json!([]), &ports));
        assert_eq!(
            read.ports,
            [
                EndpointPort {
                    name: String::new(),
                    protocol: Protocol::Tcp,
                    port: Some(80)
                },
                EndpointPort {
                    name: "dns".to_owned(),
                    protocol: Protocol::Udp,
                    port: None
                },
            ]
        );
        assert_eq!((read.service.as_str(), read.unreadable), ("a", false));
    }

    #[test]
    fn names_of_hosts_are_no_endpoints() {
        let value = slice_value("x/a", &json!([{"addresses": ["a.example"]}]), &json!([]));
        let read = slice(&with(value, "/addressType", json!("FQDN")));
        assert!(
            read.endpoints
                .iter()
                .all(|endpoint| endpoint.addresses.is_empty())
        );
        assert!(!read.unreadable);
    }

    #[test]
    fn what_cannot_be_read_makes_it_unreadable() {
        let value = || slice_value("x/a", &json!([]), &json!([]));
        for (pointer, wrong) in [
            ("/apiVersion", json!("discovery.k8s.io/v1beta1")),
            ("/metadata/labels", json!({"kubernetes.io/service-name": 1})),
            ("/addressType", json!("ipv4")),
            ("/endpoints", json!("none")),
            ("/endpoints", json!([{"addresses": ["10.0.0"]}])),
            ("/endpoints", json!([{}])),
            (
                "/endpoints",
                json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": "true"}}]),
            ),
            (
                "/endpoints",
                json!([{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod"}}]),
            ),
            ("/ports", json!([{"port": 0}])),
            ("/ports", json!([{"port": "http"}])),
        ] {
            let read = slice(&with(value(), pointer, wrong.clone()));
            assert!(
                read.unreadable && !read.problems.is_empty(),
                "{pointer} {wrong}"
            );
        }
    }
}
