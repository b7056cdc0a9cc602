//! Blocks of addresses, in every text that ever meant one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

use super::super::draw::Draw;
use super::super::scene::{NOWHERE, Scene, fields};

const LENGTHS_V4: &[u8] = &[0, 1, 8, 16, 24, 28, 29, 30, 31, 32, 32];
const LENGTHS_V6: &[u8] = &[0, 1, 8, 16, 64, 112, 124, 126, 127, 128, 128];

/// Texts that mean no block.
const UNREADABLE: &[&str] = &[
    "",
    "10.0.0.1",
    "10.0.0.0/33",
    "10.0.0/8",
    "10.0.0.256/8",
    "10.0.0.0/+8",
    " 10.0.0.0/8",
    "10.0.0.0/8/8",
    "0x0a.0.0.0/8",
    "::/129",
    "fe80::1%eth0/64",
    "1::2::3/64",
    "1:2:3:4:5:6:7:8::/64",
    "all",
];

pub(super) fn draw(draw: &mut Draw, scene: &mut Scene) -> Value {
    if draw.chance(4) {
        draw.shows(&[34, 79]);
        return fields([(
            "cidr",
            (!draw.chance(10)).then(|| json!(draw.pick(UNREADABLE))),
        )]);
    }
    if draw.chance(3) {
        return short_mapped(draw, scene);
    }
    let base = address(draw, scene);
    let lengths = if base.is_ipv4() {
        LENGTHS_V4
    } else {
        LENGTHS_V6
    };
    let network = network(base, *draw.pick(lengths));
    note(draw, scene, network);
    let except = excepts(draw, scene, network);
    fields([
        ("cidr", Some(json!(text(draw, network)))),
        ("except", except),
    ])
}

/// S94: an IPv4-mapped block shorter than /96 stays IPv6.
fn short_mapped(draw: &mut Draw, scene: &mut Scene) -> Value {
    draw.shows(&[33, 94]);
    let length = *draw.pick(&[80, 88, 95]);
    let network = network(
        IpAddr::V6(Ipv4Addr::new(10, 0, 0, 0).to_ipv6_mapped()),
        length,
    );
    scene.blocks.push(network);
    scene
        .addresses
        .push(IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped()));
    json!({"cidr": format!("::ffff:10.0.0.0/{length}")})
}

fn note(draw: &mut Draw, scene: &mut Scene, network: IpNet) {
    if network.prefix_len() == 0 {
        draw.shows(&[31, 78]);
    }
    scene.blocks.push(network);
}

/// An address that is somebody's, or nobody's.
fn address(draw: &mut Draw, scene: &Scene) -> IpAddr {
    let pods: Vec<IpAddr> = scene
        .pods
        .iter()
        .flat_map(|pod| pod.addresses.clone())
        .collect();
    let known = match draw.below(4) {
        0 | 1 => draw.pick_any(&pods),
        2 => draw.pick_any(&scene.addresses),
        _ => None,
    };
    known
        .copied()
        .or_else(|| draw.pick(NOWHERE).parse().ok())
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

fn network(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length).map_or_else(|_| IpNet::from(address), |network| network.trunc())
}

/// Exceptions, mostly within the block.
fn excepts(draw: &mut Draw, scene: &mut Scene, block: IpNet) -> Option<Value> {
    match draw.weighted(&[55, 5, 36, 2, 2]) {
        0 => None,
        1 => Some(draw.pick(&[json!([]), json!(null)]).clone()),
        2 => {
            let count = draw.between(1, 3);
            if count > 1 {
                draw.shows(&[32]);
            }
            draw.shows(&[30]);
            Some((0..count).map(|_| except(draw, scene, block)).collect())
        }
        3 => {
            draw.shows(&[93]);
            Some(json!(["10.0.0.0/30", draw.pick(UNREADABLE)]))
        }
        _ => {
            draw.shows(&[93]);
            Some(
                draw.pick(&[json!("10.0.0.0/30"), json!([7]), json!({})])
                    .clone(),
            )
        }
    }
}

fn except(draw: &mut Draw, scene: &mut Scene, block: IpNet) -> Value {
    let base = address(draw, scene);
    let inside = block.contains(&base);
    let longer = |lengths: &[u8]| -> Vec<u8> {
        lengths
            .iter()
            .copied()
            .filter(|length| *length > block.prefix_len())
            .collect()
    };
    let lengths = if base.is_ipv4() {
        LENGTHS_V4
    } else {
        LENGTHS_V6
    };
    let length = match draw.pick_any(&longer(lengths)) {
        Some(length) if inside => *length,
        _ => *draw.pick(lengths),
    };
    let network = network(base, length);
    if !inside || length <= block.prefix_len() {
        // Outside of the block, or as wide as it.
        draw.shows(&[79, 93]);
    }
    scene.blocks.push(network);
    json!(text(draw, network))
}

/// A text that means this network.
fn text(draw: &mut Draw, network: IpNet) -> String {
    match network {
        IpNet::V4(network) => text_v4(draw, network),
        IpNet::V6(network) => text_v6(draw, network),
    }
}

fn text_v4(draw: &mut Draw, network: Ipv4Net) -> String {
    let length = network.prefix_len();
    let [a, b, c, d] = network.network().octets();
    match draw.weighted(&[70, 10, 7, 6, 7]) {
        0 => network.to_string(),
        1 => {
            // Host bits.
            draw.shows(&[33]);
            format!("{}/{length}", network.broadcast())
        }
        2 => {
            draw.shows(&[33]);
            format!("{a:03}.{b:02}.{c:04}.{d}/{length}")
        }
        3 => {
            draw.shows(&[33, 94]);
            format!("{}/{length:03}", network.network())
        }
        _ => {
            draw.shows(&[33, 94]);
            format!("::ffff:{a}.{b}.{c}.{d}/{}", u16::from(length) + 96)
        }
    }
}

fn text_v6(draw: &mut Draw, network: Ipv6Net) -> String {
    let length = network.prefix_len();
    match draw.weighted(&[75, 10, 8, 7]) {
        0 => network.to_string(),
        1 => {
            draw.shows(&[33]);
            format!("{}/{length}", network.broadcast())
        }
        2 => {
            // All groups, with leading zeros, in capitals.
            draw.shows(&[33]);
            let groups: Vec<String> = Ipv6Addr::segments(&network.network())
                .iter()
                .map(|group| format!("{group:04X}"))
                .collect();
            format!("{}/{length}", groups.join(":"))
        }
        _ => {
            draw.shows(&[33, 94]);
            format!("{}/{length:04}", network.network())
        }
    }
}
