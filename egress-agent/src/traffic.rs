//! Protocols and families by the names that records and metrics use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_common::abi::{FAMILY_V4, FAMILY_V6};
use serde::{Deserialize, Serialize};

/// IP protocol numbers.
mod number {
    pub(super) const ICMP: u8 = 1;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const ICMP_V6: u8 = 58;
    pub(super) const SCTP: u8 = 132;
}

/// A protocol, folded to the few values that a metric label may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// 6
    Tcp,
    /// 17
    Udp,
    /// 132
    Sctp,
    /// ICMP of either family
    Icmp,
    /// Any other, or none.
    Other,
}

impl Protocol {
    /// Every protocol that is told apart.
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp, Self::Other];

    /// The protocol of an IP protocol number, as in a packet, a record or a counter.
    pub const fn from_number(number: u8) -> Self {
        match number {
            number::TCP => Self::Tcp,
            number::UDP => Self::Udp,
            number::SCTP => Self::Sctp,
            number::ICMP | number::ICMP_V6 => Self::Icmp,
            _ => Self::Other,
        }
    }

    /// The name in metrics and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
            Self::Other => "other",
        }
    }

    /// Whether a port means something.
    pub const fn has_ports(self) -> bool {
        match self {
            Self::Tcp | Self::Udp | Self::Sctp => true,
            Self::Icmp | Self::Other => false,
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4
    #[serde(rename = "4")]
    V4,
    /// IPv6
    #[serde(rename = "6")]
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of a number in a key or a record; `None` for a frame that is neither.
    pub const fn from_abi(family: u8) -> Option<Self> {
        match family {
            FAMILY_V4 => Some(Self::V4),
            FAMILY_V6 => Some(Self::V6),
            _ => None,
        }
    }

    /// The name in metrics and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "4",
            Self::V6 => "6",
        }
    }

    /// An address as it stands in a key or a record: IPv4 in the first four bytes.
    pub fn address(self, bytes: [u8; 16]) -> IpAddr {
        match self {
            Self::V4 => {
                let [a, b, c, d, ..] = bytes;
                Ipv4Addr::new(a, b, c, d).into()
            }
            Self::V6 => Ipv6Addr::from(bytes).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn icmp_of_either_family_is_icmp_and_the_rest_is_other() {
        assert_eq!(Protocol::from_number(1), Protocol::Icmp);
        assert_eq!(Protocol::from_number(58), Protocol::Icmp);
        assert_eq!(Protocol::from_number(132), Protocol::Sctp);
        for number in [0, 2, 47, 255] {
            assert_eq!(Protocol::from_number(number), Protocol::Other);
        }
    }

    #[test]
    fn a_frame_that_is_not_ip_has_no_family() {
        assert_eq!(Family::from_abi(0), None);
        assert_eq!(Family::from_abi(6), Some(Family::V6));
    }
}
