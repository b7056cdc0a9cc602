//! The policy verdict of one flow.

use zerocopy::network_endian::U16;

use crate::abi::{
    Address, Endpoint, FrontendKey, PORTS_EVERYTHING, PORTS_NOTHING, RULESET_DENY, literal_parts,
};
use crate::event::Reason;
use crate::packet::has_ports;
use crate::tables::Tables;

/// What the policies of an endpoint say of a new flow.
///
/// `port` is the destination port, and 0 for a protocol without ports: such a packet is
/// allowed only where everything is (S49, S95). Only TCP, UDP and SCTP have frontends and
/// port rules (S46).
///
/// Answers [`Reason::NotIsolated`], [`Reason::OwnAddress`], [`Reason::Allowed`],
/// [`Reason::Frontend`] or [`Reason::NoRule`]. A table that lacks an entry never opens.
pub fn decide<T: Tables>(
    tables: &T,
    endpoint: &Endpoint,
    destination: &Address,
    protocol: u8,
    port: u16,
) -> Reason {
    let mut target = Target::EMPTY;
    target.set(destination.family, &destination.bytes, protocol, port);
    verdict(tables, endpoint, &target)
}

/// Where a flow goes, as the keys that are looked up.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Target {
    frontend: FrontendKey,
    address: Address,
}

impl Target {
    pub(crate) const EMPTY: Self = Self {
        frontend: FrontendKey {
            address: [0; 16],
            family: 0,
            protocol: 0,
            port: U16::ZERO,
        },
        address: Address::v6([0; 16]),
    };

    #[inline(always)]
    pub(crate) fn set(&mut self, family: u8, destination: &[u8; 16], protocol: u8, port: u16) {
        self.frontend = FrontendKey::new(destination, family, protocol, port);
        self.address.family = family;
        self.address.reserved = [0; 3];
        self.address.bytes = *destination;
    }
}

/// [`decide`], for keys that lie where the kernel can take them from.
#[inline(always)]
pub(crate) fn verdict<T: Tables>(tables: &T, endpoint: &Endpoint, target: &Target) -> Reason {
    if !endpoint.isolated() {
        return Reason::NotIsolated;
    }
    let Target {
        frontend: key,
        address,
    } = target;
    if endpoint.owns(address.family, &address.bytes).is_some() {
        return Reason::OwnAddress;
    }
    let ruleset = endpoint.ruleset.get();
    if ruleset == RULESET_DENY {
        return Reason::NoRule;
    }
    if has_ports(key.protocol)
        && let Some(frontend) = tables.frontend(key)
    {
        return if tables.frontend_allowed(ruleset, frontend) {
            Reason::Allowed
        } else {
            Reason::Frontend
        };
    }
    if let Some(class) = tables.peer(address)
        && let Some(ports) = tables.class_ports(ruleset, class)
        && ports_allow(tables, ports, key)
    {
        return Reason::Allowed;
    }
    if let Some(ports) = tables.cidr_ports(ruleset, address)
        && ports_allow(tables, ports, key)
    {
        return Reason::Allowed;
    }
    Reason::NoRule
}

/// Whether a set of ports has this one.
#[inline(always)]
fn ports_allow(tables: &impl Tables, ports: u32, key: &FrontendKey) -> bool {
    match ports {
        PORTS_NOTHING => false,
        PORTS_EVERYTHING => true,
        _ if !has_ports(key.protocol) => false,
        _ => match literal_parts(ports) {
            Some((protocol, length, port)) => {
                let differ = u32::from(port ^ key.port.get());
                protocol == key.protocol && differ >> 16_u32.saturating_sub(length) == 0
            }
            None => tables.ports_contain(ports, key.protocol, key.port.get()),
        },
    }
}
