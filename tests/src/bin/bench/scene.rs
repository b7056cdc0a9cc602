//! The objects: one pod that is measured, its cluster, policies of any size; and its packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Result, bail};
use egress_core::object::{Object, Read, read};
use egress_core::policy::{Block, Egress, Peer, Peers, Port, Ports, Protocol, Rule};
use egress_core::store::{Changed, Event, Store};
use egress_tests::packet::{self, Ends, proto};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

use super::driver::Patch;

pub(crate) const NODE: &str = "node-1";
pub(crate) const NAMESPACE: &str = "shop";
pub(crate) const POD: &str = "web";
const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 2);
/// Somebody who opens connections to the pod.
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 7);

/// The port that policies allow, and one that they do not.
pub(crate) const ALLOWED_PORT: u16 = 443;
pub(crate) const DENIED_PORT: u16 = 444;
const POD_PORT: u16 = 40_000;

/// Other pods, half of which a policy selects, and Services: look-ups that miss should miss in
/// tables that are not empty.
const OTHER_PODS: u16 = 1_000;
const SERVICES: u8 = 100;

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// As part of a path's id.
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }
}

/// The addresses that the pod has.
pub(crate) fn pod_addresses() -> BTreeSet<IpAddr> {
    BTreeSet::from([POD_V4.into(), POD_V6.into()])
}

/// The cluster without a policy.
pub(crate) fn cluster() -> Result<Store> {
    let mut store = Store::default();
    let mut put = |value: Value| {
        apply(&mut store, object(&value)?);
        Ok::<(), anyhow::Error>(())
    };
    put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))?;
    put(pod(
        POD,
        &[POD_V4.into(), POD_V6.into()],
        &json!({"app": POD}),
    ))?;
    for number in 0..OTHER_PODS {
        let [high, low] = (0x100 + number).to_be_bytes();
        let addresses = [
            Ipv4Addr::new(10, 244, high, low).into(),
            Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 1, number).into(),
        ];
        let tier = if number % 2 == 0 { "db" } else { "cache" };
        put(pod(
            &format!("{tier}-{number}"),
            &addresses,
            &json!({"tier": tier}),
        ))?;
    }
    for number in 0..SERVICES {
        let name = format!("service-{number}");
        put(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": name},
            "spec": {"clusterIP": format!("10.96.0.{number}"), "clusterIPs": [format!("10.96.0.{number}")],
                "ports": [{"port": 80, "protocol": "TCP"}]}}),
        )?;
        put(
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": NAMESPACE, "name": name, "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": [format!("10.244.1.{number}")], "conditions": {"ready": true}}],
            "ports": [{"port": 8080, "protocol": "TCP"}]}),
        )?;
    }
    Ok(store)
}

/// Puts an object into the store, new or not.
pub(crate) fn apply(store: &mut Store, object: Object) {
    let (Changed::Yes | Changed::No) = store.apply(Event::Applied(object));
}

fn pod(name: &str, addresses: &[IpAddr], labels: &Value) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": NAMESPACE, "name": name, "labels": labels},
        "spec": {"nodeName": NODE},
        "status": {"phase": "Running", "podIP": addresses.first().and_then(|a| a.get("ip")), "podIPs": addresses}})
}

fn object(value: &Value) -> Result<Object> {
    match read(value) {
        Read::Object(object) => Ok(object),
        other @ (Read::Ignored { .. } | Read::Unusable(_)) => bail!("{value}: {other:?}"),
    }
}

/// A policy of the pod: these networks on these TCP ports, and half of the other pods.
pub(crate) fn policy(nets: impl Iterator<Item = IpNet>, ports: &[u16]) -> Result<Object> {
    let value = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": NAMESPACE, "name": "web"},
        "spec": {"podSelector": {"matchLabels": {"app": POD}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"tier": "db"}}}], "ports": [{"port": 5432}]}]}});
    let Object::Policy(mut policy) = object(&value)? else {
        bail!("{value} is no policy");
    };
    let Egress::Isolated(rules) = &mut Arc::make_mut(&mut policy).egress else {
        bail!("{value} does not isolate");
    };
    // Put in as a parser would: a million entries of JSON are not what is measured here.
    rules.push(Rule::new(
        Peers::Only(
            nets.map(|net| {
                Peer::Block(Block {
                    net,
                    except: BTreeSet::new(),
                })
            })
            .collect(),
        ),
        Ports::Only(
            ports
                .iter()
                .map(|port| Port::Range {
                    protocol: Protocol::Tcp,
                    from: *port,
                    to: *port,
                })
                .collect(),
        ),
    ));
    Ok(Object::Policy(policy))
}

/// So many networks, the same ones each time: /24 of 20.0.0.0–119.255.255.255, /64 of
/// 2001:db8::/32. No two of them could be one larger network.
pub(crate) fn networks(family: Family, count: usize) -> Result<Vec<IpNet>> {
    let mut random = Random(1);
    let mut numbers = BTreeSet::new();
    while numbers.len() < count {
        // Only even ones, so that none has a neighbour to be merged with.
        numbers.insert(match family {
            Family::V4 => (20 << 16) + 2 * (random.next() % (100 << 15)),
            Family::V6 => random.next() & !1,
        });
    }
    numbers
        .into_iter()
        .map(|number| {
            Ok(match family {
                Family::V4 => Ipv4Net::new(Ipv4Addr::from_bits(number << 8), 24)?.into(),
                Family::V6 => {
                    let bits = (0x2001_0db8 << 96) | (u128::from(number) << 64);
                    Ipv6Net::new(Ipv6Addr::from_bits(bits), 64)?.into()
                }
            })
        })
        .collect()
}

/// Packets to one address, each from another port of the pod.
pub(crate) fn to_one(net: &IpNet) -> impl Iterator<Item = Patch> {
    let destination = host(net, 1);
    (0..=u16::MAX).map(move |source_port| Patch {
        destination,
        source_port,
        destination_port: ALLOWED_PORT,
    })
}

/// Packets to addresses all over the networks, each to another address.
pub(crate) fn to_all(nets: &[IpNet], port: u16) -> impl Iterator<Item = Patch> + '_ {
    // A stride that shares no factor with the counts in use, so that all are visited, and
    // neighbours in time are none in the trie.
    let order = (0..nets.len()).map(|at| at * 7_919 % nets.len());
    (1..)
        .flat_map(move |round| order.clone().map(move |index| (round, index)))
        .filter_map(move |(round, index)| {
            Some(Patch {
                destination: host(nets.get(index)?, round),
                source_port: POD_PORT,
                destination_port: port,
            })
        })
}

/// An address of a network, as the tables have it.
fn host(net: &IpNet, number: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    match net {
        IpNet::V4(net) => {
            let address = net.network().to_bits() | u32::from(number);
            let (start, _) = bytes.split_at_mut(4);
            start.copy_from_slice(&address.to_be_bytes());
        }
        IpNet::V6(net) => {
            bytes = (net.network().to_bits() | u128::from(number)).to_be_bytes();
        }
    }
    bytes
}

/// A TCP segment without data that the pod sends to the first address of a network.
pub(crate) fn outbound(net: &IpNet, port: u16, flags: u8) -> Vec<u8> {
    let ends = match net {
        IpNet::V4(net) => Ends::V4(POD_V4, Ipv4Addr::from_bits(net.network().to_bits() | 1)),
        IpNet::V6(net) => Ends::V6(POD_V6, Ipv6Addr::from_bits(net.network().to_bits() | 1)),
    };
    frame(ends, POD_PORT, port, flags)
}

/// A TCP segment without data on a connection that the client opened to the pod: what the pod
/// sends, or what the client does.
pub(crate) fn inbound(family: Family, from_pod: bool, flags: u8) -> Vec<u8> {
    let ends = match family {
        Family::V4 => Ends::V4(POD_V4, CLIENT_V4),
        Family::V6 => Ends::V6(POD_V6, CLIENT_V6),
    };
    if from_pod {
        frame(ends, 8080, 50_000, flags)
    } else {
        frame(ends.reversed(), 50_000, 8080, flags)
    }
}

fn frame(ends: Ends, source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let segment = packet::tcp(ends, source, destination, flags, &[]);
    let packet = ends.packet(proto::TCP, segment);
    packet::ethernet([2; 6], [4; 6], ends.ethertype(), &packet)
}

/// Numbers without a pattern, the same each time (xorshift32).
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn networks_are_as_many_as_asked_for_and_stay_so_when_merged() {
        for family in Family::BOTH {
            let nets = networks(family, 5_000).unwrap();
            assert_eq!(nets.len(), 5_000);
            assert_eq!(IpNet::aggregate(&nets).len(), 5_000, "{}", family.name());
        }
    }

    #[test]
    fn packets_go_to_different_addresses_inside_the_networks() {
        let nets = networks(Family::V4, 1_000).unwrap();
        let patches: Vec<Patch> = to_all(&nets, 443).take(4_000).collect();
        let addresses: BTreeSet<[u8; 16]> = patches.iter().map(|p| p.destination).collect();
        assert_eq!(addresses.len(), 4_000);
        for [a, b, c, d, ..] in addresses {
            let address = IpAddr::from([a, b, c, d]);
            assert!(nets.iter().any(|net| net.contains(&address)), "{address}");
        }
    }
}
