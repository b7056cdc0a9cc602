//! Flows: which packet belongs to which, and for how long.

use zerocopy::network_endian::{U16, U32};

use crate::abi::{Endpoint, FLOW_CLOSING, Flow, FlowKey};
use crate::packet::{
    Icmp, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, Packet, Quote, TCP_ACK, TCP_FIN, TCP_RST,
    TCP_SYN, Transport,
};

/// Idle TCP and SCTP associations, seconds: `nf_conntrack_tcp_timeout_established`.
pub const IDLE_CONNECTION: u32 = 432_000;
/// Idle TCP connections of which one side is done, seconds:
/// `nf_conntrack_tcp_timeout_fin_wait`.
pub const IDLE_CLOSING: u32 = 120;
/// Idle UDP, seconds: `nf_conntrack_udp_timeout_stream`.
pub const IDLE_UDP: u32 = 180;
/// Idle echo, seconds: `nf_conntrack_icmp_timeout`.
pub const IDLE_ECHO: u32 = 30;

/// What a packet is to its flow, by its own bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Opens a flow and can be no answer: SYN without ACK, INIT, echo request.
    Opens,
    /// Any other packet of a flow.
    Continues,
    /// UDP: nothing tells an opening packet from an answer.
    Either,
    /// An echo reply, which can be nothing but an answer.
    Answers,
}

/// A packet's flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) key: FlowKey,
    pub(super) role: Role,
    /// [`FLOW_CLOSING`] or 0.
    pub(super) closing: u32,
}

/// Which end of the packet the pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Near {
    /// The pod sent it.
    Source,
    /// It is for the pod.
    Destination,
}

impl Subject {
    /// The flow of a packet, the pod being at its near end with address `local`. `None` for
    /// protocols that are not tracked.
    ///
    /// A TCP segment whose flags are missing counts as one that opens when the pod sends
    /// it, so that it is no answer (S53), and as one that continues when it is for the pod,
    /// so that it opens nothing.
    #[inline(always)]
    pub(super) fn of(endpoint: &Endpoint, local: u8, packet: &Packet, near: Near) -> Option<Self> {
        let mut closing = 0;
        let (role, source, destination) = match packet.transport {
            Transport::Tcp {
                source,
                destination,
                flags: Some(flags),
            } => {
                if flags & (TCP_FIN | TCP_RST) != 0 {
                    closing = FLOW_CLOSING;
                }
                let opens = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
                (
                    if opens { Role::Opens } else { Role::Continues },
                    source,
                    destination,
                )
            }
            Transport::Tcp {
                source,
                destination,
                flags: None,
            } => match near {
                Near::Source => (Role::Opens, source, destination),
                Near::Destination => (Role::Continues, source, destination),
            },
            Transport::Sctp {
                source,
                destination,
                init,
            } => (
                if init { Role::Opens } else { Role::Continues },
                source,
                destination,
            ),
            Transport::Udp {
                source,
                destination,
            } => (Role::Either, source, destination),
            Transport::Icmp { kind, id, .. } => {
                let role = match kind {
                    Icmp::EchoRequest => Role::Opens,
                    Icmp::EchoReply => Role::Answers,
                    Icmp::Error
                    | Icmp::NeighbourDiscovery
                    | Icmp::ListenerDiscovery
                    | Icmp::Other => return None,
                };
                // Both ends name an echo by one identifier; it stands at the pod's.
                match near {
                    Near::Source => (role, id, 0),
                    Near::Destination => (role, 0, id),
                }
            }
            Transport::None => return None,
        };
        let (local_port, remote_port, remote) = match near {
            Near::Source => (source, destination, packet.destination),
            Near::Destination => (destination, source, packet.source),
        };
        Some(Self {
            key: FlowKey {
                slot: endpoint.slot,
                local,
                protocol: packet.protocol,
                local_port: U16::new(local_port),
                remote_port: U16::new(remote_port),
                remote,
            },
            role,
            closing,
        })
    }
}

/// The flow of a quoted packet that was sent to the pod's address `local`.
#[inline(always)]
pub(super) fn of_quote(endpoint: &Endpoint, local: u8, quote: &Quote) -> FlowKey {
    FlowKey {
        slot: endpoint.slot,
        local,
        protocol: quote.protocol,
        local_port: U16::new(quote.destination_port),
        remote_port: U16::new(quote.source_port),
        remote: quote.source,
    }
}

/// Whether a flow has not been idle for too long. A clock that reads less than
/// [`Flow::seen`] is another CPU's coarse clock: no time has passed.
#[inline(always)]
pub(super) fn is_live(protocol: u8, flow: &Flow, now: u32) -> bool {
    let limit = match protocol {
        PROTOCOL_TCP if flow.flags.get() & FLOW_CLOSING != 0 => IDLE_CLOSING,
        PROTOCOL_TCP | PROTOCOL_SCTP => IDLE_CONNECTION,
        PROTOCOL_UDP => IDLE_UDP,
        _ => IDLE_ECHO,
    };
    now.saturating_sub(flow.seen.get()) <= limit
}

/// A live flow after one more packet; `None` when its entry need not be written: at most
/// one write a second, unless the flow begins to close.
#[inline(always)]
pub(super) fn touched(flow: &Flow, closing: u32, now: u32) -> Option<Flow> {
    let flags = flow.flags.get() | closing;
    let changed = flags != flow.flags.get() || now > flow.seen.get();
    changed.then_some(Flow {
        flags: U32::new(flags),
        seen: U32::new(now.max(flow.seen.get())),
        ..*flow
    })
}
