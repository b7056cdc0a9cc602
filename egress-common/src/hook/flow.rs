//! Flows: which packet belongs to which, and for how long.

use zerocopy::network_endian::U32;

use crate::abi::{Endpoint, FLOW_CLOSING, Flow, FlowKey, LOCAL_LINK_LOCAL};
use crate::flows::{Known, Place, find_in_two, put_in_two};
use crate::packet::{
    PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, Packet, TCP_ACK, TCP_FIN, TCP_RST,
    TCP_SYN, Transport,
};
use crate::tables::State;

/// Idle TCP and SCTP associations, seconds: `nf_conntrack_tcp_timeout_established`.
pub const IDLE_CONNECTION: u32 = 432_000;
/// Idle TCP connections of which one side is done, seconds:
/// `nf_conntrack_tcp_timeout_fin_wait`.
pub const IDLE_CLOSING: u32 = 120;
/// Idle UDP, seconds: `nf_conntrack_udp_timeout_stream`.
pub const IDLE_UDP: u32 = 180;
/// Idle echo, seconds: `nf_conntrack_icmp_timeout`.
pub const IDLE_ECHO: u32 = 30;

/// Hop limit of a packet that no router has forwarded.
const ON_LINK: u8 = 255;
/// In the place of the remote port of a neighbour's question: its `ICMPv6` type.
const SOLICITATION: u16 = 135;

/// When, and under which policies, a verdict is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// [`Config::epoch`](crate::abi::Config::epoch), read before the tables: a flow judged by
    /// tables that change meanwhile is then of an old epoch, and is judged again.
    epoch: U32,
    /// [`Endpoint::generation`], read before its ruleset: should the agent write this endpoint twice
    /// while a packet is judged, then the verdict is kept under a generation that is over.
    generation: U32,
    /// Seconds since boot.
    now: u32,
}

impl Moment {
    #[inline(always)]
    pub(super) fn of(system: &impl State, endpoint: &Endpoint) -> Self {
        let config = system.config();
        Self {
            epoch: config.epoch,
            generation: endpoint.generation,
            now: system.now(),
        }
    }

    /// Whether the verdict on an outbound flow is one of the present policies (S54).
    #[inline(always)]
    pub(super) fn holds(&self, flow: &Flow) -> bool {
        flow.generation == self.generation && flow.epoch == self.epoch
    }

    /// The entry of an outbound flow that is allowed now.
    #[inline(always)]
    pub(super) fn begin(&self, subject: Subject) -> Flow {
        Flow {
            generation: self.generation,
            epoch: self.epoch,
            seen: U32::new(self.now),
            flags: U32::new(subject.closing),
        }
    }

    /// The entry of a flow that is opened towards the pod now.
    #[inline(always)]
    pub(super) fn begin_inbound(&self) -> Flow {
        Flow {
            seen: U32::new(self.now),
            ..Flow::default()
        }
    }
}

/// What a packet is to its flow, by its own bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Opens a flow and can be no answer: SYN without ACK, INIT, echo request.
    Opens,
    /// Any other packet of a flow.
    Continues,
    /// UDP: nothing tells an opening packet from an answer.
    Either,
    /// An echo reply or a neighbour advertisement, which can be nothing but an answer.
    Answers,
}

/// What a packet does to its flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) role: Role,
    /// [`FLOW_CLOSING`] or 0.
    closing: u32,
}

impl Subject {
    const fn new(role: Role) -> Self {
        Self { role, closing: 0 }
    }
}

/// Which end of the packet the pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Near {
    /// The pod sent it.
    Source,
    /// It is for the pod.
    Destination,
}

/// A packet's flow: where the tables have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tracked(Place);

impl Tracked {
    /// A flow by its key.
    #[inline(always)]
    pub(super) fn new(system: &impl State, key: FlowKey) -> Self {
        Self(Place::of(key, &system.config().seed))
    }

    /// A packet's flow, the pod being at its near end with address `local`. `None` for protocols that
    /// are not tracked.
    ///
    /// A TCP segment whose flags are missing counts as one that opens when the pod sends
    /// it, so that it is no answer (S53), and as one that continues when it is for the pod,
    /// so that it opens nothing.
    #[inline(always)]
    pub(super) fn of(
        system: &impl State,
        endpoint: &Endpoint,
        local: u8,
        packet: &Packet,
        near: Near,
    ) -> Option<(Self, Subject)> {
        let mut closing = 0;
        let role = match packet.transport {
            Transport::Tcp => {
                if packet.tcp_flags & (TCP_FIN | TCP_RST) != 0 {
                    closing = FLOW_CLOSING;
                }
                if packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN {
                    Role::Opens
                } else {
                    Role::Continues
                }
            }
            Transport::TcpWithoutFlags => match near {
                Near::Source => Role::Opens,
                Near::Destination => Role::Continues,
            },
            Transport::SctpInit | Transport::EchoRequest => Role::Opens,
            Transport::Sctp => Role::Continues,
            Transport::Udp => Role::Either,
            Transport::EchoReply => Role::Answers,
            // Only the node's own link can set 255 (RFC 4861, 7.1.1).
            Transport::NeighbourSolicitation
                if near == Near::Destination && packet.hop_limit == ON_LINK =>
            {
                let key = solicitation(endpoint, &packet.source);
                return Some((Self::new(system, key), Subject::new(Role::Opens)));
            }
            Transport::NeighbourAdvertisement if near == Near::Source => {
                let key = solicitation(endpoint, &packet.destination);
                return Some((Self::new(system, key), Subject::new(Role::Answers)));
            }
            Transport::NeighbourSolicitation
            | Transport::NeighbourAdvertisement
            | Transport::None
            | Transport::IcmpError
            | Transport::NeighbourDiscovery
            | Transport::ListenerDiscovery
            | Transport::OtherIcmp => return None,
        };
        let (local_port, remote_port) = match near {
            Near::Source => (packet.source_port, packet.destination_port),
            Near::Destination => (packet.destination_port, packet.source_port),
        };
        let remote = match near {
            Near::Source => &packet.destination,
            Near::Destination => &packet.source,
        };
        // Both ends name an echo by one identifier; it stands at the pod's.
        let key = FlowKey::new(
            endpoint.slot,
            (local, packet.protocol),
            (local_port | packet.echo_id, remote_port),
            remote,
        );
        Some((Self::new(system, key), Subject { role, closing }))
    }

    /// A live flow of the pod's own; whether it is still allowed is [`Moment::holds`].
    #[inline(always)]
    pub(super) fn outbound<'a>(
        &self,
        system: &'a impl State,
        moment: &Moment,
    ) -> Option<Known<'a>> {
        let known = system.outbound(&self.0)?.find(&self.0)?;
        is_live(self.0.key().protocol, &known.flow, moment.now).then_some(known)
    }

    /// A live flow that was opened towards the pod.
    #[inline(always)]
    pub(super) fn inbound<'a>(&self, system: &'a impl State, moment: &Moment) -> Option<Known<'a>> {
        let known = find_in_two(&self.0, |place| system.inbound(place))?;
        is_live(self.0.key().protocol, &known.flow, moment.now).then_some(known)
    }

    /// Writes a flow of the pod's own.
    #[inline(always)]
    pub(super) fn write_outbound(&self, system: &impl State, flow: &Flow) {
        if let Some(set) = system.outbound(&self.0) {
            set.put(&self.0, flow);
        }
    }

    /// Writes a flow that is opened towards the pod.
    #[inline(always)]
    pub(super) fn write_inbound(&self, system: &impl State, flow: &Flow) {
        put_in_two(&self.0, flow, |place| system.inbound(place));
    }

    /// Whether a packet of the pod answers a live inbound flow (S52), which it keeps alive.
    #[inline(always)]
    pub(super) fn answer(&self, system: &impl State, subject: Subject, moment: &Moment) -> bool {
        if matches!(subject.role, Role::Opens) {
            return false;
        }
        let Some(flow) = self.inbound(system, moment) else {
            return false;
        };
        // An echo reply answers one request; only requests keep an echo alive.
        if !matches!(subject.role, Role::Answers) {
            touch(&flow, subject, moment);
        }
        true
    }
}

/// A neighbour's question for one of the pod's addresses, whichever: it goes to
/// a multicast address, so that the destination does not say which.
///
/// A node asks from a global address where its end of the veth has one, as with the ptp
/// plugin. The answer to it leaves the range in which neighbour discovery always passes
/// (S97), but is a reply (S52); without it the node would lose its pod.
#[inline(always)]
fn solicitation(endpoint: &Endpoint, remote: &[u8; 16]) -> FlowKey {
    // Ports of an echo are never this: a request gives no leave to send an echo.
    FlowKey::new(
        endpoint.slot,
        (LOCAL_LINK_LOCAL, PROTOCOL_ICMPV6),
        (0, SOLICITATION),
        remote,
    )
}

/// Notes one more packet of a live flow: at most one write a second, unless the flow begins to close.
#[inline(always)]
pub(super) fn touch(known: &Known<'_>, subject: Subject, moment: &Moment) {
    let (seen, before) = (known.flow.seen.get(), known.flow.flags.get());
    let flags = before | subject.closing;
    if flags != before || moment.now > seen {
        known.touch(moment.now.max(seen), flags);
    }
}

/// Whether a flow has not been idle for too long. A clock that reads less than
/// [`Flow::seen`] is another CPU's coarse clock: no time has passed.
#[inline(always)]
fn is_live(protocol: u8, flow: &Flow, now: u32) -> bool {
    let limit = match protocol {
        PROTOCOL_TCP if flow.flags.get() & FLOW_CLOSING != 0 => IDLE_CLOSING,
        PROTOCOL_TCP | PROTOCOL_SCTP => IDLE_CONNECTION,
        PROTOCOL_UDP => IDLE_UDP,
        _ => IDLE_ECHO,
    };
    now.saturating_sub(flow.seen.get()) <= limit
}
