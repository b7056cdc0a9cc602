//! Addresses and CIDRs as Kubernetes has read them since its beginning (S33, S94): Go's
//! `net.ParseIP` and `net.ParseCIDR` of the time when leading zeros were still decimal.
//!
//! Newer parsers, Rust's among them, refuse or read differently what stored objects may
//! still contain, so the text is taken apart by hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address. Leading zeros are decimal; an IPv4-mapped address is IPv4.
#[must_use]
pub fn parse_address(text: &str) -> Option<IpAddr> {
    match v4(text) {
        Some(address) => Some(IpAddr::V4(address)),
        None => v6(text).map(|address| address.to_canonical()),
    }
}

/// A network, masked (S33). `/08` is 8, and an IPv4-mapped network is IPv4, unless it is
/// shorter than /96 (S94).
#[must_use]
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let length = u8::try_from(decimal(length)?).ok()?;
    if let Some(address) = v4(address) {
        return Ipv4Net::new(address, length)
            .ok()
            .map(|network| IpNet::V4(network.trunc()));
    }
    let network = Ipv6Net::new(v6(address)?, length).ok()?.trunc();
    match network.addr().to_ipv4_mapped() {
        // Masking has left the whole `::ffff` prefix standing, so the length is 96 or more.
        Some(address) => Ipv4Net::new(address, length.checked_sub(96)?)
            .ok()
            .map(IpNet::V4),
        None => Some(IpNet::V6(network)),
    }
}

/// Four decimal numbers.
fn v4(text: &str) -> Option<Ipv4Addr> {
    let numbers: Vec<u8> = text
        .split('.')
        .map(|number| u8::try_from(decimal(number)?).ok())
        .collect::<Option<_>>()?;
    let octets: [u8; 4] = numbers.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

/// Eight groups; the last two may be written as an IPv4 address, and one run of zero groups
/// as `::`. No zone.
fn v6(text: &str) -> Option<Ipv6Addr> {
    let groups = match text.split_once("::") {
        None => groups(text, true)?,
        Some((before, after)) => {
            let before = if before.is_empty() {
                Vec::new()
            } else {
                groups(before, false)?
            };
            let after = if after.is_empty() {
                Vec::new()
            } else {
                groups(after, true)?
            };
            // `::` stands for at least one group.
            let zeros = 8_usize
                .checked_sub(before.len() + after.len())
                .filter(|zeros| *zeros > 0)?;
            [before, vec![0; zeros], after].concat()
        }
    };
    let groups: [u16; 8] = groups.try_into().ok()?;
    Some(Ipv6Addr::from(groups))
}

/// Groups between single colons; the last may be an IPv4 address where the text ends.
fn groups(text: &str, ends: bool) -> Option<Vec<u16>> {
    let parts: Vec<&str> = text.split(':').collect();
    let mut groups = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        if part.contains('.') {
            let [a, b, c, d] = v4(part)
                .filter(|_| ends && index + 1 == parts.len())?
                .octets();
            groups.push(u16::from_be_bytes([a, b]));
            groups.push(u16::from_be_bytes([c, d]));
        } else {
            groups.push(u16::try_from(digits(part, 16)?).ok()?);
        }
    }
    Some(groups)
}

fn decimal(text: &str) -> Option<u32> {
    digits(text, 10)
}

/// Digits only, at least one, any number of leading zeros: no sign, no space.
fn digits(text: &str, radix: u32) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    text.chars().try_fold(0_u32, |number, digit| {
        number
            .checked_mul(radix)?
            .checked_add(digit.to_digit(radix)?)
    })
}
