//! Reads pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use super::field::{Field, Notes};
use super::{Phase, Pod, Problem, metadata};
use crate::cidr;
use crate::policy::{Protocol, parse::is_port_name};

/// Names the pod's network namespace where no runtime does.
const NETNS_ANNOTATION: &str = "egress-agent.dev/netns";

type NamedPorts = BTreeMap<(Protocol, String), BTreeSet<u16>>;

pub(super) fn read(root: &Field<'_, '_>) -> Result<Pod, Problem> {
    let name = metadata::full_name(root)?;
    let mut notes = Notes::default();
    // What says whose packets these are and who selects the pod is needed; what only makes
    // rules match is not, because without it they do not.
    let labels = notes.needed(metadata::labels(root));
    let netns = notes.needed(metadata::annotation(root, NETNS_ANNOTATION));
    let mut pod = Pod {
        name,
        uid: String::new(),
        created: None,
        labels,
        node: String::new(),
        host_network: false,
        addresses: BTreeSet::new(),
        phase: Phase::Other,
        ready: None,
        terminating: false,
        ports: BTreeMap::new(),
        netns,
        owner: None,
        unreadable: false,
        problems: Vec::new(),
    };
    if let Some(metadata) = notes.needed(root.get("metadata")) {
        pod.uid = notes
            .minor(metadata.text("uid"))
            .unwrap_or_default()
            .to_owned();
        pod.created = notes.minor(created(&metadata));
        pod.terminating = notes.minor(metadata.get("deletionTimestamp")).is_some();
        pod.owner = notes.minor(controller(&metadata));
    }
    if let Some(spec) = notes.needed(root.get("spec")) {
        pod.node = notes
            .needed(spec.text("nodeName"))
            .unwrap_or_default()
            .to_owned();
        pod.host_network = notes.needed(spec.flag("hostNetwork"));
        for (list, which) in [
            ("containers", Containers::All),
            ("initContainers", Containers::Restartable),
        ] {
            let read = named_ports(&spec, list, which, &mut notes, &mut pod.ports);
            notes.minor(read);
        }
    }
    if let Some(status) = notes.needed(root.get("status")) {
        let phase = notes.needed(phase(&status));
        pod.phase = phase.unwrap_or(Phase::Other);
        pod.ready = notes.minor(ready(&status));
        let read = addresses(&status, &mut notes, &mut pod.addresses);
        notes.minor(read);
    }
    pod.unreadable = notes.unreadable;
    pod.problems = notes.problems;
    Ok(pod)
}

/// Seconds since 1970 (S89).
fn created(metadata: &Field<'_, '_>) -> Result<Option<i64>, Problem> {
    let Some(field) = metadata.get("creationTimestamp")? else {
        return Ok(None);
    };
    match field.string()?.parse::<Timestamp>() {
        Ok(time) => Ok(Some(time.as_second())),
        Err(error) => Err(field.problem(format!("is not a time: {error}"))),
    }
}

/// `KIND/NAME` of the owner that manages the pod.
fn controller(metadata: &Field<'_, '_>) -> Result<Option<String>, Problem> {
    let Some(owners) = metadata.get("ownerReferences")? else {
        return Ok(None);
    };
    for owner in owners.items()? {
        if owner.flag("controller")? {
            let kind = owner.require("kind")?.string()?;
            let name = owner.require("name")?.string()?;
            return Ok(Some(format!("{kind}/{name}")));
        }
    }
    Ok(None)
}

/// Which containers of a list have ports that count.
#[derive(Clone, Copy)]
enum Containers {
    All,
    /// Native sidecars; an ordinary init container is gone when the pod serves (S43).
    Restartable,
}

fn named_ports(
    spec: &Field<'_, '_>,
    list: &str,
    which: Containers,
    notes: &mut Notes,
    found: &mut NamedPorts,
) -> Result<(), Problem> {
    let Some(containers) = spec.get(list)? else {
        return Ok(());
    };
    for container in containers.items()? {
        let counts = match which {
            Containers::All => Ok(true),
            Containers::Restartable => container
                .text("restartPolicy")
                .map(|policy| policy == Some("Always")),
        };
        if notes.minor(counts)
            && let Some(ports) = notes.minor(container.get("ports"))
        {
            for port in notes.minor(ports.items().map(Some)).into_iter().flatten() {
                let named = notes.minor(named_port(&port));
                // One name may stand on two ports of one pod: each of them counts (S44).
                if let Some((protocol, name, number)) = named {
                    found.entry((protocol, name)).or_default().insert(number);
                }
            }
        }
    }
    Ok(())
}

/// `None` for a port without a name.
fn named_port(port: &Field<'_, '_>) -> Result<Option<(Protocol, String, u16)>, Problem> {
    let Some(name) = port.get("name")? else {
        return Ok(None);
    };
    match name.string()? {
        "" => Ok(None),
        text if is_port_name(text) => {
            let number = port.require("containerPort")?.port()?;
            Ok(Some((port.protocol()?, text.to_owned(), number)))
        }
        text => Err(name.problem(format!("{text:?} is no port name"))),
    }
}

fn phase(status: &Field<'_, '_>) -> Result<Option<Phase>, Problem> {
    let Some(field) = status.get("phase")? else {
        return Ok(None);
    };
    match field.string()? {
        "Running" => Ok(Some(Phase::Running)),
        "Succeeded" | "Failed" => Ok(Some(Phase::Finished)),
        "Pending" | "Unknown" | "" => Ok(Some(Phase::Other)),
        other => Err(field.problem(format!("{other:?} is no phase"))),
    }
}

/// Condition Ready. A pod that is Pending is not ready without saying so.
fn ready(status: &Field<'_, '_>) -> Result<Option<bool>, Problem> {
    if let Some(conditions) = status.get("conditions")? {
        for condition in conditions.items()? {
            if condition.text("type")? == Some("Ready") {
                return Ok(Some(condition.text("status")? == Some("True")));
            }
        }
    }
    let pending = status
        .get("phase")?
        .is_some_and(|phase| phase.string() == Ok("Pending"));
    Ok(pending.then_some(false))
}

/// `podIPs` and `podIP` together: either may be there alone in a file.
fn addresses(
    status: &Field<'_, '_>,
    notes: &mut Notes,
    found: &mut BTreeSet<IpAddr>,
) -> Result<(), Problem> {
    let single = status
        .get("podIP")?
        .map(|field| address(&field))
        .transpose();
    found.extend(notes.minor(single).flatten());
    let Some(list) = status.get("podIPs")? else {
        return Ok(());
    };
    for entry in list.items()? {
        let one = entry
            .get("ip")
            .and_then(|ip| ip.map(|field| address(&field)).transpose());
        found.extend(notes.minor(one).flatten());
    }
    Ok(())
}

/// `None` for the empty text, which is "not yet".
fn address(field: &Field<'_, '_>) -> Result<Option<IpAddr>, Problem> {
    match field.string()? {
        "" => Ok(None),
        text => cidr::address(text)
            .map(Some)
            .ok_or_else(|| field.problem(format!("{text:?} is not an IP address"))),
    }
}
