//! What a pod sends.

use zerocopy::network_endian::U32;

use super::flow::{self, Moment, Near, Role, Subject};
use super::related::is_related;
use super::{Outcome, Scratch, address};
use crate::abi::{Endpoint, FAMILY_V4, Fragment, FragmentKey, is_link_local};
use crate::decide::decide;
use crate::event::{Action, Reason};
use crate::packet::{ETHERTYPE_ARP, Frame, PROTOCOL_IGMP, Packet, Piece, Transport};
use crate::tables::{State, Tables};

/// How long later fragments may follow their first, seconds: Linux'
/// `net.ipv4.ipfrag_time`.
pub const FRAGMENT_SECONDS: u32 = 30;

/// Judges a frame that a pod sends.
#[inline(always)]
pub fn from_pod<'a, S: State + Tables, F: Frame>(
    system: &'a S,
    hook: u64,
    frame: &F,
    scratch: &'a mut Scratch,
) -> Outcome<'a> {
    let endpoint = system.endpoint(hook);
    scratch.packet = Packet::unread(frame);
    let reason = match endpoint {
        Some(endpoint) => verdict(system, endpoint, frame, scratch),
        None => Reason::NoEndpoint,
    };
    Outcome {
        reason,
        endpoint,
        packet: &scratch.packet,
    }
}

#[inline(always)]
fn verdict<S: State + Tables, F: Frame>(
    system: &S,
    endpoint: &Endpoint,
    frame: &F,
    scratch: &mut Scratch,
) -> Reason {
    let packet = &mut scratch.packet;
    let isolated = endpoint.isolated();
    if isolated && frame.ethertype() == ETHERTYPE_ARP {
        return Reason::Neighbour;
    }
    if !isolated && !packet.may_be_udp(frame) {
        return Reason::NotIsolated;
    }
    let read = packet.read(frame);
    if !isolated {
        if read.is_ok() && packet.transport == Transport::Udp {
            note(system, endpoint, packet);
        }
        return Reason::NotIsolated;
    }
    if let Err(reason) = read {
        return reason;
    }
    if is_neighbour(packet) {
        return Reason::Neighbour;
    }
    let local = endpoint.local(packet.family, &packet.source);
    if local.is_none() && endpoint.spoof_check() {
        return Reason::Spoofed;
    }
    if let Piece::Later = packet.piece {
        return follow(system, endpoint, packet);
    }
    let reason = judge(system, endpoint, frame, scratch, local);
    let packet = &scratch.packet;
    if let (Piece::First, Action::Pass) = (packet.piece, reason.action()) {
        lead(system, endpoint, packet);
    }
    reason
}

/// Remembers a UDP flow of a pod that nothing isolates; otherwise the answers to it would look
/// like inbound flows once a policy comes, and the policy would not cut them (S54).
#[inline(never)]
fn note<S: State>(system: &S, endpoint: &Endpoint, packet: &Packet) {
    let Some(local) = endpoint.local(packet.family, &packet.source) else {
        return;
    };
    let Some(subject) = Subject::of(endpoint, local, packet, Near::Source) else {
        return;
    };
    let moment = Moment::of(system);
    match flow::outbound(system, &subject.key, moment) {
        Some(flow) if moment.holds(endpoint, &flow) => {
            if let Some(flow) = flow::touched(&flow, 0, moment) {
                system.set_outbound(&subject.key, &flow);
            }
            return;
        }
        Some(_) => {}
        None => {
            if flow::answer(system, &subject, moment) {
                return;
            }
        }
    }
    system.set_outbound(&subject.key, &moment.begin(endpoint, &subject));
}

/// Neighbour discovery and MLD on the link, and IGMP on the link: without them the pod has
/// no network at all (S49, S97). A fragment of one is judged as ICMP (RFC 6980).
#[inline(always)]
fn is_neighbour(packet: &Packet) -> bool {
    let Piece::Whole = packet.piece else {
        return false;
    };
    match packet.transport {
        Transport::NeighbourSolicitation
        | Transport::NeighbourAdvertisement
        | Transport::NeighbourDiscovery => is_on_link(&packet.destination),
        Transport::ListenerDiscovery => is_on_link(&packet.destination) && packet.hop_limit == 1,
        Transport::None => {
            let [first, ..] = packet.destination;
            packet.family == FAMILY_V4
                && packet.protocol == PROTOCOL_IGMP
                && packet.hop_limit == 1
                && first & 0xf0 == 0xe0
        }
        Transport::Tcp
        | Transport::TcpWithoutFlags
        | Transport::Udp
        | Transport::Sctp
        | Transport::SctpInit
        | Transport::EchoRequest
        | Transport::EchoReply
        | Transport::IcmpError
        | Transport::OtherIcmp => false,
    }
}

/// `fe80::/10` and `ff02::/16`.
#[inline(always)]
fn is_on_link(destination: &[u8; 16]) -> bool {
    let [first, second, ..] = *destination;
    is_link_local(destination) || (first == 0xff && second == 0x02)
}

/// A later fragment follows its first, whatever changes meanwhile (S50).
#[inline(never)]
fn follow<S: State>(system: &S, endpoint: &Endpoint, packet: &Packet) -> Reason {
    match system.fragment(&fragment_key(endpoint, packet)) {
        Some(first) if system.now().saturating_sub(first.seen.get()) <= FRAGMENT_SECONDS => {
            Reason::Allowed
        }
        Some(_) | None => Reason::Fragment,
    }
}

/// Lets the later fragments of an allowed first one follow.
#[inline(never)]
fn lead<S: State>(system: &S, endpoint: &Endpoint, packet: &Packet) {
    let seen = U32::new(system.now());
    system.set_fragment(&fragment_key(endpoint, packet), &Fragment { seen });
}

#[inline(always)]
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

/// Steps 5 to 7 of a verdict: flows that are known, then the policy.
#[inline(always)]
fn judge<S: State + Tables, F: Frame>(
    system: &S,
    endpoint: &Endpoint,
    frame: &F,
    scratch: &mut Scratch,
    local: Option<u8>,
) -> Reason {
    let packet = &scratch.packet;
    let moment = Moment::of(system);
    let subject = match local {
        Some(local) => Subject::of(endpoint, local, packet, Near::Source),
        None => None,
    };
    if let Some(subject) = &subject {
        // Outbound first: it is the cheaper look-up, and both pass.
        if established(system, endpoint, subject, moment) {
            return Reason::Established;
        }
        if flow::answer(system, subject, moment) {
            return Reason::Reply;
        }
    }
    if packet.transport == Transport::IcmpError
        && is_related(system, endpoint, moment, frame, scratch)
    {
        return Reason::Related;
    }
    let packet = &scratch.packet;
    let reason = decide(
        system,
        endpoint,
        &address(packet.family, packet.destination),
        packet.protocol,
        packet.destination_port,
    );
    if let (Reason::Allowed, Some(subject)) = (reason, &subject)
        && !matches!(subject.role, Role::Answers)
    {
        system.set_outbound(&subject.key, &moment.begin(endpoint, subject));
    }
    reason
}

/// Whether the packet belongs to a flow of the pod's own on which the verdict still holds.
#[inline(always)]
fn established<S: State>(
    system: &S,
    endpoint: &Endpoint,
    subject: &Subject,
    moment: Moment,
) -> bool {
    if matches!(subject.role, Role::Answers) {
        return false;
    }
    let Some(flow) = flow::outbound(system, &subject.key, moment) else {
        return false;
    };
    // A port is used again: the new connection gets its own verdict and its own entry.
    let reopened = matches!(subject.role, Role::Opens) && flow.flags.get() != 0;
    if reopened || !moment.holds(endpoint, &flow) {
        return false;
    }
    if let Some(flow) = flow::touched(&flow, subject.closing, moment) {
        system.set_outbound(&subject.key, &flow);
    }
    true
}
