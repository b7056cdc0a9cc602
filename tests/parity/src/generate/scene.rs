//! What has been drawn so far, for what is drawn later to meet it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use egress_oracle::Protocol;

/// The cluster as far as it is drawn.
#[derive(Debug, Default)]
pub(super) struct Scene {
    pub(super) objects: Vec<Value>,
    pub(super) namespaces: Vec<String>,
    pub(super) nodes: Vec<Node>,
    pub(super) pods: Vec<Pod>,
    /// Destinations that a Service declares.
    pub(super) frontends: Vec<(IpAddr, Protocol, u16)>,
    /// Addresses worth asking about that belong to no pod.
    pub(super) addresses: Vec<IpAddr>,
    /// What the policies' blocks mean: their edges are worth asking about.
    pub(super) blocks: Vec<IpNet>,
    /// Ports that something names; their neighbours are worth asking about too.
    pub(super) ports: Vec<u16>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) node: Option<String>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) host_network: bool,
}

/// Addresses that belong to nothing: far away, link-local (S78), broadcast, ends of the world.
pub(super) const NOWHERE: &[&str] = &[
    "203.0.113.9",
    "169.254.169.254",
    "0.0.0.0",
    "255.255.255.255",
    "10.0.0.0",
    "2001:db8::9",
    "::",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];

/// Pods are `10.0.0.HOST` and `fd00::HOST`.
pub(super) fn pod_addresses(host: usize) -> (IpAddr, IpAddr) {
    (v4([10, 0, 0], host), v6(0xfd00, host))
}

/// Cluster addresses are `10.96.0.HOST` and `fd96::HOST`.
pub(super) fn cluster_addresses(host: usize) -> (IpAddr, IpAddr) {
    (v4([10, 96, 0], host), v6(0xfd96, host))
}

/// External addresses are `198.51.100.HOST`.
pub(super) fn external_address(host: usize) -> IpAddr {
    v4([198, 51, 100], host)
}

/// Nodes are `192.168.0.HOST` and `fd99::HOST`.
pub(super) fn node_addresses(host: usize) -> (IpAddr, IpAddr) {
    (v4([192, 168, 0], host), v6(0xfd99, host))
}

fn v4([a, b, c]: [u8; 3], host: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(
        a,
        b,
        c,
        u8::try_from(host).unwrap_or(u8::MAX),
    ))
}

fn v6(network: u16, host: usize) -> IpAddr {
    let host = u16::try_from(host).unwrap_or(u16::MAX);
    IpAddr::V6(Ipv6Addr::new(network, 0, 0, 0, 0, 0, 0, host))
}

/// An object with the fields that are given, in order to leave some away.
pub(super) fn fields<'a>(fields: impl IntoIterator<Item = (&'a str, Option<Value>)>) -> Value {
    Value::Object(
        fields
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect::<Map<_, _>>(),
    )
}

/// Addresses as `[{KEY: ADDRESS}]`.
pub(super) fn listed(key: &str, addresses: &[IpAddr]) -> Value {
    addresses
        .iter()
        .map(|address| json!({ key: address.to_string() }))
        .collect()
}
