//! Services and their slices.

use std::net::{IpAddr, Ipv4Addr};

use egress_oracle::Protocol;
use serde_json::{Value, json};

use super::cluster::{PORT_NAMES, PORTS, PROTOCOLS};
use super::draw::Draw;
use super::scene::{Pod, Scene, cluster_addresses, external_address, fields};
use super::selector::{Of, labels};

/// Where node ports begin; each Service has two.
///
/// No two Services declare one destination: the API hands out node ports once, and what two
/// that share an external address mean is not settled.
const NODE_PORTS: u16 = 30_080;

pub(super) fn draw(draw: &mut Draw, scene: &mut Scene) {
    for number in 1..=draw.below(4) {
        service(draw, scene, number);
    }
}

/// One entry of `ports`.
struct Port {
    name: Option<String>,
    protocol: &'static str,
    number: u16,
    /// `nodePort`
    on_nodes: Option<u16>,
    target: Option<Value>,
}

fn service(draw: &mut Draw, scene: &mut Scene, number: usize) {
    let namespace = draw.pick(&scene.namespaces).clone();
    let name = format!("s{number}");
    let kind = match draw.weighted(&[35, 15, 20, 20, 5, 5]) {
        0 => None,
        1 => Some("ClusterIP"),
        2 => Some("NodePort"),
        3 => Some("LoadBalancer"),
        _ => Some("ExternalName"),
    };
    let headless = kind.is_none() && draw.chance(20);
    let (v4, v6) = cluster_addresses(number);
    let addresses = match draw.weighted(&[40, 40, 15, 5]) {
        0 => vec![v4],
        1 => vec![v4, v6],
        2 => vec![v6],
        _ => Vec::new(),
    };
    let ports = ports(draw, kind, number);
    let external = external_addresses(draw, scene, number);
    let balancer = balancer_addresses(draw, kind, number);
    note_frontends(
        draw,
        scene,
        kind,
        headless,
        &ports,
        [&addresses, &external, &balancer.0],
    );
    let spec = fields([
        ("type", kind.map(|kind| json!(kind))),
        (
            "clusterIP",
            cluster_field(&addresses, headless).map(|ip| json!(ip)),
        ),
        (
            "clusterIPs",
            cluster_field(&addresses, headless)
                .filter(|_| draw.chance(90))
                .map(|_| {
                    if headless {
                        json!(["None"])
                    } else {
                        addresses.iter().map(ToString::to_string).collect()
                    }
                }),
        ),
        (
            "externalIPs",
            (!external.is_empty()).then(|| external.iter().map(ToString::to_string).collect()),
        ),
        (
            "externalName",
            (kind == Some("ExternalName")).then(|| json!("example.com")),
        ),
        ("selector", draw.chance(80).then(|| selector(draw))),
        ("ports", Some(ports.iter().map(Port::object).collect())),
        ("internalTrafficPolicy", traffic_policy(draw)),
        ("externalTrafficPolicy", traffic_policy(draw)),
        (
            "publishNotReadyAddresses",
            draw.chance(25).then_some(json!(true)),
        ),
    ]);
    let object = |spec| {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": namespace, "name": name},
            "spec": spec, "status": {"loadBalancer": {"ingress": balancer.1}}})
    };
    if draw.chance(3) {
        draw.shows(&[96]);
        let other = contradiction(draw, scene, &spec, &ports, &addresses);
        scene.objects.push(object(other));
    }
    scene.objects.push(object(spec));
    if draw.chance(35) {
        draw.shows(&[96]);
    } else {
        slices(draw, scene, &namespace, &name, &ports);
    }
}

/// Another `spec` of the same name. Each is closed at what it declares itself, so ports of the one are asked for
/// at addresses of the other, too.
fn contradiction(
    draw: &mut Draw,
    scene: &mut Scene,
    spec: &Value,
    ports: &[Port],
    addresses: &[IpAddr],
) -> Value {
    const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 99);
    const ANOTHER: u16 = 9090;
    let external = ("externalIPs", json!([ELSEWHERE.to_string()]));
    let changes = match draw.below(3) {
        0 => vec![external],
        1 => vec![("type", json!("ExternalName"))],
        _ => vec![external, ("ports", json!([{"port": ANOTHER}]))],
    };
    scene.addresses.push(ELSEWHERE.into());
    for port in ports {
        let theirs = (ELSEWHERE.into(), port.protocol(), port.number);
        scene.frontends.push(theirs);
    }
    let either = addresses.iter().copied().chain([ELSEWHERE.into()]);
    let another = either.map(|address| (address, Protocol::Tcp, ANOTHER));
    scene.frontends.extend(another);
    let mut other = spec.clone();
    if let Some(other) = other.as_object_mut() {
        other.extend(
            changes
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value)),
        );
    }
    other
}

/// Of a Service: labels, all of them wanted.
fn selector(draw: &mut Draw) -> Value {
    if draw.chance(70) {
        json!({"app": draw.pick(&["a", "b", "c"])})
    } else {
        labels(draw, Of::Pods)
    }
}

impl Port {
    fn object(&self) -> Value {
        fields([
            ("name", self.name.as_ref().map(|name| json!(name))),
            (
                "protocol",
                (self.protocol != "TCP").then(|| json!(self.protocol)),
            ),
            ("port", Some(json!(self.number))),
            ("nodePort", self.on_nodes.map(|port| json!(port))),
            ("targetPort", self.target.clone()),
        ])
    }

    fn protocol(&self) -> Protocol {
        match self.protocol {
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => Protocol::Tcp,
        }
    }
}

/// One or two; the API wants two told apart by name, and by number or protocol.
fn ports(draw: &mut Draw, kind: Option<&str>, service: usize) -> Vec<Port> {
    let count = draw.between(1, 2);
    let mut ports: Vec<Port> = Vec::new();
    for index in 0..count {
        let protocol = *draw.pick(&["TCP", "TCP", "UDP", "SCTP"]);
        let number = *draw.pick(PORTS);
        if ports
            .iter()
            .any(|port| port.number == number && port.protocol == protocol)
        {
            continue;
        }
        // S72: the target is what counts.
        let target = match draw.weighted(&[25, 45, 30]) {
            0 => None,
            1 => Some(json!(draw.pick(PORTS))),
            _ => Some(json!(draw.pick(PORT_NAMES))),
        };
        ports.push(Port {
            name: (count > 1).then(|| format!("port-{index}")),
            protocol,
            number,
            on_nodes: matches!(kind, Some("NodePort" | "LoadBalancer"))
                .then(|| u16::try_from(2 * service + index).ok())
                .flatten()
                .map(|offset| NODE_PORTS + offset),
            target,
        });
    }
    ports
}

/// What `clusterIP` says.
fn cluster_field(addresses: &[IpAddr], headless: bool) -> Option<String> {
    if headless {
        Some("None".to_owned())
    } else {
        addresses.first().map(ToString::to_string)
    }
}

/// Now and then an address that is somebody's, a pod's or another Service's.
fn external_addresses(draw: &mut Draw, scene: &Scene, service: usize) -> Vec<IpAddr> {
    if !draw.chance(25) {
        return Vec::new();
    }
    draw.shows(&[70, 86]);
    let pods: Vec<IpAddr> = scene
        .pods
        .iter()
        .flat_map(|pod| pod.addresses.clone())
        .collect();
    match (draw.weighted(&[60, 15, 15, 10]), draw.pick_any(&pods)) {
        (1, Some(pod)) => vec![*pod],
        (2, _) => scene.addresses.first().copied().into_iter().collect(),
        (3, _) => {
            draw.shows(&[84]);
            vec![external_address(1)]
        }
        _ => vec![external_address(service)],
    }
}

/// The addresses kube-proxy takes for itself, and `ingress` with the others too.
fn balancer_addresses(draw: &mut Draw, kind: Option<&str>, service: usize) -> (Vec<IpAddr>, Value) {
    let mut frontends = Vec::new();
    let mut ingress = Vec::new();
    if kind == Some("LoadBalancer") {
        draw.shows(&[70, 86]);
        for _ in 0..draw.between(1, 2) {
            let address = external_address(10 * draw.between(1, 2) + service);
            let mode = *draw.pick(&[None, Some("VIP"), Some("Proxy")]);
            frontends.push(address);
            ingress.push(fields([
                ("ip", Some(json!(address.to_string()))),
                ("ipMode", mode.map(|mode| json!(mode))),
            ]));
        }
        if draw.chance(20) {
            ingress.push(json!({"hostname": "lb.example.com"}));
        }
    }
    (frontends, Value::Array(ingress))
}

fn traffic_policy(draw: &mut Draw) -> Option<Value> {
    match draw.weighted(&[60, 15, 25]) {
        0 => None,
        1 => Some(json!("Cluster")),
        _ => {
            draw.shows(&[84]);
            Some(json!("Local"))
        }
    }
}

/// Remembers what to ask, whether it is a frontend after all or not (S69).
fn note_frontends(
    draw: &mut Draw,
    scene: &mut Scene,
    kind: Option<&str>,
    headless: bool,
    ports: &[Port],
    addresses: [&[IpAddr]; 3],
) {
    if headless || kind == Some("ExternalName") {
        draw.shows(&[69]);
    } else {
        draw.shows(&[68, 72, 84, 86]);
    }
    for port in ports {
        for address in addresses.into_iter().flatten() {
            scene.addresses.push(*address);
            scene
                .frontends
                .push((*address, port.protocol(), port.number));
        }
        let nodes = scene.nodes.iter().flat_map(|node| &node.addresses);
        for (address, node_port) in nodes.filter_map(|node| Some((*node, port.on_nodes?))) {
            scene.frontends.push((address, port.protocol(), node_port));
        }
    }
}

fn slices(draw: &mut Draw, scene: &mut Scene, namespace: &str, service: &str, ports: &[Port]) {
    for (family, v4) in [("IPv4", true), ("IPv6", false)] {
        for number in 0..draw.between(usize::from(v4), 2) {
            let name = format!("{service}-{family}-{number}").to_lowercase();
            let ports: Value = ports
                .iter()
                .filter_map(|port| slice_port(draw, port))
                .collect();
            let object = |endpoints: Vec<Value>| {
                json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {"namespace": namespace, "name": name,
                        "labels": {"kubernetes.io/service-name": service}},
                    "addressType": family, "ports": ports, "endpoints": endpoints})
            };
            let endpoints: Vec<Value> = (0..draw.below(4))
                .map(|_| endpoint(draw, scene, namespace, v4))
                .collect();
            if endpoints.is_empty() {
                draw.shows(&[69]);
            }
            if draw.chance(2) {
                draw.shows(&[96]);
                scene
                    .objects
                    .push(object(vec![json!({"addresses": ["10.0.0.200"]})]));
            }
            scene.objects.push(object(endpoints));
        }
    }
}

fn slice_port(draw: &mut Draw, port: &Port) -> Option<Value> {
    let number = match &port.target {
        Some(Value::Number(number)) => json!(number),
        Some(_) => json!(draw.pick(PORTS)),
        None => json!(port.number),
    };
    // A slice may lack a port, or know it under another protocol only.
    let protocol = if draw.chance(5) {
        *draw.pick(PROTOCOLS)
    } else {
        port.protocol
    };
    (!draw.chance(5)).then(|| {
        fields([
            ("name", port.name.as_ref().map(|name| json!(name))),
            (
                "protocol",
                draw.chance(60).then_some(()).map_or_else(
                    || (protocol != "TCP").then(|| json!(protocol)),
                    |()| Some(json!(protocol)),
                ),
            ),
            ("port", Some(number)),
        ])
    })
}

fn endpoint(draw: &mut Draw, scene: &Scene, namespace: &str, v4: bool) -> Value {
    let of_family = |pod: &Pod| {
        pod.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == v4)
    };
    let pods: Vec<(&Pod, IpAddr)> = scene
        .pods
        .iter()
        .filter_map(|pod| Some((pod, of_family(pod)?)))
        .collect();
    let (address, target, node) = match (draw.weighted(&[80, 10, 10]), draw.pick_any(&pods)) {
        (0, Some((pod, address))) => {
            if pod.host_network {
                draw.shows(&[84]);
            }
            draw.shows(&[85, 76]);
            let target = (!draw.chance(10)).then(|| {
                fields([
                    ("kind", Some(json!("Pod"))),
                    (
                        "namespace",
                        (pod.namespace != namespace || draw.chance(80))
                            .then(|| json!(pod.namespace)),
                    ),
                    ("name", Some(json!(pod.name))),
                ])
            });
            (address.to_string(), target, pod.node.clone())
        }
        (1, _) => {
            // S84: not seen yet.
            draw.shows(&[84]);
            let address = if v4 { "10.0.0.100" } else { "fd00::100" };
            let target = json!({"kind": "Pod", "namespace": namespace, "name": "later"});
            (address.to_owned(), Some(target), Some("n1".to_owned()))
        }
        _ => {
            draw.shows(&[84]);
            let address = if v4 { "203.0.113.7" } else { "2001:db8::7" };
            (address.to_owned(), None, None)
        }
    };
    fields([
        ("addresses", Some(json!([address]))),
        ("targetRef", target),
        ("nodeName", node.map(Value::String)),
        ("conditions", conditions(draw)),
    ])
}

fn conditions(draw: &mut Draw) -> Option<Value> {
    let condition = |draw: &mut Draw| match draw.below(3) {
        0 => None,
        1 => Some(json!(true)),
        _ => Some(json!(false)),
    };
    match draw.weighted(&[20, 40, 10, 10, 10, 10]) {
        0 => None,
        1 => Some(json!({"ready": true, "serving": true, "terminating": false})),
        2 => Some(json!({"ready": false, "serving": true, "terminating": true})),
        3 => Some(json!({"ready": false, "serving": false, "terminating": false})),
        4 => Some(json!({"ready": false, "serving": false, "terminating": true})),
        _ => Some(fields([
            ("ready", condition(draw)),
            ("serving", condition(draw)),
            ("terminating", condition(draw)),
        ])),
    }
}
