//! What `check` and `explain` can be asked.
//!
//! | destination | means |
//! | --- | --- |
//! | `ADDRESS:PORT[/PROTOCOL]`, `[ADDRESS]:PORT[/PROTOCOL]` | an address; IPv6 with a port stands in brackets |
//! | `ADDRESS/ICMP` | an echo request, ICMP or `ICMPv6` as the address is |
//! | `NS/POD:PORT[/PROTOCOL]`, `NS/POD/ICMP` | every address of a pod |
//! | `NS/svc/NAME:PORT[/PROTOCOL]` | every address of a Service; of a headless one its endpoints |
//! | `NAME:PORT[/PROTOCOL]`, `NAME/ICMP` | every address that a DNS name has now, by the system's resolver |
//!
//! PROTOCOL is TCP (the default), UDP or SCTP, in any case.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use egress_core::object::Name;
use egress_core::policy::Protocol;

/// Who is asked about: `NS/POD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject(pub Name);

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// To whom.
    pub place: Place,
    /// With what.
    pub traffic: Traffic,
}

/// To whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address, taken literally (S94: an IPv4-mapped one is IPv6).
    Address(IpAddr),
    /// Every address of a pod.
    Pod(Name),
    /// Every address of a Service.
    Service(Name),
    /// Every address of a DNS name.
    Host(String),
}

/// With what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A transport protocol and its destination port.
    Port(Protocol, u16),
    /// An echo request.
    Icmp,
}

/// Why a query cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `--from` is not `NS/POD`.
    #[error("{0:?} is not NS/POD")]
    Subject(String),
    /// An IPv6 address with a port, without brackets.
    #[error("{0:?}: an IPv6 address with a port is written [ADDRESS]:PORT")]
    Brackets(String),
    /// Not an address, and neither `NS/POD` nor `NS/svc/NAME` nor a DNS name.
    #[error("{0:?} is neither an address, nor NS/POD, nor NS/svc/NAME, nor a DNS name")]
    Place(String),
    /// The port is missing.
    #[error("{0:?} has no port; write …:PORT[/PROTOCOL], or …/ICMP")]
    NoPort(String),
    /// The port is no number, or too large.
    #[error("{0:?} is not a port number from 0 to 65535")]
    Port(String),
    /// Not a protocol that can be asked about.
    #[error("{0:?} is not one of TCP, UDP, SCTP, ICMP")]
    Protocol(String),
    /// ICMP has no ports.
    #[error("{0:?}: ICMP has no ports; write …/ICMP")]
    IcmpPort(String),
}

impl FromStr for Subject {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        pod(text)
            .map(Self)
            .ok_or_else(|| Error::Subject(text.to_owned()))
    }
}

impl FromStr for Destination {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some((host, protocol)) = text.rsplit_once('/')
            && protocol.eq_ignore_ascii_case("ICMP")
        {
            return match (place(host), host.rsplit_once(':')) {
                (Some(place), _) => Ok(Self {
                    place,
                    traffic: Traffic::Icmp,
                }),
                (None, Some((bare, _))) if place(bare).is_some() => {
                    Err(Error::IcmpPort(text.to_owned()))
                }
                (None, _) => Err(Error::Place(host.to_owned())),
            };
        }
        match place(text) {
            // `fd00::1:443` is an address as it stands.
            Some(Place::Address(IpAddr::V6(_))) if !text.starts_with('[') => {
                return Err(Error::Brackets(text.to_owned()));
            }
            Some(_) => return Err(Error::NoPort(text.to_owned())),
            None => {}
        }
        let (host, rest) = text
            .rsplit_once(':')
            .ok_or_else(|| Error::NoPort(text.to_owned()))?;
        let place = match place(host) {
            Some(Place::Address(IpAddr::V6(_))) if !host.starts_with('[') => {
                return Err(Error::Brackets(text.to_owned()));
            }
            Some(place) => place,
            None => return Err(Error::Place(host.to_owned())),
        };
        let (number, protocol) = rest.split_once('/').unwrap_or((rest, "TCP"));
        let port = port(number).ok_or_else(|| Error::Port(number.to_owned()))?;
        let protocol = transport(protocol).ok_or_else(|| Error::Protocol(protocol.to_owned()))?;
        Ok(Self {
            place,
            traffic: Traffic::Port(protocol, port),
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.namespace, self.0.name)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, self.traffic) {
            (Place::Address(IpAddr::V6(address)), Traffic::Port(..)) => write!(f, "[{address}]")?,
            (Place::Address(address), _) => write!(f, "{address}")?,
            (Place::Pod(name), _) => write!(f, "{}/{}", name.namespace, name.name)?,
            (Place::Service(name), _) => write!(f, "{}/svc/{}", name.namespace, name.name)?,
            (Place::Host(name), _) => f.write_str(name)?,
        }
        match self.traffic {
            Traffic::Port(Protocol::Tcp, port) => write!(f, ":{port}/TCP"),
            Traffic::Port(Protocol::Udp, port) => write!(f, ":{port}/UDP"),
            Traffic::Port(Protocol::Sctp, port) => write!(f, ":{port}/SCTP"),
            Traffic::Icmp => write!(f, "/ICMP"),
        }
    }
}

/// An address, `NS/svc/NAME`, `NS/POD` or a DNS name, with nothing behind it.
fn place(text: &str) -> Option<Place> {
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return inner
            .parse::<Ipv6Addr>()
            .ok()
            .map(|a| Place::Address(a.into()));
    }
    if let Ok(address) = text.parse() {
        return Some(Place::Address(address));
    }
    if let Some((namespace, service)) = text.split_once("/svc/") {
        return name(namespace, service).map(Place::Service);
    }
    if let Some(pod) = pod(text) {
        return Some(Place::Pod(pod));
    }
    is_host(text).then(|| Place::Host(text.to_owned()))
}

/// A DNS name: labels of letters, digits, hyphens and underscores. One whose last label is a number
/// is a mistyped address (RFC 1123, 2.1), which no resolver shall repair.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|c| c.is_ascii_digit())
}

/// `NS/POD`.
fn pod(text: &str) -> Option<Name> {
    let (namespace, pod) = text.split_once('/')?;
    name(namespace, pod)
}

/// A namespace and an object's name, in the characters that the API admits: without this
/// `10.0.0.1/tcp` would be a pod of the namespace `10.0.0.1`.
fn name(namespace: &str, name: &str) -> Option<Name> {
    let label = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let valid = !namespace.is_empty()
        && !name.is_empty()
        && namespace.bytes().all(label)
        && name.bytes().all(|c| label(c) || c == b'.');
    valid.then(|| Name::new(namespace, name))
}

/// Digits only: `u16::from_str` takes a plus sign too.
fn port(text: &str) -> Option<u16> {
    if text.bytes().all(|c| c.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

fn transport(text: &str) -> Option<Protocol> {
    [
        ("TCP", Protocol::Tcp),
        ("UDP", Protocol::Udp),
        ("SCTP", Protocol::Sctp),
    ]
    .into_iter()
    .find_map(|(name, protocol)| text.eq_ignore_ascii_case(name).then_some(protocol))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn to(text: &str) -> Result<Destination, Error> {
        text.parse()
    }

    #[test]
    fn every_form_of_the_contract_is_understood_and_written_back() {
        let tcp = |port| Traffic::Port(Protocol::Tcp, port);
        for (text, place, traffic, canonical) in [
            (
                "10.1.2.3:443",
                Place::Address("10.1.2.3".parse().unwrap()),
                tcp(443),
                "10.1.2.3:443/TCP",
            ),
            (
                "10.1.2.3:443/tcp",
                Place::Address("10.1.2.3".parse().unwrap()),
                tcp(443),
                "10.1.2.3:443/TCP",
            ),
            (
                "10.1.2.3:53/uDp",
                Place::Address("10.1.2.3".parse().unwrap()),
                Traffic::Port(Protocol::Udp, 53),
                "10.1.2.3:53/UDP",
            ),
            (
                "[FD00::1]:0/SCTP",
                Place::Address("fd00::1".parse().unwrap()),
                Traffic::Port(Protocol::Sctp, 0),
                "[fd00::1]:0/SCTP",
            ),
            (
                "10.1.2.3/ICMP",
                Place::Address("10.1.2.3".parse().unwrap()),
                Traffic::Icmp,
                "10.1.2.3/ICMP",
            ),
            (
                "fd00::1/icmp",
                Place::Address("fd00::1".parse().unwrap()),
                Traffic::Icmp,
                "fd00::1/ICMP",
            ),
            (
                "[fd00::1]/ICMP",
                Place::Address("fd00::1".parse().unwrap()),
                Traffic::Icmp,
                "fd00::1/ICMP",
            ),
            (
                "a/web-0:80",
                Place::Pod(Name::new("a", "web-0")),
                tcp(80),
                "a/web-0:80/TCP",
            ),
            (
                "a/svc:80",
                Place::Pod(Name::new("a", "svc")),
                tcp(80),
                "a/svc:80/TCP",
            ),
            (
                "a/web.0/icmp",
                Place::Pod(Name::new("a", "web.0")),
                Traffic::Icmp,
                "a/web.0/ICMP",
            ),
            (
                "a/svc/web:80/udp",
                Place::Service(Name::new("a", "web")),
                Traffic::Port(Protocol::Udp, 80),
                "a/svc/web:80/UDP",
            ),
            (
                "www.example.org:443",
                Place::Host("www.example.org".to_owned()),
                tcp(443),
                "www.example.org:443/TCP",
            ),
            (
                "localhost/icmp",
                Place::Host("localhost".to_owned()),
                Traffic::Icmp,
                "localhost/ICMP",
            ),
        ] {
            let destination = to(text).unwrap();
            assert_eq!(destination, Destination { place, traffic }, "{text}");
            assert_eq!(destination.to_string(), canonical);
            assert_eq!(to(canonical).unwrap(), destination, "{canonical}");
        }
    }

    #[test]
    fn a_mapped_address_stays_ipv6() {
        let Place::Address(address) = to("[::ffff:10.0.0.1]:80").unwrap().place else {
            unreachable!()
        };
        assert!(address.is_ipv6());
    }

    #[test]
    fn what_cannot_be_understood_is_said_precisely() {
        let own = str::to_owned;
        for (text, error) in [
            ("10.0.0.1", Error::NoPort(own("10.0.0.1"))),
            ("10.0.0.1/tcp", Error::NoPort(own("10.0.0.1/tcp"))),
            ("a/web", Error::NoPort(own("a/web"))),
            ("a/svc/web", Error::NoPort(own("a/svc/web"))),
            ("", Error::NoPort(own(""))),
            ("fd00::1", Error::Brackets(own("fd00::1"))),
            ("fd00::1:443", Error::Brackets(own("fd00::1:443"))),
            (
                "1:2:3:4:5:6:7:8:443",
                Error::Brackets(own("1:2:3:4:5:6:7:8:443")),
            ),
            ("[10.0.0.1]:80", Error::Place(own("[10.0.0.1]"))),
            ("010.0.0.1:80", Error::Place(own("010.0.0.1"))),
            ("example.1:80", Error::Place(own("example.1"))),
            ("exa mple.org:80", Error::Place(own("exa mple.org"))),
            ("a..b:80", Error::Place(own("a..b"))),
            ("example.org", Error::NoPort(own("example.org"))),
            ("a/b/c:80", Error::Place(own("a/b/c"))),
            ("/b:80", Error::Place(own("/b"))),
            ("fe80::1%eth0/ICMP", Error::Place(own("fe80::1%eth0"))),
            ("10.0.0.1:", Error::Port(own(""))),
            ("10.0.0.1:+80", Error::Port(own("+80"))),
            ("10.0.0.1:65536", Error::Port(own("65536"))),
            ("a/web:http", Error::Port(own("http"))),
            ("10.0.0.1:80/", Error::Protocol(own(""))),
            ("10.0.0.1:80/GRE", Error::Protocol(own("GRE"))),
            ("10.0.0.1:80/ICMP", Error::IcmpPort(own("10.0.0.1:80/ICMP"))),
        ] {
            assert_eq!(to(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_subject_is_a_namespace_and_a_pod() {
        assert_eq!("a/web".parse(), Ok(Subject(Name::new("a", "web"))));
        for text in ["", "web", "/web", "a/", "a/svc/web", "a/web:80", "A/web"] {
            assert_eq!(
                text.parse::<Subject>(),
                Err(Error::Subject(text.to_owned())),
                "{text}"
            );
        }
    }
}
