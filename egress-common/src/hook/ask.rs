//! A verdict on a question instead of a frame, with what was looked up on the way.
//!
//! In the kernel it answers out of the live tables, those included that user space cannot read back
//! (the tries of a ruleset need `CAP_SYS_ADMIN`), and leaves no trace: no flow, no count, no record.

use core::cell::Cell;

use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Scratch;
use crate::abi::{Address, FrontendKey};
use crate::decide::verdict;
use crate::event::Reason;
use crate::tables::{State, Tables};

/// A new flow, to judge.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Question {
    /// The hook through which it would leave.
    pub hook: U64,
    /// Where to.
    pub destination: Address,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// Destination port, 0 for a protocol without ports.
    pub port: U16,
}

/// Bits of [`Reply::found`]: the hook has an endpoint; and which look-ups found something, of those
/// that the verdict needed.
pub const FOUND_ENDPOINT: u8 = 1;
/// FRONTENDS.
pub const FOUND_FRONTEND: u8 = 2;
/// PEERS.
pub const FOUND_CLASS: u8 = 4;
/// RULESET_CLASSES.
pub const FOUND_CLASS_PORTS: u8 = 8;
/// RULESET_CIDRS.
pub const FOUND_CIDR_PORTS: u8 = 16;

/// The verdict, and the way to it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Reply {
    /// [`Reason::number`].
    pub reason: u8,
    /// `FOUND_…`
    pub found: u8,
    /// [`crate::abi::Endpoint::slot`].
    pub slot: U16,
    /// [`crate::abi::Endpoint::ruleset`].
    pub ruleset: U32,
    /// [`crate::abi::Endpoint::generation`].
    pub generation: U32,
    /// [`crate::abi::Endpoint::flags`].
    pub flags: U32,
    /// The frontend's id.
    pub frontend: U32,
    /// The class of the address.
    pub class: U32,
    /// Ports id of the class.
    pub class_ports: U32,
    /// Ports id of the longest prefix.
    pub cidr_ports: U32,
}

const _: () = assert!(size_of::<Question>() == 32 && size_of::<Reply>() == 32);

/// Answers a question; for a hook without an endpoint with [`Reason::NoEndpoint`].
#[inline(always)]
pub fn ask<S: State + Tables>(system: &S, scratch: &mut Scratch, question: &Question) -> Reply {
    let seen = Seen {
        tables: system,
        found: Cell::new(0),
        frontend: Cell::new(0),
        class: Cell::new(0),
        class_ports: Cell::new(0),
        cidr_ports: Cell::new(0),
    };
    let endpoint = system.endpoint(question.hook.get());
    let reason = match endpoint {
        Some(endpoint) => {
            seen.note(FOUND_ENDPOINT);
            let target = &mut scratch.target;
            target.set(
                question.destination.family,
                &question.destination.bytes,
                question.protocol,
                question.port.get(),
            );
            verdict(&seen, endpoint, target)
        }
        None => Reason::NoEndpoint,
    };
    Reply {
        reason: reason.number(),
        found: seen.found.get(),
        slot: endpoint.map_or(U16::ZERO, |endpoint| endpoint.slot),
        ruleset: endpoint.map_or(U32::ZERO, |endpoint| endpoint.ruleset),
        generation: endpoint.map_or(U32::ZERO, |endpoint| endpoint.generation),
        flags: endpoint.map_or(U32::ZERO, |endpoint| endpoint.flags),
        frontend: U32::new(seen.frontend.get()),
        class: U32::new(seen.class.get()),
        class_ports: U32::new(seen.class_ports.get()),
        cidr_ports: U32::new(seen.cidr_ports.get()),
    }
}

/// Tables that note what they were asked and found.
struct Seen<'a, T> {
    tables: &'a T,
    found: Cell<u8>,
    frontend: Cell<u32>,
    class: Cell<u32>,
    class_ports: Cell<u32>,
    cidr_ports: Cell<u32>,
}

impl<T> Seen<'_, T> {
    #[inline(always)]
    fn note(&self, bit: u8) {
        self.found.set(self.found.get() | bit);
    }

    #[inline(always)]
    fn noted(&self, bit: u8, place: &Cell<u32>, value: Option<u32>) -> Option<u32> {
        if let Some(value) = value {
            self.note(bit);
            place.set(value);
        }
        value
    }
}

impl<T: Tables> Tables for Seen<'_, T> {
    #[inline(always)]
    fn peer(&self, address: &Address) -> Option<u32> {
        self.noted(FOUND_CLASS, &self.class, self.tables.peer(address))
    }

    #[inline(always)]
    fn class_ports(&self, ruleset: u32, class: u32) -> Option<u32> {
        let ports = self.tables.class_ports(ruleset, class);
        self.noted(FOUND_CLASS_PORTS, &self.class_ports, ports)
    }

    #[inline(always)]
    fn cidr_ports(&self, ruleset: u32, address: &Address) -> Option<u32> {
        let ports = self.tables.cidr_ports(ruleset, address);
        self.noted(FOUND_CIDR_PORTS, &self.cidr_ports, ports)
    }

    #[inline(always)]
    fn ports_contain(&self, ports: u32, protocol: u8, port: u16) -> bool {
        self.tables.ports_contain(ports, protocol, port)
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<u32> {
        self.noted(FOUND_FRONTEND, &self.frontend, self.tables.frontend(key))
    }

    #[inline(always)]
    fn frontend_allowed(&self, ruleset: u32, frontend: u32) -> bool {
        self.tables.frontend_allowed(ruleset, frontend)
    }
}
