//! Namespaces, nodes and pods.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::draw::Draw;
use super::scene::{Node, Pod, Scene, fields, listed, node_addresses, pod_addresses};
use super::selector::{Of, labels};

/// Names of ports, and the numbers that pods give them.
pub(super) const PORT_NAMES: &[&str] = &["web", "alt", "dns"];
pub(super) const PORTS: &[u16] = &[53, 80, 81, 443, 8080, 8081];
pub(super) const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

/// As many addresses as a /28 has hosts: blocks of /28 and longer then tell pods apart.
const HOSTS: usize = 14;

pub(super) fn draw(draw: &mut Draw, scene: &mut Scene) {
    for name in ["x", "y", "z"].iter().take(draw.between(1, 3)) {
        namespace(draw, scene, name);
    }
    for host in 1..=draw.between(1, 3) {
        node(draw, scene, host);
    }
    let mut hosts: Vec<usize> = (1..=HOSTS).collect();
    draw.shuffle(&mut hosts);
    for host in hosts.into_iter().take(draw.between(2, 12)) {
        pod(draw, scene, host);
    }
}

fn namespace(draw: &mut Draw, scene: &mut Scene, name: &str) {
    scene.namespaces.push(name.to_owned());
    // S66, S90: pods and policies of a namespace that is not there.
    if draw.chance(12) {
        draw.shows(&[66, 90]);
        return;
    }
    let object = |labels| {
        json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": labels}})
    };
    let first = object(labels(draw, Of::Namespaces));
    if draw.chance(4) {
        draw.shows(&[96]);
        scene.objects.push(first.clone());
    } else if draw.chance(3) {
        draw.shows(&[96]);
        scene.objects.push(object(json!({"ns": "other"})));
    }
    scene.objects.push(first);
}

fn node(draw: &mut Draw, scene: &mut Scene, host: usize) {
    let (v4, v6) = node_addresses(host);
    let addresses = if draw.chance(70) {
        vec![v4, v6]
    } else {
        vec![v4]
    };
    let name = format!("n{host}");
    if draw.chance(85) {
        let entries: Vec<Value> = addresses
            .iter()
            .map(|address| {
                json!({"type": draw.pick(&["InternalIP", "ExternalIP"]),
                    "address": address.to_string()})
            })
            .chain([json!({"type": "Hostname", "address": name})])
            .collect();
        scene.objects.push(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                "status": {"addresses": entries}}),
        );
    }
    draw.shows(&[73]);
    scene.addresses.extend(&addresses);
    scene.nodes.push(Node { name, addresses });
}

fn pod(draw: &mut Draw, scene: &mut Scene, host: usize) {
    let namespace = draw.pick(&scene.namespaces).clone();
    let name = format!("p{host}");
    let node = (!draw.chance(6)).then(|| draw.below(scene.nodes.len()));
    let node = node.and_then(|index| scene.nodes.get(index));
    let host_network = draw.chance(10);
    let mut addresses = if let (Some(node), true) = (node, host_network) {
        draw.shows(&[59, 60, 87]);
        node.addresses.clone()
    } else {
        own_addresses(draw, host)
    };
    // S65, S89: an address that another pod has too.
    let others: Vec<_> = scene
        .pods
        .iter()
        .filter(|pod| !pod.host_network)
        .flat_map(|pod| &pod.addresses)
        .collect();
    if let (true, Some(other)) = (!host_network && draw.chance(18), draw.pick_any(&others)) {
        draw.shows(&[65, 89]);
        addresses.retain(|address| address.is_ipv4() != other.is_ipv4());
        addresses.push(**other);
    }
    let node = node.map(|node| node.name.clone());
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": metadata(draw, &namespace, &name),
        "spec": fields([
            ("nodeName", node.clone().map(Value::String)),
            ("hostNetwork", (host_network || draw.chance(5)).then_some(json!(host_network))),
            ("containers", Some(containers(draw))),
            ("initContainers", init_containers(draw)),
        ]),
        "status": status(draw, &addresses),
    });
    // S96: once more the same, or something else of the same name.
    let contradicted = draw.chance(2);
    if contradicted {
        draw.shows(&[96]);
        let mut other = object.clone();
        if let Some(metadata) = other.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("labels".to_owned(), json!({"app": "d"}));
        }
        let stranger = draw.between(1, 14);
        if let (true, Some(status)) = (
            draw.chance(40),
            other.get_mut("status").and_then(Value::as_object_mut),
        ) {
            draw.shows(&[75]);
            let (v4, v6) = pod_addresses(stranger);
            status.remove("podIP");
            status.insert("podIPs".to_owned(), json!([{"ip": v4}, {"ip": v6}]));
        }
        scene.objects.push(other);
    } else if draw.chance(2) {
        draw.shows(&[96]);
        scene.objects.push(object.clone());
    }
    scene.objects.push(object);
    scene.pods.push(Pod {
        namespace,
        name,
        node,
        addresses,
        host_network,
    });
}

fn own_addresses(draw: &mut Draw, host: usize) -> Vec<IpAddr> {
    let (v4, v6) = pod_addresses(host);
    match draw.weighted(&[60, 25, 10, 5]) {
        0 => {
            draw.shows(&[28]);
            vec![v4, v6]
        }
        1 => vec![v4],
        2 => vec![v6],
        _ => Vec::new(),
    }
}

fn metadata(draw: &mut Draw, namespace: &str, name: &str) -> Value {
    let day = draw.between(1, 2);
    let terminating = draw.chance(8);
    if terminating {
        draw.shows(&[63]);
    }
    fields([
        ("namespace", Some(json!(namespace))),
        ("name", Some(json!(name))),
        ("labels", draw.chance(95).then(|| labels(draw, Of::Pods))),
        (
            "uid",
            draw.chance(90)
                .then(|| json!(format!("{}-{name}", draw.below(10)))),
        ),
        (
            "creationTimestamp",
            draw.chance(90)
                .then(|| json!(format!("2026-01-0{day}T00:00:00Z"))),
        ),
        (
            "deletionTimestamp",
            terminating.then(|| json!("2026-02-01T00:00:00Z")),
        ),
    ])
}

fn status(draw: &mut Draw, addresses: &[IpAddr]) -> Value {
    let phase = match draw.weighted(&[75, 8, 3, 6, 4, 4]) {
        0 => Some("Running"),
        1 => Some("Pending"),
        2 => Some("Unknown"),
        3 => Some("Succeeded"),
        4 => Some("Failed"),
        _ => None,
    };
    match phase {
        Some("Succeeded" | "Failed") => draw.shows(&[62, 88]),
        Some("Running") => {}
        _ => draw.shows(&[64]),
    }
    let ready = match draw.weighted(&[40, 45, 12, 3]) {
        0 => None,
        1 => Some("True"),
        2 => Some("False"),
        _ => Some("Unknown"),
    };
    if ready.is_some_and(|ready| ready != "True") {
        draw.shows(&[64]);
    }
    // The older field, alone or beside the newer.
    let older = draw.weighted(&[60, 30, 10]);
    fields([
        ("phase", phase.map(|phase| json!(phase))),
        (
            "podIPs",
            (older != 2 || addresses.len() != 1).then(|| listed("ip", addresses)),
        ),
        (
            "podIP",
            addresses
                .first()
                .filter(|_| older != 0)
                .map(|address| json!(address.to_string())),
        ),
        (
            "conditions",
            ready.map(|ready| {
                json!([{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": ready}])
            }),
        ),
    ])
}

fn containers(draw: &mut Draw) -> Value {
    let count = draw.between(1, 2);
    let mut names: Vec<Value> = Vec::new();
    for index in 0..count {
        names.push(container(draw, &format!("c{index}"), None));
    }
    if count > 1 {
        // S44: likely one name, two numbers.
        draw.shows(&[44]);
    }
    Value::Array(names)
}

/// S43: some keep running beside the containers, some do not.
fn init_containers(draw: &mut Draw) -> Option<Value> {
    draw.chance(25).then(|| {
        draw.shows(&[43]);
        let policy = draw.chance(60).then_some("Always");
        json!([container(draw, "init", policy)])
    })
}

fn container(draw: &mut Draw, name: &str, restart_policy: Option<&str>) -> Value {
    let ports: Vec<Value> = (0..draw.below(4)).map(|_| container_port(draw)).collect();
    let mut container = Map::new();
    container.insert("name".to_owned(), json!(name));
    if !ports.is_empty() {
        container.insert("ports".to_owned(), Value::Array(ports));
    }
    if let Some(policy) = restart_policy {
        container.insert("restartPolicy".to_owned(), json!(policy));
    }
    Value::Object(container)
}

fn container_port(draw: &mut Draw) -> Value {
    draw.shows(&[37, 38, 39]);
    fields([
        (
            "name",
            draw.chance(90).then(|| json!(draw.pick(PORT_NAMES))),
        ),
        ("containerPort", Some(json!(draw.pick(PORTS)))),
        (
            "protocol",
            draw.chance(50).then(|| json!(draw.pick(PROTOCOLS))),
        ),
    ])
}
