//! Every address of a cluster. Clusters have network namespaces of their own, so that all
//! of them use the same ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Both families of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dual {
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

impl Dual {
    pub(super) fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// As the flags of Kubernetes' programs take them.
    pub(super) fn list(self) -> String {
        format!("{},{}", self.v4, self.v6)
    }
}

/// Prefix lengths of the link between the machines.
pub(super) const LINK_LENGTHS: [u8; 2] = [24, 64];

/// Where the API server listens inside the cluster.
pub(super) const API_PORT: u16 = 6443;

/// All pods, of which every node has a part.
pub(super) const PODS: &str = "10.244.0.0/16,fd00:10:244::/48";

/// What the API server gives to Services.
pub(super) const SERVICES: &str = "10.96.0.0/16,fd00:10:96::/112";

/// The API server's own Service: the first address of each range.
pub(super) const API_SERVICE: Dual = Dual {
    v4: Ipv4Addr::new(10, 96, 0, 1),
    v6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1),
};

/// CoreDNS' Service; its manifest has it too.
pub(super) const DNS_SERVICE: Dual = Dual {
    v4: Ipv4Addr::new(10, 96, 0, 10),
    v6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa),
};

/// The machine with the control plane, which is also every node's way out.
pub(super) const CONTROL: Dual = machine(1);

/// Addresses outside the cluster, on the control plane's machine: something to be far away.
pub(super) const OUTSIDE: [Dual; 2] = [outside(1), outside(2)];

/// At most as many, so that one byte counts them.
pub(super) const MOST_NODES: u8 = 9;

/// A node's own, counted from 0.
pub(super) const fn node(index: u8) -> Dual {
    machine(10 + index)
}

/// The pods of a node, as CIDRs.
pub(super) fn pods_of(index: u8) -> [String; 2] {
    let number = u16::from(index) + 1;
    [
        format!("10.244.{number}.0/24"),
        format!("fd00:10:244:{number}::/64"),
    ]
}

const fn machine(number: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(172, 18, 0, number),
        v6: Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, widened(number)),
    }
}

/// TEST-NET-2 of RFC 5737, and the documentation prefix of RFC 3849.
const fn outside(number: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(198, 51, 100, number),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, widened(number)),
    }
}

/// `u16::from` is not const.
const fn widened(number: u8) -> u16 {
    u16::from_be_bytes([0, number])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_has_an_address_of_its_own() {
        let mut seen: Vec<IpAddr> = (0..MOST_NODES)
            .flat_map(|index| node(index).both())
            .collect();
        seen.extend(CONTROL.both());
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn the_first_service_addresses_are_inside_the_ranges() {
        assert!(
            SERVICES.contains("10.96.0.0/16") && API_SERVICE.list() == "10.96.0.1,fd00:10:96::1"
        );
        assert_eq!(DNS_SERVICE.list(), "10.96.0.10,fd00:10:96::a");
    }
}
