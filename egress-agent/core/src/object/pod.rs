//! Reads pods.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::field::{Field, Notes};
use super::{Addresses, NamedPorts, Phase, Pod, Problem, metadata};
use crate::cidr;
use crate::policy::{Protocol, parse::is_port_name};

/// Names the pod's network namespace where no runtime does.
const NETNS_ANNOTATION: &str = "egress-agent.dev/netns";

/// The API's object of a static pod has this annotation, whatever its value, and in the other
/// the uid of the pod that the kubelet runs. Source: kubernetes/kubernetes
/// `pkg/kubelet/types/pod_update.go`.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const STATIC_UID_ANNOTATION: &str = "kubernetes.io/config.hash";

pub(super) fn read(root: &Field<'_, '_>) -> Result<Pod, Problem> {
    let name = metadata::full_name(root)?;
    let mut notes = Notes::default();
    // What says whose packets these are and who selects the pod is needed; what only makes
    // rules match is not, because without it they do not.
    let labels = notes.needed(metadata::labels(root));
    let netns = notes.needed(metadata::annotation(root, NETNS_ANNOTATION));
    let mut pod = Pod {
        name,
        uid: Arc::default(),
        runtime_uid: Arc::default(),
        created: None,
        labels: Arc::new(labels),
        node: Arc::default(),
        host_network: false,
        addresses: Addresses::default(),
        phase: Phase::Other,
        ready: None,
        terminating: false,
        ports: Arc::default(),
        netns: netns.map(Arc::from),
        owner: None,
        unreadable: false,
        problems: Vec::new(),
    };
    if let Some(metadata) = notes.needed(root.get("metadata")) {
        pod.uid = notes.minor(metadata.text("uid")).unwrap_or_default().into();
        pod.runtime_uid = notes
            .minor(static_uid(root))
            .map_or_else(|| Arc::clone(&pod.uid), Arc::from);
        pod.created = notes.minor(created(&metadata));
        pod.terminating = notes.minor(metadata.get("deletionTimestamp")).is_some();
        pod.owner = notes.minor(controller(&metadata)).map(Arc::from);
    }
    if let Some(spec) = notes.needed(root.get("spec")) {
        pod.node = notes
            .needed(spec.text("nodeName"))
            .unwrap_or_default()
            .into();
        pod.host_network = notes.needed(spec.flag("hostNetwork"));
        let mut ports = NamedPorts::new();
        for (list, which) in [
            ("containers", Containers::All),
            ("initContainers", Containers::Restartable),
        ] {
            let read = named_ports(&spec, list, which, &mut notes, &mut ports);
            notes.minor(read);
        }
        pod.ports = Arc::new(ports);
    }
    if let Some(status) = notes.needed(root.get("status")) {
        let phase = notes.needed(phase(&status));
        pod.phase = phase.unwrap_or(Phase::Other);
        pod.ready = notes.minor(ready(&status));
        let mut found = BTreeSet::new();
        let read = addresses(&status, &mut notes, &mut found);
        notes.minor(read);
        pod.addresses = found.into_iter().collect();
    }
    pod.unreadable = notes.unreadable;
    pod.problems = notes.problems;
    Ok(pod)
}

/// `None` for a pod that is not the mirror of a static one.
fn static_uid(root: &Field<'_, '_>) -> Result<Option<String>, Problem> {
    if metadata::annotation(root, MIRROR_ANNOTATION)?.is_none() {
        return Ok(None);
    }
    metadata::annotation(root, STATIC_UID_ANNOTATION)
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
                    let numbers = found.entry((protocol, name)).or_default();
                    if !numbers.contains(&number) {
                        numbers.push(number);
                    }
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

/// Condition Ready.
fn ready(status: &Field<'_, '_>) -> Result<Option<bool>, Problem> {
    if let Some(conditions) = status.get("conditions")? {
        for condition in conditions.items()? {
            if condition.text("type")? == Some("Ready") {
                return Ok(Some(condition.text("status")? == Some("True")));
            }
        }
    }
    Ok(None)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture::{pod, pod_value, with};
    use crate::policy::Protocol::{Sctp, Tcp, Udp};

    fn value() -> Value {
        pod_value("x/a", &["10.0.0.1"], &json!({"app": "web"}))
    }

    fn addresses(status: Value) -> Vec<String> {
        let read = pod(&with(value(), "/status", status));
        read.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn both_fields_give_addresses_of_both_families_s28() {
        assert_eq!(addresses(json!({"podIP": "10.0.0.1"})), ["10.0.0.1"]);
        assert_eq!(
            addresses(
                json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]})
            ),
            ["10.0.0.1", "fd00::1"]
        );
        assert_eq!(
            addresses(json!({"podIP": "", "podIPs": []})),
            Vec::<String>::new()
        );
        assert_eq!(addresses(Value::Null), Vec::<String>::new());
    }

    #[test]
    fn an_address_that_cannot_be_read_is_reported_and_left_out() {
        let read = pod(&with(
            value(),
            "/status/podIPs",
            json!([{"ip": "10.0.0.x"}, {"ip": "10.0.0.2"}, {"ip": 7}]),
        ));
        assert_eq!(read.addresses.len(), 1);
        assert!(!read.unreadable);
        let fields: Vec<_> = read.problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, ["status.podIPs[0].ip", "status.podIPs[2].ip"]);
    }

    #[test]
    fn phases_are_three_s62_s64() {
        let phase = |text: Value| pod(&with(value(), "/status/phase", text)).phase;
        assert_eq!(phase(json!("Running")), Phase::Running);
        assert_eq!(phase(json!("Succeeded")), Phase::Finished);
        assert_eq!(phase(json!("Failed")), Phase::Finished);
        for other in [json!("Pending"), json!("Unknown"), json!(null)] {
            assert_eq!(phase(other), Phase::Other);
        }
    }

    #[test]
    fn named_ports_are_those_of_containers_and_sidecars_s37_s43_s44() {
        let read = pod(&with(
            value(),
            "/spec",
            json!({
                "containers": [
                    {"ports": [{"name": "web", "containerPort": 80}, {"containerPort": 81}]},
                    {"ports": [{"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
                    {},
                ],
                "initContainers": [
                    {"restartPolicy": "Always", "ports": [{"name": "mesh", "containerPort": 15001, "protocol": "SCTP"}]},
                    {"ports": [{"name": "setup", "containerPort": 1}]},
                ],
            }),
        ));
        let expected = NamedPorts::from([
            ((Tcp, "web".to_owned()), [80, 8080].into()),
            ((Udp, "dns".to_owned()), [53].into()),
            ((Sctp, "mesh".to_owned()), [15001].into()),
        ]);
        assert_eq!((&*read.ports, read.problems), (&expected, vec![]));
    }

    #[test]
    fn a_named_port_that_cannot_be_read_is_left_out_s92() {
        let read = pod(&with(
            value(),
            "/spec/containers",
            json!([{"ports": [
            {"name": "80", "containerPort": 80},
            {"name": "a", "containerPort": 0},
            {"name": "b", "containerPort": 1, "protocol": "tcp"},
            {"name": "c"},
            {"name": "ok", "containerPort": 2},
        ]}, {"ports": 5}, 7]),
        ));
        assert_eq!(
            *read.ports,
            NamedPorts::from([((Tcp, "ok".to_owned()), [2].into())])
        );
        let fields: Vec<_> = read
            .problems
            .iter()
            .map(|p| p.field.trim_start_matches("spec.containers"))
            .collect();
        assert_eq!(
            fields,
            [
                "[0].ports[0].name",
                "[0].ports[1].containerPort",
                "[0].ports[2].protocol",
                "[0].ports[3].containerPort",
                "[1].ports",
                "[2]",
            ]
        );
        assert!(!read.unreadable);
    }

    #[test]
    fn what_decides_who_the_pod_is_makes_it_unreadable() {
        for (pointer, wrong) in [
            ("/metadata/labels", json!(["app"])),
            ("/metadata/labels", json!({"app": 1})),
            ("/metadata/labels", json!({"app": null})),
            (
                "/metadata/annotations",
                json!({"egress-agent.dev/netns": 1}),
            ),
            ("/spec", json!("text")),
            ("/spec/hostNetwork", json!("true")),
            ("/spec/nodeName", json!(1)),
            ("/status", json!([])),
            ("/status/phase", json!("running")),
            ("/status/phase", json!(1)),
        ] {
            let read = pod(&with(value(), pointer, wrong.clone()));
            assert!(read.unreadable, "{pointer} {wrong}");
            assert!(!read.problems.is_empty());
        }
    }

    #[test]
    fn the_rest_of_what_is_known_of_a_pod() {
        let metadata = json!({
            "name": "a", "uid": "u1", "creationTimestamp": "2024-05-06T07:08:09Z",
            "deletionTimestamp": "2024-05-06T07:08:10Z",
            "annotations": {"egress-agent.dev/netns": "blue", "other": 5},
            "ownerReferences": [{"kind": "Node", "name": "n"}, {"kind": "ReplicaSet", "name": "a-1", "controller": true}],
        });
        let read = pod(&with(
            with(value(), "/metadata", metadata),
            "/spec/hostNetwork",
            json!(true),
        ));
        assert_eq!(&*read.name.namespace, "default", "S96");
        assert_eq!((&*read.uid, read.created), ("u1", Some(1_714_979_289)));
        assert_eq!(
            (read.netns.as_deref(), read.owner.as_deref()),
            (Some("blue"), Some("ReplicaSet/a-1"))
        );
        assert_eq!(
            (&*read.node, read.host_network, read.terminating),
            ("node-1", true, true)
        );
        assert_eq!(read.problems, []);
        let bad_time = pod(&with(
            value(),
            "/metadata/creationTimestamp",
            json!("yesterday"),
        ));
        assert_eq!(
            (
                bad_time.created,
                bad_time.unreadable,
                bad_time.problems.len()
            ),
            (None, false, 1)
        );
    }

    #[test]
    fn the_runtime_knows_a_static_pod_by_the_uid_its_mirror_names() {
        let read = |annotations: Value| {
            let metadata = json!({"name": "a", "uid": "of-the-object", "annotations": annotations});
            pod(&with(value(), "/metadata", metadata)).runtime_uid
        };
        let mirror =
            json!({"kubernetes.io/config.mirror": "x", "kubernetes.io/config.hash": "of-the-pod"});
        assert_eq!(&*read(mirror), "of-the-pod");
        // A kubelet runs no object that has the other annotation.
        let other = json!({"kubernetes.io/config.hash": "of-another"});
        assert_eq!(&*read(other), "of-the-object");
        assert_eq!(&*read(json!({})), "of-the-object");
    }

    #[test]
    fn readiness_is_the_condition_alone_s96() {
        let ready = |status| pod(&with(value(), "/status", status)).ready;
        let condition = |status| json!([{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": status}]);
        assert_eq!(ready(json!({"phase": "Running"})), None);
        assert_eq!(ready(json!({})), None);
        assert_eq!(ready(json!({"phase": "Pending"})), None);
        assert_eq!(
            ready(json!({"phase": "Running", "conditions": condition("True")})),
            Some(true)
        );
        assert_eq!(
            ready(json!({"phase": "Running", "conditions": condition("False")})),
            Some(false)
        );
        assert_eq!(
            ready(json!({"phase": "Running", "conditions": condition("Unknown")})),
            Some(false)
        );
    }
}
