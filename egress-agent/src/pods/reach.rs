//! Through which link the kernel would send to an address.
//!
//! Where nobody has written down which interface is whose, the node still has to know: its
//! routes lead to a pod's address directly (one interface a pod), or to a bridge on which a
//! neighbour entry and the forwarding table lead to one port. Each is one question, whatever
//! the size of the tables. Kernel 5.0 and newer. Source: `linux/rtnetlink.h`,
//! `linux/neighbour.h`, the kernel's `net/core/neighbour.c` and `net/core/rtnetlink.c`.

use std::net::IpAddr;

use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::links::{Link, Mac};
use super::netlink::{Error, FAMILIES, Request, Socket, attributes, number};

const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;

/// The route as the tables have it, not a copy of it for this one address.
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTN_UNICAST: u8 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;

const AF_BRIDGE: u8 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;
const NTF_USE: u8 = 1;
/// `NUD_REACHABLE`, `STALE`, `DELAY`, `PROBE`, `NOARP`, `PERMANENT`: somebody answered.
const NUD_ANSWERED: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;

/// The link that frames for `address` leave by; of a bridge, its port.
///
/// `None` when there is no route, when it leads to a gateway, or when nobody on the bridge has
/// been seen with the address; the kernel is then made to ask, and says so by an event.
pub(super) fn link_to(
    socket: &mut Socket,
    host: &[Link],
    address: IpAddr,
) -> Result<Option<u32>, Error> {
    let Some(index) = route(socket, address)? else {
        return Ok(None);
    };
    let is_bridge = |link: &&Link| link.index == index && link.is_bridge();
    if host.iter().find(is_bridge).is_none() {
        return Ok(Some(index));
    }
    match neighbour(socket, index, address)? {
        Some(mac) => bridge_port(socket, index, mac),
        None => resolve(socket, index, address).map(|()| None),
    }
}

/// Whether a default route leaves by this link: then it is the node's own way out.
pub(super) fn carries_default_route(socket: &mut Socket, link: u32) -> Result<bool, Error> {
    for family in FAMILIES {
        let header = RouteHeader {
            family,
            ..RouteHeader::default()
        };
        let request =
            Request::new(RTM_GETROUTE, header.as_bytes()).with(RTA_OIF, link.to_ne_bytes());
        // The kernel leaves out routes of other links, in all tables.
        let defaults = socket.dump(&request, |payload| {
            let (header, _) = RouteHeader::read_from_prefix(payload).ok()?;
            (header.kind == RTN_UNICAST && header.destination_length == 0).then_some(())
        })?;
        if !defaults.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn route(socket: &mut Socket, address: IpAddr) -> Result<Option<u32>, Error> {
    let [v4, v6] = FAMILIES;
    let header = |family, destination_length| RouteHeader {
        family,
        destination_length,
        flags: RTM_F_FIB_MATCH,
        ..RouteHeader::default()
    };
    let request =
        match address {
            IpAddr::V4(address) => Request::new(RTM_GETROUTE, header(v4, 32).as_bytes())
                .with(RTA_DST, address.octets()),
            IpAddr::V6(address) => Request::new(RTM_GETROUTE, header(v6, 128).as_bytes())
                .with(RTA_DST, address.octets()),
        };
    let answer = socket.call(&request, |payload| {
        let (header, rest) = RouteHeader::read_from_prefix(payload).ok()?;
        let direct = !attributes(rest).any(|(kind, _)| kind == RTA_GATEWAY || kind == RTA_VIA);
        let link = attributes(rest).find_map(|(kind, value)| (kind == RTA_OIF).then_some(value))?;
        (header.kind == RTN_UNICAST && direct).then_some(number(link)?)
    });
    unless_absent(answer)
}

fn neighbour(socket: &mut Socket, link: u32, address: IpAddr) -> Result<Option<Mac>, Error> {
    let answer = socket.call(
        &neighbour_request(RTM_GETNEIGH, 0, link, address),
        |payload| {
            let (header, rest) = NeighbourHeader::read_from_prefix(payload).ok()?;
            (header.state & NUD_ANSWERED != 0).then_some(())?;
            attributes(rest)
                .find_map(|(kind, value)| (kind == NDA_LLADDR).then(|| value.try_into()))?
                .ok()
        },
    );
    unless_absent(answer)
}

/// Makes the kernel ask for an address on a link.
fn resolve(socket: &mut Socket, link: u32, address: IpAddr) -> Result<(), Error> {
    socket.create(&neighbour_request(RTM_NEWNEIGH, NTF_USE, link, address))
}

fn neighbour_request(kind: u16, flags: u8, link: u32, address: IpAddr) -> Request {
    let [v4, v6] = FAMILIES;
    let header = |family| NeighbourHeader {
        family,
        index: link,
        flags,
        ..NeighbourHeader::default()
    };
    match address {
        IpAddr::V4(address) => {
            Request::new(kind, header(v4).as_bytes()).with(NDA_DST, address.octets())
        }
        IpAddr::V6(address) => {
            Request::new(kind, header(v6).as_bytes()).with(NDA_DST, address.octets())
        }
    }
}

fn bridge_port(socket: &mut Socket, bridge: u32, mac: Mac) -> Result<Option<u32>, Error> {
    let header = NeighbourHeader {
        family: AF_BRIDGE,
        ..NeighbourHeader::default()
    };
    let request = Request::new(RTM_GETNEIGH, header.as_bytes())
        .with(NDA_LLADDR, mac)
        .with(NDA_MASTER, bridge.to_ne_bytes());
    let answer = socket.call(&request, |payload| {
        let (header, _) = NeighbourHeader::read_from_prefix(payload).ok()?;
        Some(header.index)
    });
    // An address of the bridge itself is no port's.
    Ok(unless_absent(answer)?.filter(|port| *port != bridge))
}

/// The kernel refuses what it does not have.
fn unless_absent<T>(answer: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    const ABSENT: [Errno; 6] = [
        Errno::NOENT,
        Errno::SRCH,
        Errno::NETUNREACH,
        Errno::HOSTUNREACH,
        Errno::ACCESS, // a route of type prohibit
        Errno::INVAL,  // of type blackhole
    ];
    match answer {
        Err(error) if error.refusal().is_some_and(|errno| ABSENT.contains(&errno)) => Ok(None),
        answer => answer,
    }
}

/// `struct rtmsg`.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RouteHeader {
    family: u8,
    destination_length: u8,
    source_length: u8,
    service: u8,
    table: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
}

/// `struct ndmsg`.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct NeighbourHeader {
    family: u8,
    padding: [u8; 3],
    index: u32,
    state: u16,
    flags: u8,
    kind: u8,
}
