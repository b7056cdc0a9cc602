//! Network policies: mostly in order, often odd, now and then illegal in one part.

mod block;

use serde_json::{Value, json};

use super::cluster::{PORT_NAMES, PORTS, PROTOCOLS};
use super::draw::Draw;
use super::scene::{Scene, fields};
use super::selector::{self, Of};

pub(super) fn draw(draw: &mut Draw, scene: &mut Scene) {
    let count = draw.below(9);
    if count == 0 {
        draw.shows(&[1]);
    }
    if count > 1 {
        draw.shows(&[10]);
    }
    for number in 0..count {
        policy(draw, scene, number);
    }
}

fn policy(draw: &mut Draw, scene: &mut Scene, number: usize) {
    draw.shows(&[2]);
    let namespace = draw.pick(&scene.namespaces).clone();
    let spec = match draw.weighted(&[96, 2, 2]) {
        0 => Some(spec(draw, scene)),
        1 => None,
        _ => {
            draw.shows(&[91]);
            Some(draw.pick(&[json!("all"), json!([]), json!(7)]).clone())
        }
    };
    let object = |api_version: &str, spec: Option<Value>| {
        fields([
            ("apiVersion", Some(json!(api_version))),
            ("kind", Some(json!("NetworkPolicy"))),
            (
                "metadata",
                Some(json!({"namespace": namespace, "name": format!("np{number}")})),
            ),
            ("spec", spec),
        ])
    };
    let ours = "networking.k8s.io/v1";
    match draw.weighted(&[92, 2, 3, 3]) {
        1 => {
            draw.shows(&[96]);
            scene.objects.push(object("crd.example.com/v1", spec));
            return;
        }
        2 => {
            draw.shows(&[96]);
            scene.objects.push(object(ours, spec.clone()));
        }
        3 => {
            draw.shows(&[96]);
            let other = json!({"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Egress"],
                "egress": [{"ports": [{"port": 7}]}]});
            scene.objects.push(object(ours, Some(other)));
        }
        _ => {}
    }
    scene.objects.push(object(ours, spec));
}

fn spec(draw: &mut Draw, scene: &mut Scene) -> Value {
    let types = policy_types(draw);
    let unknown = draw.chance(2);
    if unknown {
        draw.shows(&[80]);
    }
    fields([
        ("podSelector", subject(draw)),
        ("policyTypes", types),
        ("egress", rules(draw, scene)),
        (
            "ingress",
            draw.chance(15)
                .then(|| draw.pick(&[json!([]), json!([{}]), json!("bad")]).clone()),
        ),
        ("egressDeny", unknown.then(|| json!([]))),
    ])
}

fn subject(draw: &mut Draw) -> Option<Value> {
    match draw.weighted(&[12, 25, 63]) {
        0 => {
            draw.shows(&[7]);
            None
        }
        1 => {
            draw.shows(&[7]);
            Some(json!({}))
        }
        _ => Some(selector::draw(draw, Of::Pods, &[82, 91])),
    }
}

fn policy_types(draw: &mut Draw) -> Option<Value> {
    match draw.weighted(&[50, 12, 12, 5, 8, 5, 3, 2, 3]) {
        0 => Some(json!(["Egress"])),
        1 => Some(
            draw.pick(&[json!(["Ingress", "Egress"]), json!(["Egress", "Ingress"])])
                .clone(),
        ),
        2 => {
            draw.shows(&[3]);
            None
        }
        3 => {
            draw.shows(&[3]);
            Some(json!([]))
        }
        4 => {
            draw.shows(&[5]);
            Some(json!(["Ingress"]))
        }
        5 => {
            draw.shows(&[6]);
            Some(json!(["Egress", "Egress"]))
        }
        6 => {
            draw.shows(&[79]);
            Some(
                draw.pick(&[
                    json!(["Egress", "Other"]),
                    json!(["egress"]),
                    json!(["Ingress", ""]),
                ])
                .clone(),
            )
        }
        7 => {
            draw.shows(&[79]);
            Some(json!(["Egress", "Ingress", "Egress"]))
        }
        _ => {
            draw.shows(&[79]);
            Some(
                draw.pick(&[json!("Egress"), json!([7]), json!([null]), json!({})])
                    .clone(),
            )
        }
    }
}

fn rules(draw: &mut Draw, scene: &mut Scene) -> Option<Value> {
    match draw.weighted(&[8, 5, 2, 83, 2]) {
        0 => {
            draw.shows(&[4]);
            None
        }
        1 => {
            draw.shows(&[4, 81]);
            Some(json!([]))
        }
        2 => {
            draw.shows(&[4, 81]);
            Some(Value::Null)
        }
        3 => {
            let count = draw.between(1, 3);
            if count > 1 {
                draw.shows(&[14]);
            }
            Some((0..count).map(|_| rule(draw, scene)).collect())
        }
        _ => Some(draw.pick(&[json!("all"), json!({})]).clone()),
    }
}

fn rule(draw: &mut Draw, scene: &mut Scene) -> Value {
    match draw.weighted(&[93, 3, 2, 2]) {
        1 => {
            draw.shows(&[11]);
            json!({})
        }
        2 => draw
            .pick(&[
                json!(null),
                json!("all"),
                json!([]),
                json!({"to": {}}),
                json!({"ports": 80}),
            ])
            .clone(),
        3 => {
            draw.shows(&[80]);
            draw.pick(&[json!({"from": []}), json!({"to": [], "name": "x"})])
                .clone()
        }
        _ => {
            draw.shows(&[12]);
            fields([("to", peers(draw, scene)), ("ports", ports(draw, scene))])
        }
    }
}

fn peers(draw: &mut Draw, scene: &mut Scene) -> Option<Value> {
    match draw.weighted(&[14, 3, 3, 80]) {
        0 => {
            draw.shows(&[13]);
            None
        }
        1 => {
            draw.shows(&[13, 81]);
            Some(json!([]))
        }
        2 => {
            draw.shows(&[13, 81]);
            Some(Value::Null)
        }
        _ => {
            let count = draw.between(1, 3);
            if count > 1 {
                draw.shows(&[14, 30]);
            }
            Some((0..count).map(|_| peer(draw, scene)).collect())
        }
    }
}

fn peer(draw: &mut Draw, scene: &mut Scene) -> Value {
    let pods = |draw: &mut Draw| selector::draw(draw, Of::Pods, &[82, 91]);
    let namespaces = |draw: &mut Draw| selector::draw(draw, Of::Namespaces, &[82, 91]);
    match draw.weighted(&[18, 18, 18, 40, 6]) {
        0 => {
            draw.shows(&[19, 22]);
            json!({"podSelector": pods(draw)})
        }
        1 => {
            draw.shows(&[20, 22]);
            json!({"namespaceSelector": namespaces(draw)})
        }
        2 => {
            draw.shows(&[21]);
            json!({"podSelector": pods(draw), "namespaceSelector": namespaces(draw)})
        }
        3 => {
            draw.shows(&[29]);
            json!({"ipBlock": block::draw(draw, scene)})
        }
        _ => illegal_peer(draw),
    }
}

fn illegal_peer(draw: &mut Draw) -> Value {
    draw.shows(&[79, 93]);
    let all = json!({"cidr": "0.0.0.0/0"});
    draw.pick(&[
        json!({}),
        json!(null),
        json!("all"),
        json!({"podSelector": null}),
        json!({"ipBlock": all, "podSelector": {}}),
        json!({"ipBlock": all, "namespaceSelector": {}}),
        json!({"ipBlock": "0.0.0.0/0"}),
        json!({"ipBlock": {"cidr": "0.0.0.0/0", "excepts": []}}),
        json!({"podSelector": {}, "serviceSelector": {}}),
    ])
    .clone()
}

fn ports(draw: &mut Draw, scene: &mut Scene) -> Option<Value> {
    match draw.weighted(&[30, 3, 3, 62, 2]) {
        0 => {
            draw.shows(&[13, 49, 95]);
            None
        }
        1 => {
            draw.shows(&[13, 49, 81, 95]);
            Some(json!([]))
        }
        2 => {
            draw.shows(&[13, 49, 81, 95]);
            Some(Value::Null)
        }
        3 => Some((0..draw.between(1, 3)).map(|_| port(draw, scene)).collect()),
        _ => Some(draw.pick(&[json!({}), json!("80")]).clone()),
    }
}

fn port(draw: &mut Draw, scene: &mut Scene) -> Value {
    let protocol = draw.chance(60).then(|| *draw.pick(PROTOCOLS));
    match protocol {
        None => draw.shows(&[16]),
        Some("SCTP") => draw.shows(&[46, 47]),
        Some("UDP") => draw.shows(&[48]),
        Some(_) => {}
    }
    let entry = |port: Option<Value>, end: Option<Value>| {
        fields([
            ("protocol", protocol.map(|protocol| json!(protocol))),
            ("port", port),
            ("endPort", end),
        ])
    };
    match draw.weighted(&[10, 40, 20, 22, 8]) {
        0 => {
            draw.shows(&[15, 95]);
            entry(None, None)
        }
        1 => {
            let port = *draw.pick(PORTS);
            scene.ports.push(port);
            entry(Some(json!(port)), None)
        }
        2 => {
            draw.shows(&[36]);
            let first: u16 = *draw.pick(&[1, 52, 53, 80, 443, 8080, 30_000]);
            let last = *draw.pick(&[first, first.saturating_add(1), 81, 8080, 32_767, 65_535]);
            let last = last.max(first);
            scene.ports.extend([first, last]);
            entry(Some(json!(first)), Some(json!(last)))
        }
        3 => {
            draw.shows(&[37, 39, 40, 41, 42]);
            let name = if draw.chance(85) {
                *draw.pick(PORT_NAMES)
            } else {
                *draw.pick(&["nobody", "", "80"])
            };
            if name == "80" {
                draw.shows(&[92]);
            }
            entry(Some(json!(name)), None)
        }
        _ => illegal_port(draw),
    }
}

fn illegal_port(draw: &mut Draw) -> Value {
    draw.shows(&[45, 79, 92]);
    draw.pick(&[
        json!({"port": 0}),
        json!({"port": 65_536}),
        json!({"port": -80}),
        json!({"port": 80.5}),
        json!({"port": true}),
        json!({"port": 81, "endPort": 80}),
        json!({"port": 80, "endPort": 0}),
        json!({"port": 80, "endPort": 65_536}),
        json!({"port": 80, "endPort": "81"}),
        json!({"endPort": 80}),
        json!({"port": "web", "endPort": 80}),
        json!({"protocol": "tcp"}),
        json!({"protocol": "ICMP"}),
        json!({"protocol": ""}),
        json!({"port": 80, "ports": 80}),
        json!(null),
        json!(80),
    ])
    .clone()
}
