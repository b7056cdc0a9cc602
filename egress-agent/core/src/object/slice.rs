//! Reads `EndpointSlices`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::field::{Field, Notes};
use super::{EndpointPort, EndpointSlice, Name, Problem, ServiceEndpoint, metadata};
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
        AddressKind::Fqdn => BTreeSet::new(),
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
    let ready = condition("ready")?.unwrap_or(true);
    Ok(ServiceEndpoint {
        addresses,
        ready,
        serving: condition("serving")?.unwrap_or(ready),
        terminating: condition("terminating")?.unwrap_or(false),
        node: field.text("nodeName")?.map(str::to_owned),
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
