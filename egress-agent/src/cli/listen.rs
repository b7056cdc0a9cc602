//! Where to listen, as people and as the downward API write it.
//!
//! `status.hostIP` is an address without brackets, in either family, and `$(NODE_IP):9810`
//! would be no socket address in one of them. So the port may stand apart.

use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::str::FromStr;

/// An address, with a port or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// `192.0.2.1:9810`, `[2001:db8::1]:9810`.
    Socket(SocketAddr),
    /// `192.0.2.1`, `2001:db8::1`.
    Address(IpAddr),
}

impl Listen {
    /// The socket address; `port` counts when none was given with the address.
    pub(super) fn or_port(self, port: u16) -> SocketAddr {
        match self {
            Self::Socket(address) => address,
            Self::Address(address) => SocketAddr::new(address, port),
        }
    }
}

impl FromStr for Listen {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) => text.parse().map(Self::Socket),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_port_may_stand_with_the_address_or_apart() {
        for (text, meant) in [
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("192.0.2.1", "192.0.2.1:9810"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("2001:db8::1", "[2001:db8::1]:9810"),
        ] {
            let listen: Listen = text.parse().unwrap();
            assert_eq!(listen.or_port(9810), meant.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn names_and_lone_ports_are_refused() {
        for text in ["localhost:80", ":80", "80", "", "[2001:db8::1]"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
