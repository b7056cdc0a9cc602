//! `--to`: drops towards a network, and perhaps a port.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::record::DropRecord;

/// `CIDR[:PORT]`, `[CIDR]:PORT`; an address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    net: IpNet,
    port: Option<u16>,
}

/// Not `CIDR[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not CIDR[:PORT]; IPv6 with a port is written [CIDR]:PORT")]
pub struct NotTo(String);

impl To {
    /// Whether a drop was on its way to there.
    pub fn matches(&self, record: &DropRecord) -> bool {
        record
            .destination
            .is_some_and(|address| self.net.contains(&address))
            && self.port.is_none_or(|port| record.port == Some(port))
    }
}

impl FromStr for To {
    type Err = NotTo;

    fn from_str(text: &str) -> Result<Self, NotTo> {
        let refused = || NotTo(text.to_owned());
        if let Some(net) = net(text) {
            return Ok(Self { net, port: None });
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let found = net(bare.unwrap_or(host)).ok_or_else(refused)?;
        // Without brackets nobody knows where an IPv6 address ends.
        if bare.is_some() != matches!(found, IpNet::V6(_)) {
            return Err(refused());
        }
        let digits = port.bytes().all(|c| c.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(refused)?;
        Ok(Self {
            net: found,
            port: Some(port),
        })
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.net, self.port) {
            (net, None) => write!(f, "{net}"),
            (net @ IpNet::V4(_), Some(port)) => write!(f, "{net}:{port}"),
            (net @ IpNet::V6(_), Some(port)) => write!(f, "[{net}]:{port}"),
        }
    }
}

/// A network, its host bits masked, or an address.
fn net(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>()
        .ok()
        .map(|n| n.trunc())
        .or_else(address)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn every_form_is_read_and_written_back() {
        for (text, written) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.0.0.0/8:443", "10.0.0.0/8:443"),
            ("fd00::/8", "fd00::/8"),
            ("fd00::1", "fd00::1/128"),
            ("[fd00::/8]:53", "[fd00::/8]:53"),
        ] {
            let to: To = text.parse().unwrap();
            assert_eq!(to.to_string(), written);
            assert_eq!(written.parse(), Ok(to));
        }
        for text in [
            "",
            "x",
            "10.0.0.0/33",
            "10.0.0.0/8:",
            "10.0.0.1:+1",
            "[10.0.0.1]:1",
            "fd00::/8:70000",
        ] {
            assert_eq!(text.parse::<To>(), Err(NotTo(text.to_owned())));
        }
    }

    #[test]
    fn a_drop_matches_by_address_and_port() {
        for (text, matches) in [
            ("10.1.2.0/24", true),
            ("10.1.2.3:443", true),
            ("0.0.0.0/0:443", true),
            ("10.1.2.3:80", false),
            ("10.1.3.0/24", false),
            ("::/0", false),
        ] {
            assert_eq!(
                text.parse::<To>().unwrap().matches(&record()),
                matches,
                "{text}"
            );
        }
        let nowhere = DropRecord {
            destination: None,
            ..record()
        };
        assert!(!"0.0.0.0/0".parse::<To>().unwrap().matches(&nowhere));
    }
}
