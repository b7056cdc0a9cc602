//! Questions: from a pod, to where something changes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_oracle::Protocol;
use ipnet::IpNet;

use super::cluster::PORTS;
use super::draw::Draw;
use super::scene::{NOWHERE, Scene};

/// May this pod open this connection?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// Where to.
    pub address: IpAddr,
    /// How.
    pub protocol: Protocol,
    /// The port, where the protocol has ports.
    pub port: u16,
}

impl Question {
    /// `NS/POD`.
    #[must_use]
    pub fn sender(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }

    /// As the command line takes it: `ADDRESS:PORT/PROTOCOL`, or `ADDRESS/ICMP`.
    #[must_use]
    pub fn destination(&self) -> String {
        let Self {
            address,
            protocol,
            port,
            ..
        } = self;
        match (protocol, address) {
            (Protocol::Icmp | Protocol::Other(_), _) => format!("{address}/{protocol}"),
            (_, IpAddr::V4(_)) => format!("{address}:{port}/{protocol}"),
            (_, IpAddr::V6(_)) => format!("[{address}]:{port}/{protocol}"),
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.sender(), self.destination())
    }
}

/// A question, unless there is no pod that can be asked.
pub(super) fn draw(draw: &mut Draw, scene: &Scene) -> Option<Question> {
    let pod = draw.pick_any(&scene.pods)?;
    let own = pod.addresses.iter().filter(|_| !pod.host_network);
    let own: Vec<IpAddr> = own.copied().collect();
    let (address, protocol, port) = destination(draw, scene, &own);
    if own.contains(&address) {
        draw.shows(&[75]);
    }
    if protocol == Protocol::Icmp {
        draw.shows(&[49]);
    }
    Some(Question {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        address,
        protocol,
        port,
    })
}

fn destination(draw: &mut Draw, scene: &Scene, own: &[IpAddr]) -> (IpAddr, Protocol, u16) {
    let frontend = draw.pick_any(&scene.frontends).copied();
    if let (Some((address, protocol, port)), true) = (frontend, draw.chance(25)) {
        // Mostly the frontend itself, else just beside it (S86).
        return match draw.weighted(&[85, 5, 5, 5]) {
            0 => (address, protocol, port),
            1 => (address, any_protocol(draw), port),
            2 => (address, protocol, any_port(draw, scene)),
            _ => (address, Protocol::Icmp, 0),
        };
    }
    let address = match draw.weighted(&[45, 30, 12, 8, 5]) {
        0 => {
            let addresses: Vec<IpAddr> = scene
                .pods
                .iter()
                .flat_map(|pod| pod.addresses.clone())
                .collect();
            draw.pick_any(&addresses).copied()
        }
        1 => draw
            .pick_any(&scene.blocks)
            .copied()
            .and_then(|block| edge(draw, block)),
        2 => draw.pick_any(&scene.addresses).copied(),
        3 => None,
        _ => draw.pick_any(own).copied(),
    };
    let address = address
        .or_else(|| draw.pick(NOWHERE).parse().ok())
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let address = mapped(draw, address);
    let protocol = any_protocol(draw);
    let port = match protocol {
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => any_port(draw, scene),
        Protocol::Icmp | Protocol::Other(_) => 0,
    };
    (address, protocol, port)
}

/// S94: now and then the same address as an IPv6 packet.
fn mapped(draw: &mut Draw, address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if draw.chance(2) => {
            draw.shows(&[94]);
            IpAddr::V6(v4.to_ipv6_mapped())
        }
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

fn any_protocol(draw: &mut Draw) -> Protocol {
    *draw.pick(&[
        Protocol::Tcp,
        Protocol::Tcp,
        Protocol::Tcp,
        Protocol::Udp,
        Protocol::Udp,
        Protocol::Sctp,
        Protocol::Icmp,
    ])
}

/// A port that something names, one beside it, or an end of the range.
fn any_port(draw: &mut Draw, scene: &Scene) -> u16 {
    let named = if draw.chance(50) {
        draw.pick_any(&scene.ports).copied()
    } else {
        None
    };
    let port = named.unwrap_or_else(|| *draw.pick(PORTS));
    match draw.weighted(&[70, 10, 10, 5, 5]) {
        0 => port,
        1 => port.saturating_sub(1).max(1),
        2 => port.saturating_add(1),
        3 => 1,
        _ => u16::MAX,
    }
}

/// The first or last address of a block, or the one before or after.
fn edge(draw: &mut Draw, block: IpNet) -> Option<IpAddr> {
    let which = draw.below(4);
    match block {
        IpNet::V4(block) => {
            let (first, last) = (u32::from(block.network()), u32::from(block.broadcast()));
            let address = match which {
                0 => Some(first),
                1 => Some(last),
                2 => first.checked_sub(1),
                _ => last.checked_add(1),
            };
            Some(IpAddr::V4(Ipv4Addr::from(address?)))
        }
        IpNet::V6(block) => {
            let (first, last) = (u128::from(block.network()), u128::from(block.broadcast()));
            let address = match which {
                0 => Some(first),
                1 => Some(last),
                2 => first.checked_sub(1),
                _ => last.checked_add(1),
            };
            Some(IpAddr::V6(Ipv6Addr::from(address?)))
        }
    }
}
