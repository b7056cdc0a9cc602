//! The two hooks on the host side of a pod's interface: from a frame to a [`Reason`].
//!
//! The order of a verdict is DESIGN.md's "A verdict"; what is remembered of flows is its
//! "Flows".
//!
//! Functions that are not inlined are few and take five arguments at most: they become
//! functions of the kernel programs, whose frames share 512 bytes of stack along a chain of calls
//! (`egress-agent/tests/kernel/stack.rs` adds them up).

mod ask;
mod flow;
mod from_pod;
mod related;
mod to_pod;

use core::hint::black_box;

use zerocopy::network_endian::{U16, U32};

pub use ask::{
    FOUND_CIDR_PORTS, FOUND_CLASS, FOUND_CLASS_PORTS, FOUND_ENDPOINT, FOUND_FRONTEND, Question,
    Reply, ask,
};
pub use flow::{IDLE_CLOSING, IDLE_CONNECTION, IDLE_ECHO, IDLE_UDP};
pub use from_pod::{FRAGMENT_SECONDS, from_pod};
pub use to_pod::to_pod;

use crate::abi::{ALLOWED_V4, ALLOWED_V6, DropKind, Endpoint, FAMILY_V4, FAMILY_V6, FragmentKey};
use crate::decide::Target;
use crate::event::{Action, Reason, Record};
use crate::packet::{Packet, Piece, Quote};

/// What a hook reads a frame into, and the keys it looks up.
///
/// In the kernel it lies in a map, for three reasons. The stack has 512 bytes. The stack alone must be
/// read and written aligned, which these types of plain bytes are not. And the verifier follows every
/// value that it knows on the stack through every way that the parser can take, and knows none in a
/// map.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Scratch {
    packet: Packet,
    quote: Quote,
    target: Target,
    fragment: FragmentKey,
    /// Which of the endpoint's addresses the packet's near end is, or [`FOREIGN`].
    local: u8,
}

/// [`Scratch::local`] of an address that is none of the endpoint's.
const FOREIGN: u8 = u8::MAX;

impl Scratch {
    /// Brings the many ways that a packet is read on together: what follows knows of the packet, and of
    /// the address that is the endpoint's, only that they are in memory. Else the compiler copies what
    /// follows for each way, and the verifier goes through it for each.
    #[inline(always)]
    fn join(&mut self, local: Option<u8>) -> Option<u8> {
        self.local = local.unwrap_or(FOREIGN);
        let Self { local, .. } = black_box(&mut *self);
        (*local != FOREIGN).then_some(*local)
    }

    /// On the host.
    pub const EMPTY: Self = Self {
        packet: Packet::EMPTY,
        quote: Quote::EMPTY,
        target: Target::EMPTY,
        fragment: FragmentKey {
            slot: U16::ZERO,
            family: 0,
            protocol: 0,
            id: U32::ZERO,
            source: [0; 16],
            destination: [0; 16],
        },
        local: FOREIGN,
    };
}

/// What from-pod says of a frame, with what counters and events need.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The verdict and why.
    pub reason: Reason,
    /// Whose frame it is; `None` with [`Reason::NoEndpoint`].
    pub endpoint: Option<&'a Endpoint>,
    /// What was read of it.
    pub packet: &'a Packet,
}

impl Outcome<'_> {
    /// What a drop is counted as; `None` when the frame passes.
    #[inline(always)]
    pub fn dropped(&self) -> Option<DropKind> {
        match self.reason.action() {
            Action::Drop => Some(DropKind::new(
                self.reason,
                self.packet.family,
                self.packet.protocol,
            )),
            Action::Pass => None,
        }
    }

    /// Index in ALLOWED where a pass is counted; `None` when the frame is dropped, is not of an
    /// endpoint, or is no IP packet.
    #[inline(always)]
    pub fn allowed(&self) -> Option<u32> {
        match (self.reason.action(), self.endpoint, self.packet.family) {
            (Action::Pass, Some(_), FAMILY_V4) => Some(ALLOWED_V4),
            (Action::Pass, Some(_), FAMILY_V6) => Some(ALLOWED_V6),
            (Action::Pass | Action::Drop, _, _) => None,
        }
    }

    /// Whether the policy allowed a new flow just now. A later fragment opens nothing.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        matches!(self.reason, Reason::Allowed) && !matches!(self.packet.piece, Piece::Later)
    }

    /// The record of a drop, or of a new flow.
    #[inline(always)]
    pub fn record(&self, endpoint: &Endpoint, hook: u32, ethertype: u16, time: u64) -> Record {
        Record {
            time,
            hook,
            slot: endpoint.slot,
            reason: self.reason.number(),
            family: self.packet.family,
            protocol: self.packet.protocol,
            tcp_flags: self.packet.tcp_flags,
            source_port: U16::new(self.packet.source_port),
            destination_port: U16::new(self.packet.destination_port),
            ethertype: U16::new(ethertype),
            length: U32::new(self.packet.length),
            generation: endpoint.generation,
            source: self.packet.source,
            destination: self.packet.destination,
        }
    }
}
