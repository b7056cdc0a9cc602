//! Interfaces: what the kernel says of them, and where a pod's traffic passes ours.
//!
//! The agent's own links are what counts: a link here whose peer is in the pod's namespace
//! is where the pod's traffic comes out, whatever it is called at either end. What the
//! pod's namespace says is only needed for the names people know, for addresses, and for
//! interfaces that no link of ours belongs to. Source: `linux/if_link.h`,
//! `linux/rtnetlink.h`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::netlink::{Error, FAMILIES, Request, Socket, attributes, number};
use super::nsid::Nsid;

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_TARGET_NETNSID: u16 = 46;
/// Statistics are two thirds of a link's message.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_TARGET_NETNSID: u16 = 10;

const ARPHRD_ETHER: u16 = 1;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 1 << 3;

/// Kinds of link that are one end of a pair: what goes in here comes out there.
const PAIRED: [&str; 2] = ["veth", "netkit"];

/// Kinds of link whose frames leave through other links of the same namespace, which are
/// judged themselves.
const JOINING: [&str; 4] = ["bridge", "bond", "team", "vrf"];

/// The host side of an interface of a pod: where the hooks go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostInterface {
    /// Its index in the agent's namespace.
    pub index: u32,
    /// Its name there; may change at any time, the index does not.
    pub name: String,
    /// The index of the pod's end in the pod's namespace.
    pub inner_index: u32,
    /// The name of the pod's end, empty when it could not be asked for.
    pub inner_name: String,
}

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// A link as one namespace sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Its own hardware address, of an Ethernet link.
    pub(super) mac: Option<Mac>,
    /// `veth`, `macvlan` …; empty for hardware.
    kind: String,
    /// `ARPHRD_*`.
    hardware: u16,
    flags: u32,
    /// The peer, or the link below, in the namespace [`Link::elsewhere`] or else in this one.
    lower: Option<u32>,
    /// Where [`Link::lower`] is, when it is not in the link's own namespace. As the *agent's*
    /// namespace numbers them, also for a link that was asked for in another one.
    elsewhere: Option<Nsid>,
}

/// Links of the agent's namespace, or of another one.
pub(super) fn links(socket: &mut Socket, target: Option<Nsid>) -> Result<Vec<Link>, Error> {
    let request = Request::new(RTM_GETLINK, &[0; size_of::<LinkHeader>()])
        .with(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    let request = match target {
        Some(Nsid(id)) => request.with(IFLA_TARGET_NETNSID, id.to_ne_bytes()),
        None => request,
    };
    socket.dump(&request, Link::read)
}

/// Addresses of another namespace by which others can know it: neither loopback nor
/// link-local.
pub(super) fn addresses(
    socket: &mut Socket,
    Nsid(target): Nsid,
) -> Result<BTreeSet<IpAddr>, Error> {
    dump_addresses(socket, 0, |request| {
        request.with(IFA_TARGET_NETNSID, target.to_ne_bytes())
    })
}

/// Such addresses of one of the agent's own links.
pub(super) fn addresses_of(socket: &mut Socket, link: u32) -> Result<BTreeSet<IpAddr>, Error> {
    dump_addresses(socket, link, |request| request)
}

fn dump_addresses(
    socket: &mut Socket,
    link: u32,
    complete: impl Fn(Request) -> Request,
) -> Result<BTreeSet<IpAddr>, Error> {
    let mut found = BTreeSet::new();
    for family in FAMILIES {
        let header = AddressHeader {
            family,
            prefix_length: 0,
            flags: 0,
            scope: 0,
            index: link,
        };
        let request = complete(Request::new(RTM_GETADDR, header.as_bytes()));
        // A kernel without the family answers for all families it has, which does no harm.
        found.extend(
            socket
                .dump(&request, read_address)?
                .into_iter()
                .filter(is_global),
        );
    }
    Ok(found)
}

/// Links of `host` whose peer is in the namespace `pod`, with the peer's index there.
pub(super) fn host_side(host: &[Link], pod: Nsid) -> impl Iterator<Item = (&Link, u32)> {
    host.iter()
        .filter_map(move |link| Some((link, link.peer_in(pod)?)))
}

/// The host sides where the traffic of the namespace `pod` can be hooked, sorted; and
/// those where it cannot, as a sentence each.
///
/// `inner` may be older than `host` or empty: it gives names only.
pub(super) fn host_interfaces(
    host: &[Link],
    pod: Nsid,
    inner: &[Link],
) -> (Vec<HostInterface>, Vec<String>) {
    let mut found = Vec::new();
    let mut unhookable = Vec::new();
    for (link, inner_index) in host_side(host, pod) {
        let inner_name = inner
            .iter()
            .find(|inner| inner.index == inner_index)
            .map_or_else(String::new, |inner| inner.name.clone());
        if link.hardware == ARPHRD_ETHER {
            found.push(HostInterface {
                index: link.index,
                name: link.name.clone(),
                inner_index,
                inner_name,
            });
        } else {
            unhookable.push(format!(
                "{inner_name}: its peer {} sends packets without an Ethernet header",
                link.name
            ));
        }
    }
    found.sort();
    (found, unhookable)
}

/// Interfaces of a pod's namespace by which traffic can pass us, as a sentence each.
///
/// `own` is the agent's namespace by its own numbering.
pub(super) fn bypasses(inner: &[Link], own: Nsid) -> Vec<String> {
    inner
        .iter()
        .filter(|link| link.flags & IFF_UP != 0 && link.flags & IFF_LOOPBACK == 0)
        // Its host side is found from the host, or is just being deleted.
        .filter(|link| link.peer_in(own).is_none())
        .filter(|link| !link.joins_others())
        .map(|link| match (link.is_paired(), link.elsewhere) {
            (true, _) => format!(
                "{}: its peer is in another network namespace than the agent's",
                link.name
            ),
            (false, Some(_)) => format!(
                "{}: {} interface on top of one in another network namespace",
                link.name,
                link.kind_for_people()
            ),
            (false, None) => format!(
                "{}: {} interface without a peer in the agent's network namespace",
                link.name,
                link.kind_for_people()
            ),
        })
        .collect()
}

impl Link {
    /// The index of the other end, when this is one end of a pair and the other is there.
    fn peer_in(&self, namespace: Nsid) -> Option<u32> {
        (self.is_paired() && self.elsewhere == Some(namespace)).then_some(self.lower)?
    }

    /// The namespace at the other end, when this is one end of a pair and the other is not in
    /// this namespace: the only kind of link that a pod can be behind.
    pub(super) fn far_side(&self) -> Option<Nsid> {
        self.elsewhere
            .filter(|_| self.is_paired() && self.lower.is_some())
    }

    pub(super) fn is_bridge(&self) -> bool {
        self.kind == "bridge"
    }

    fn is_paired(&self) -> bool {
        PAIRED.contains(&self.kind.as_str())
    }

    /// What it sends leaves through another link of its own namespace.
    fn joins_others(&self) -> bool {
        JOINING.contains(&self.kind.as_str()) || (self.lower.is_some() && self.elsewhere.is_none())
    }

    fn kind_for_people(&self) -> &str {
        if self.kind.is_empty() {
            "physical"
        } else {
            &self.kind
        }
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let (header, rest) = LinkHeader::read_from_prefix(payload).ok()?;
        let mut link = Self {
            index: header.index,
            name: String::new(),
            mac: None,
            kind: String::new(),
            hardware: header.hardware,
            flags: header.flags,
            lower: None,
            elsewhere: None,
        };
        for (attribute, value) in attributes(rest) {
            match attribute {
                IFLA_ADDRESS => link.mac = value.try_into().ok(),
                IFLA_IFNAME => link.name = text(value),
                // Tunnels say 0 for "any".
                IFLA_LINK => link.lower = number(value).filter(|index| *index != 0),
                IFLA_LINK_NETNSID => link.elsewhere = Nsid::read(value),
                IFLA_LINKINFO => {
                    link.kind = attributes(value)
                        .find_map(|(kind, value)| (kind == IFLA_INFO_KIND).then(|| text(value)))
                        .unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// `struct ifinfomsg`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct LinkHeader {
    family: u8,
    padding: u8,
    hardware: u16,
    index: u32,
    flags: u32,
    change: u32,
}

/// `struct ifaddrmsg`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct AddressHeader {
    family: u8,
    prefix_length: u8,
    flags: u8,
    scope: u8,
    index: u32,
}

fn read_address(payload: &[u8]) -> Option<IpAddr> {
    let (_, rest) = AddressHeader::read_from_prefix(payload).ok()?;
    let mut address = None;
    for (attribute, value) in attributes(rest) {
        match attribute {
            // On a point-to-point interface IFA_ADDRESS is the other side's.
            IFA_LOCAL => return ip(value),
            IFA_ADDRESS => address = ip(value),
            _ => {}
        }
    }
    address
}

/// An address in network order; its length tells the family.
pub(super) fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => value
            .first_chunk::<16>()
            .map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

fn is_global(address: &IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// A string that ends at its NUL. The kernel refuses only a few bytes in names, so this
/// may not be UTF-8; it is for people.
pub(super) fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Nsid = Nsid(0);
    const POD: Nsid = Nsid(1);

    fn link(
        index: u32,
        name: &str,
        kind: &str,
        lower: Option<u32>,
        elsewhere: Option<Nsid>,
    ) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mac: None,
            kind: kind.to_owned(),
            hardware: ARPHRD_ETHER,
            flags: IFF_UP,
            lower,
            elsewhere,
        }
    }

    #[test]
    fn the_host_side_of_a_pair_is_found_by_index_and_namespace() {
        let host = [
            link(9, "veth9", "veth", Some(2), Some(POD)),
            link(8, "veth8", "veth", Some(2), Some(Nsid(7))),
            link(7, "here", "veth", Some(6), None),
            link(6, "there", "veth", Some(7), None),
            link(5, "nk", "netkit", Some(3), Some(POD)),
        ];
        let inner = [link(2, "eth0", "veth", Some(9), Some(OWN))];
        let (found, unhookable) = host_interfaces(&host, POD, &inner);
        assert!(unhookable.is_empty());
        assert_eq!(
            found
                .iter()
                .map(|f| (f.index, f.inner_index, f.inner_name.as_str()))
                .collect::<Vec<_>>(),
            [(5, 3, ""), (9, 2, "eth0")]
        );
    }

    #[test]
    fn a_macvlan_of_ours_on_top_of_a_pods_interface_is_not_its_host_side() {
        let host = [link(9, "mv", "macvlan", Some(2), Some(POD))];
        assert_eq!(host_interfaces(&host, POD, &[]).0, []);
    }

    #[test]
    fn a_host_side_without_ethernet_is_reported() {
        let mut host = link(5, "nk", "netkit", Some(3), Some(POD));
        host.hardware = 0xfffe; // ARPHRD_NONE
        let (found, unhookable) = host_interfaces(
            &[host],
            POD,
            &[link(3, "eth0", "netkit", Some(5), Some(OWN))],
        );
        assert!(found.is_empty());
        assert_eq!(
            unhookable,
            ["eth0: its peer nk sends packets without an Ethernet header"]
        );
    }

    #[test]
    fn interfaces_that_pass_us_are_reported() {
        let inner = [
            link(2, "eth0", "veth", Some(9), Some(OWN)),
            link(3, "net1", "macvlan", Some(4), Some(OWN)),
            link(4, "ens5", "", None, None),
            link(5, "side", "veth", Some(9), Some(Nsid(7))),
            link(6, "tun0", "tun", None, None),
            link(7, "gone", "veth", Some(3), Some(Nsid(-1))),
        ];
        assert_eq!(
            bypasses(&inner, OWN),
            [
                "net1: macvlan interface on top of one in another network namespace",
                "ens5: physical interface without a peer in the agent's network namespace",
                "side: its peer is in another network namespace than the agent's",
                "tun0: tun interface without a peer in the agent's network namespace",
                "gone: its peer is in another network namespace than the agent's",
            ]
        );
    }

    #[test]
    fn interfaces_that_send_nothing_past_us_are_not_reported() {
        let mut down = link(7, "ens6", "", None, None);
        down.flags = 0;
        let mut loopback = link(1, "lo", "", None, None);
        loopback.flags |= IFF_LOOPBACK;
        let inner = [
            down,
            loopback,
            link(3, "br0", "bridge", None, None),
            link(4, "eth0.7", "vlan", Some(2), None),
            link(5, "left", "veth", Some(6), None),
            link(6, "right", "veth", Some(5), None),
        ];
        assert_eq!(bypasses(&inner, OWN), Vec::<String>::new());
    }

    #[test]
    fn only_addresses_that_others_can_reach_count() {
        let kept = |text: &str| text.parse().is_ok_and(|address| is_global(&address));
        for address in ["10.1.2.3", "192.0.2.1", "fd00::1", "2001:db8::1"] {
            assert!(kept(address), "{address}");
        }
        for address in [
            "127.0.0.1",
            "169.254.1.1",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "fe80::1",
            "::",
            "ff02::1",
        ] {
            assert!(!kept(address), "{address}");
        }
    }

    #[test]
    fn no_link_and_no_address_panics_however_cut() {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(600).collect();
        for start in 0..bytes.len() {
            let cut = bytes.get(start..).unwrap_or_default();
            let (_, _) = (Link::read(cut), read_address(cut));
        }
    }
}
