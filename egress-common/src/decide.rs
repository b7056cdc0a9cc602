//! The policy verdict of one flow.

use zerocopy::network_endian::U16;

use crate::abi::{Address, Endpoint, FrontendKey, PORTS_EVERYTHING, PORTS_NOTHING, RULESET_DENY};
use crate::event::Reason;
use crate::packet::has_ports;
use crate::tables::{Aligned, Tables};

/// What the policies of an endpoint say of a new flow.
///
/// `port` is the destination port, and 0 for a protocol without ports: such a packet is
/// allowed only where everything is (S49, S95). Only TCP, UDP and SCTP have frontends and
/// port rules (S46).
///
/// Answers [`Reason::NotIsolated`], [`Reason::OwnAddress`], [`Reason::Allowed`],
/// [`Reason::Frontend`] or [`Reason::NoRule`]. A table that lacks an entry never opens.
#[inline(always)]
pub fn decide<T: Tables>(
    tables: &T,
    endpoint: &Endpoint,
    destination: &Address,
    protocol: u8,
    port: u16,
) -> Reason {
    let target = Aligned(FrontendKey {
        address: destination.bytes,
        family: destination.family,
        protocol,
        port: U16::new(port),
    });
    verdict(tables, endpoint, &target)
}

/// A function of its own in the kernel programs. The target happens to be the key of FRONTENDS.
#[inline(never)]
fn verdict<T: Tables>(tables: &T, endpoint: &Endpoint, target: &Aligned<FrontendKey>) -> Reason {
    if !endpoint.isolated() {
        return Reason::NotIsolated;
    }
    let Aligned(target) = target;
    if endpoint.owns(target.family, &target.address).is_some() {
        return Reason::OwnAddress;
    }
    let ruleset = endpoint.ruleset.get();
    if ruleset == RULESET_DENY {
        return Reason::NoRule;
    }
    if has_ports(target.protocol)
        && let Some(frontend) = tables.frontend(target)
    {
        return if tables.frontend_allowed(ruleset, frontend) {
            Reason::Allowed
        } else {
            Reason::Frontend
        };
    }
    let destination = Address {
        family: target.family,
        reserved: [0; 3],
        bytes: target.address,
    };
    if let Some(class) = tables.peer(&destination)
        && let Some(ports) = tables.class_ports(ruleset, class)
        && ports_allow(tables, ports, target)
    {
        return Reason::Allowed;
    }
    if let Some(ports) = tables.cidr_ports(ruleset, &destination)
        && ports_allow(tables, ports, target)
    {
        return Reason::Allowed;
    }
    Reason::NoRule
}

/// Whether a set of ports has this one.
#[inline(always)]
fn ports_allow(tables: &impl Tables, ports: u32, target: &FrontendKey) -> bool {
    match ports {
        PORTS_NOTHING => false,
        PORTS_EVERYTHING => true,
        _ => {
            has_ports(target.protocol)
                && tables.ports_contain(ports, target.protocol, target.port.get())
        }
    }
}
