//! Addresses and networks as Kubernetes has always read them (S33, S94).
//!
//! Objects stored years ago keep texts that today's parsers refuse or, worse, read
//! differently: `010.0.0.0/8` is decimal 10 to Kubernetes, octal 8 to C, and an error to
//! Rust. The meaning here is the API server's (`ParseIPSloppy`, `ParseCIDRSloppy` of
//! k8s.io/utils/net).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The prefix length at which an IPv4-mapped IPv6 network is an IPv4 network.
const MAPPED_PREFIX: u8 = 96;

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotANetwork {
    /// No slash.
    #[error("has no prefix length")]
    NoLength,
    /// The part before the slash.
    #[error("does not start with an IP address")]
    Address,
    /// The part after the slash: no number, or longer than the address.
    #[error("has a prefix length that is not a number or is too large")]
    Length,
}

/// Reads a network: masked (S33), leading zeros decimal in the address and in the length
/// (S33, S94), and IPv4 when it is IPv4-mapped and not shorter than `/96` (S94).
pub fn network(text: &str) -> Result<IpNet, NotANetwork> {
    let (address, length) = text.split_once('/').ok_or(NotANetwork::NoLength)?;
    // Only a text with dots and no colon is IPv4; a mapped address keeps its IPv6 length here.
    if let Some(v4) = ipv4(address) {
        let net = Ipv4Net::new(v4, decimal(length, 32).ok_or(NotANetwork::Length)?);
        return net
            .map(|n| IpNet::V4(n.trunc()))
            .map_err(|_too_long| NotANetwork::Length);
    }
    let v6 = ipv6(address).ok_or(NotANetwork::Address)?;
    let length = decimal(length, 128).ok_or(NotANetwork::Length)?;
    let mapped = v6.to_ipv4_mapped().zip(length.checked_sub(MAPPED_PREFIX));
    match mapped {
        Some((v4, length)) => Ipv4Net::new(v4, length).map(|n| IpNet::V4(n.trunc())),
        None => Ipv6Net::new(v6, length).map(|n| IpNet::V6(n.trunc())),
    }
    .map_err(|_too_long| NotANetwork::Length)
}

/// Reads an address: leading zeros are decimal, an IPv4-mapped address is IPv4.
pub fn address(text: &str) -> Option<IpAddr> {
    ipv4(text)
        .map(IpAddr::V4)
        .or_else(|| ipv6(text).map(|v6| IpAddr::V6(v6).to_canonical()))
}

/// Four decimal numbers, leading zeros allowed.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = decimal(parts.next()?, u8::MAX)?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// An IPv6 address without a zone; an IPv4 tail may have leading zeros, and so may a group.
fn ipv6(text: &str) -> Option<Ipv6Addr> {
    let text = match text.rsplit_once(':') {
        Some((head, tail)) if tail.contains('.') => {
            let [a, b, c, d] = ipv4(tail)?.octets();
            Cow::Owned(format!("{head}:{a:02x}{b:02x}:{c:02x}{d:02x}"))
        }
        Some(_) => Cow::Borrowed(text),
        None => return None,
    };
    let groups: Vec<&str> = text.split(':').map(short_group).collect();
    groups.join(":").parse().ok()
}

/// A group of hexadecimal digits without the zeros that would make it too long.
fn short_group(group: &str) -> &str {
    let digits = group.trim_start_matches('0');
    if digits.is_empty() && !group.is_empty() {
        "0"
    } else {
        digits
    }
}

/// Decimal digits and nothing else (no sign), of a number not above `most`.
fn decimal(text: &str, most: u8) -> Option<u8> {
    if text.is_empty() {
        return None;
    }
    text.chars()
        .try_fold(0_u32, |number, digit| {
            let number = number * 10 + digit.to_digit(10)?;
            (number <= u32::from(most)).then_some(number)
        })
        .and_then(|number| u8::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn net(text: &str) -> String {
        network(text).unwrap().to_string()
    }

    #[test]
    fn host_bits_are_masked_s33() {
        assert_eq!(net("10.0.0.5/8"), "10.0.0.0/8");
        assert_eq!(net("fd00::1/64"), "fd00::/64");
        assert_eq!(net("1.2.3.4/0"), "0.0.0.0/0");
    }

    #[test]
    fn leading_zeros_are_decimal_s33_s94() {
        assert_eq!(net("010.000.0.0/8"), "10.0.0.0/8");
        assert_eq!(net("10.0.0.0/08"), "10.0.0.0/8");
        assert_eq!(net("0000010.0.0.0/0008"), "10.0.0.0/8");
        assert_eq!(net("00000fd00::/64"), "fd00::/64");
        assert_eq!(net("64:ff9b::010.1.2.3/0128"), "64:ff9b::a01:203/128");
    }

    #[test]
    fn a_mapped_network_of_96_bits_or_more_is_ipv4_s33_s94() {
        assert_eq!(net("::ffff:10.0.0.0/104"), "10.0.0.0/8");
        assert_eq!(net("::ffff:010.1.2.3/128"), "10.1.2.3/32");
        assert_eq!(net("::ffff:10.01.002.3/128"), "10.1.2.3/32");
        assert_eq!(net("::ffff:0:0/96"), "0.0.0.0/0");
    }

    #[test]
    fn a_shorter_mapped_network_stays_ipv6_s94() {
        assert_eq!(net("::ffff:10.0.0.0/95"), "::fffe:0:0/95");
        assert_eq!(net("::ffff:10.0.0.0/0"), "::/0");
    }

    #[test]
    fn what_is_no_network_is_refused_s34() {
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0/8",
            "10.0.0.0.0/8",
            "10.0.0.256/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            " 10.0.0.0/8",
            "10.0.0.0/8 ",
            "0x0a.0.0.0/8",
            "10.0.0.0/255.0.0.0",
            "fd00::/129",
            "fe80::1%eth0/64",
            "::1::/64",
            "1:2:3:4:5:6:7:8:9/64",
            "12345::/16",
            ":/0",
            "1.2.3.4:5::/64",
            "::/٣",
            "a/8",
        ] {
            assert!(network(text).is_err(), "{text:?} was read");
        }
    }

    #[test]
    fn an_address_is_read_like_a_network() {
        assert_eq!(address("010.0.0.1"), Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(
            address("::ffff:10.0.0.1"),
            Some(IpAddr::from([10, 0, 0, 1]))
        );
        assert_eq!(address("fd00::0001"), "fd00::1".parse().ok());
        assert_eq!(address("None"), None);
        assert_eq!(address(""), None);
    }
}
