//! The two hooks on the host side of a pod's interface: from a frame to a [`Reason`].
//!
//! The order of a verdict is DESIGN.md's "A verdict"; what is remembered of flows is its
//! "Flows".

mod flow;

use zerocopy::network_endian::{U16, U32};

pub use flow::{IDLE_CLOSING, IDLE_CONNECTION, IDLE_ECHO, IDLE_UDP};
use flow::{Near, Role, Subject};

use crate::abi::{
    Address, Config, CounterKey, Endpoint, FAMILY_V4, FAMILY_V6, Flow, Fragment, FragmentKey,
    is_link_local,
};
use crate::decide::decide;
use crate::event::{Action, Reason, Record};
use crate::packet::{ETHERTYPE_ARP, Frame, Icmp, PROTOCOL_IGMP, Packet, Piece, Transport, quote};
use crate::tables::{State, Tables};

/// How long later fragments may follow their first, seconds: Linux'
/// `net.ipv4.ipfrag_time`.
pub const FRAGMENT_SECONDS: u32 = 30;

/// What from-pod says of a frame, with what counters and events need.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The verdict and why.
    pub reason: Reason,
    /// Whose frame it is; `None` with [`Reason::NoEndpoint`].
    pub endpoint: Option<&'a Endpoint>,
    /// What was read of it.
    pub packet: Packet,
}

/// Judges a frame that a pod sends.
#[inline(always)]
pub fn from_pod<'a, S: State + Tables, F: Frame>(
    system: &'a S,
    hook: u64,
    frame: &F,
) -> Outcome<'a> {
    let mut packet = Packet::unread(frame);
    let endpoint = system.endpoint(hook);
    let reason = match endpoint {
        None => Reason::NoEndpoint,
        Some(endpoint) if endpoint.isolated() => isolated(system, endpoint, frame, &mut packet),
        Some(endpoint) => {
            note_datagram(system, endpoint, frame, &mut packet);
            Reason::NotIsolated
        }
    };
    Outcome {
        reason,
        endpoint,
        packet,
    }
}

/// Remembers the UDP flows of a pod that nothing isolates; otherwise the answers to them
/// would look like inbound flows once a policy comes, and the policy would not cut them (S54).
#[inline(always)]
fn note_datagram<S: State, F: Frame>(
    system: &S,
    endpoint: &Endpoint,
    frame: &F,
    packet: &mut Packet,
) {
    if !packet.may_be_udp(frame) || packet.read(frame).is_err() {
        return;
    }
    let Transport::Udp { .. } = packet.transport else {
        return;
    };
    let Some(local) = endpoint.local(packet.family, &packet.source) else {
        return;
    };
    let Some(subject) = Subject::of(endpoint, local, packet, Near::Source) else {
        return;
    };
    let now = system.now();
    let fresh = |flow: &Flow| flow.generation == endpoint.generation && flow.seen.get() >= now;
    match system.outbound(&subject.key) {
        Some(flow) if flow::is_live(subject.key.protocol, &flow, now) => {
            if fresh(&flow) {
                return;
            }
        }
        Some(_) | None => {
            if let Some(flow) = live_inbound(system, &subject, now) {
                touch_inbound(system, &subject, &flow, now);
                return;
            }
        }
    }
    system.set_outbound(
        &subject.key,
        &begun(endpoint, &system.config(), &subject, now),
    );
}

#[inline(always)]
fn isolated<S: State + Tables, F: Frame>(
    system: &S,
    endpoint: &Endpoint,
    frame: &F,
    packet: &mut Packet,
) -> Reason {
    if frame.ethertype() == ETHERTYPE_ARP {
        return Reason::Neighbour;
    }
    if let Err(reason) = packet.read(frame) {
        return reason;
    }
    if is_neighbour(packet) {
        return Reason::Neighbour;
    }
    let local = endpoint.local(packet.family, &packet.source);
    if local.is_none() && endpoint.spoof_check() {
        return Reason::Spoofed;
    }
    match packet.piece {
        Piece::Whole => judge(system, endpoint, frame, packet, local),
        Piece::First => {
            let reason = judge(system, endpoint, frame, packet, local);
            if let Action::Pass = reason.action() {
                let seen = U32::new(system.now());
                system.set_fragment(&fragment_key(endpoint, packet), &Fragment { seen });
            }
            reason
        }
        Piece::Later => match system.fragment(&fragment_key(endpoint, packet)) {
            Some(first) if system.now().saturating_sub(first.seen.get()) <= FRAGMENT_SECONDS => {
                Reason::Allowed
            }
            Some(_) | None => Reason::Fragment,
        },
    }
}

/// Neighbour discovery and MLD on the link, and IGMP on the link: without them the pod has
/// no network at all (S49, S97). A fragment of one is judged as ICMP (RFC 6980).
#[inline(always)]
fn is_neighbour(packet: &Packet) -> bool {
    let Piece::Whole = packet.piece else {
        return false;
    };
    let [first, second, ..] = packet.destination;
    match packet.transport {
        Transport::Icmp { kind, .. } if packet.family == FAMILY_V6 => {
            let on_link = is_link_local(&packet.destination) || (first == 0xff && second == 0x02);
            match kind {
                Icmp::NeighbourDiscovery => on_link,
                Icmp::ListenerDiscovery => on_link && packet.hop_limit == 1,
                Icmp::EchoRequest | Icmp::EchoReply | Icmp::Error | Icmp::Other => false,
            }
        }
        Transport::None => {
            packet.family == FAMILY_V4
                && packet.protocol == PROTOCOL_IGMP
                && packet.hop_limit == 1
                && first & 0xf0 == 0xe0
        }
        Transport::Icmp { .. }
        | Transport::Tcp { .. }
        | Transport::Udp { .. }
        | Transport::Sctp { .. } => false,
    }
}

fn fragment_key(endpoint: &Endpoint, packet: &Packet) -> FragmentKey {
    FragmentKey {
        slot: endpoint.slot,
        family: packet.family,
        protocol: packet.fragment_protocol,
        id: U32::new(packet.fragment_id),
        source: packet.source,
        destination: packet.destination,
    }
}

/// Steps 5 to 7 of a verdict.
#[inline(always)]
fn judge<S: State + Tables, F: Frame>(
    system: &S,
    endpoint: &Endpoint,
    frame: &F,
    packet: &Packet,
    local: Option<u8>,
) -> Reason {
    // Read before the tables: a flow judged by tables that change meanwhile is then of an old
    // epoch, and is judged again.
    let config = system.config();
    let now = system.now();
    let subject = match local {
        Some(local) => Subject::of(endpoint, local, packet, Near::Source),
        None => None,
    };
    if let Some(subject) = &subject {
        // Outbound first: it is the cheaper look-up, and both pass.
        if let Some(flow) = established(system, endpoint, &config, subject, now) {
            if let Some(flow) = flow::touched(&flow, subject.closing, now) {
                system.set_outbound(&subject.key, &flow);
            }
            return Reason::Established;
        }
        if !matches!(subject.role, Role::Opens)
            && let Some(flow) = live_inbound(system, subject, now)
        {
            // An echo reply answers one request; only requests keep an echo alive.
            if !matches!(subject.role, Role::Answers) {
                touch_inbound(system, subject, &flow, now);
            }
            return Reason::Reply;
        }
    }
    if let Transport::Icmp {
        kind: Icmp::Error, ..
    } = packet.transport
        && is_related(system, endpoint, &config, frame, packet, now)
    {
        return Reason::Related;
    }
    let destination = address(packet.family, packet.destination);
    let reason = decide(
        system,
        endpoint,
        &destination,
        packet.protocol,
        packet.destination_port(),
    );
    if let (Reason::Allowed, Some(subject)) = (reason, &subject)
        && !matches!(subject.role, Role::Answers)
    {
        system.set_outbound(&subject.key, &begun(endpoint, &config, subject, now));
    }
    reason
}

/// The pod's own flow, when the verdict on it still holds.
#[inline(always)]
fn established<S: State>(
    system: &S,
    endpoint: &Endpoint,
    config: &Config,
    subject: &Subject,
    now: u32,
) -> Option<Flow> {
    if matches!(subject.role, Role::Answers) {
        return None;
    }
    let flow = system.outbound(&subject.key)?;
    let current = flow.generation == endpoint.generation && flow.epoch == config.epoch;
    // A port is used again: the new connection gets its own verdict and its own entry.
    let reopened = matches!(subject.role, Role::Opens) && flow.flags.get() != 0;
    (current && !reopened && flow::is_live(subject.key.protocol, &flow, now)).then_some(flow)
}

#[inline(always)]
fn live_inbound<S: State>(system: &S, subject: &Subject, now: u32) -> Option<Flow> {
    let flow = system.inbound(&subject.key)?;
    flow::is_live(subject.key.protocol, &flow, now).then_some(flow)
}

#[inline(always)]
fn touch_inbound<S: State>(system: &S, subject: &Subject, flow: &Flow, now: u32) {
    if let Some(flow) = flow::touched(flow, subject.closing, now) {
        system.set_inbound(&subject.key, &flow);
    }
}

/// A new entry.
#[inline(always)]
fn begun(endpoint: &Endpoint, config: &Config, subject: &Subject, now: u32) -> Flow {
    Flow {
        generation: endpoint.generation,
        epoch: config.epoch,
        seen: U32::new(now),
        flags: U32::new(subject.closing),
    }
}

/// Whether an ICMP error of the pod is about a packet that was sent to it on a flow that is
/// known: it must go where that packet came from, or a flow with one peer would be a pass to
/// any other (S53).
#[inline(always)]
fn is_related<S: State + Tables, F: Frame>(
    system: &S,
    endpoint: &Endpoint,
    config: &Config,
    frame: &F,
    packet: &Packet,
    now: u32,
) -> bool {
    let Some(quote) = quote(frame, packet) else {
        return false;
    };
    if quote.source != packet.destination {
        return false;
    }
    let Some(local) = endpoint.local(packet.family, &quote.destination) else {
        return false;
    };
    let key = flow::of_quote(endpoint, local, &quote);
    let was_asked = quote.echo != Some(Icmp::EchoReply);
    let was_answered = quote.echo != Some(Icmp::EchoRequest);
    if was_asked
        && let Some(flow) = system.inbound(&key)
        && flow::is_live(key.protocol, &flow, now)
    {
        return true;
    }
    if !was_answered {
        return false;
    }
    let Some(flow) = system.outbound(&key) else {
        return false;
    };
    if !flow::is_live(key.protocol, &flow, now) {
        return false;
    }
    if flow.generation == endpoint.generation && flow.epoch == config.epoch {
        return true;
    }
    let remote = address(packet.family, key.remote);
    decide(
        system,
        endpoint,
        &remote,
        key.protocol,
        key.remote_port.get(),
    )
    .action()
        == Action::Pass
}

/// Remembers what is opened towards a pod, whether a policy isolates it or not: isolating it
/// must not cut what others opened (S52). Nothing is ever dropped here.
#[inline(always)]
pub fn to_pod<S: State, F: Frame>(system: &S, hook: u64, frame: &F) {
    let Some(endpoint) = system.endpoint(hook) else {
        return;
    };
    let mut packet = Packet::unread(frame);
    if packet.read(frame).is_err() {
        return;
    }
    let Some(local) = endpoint.local(packet.family, &packet.destination) else {
        return;
    };
    let Some(subject) = Subject::of(endpoint, local, &packet, Near::Destination) else {
        return;
    };
    let now = system.now();
    match subject.role {
        // The answer to an echo of the pod's.
        Role::Answers => {}
        Role::Continues => {
            if let Some(flow) = live_inbound(system, &subject, now) {
                touch_inbound(system, &subject, &flow, now);
            }
        }
        Role::Opens => {
            let flow = system.inbound(&subject.key);
            let fresh = Flow {
                seen: U32::new(now),
                ..Flow::default()
            };
            // At most one write a second.
            if flow != Some(fresh) {
                system.set_inbound(&subject.key, &fresh);
            }
        }
        Role::Either => {
            if let Some(flow) = live_inbound(system, &subject, now) {
                touch_inbound(system, &subject, &flow, now);
                return;
            }
            match system.outbound(&subject.key) {
                // An answer to what the pod opened. It keeps the flow alive, whatever the policy
                // says of it now: a flow that a policy cut must not become an inbound one
                // because the other side goes on sending (S54).
                Some(flow) if flow::is_live(subject.key.protocol, &flow, now) => {
                    if let Some(flow) = flow::touched(&flow, 0, now) {
                        system.set_outbound(&subject.key, &flow);
                    }
                }
                Some(_) | None => {
                    let flow = Flow {
                        seen: U32::new(now),
                        ..Flow::default()
                    };
                    system.set_inbound(&subject.key, &flow);
                }
            }
        }
    }
}

#[inline(always)]
fn address(family: u8, bytes: [u8; 16]) -> Address {
    Address {
        family,
        reserved: [0; 3],
        bytes,
    }
}

impl Outcome<'_> {
    /// Where a drop is counted; `None` when the frame passes.
    pub fn counter(&self) -> Option<CounterKey> {
        match (self.reason.action(), self.endpoint) {
            (Action::Drop, Some(endpoint)) => Some(CounterKey::new(
                endpoint.slot,
                self.reason.number(),
                self.packet.family,
                self.packet.protocol,
            )),
            (Action::Drop | Action::Pass, _) => None,
        }
    }

    /// Index in ALLOWED where a pass is counted; `None` when the frame is dropped, is not of an
    /// endpoint, or is no IP packet.
    pub fn allowed(&self) -> Option<u32> {
        match (self.reason.action(), self.endpoint, self.packet.family) {
            (Action::Pass, Some(endpoint), FAMILY_V4) => Some(u32::from(endpoint.slot.get()) * 2),
            (Action::Pass, Some(endpoint), FAMILY_V6) => {
                Some(u32::from(endpoint.slot.get()) * 2 + 1)
            }
            (Action::Pass | Action::Drop, _, _) => None,
        }
    }

    /// The record of a drop.
    #[inline(always)]
    pub fn record(&self, endpoint: &Endpoint, hook: u32, ethertype: u16, time: u64) -> Record {
        Record {
            time,
            hook,
            slot: endpoint.slot,
            reason: self.reason.number(),
            family: self.packet.family,
            protocol: self.packet.protocol,
            tcp_flags: self.packet.tcp_flags(),
            source_port: U16::new(self.packet.source_port()),
            destination_port: U16::new(self.packet.destination_port()),
            ethertype: U16::new(ethertype),
            length: U32::new(self.packet.length),
            generation: endpoint.generation,
            source: self.packet.source,
            destination: self.packet.destination,
        }
    }
}
