//! What a pod sends.

use core::hint::black_box;

use zerocopy::network_endian::U32;

use super::flow::{Moment, Near, Role, Subject, Tracked, touch};
use super::related::is_related;
use super::{Outcome, Scratch};
use crate::abi::{Endpoint, FAMILY_V4, Fragment, FragmentKey, is_link_local};
use crate::decide::verdict;
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
    scratch.packet.begin(frame);
    let reason = match endpoint {
        // As in `Scratch::join`: what is done about a reason is there once, not once a reason.
        Some(endpoint) => black_box(look(system, endpoint, frame, scratch)),
        None => Reason::NoEndpoint,
    };
    Outcome {
        reason,
        endpoint,
        packet: &scratch.packet,
    }
}

#[inline(always)]
fn look<S: State + Tables, F: Frame>(
    system: &S,
    endpoint: &Endpoint,
    frame: &F,
    scratch: &mut Scratch,
) -> Reason {
    let isolated = endpoint.isolated();
    if isolated && frame.ethertype() == ETHERTYPE_ARP {
        return Reason::Neighbour;
    }
    if !isolated && !scratch.packet.may_be_udp(frame) {
        return Reason::NotIsolated;
    }
    let read = scratch.packet.read(frame);
    scratch.join(None);
    let packet = &scratch.packet;
    if !isolated {
        if read.is_ok() && packet.transport == Transport::Udp {
            note(system, endpoint, scratch);
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
    let local = scratch.join(local);
    if local.is_none() && endpoint.spoof_check() {
        return Reason::Spoofed;
    }
    if let Piece::Later = scratch.packet.piece {
        return follow(system, endpoint, scratch);
    }
    let reason = judge(system, endpoint, frame, scratch, local);
    if let (Piece::First, Action::Pass) = (scratch.packet.piece, reason.action()) {
        lead(system, endpoint, scratch);
    }
    reason
}

/// Remembers a UDP flow of a pod that nothing isolates; otherwise the answers to it would look
/// like inbound flows once a policy comes, and the policy would not cut them (S54).
#[inline(never)]
fn note<S: State>(system: &S, endpoint: &Endpoint, scratch: &mut Scratch) {
    let Scratch { packet, .. } = scratch;
    let Some(local) = endpoint.local(packet.family, &packet.source) else {
        return;
    };
    let moment = &Moment::of(system, endpoint);
    let Some((tracked, subject)) = Tracked::of(system, endpoint, local, packet, Near::Source)
    else {
        return;
    };
    match tracked.outbound(system, moment) {
        Some(known) if moment.holds(&known.flow) => {
            touch(&known, subject, moment);
            return;
        }
        Some(_) => {}
        None => {
            if tracked.answer(system, subject, moment) {
                return;
            }
        }
    }
    tracked.write_outbound(system, &moment.begin(subject));
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
fn follow<S: State>(system: &S, endpoint: &Endpoint, scratch: &mut Scratch) -> Reason {
    let key = fragment_key(endpoint, scratch);
    match system.fragment(key) {
        Some(first) if system.now().saturating_sub(first.seen.get()) <= FRAGMENT_SECONDS => {
            Reason::Allowed
        }
        Some(_) | None => Reason::Fragment,
    }
}

/// Lets the later fragments of an allowed first one follow.
#[inline(never)]
fn lead<S: State>(system: &S, endpoint: &Endpoint, scratch: &mut Scratch) {
    let seen = U32::new(system.now());
    system.set_fragment(fragment_key(endpoint, scratch), &Fragment { seen });
}

#[inline(always)]
fn fragment_key<'a>(endpoint: &Endpoint, scratch: &'a mut Scratch) -> &'a FragmentKey {
    let Scratch {
        packet, fragment, ..
    } = scratch;
    fragment.slot = endpoint.slot;
    fragment.family = packet.family;
    fragment.protocol = packet.fragment_protocol;
    fragment.id = U32::new(packet.fragment_id);
    fragment.source = packet.source;
    fragment.destination = packet.destination;
    fragment
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
    let moment = &Moment::of(system, endpoint);
    if scratch.packet.transport == Transport::IcmpError {
        // The quote is read before that call and not in it: their frames would add up.
        let Scratch { packet, quote, .. } = &mut *scratch;
        if quote.read(frame, packet) && is_related(system, endpoint, moment, scratch) {
            return Reason::Related;
        }
        return ask_apart(system, endpoint, scratch);
    }
    let flow = |local: Option<u8>, packet: &Packet| {
        Tracked::of(system, endpoint, local?, packet, Near::Source)
    };
    if let Some((tracked, subject)) = flow(local, &scratch.packet) {
        // Outbound first: it is the cheaper look-up, and both pass.
        if established(system, &tracked, subject, moment) {
            return Reason::Established;
        }
        if tracked.answer(system, subject, moment) {
            return Reason::Reply;
        }
    }
    let local = scratch.join(local);
    let reason = ask(system, endpoint, scratch);
    if let Reason::Allowed = reason
        && let Some((tracked, subject)) = flow(local, &scratch.packet)
        && !matches!(subject.role, Role::Answers)
    {
        tracked.write_outbound(system, &moment.begin(subject));
    }
    reason
}

/// [`ask`], apart from the way that most packets take.
#[inline(never)]
fn ask_apart<S: State + Tables>(system: &S, endpoint: &Endpoint, scratch: &mut Scratch) -> Reason {
    ask(system, endpoint, scratch)
}

/// Step 7: the policy's verdict.
#[inline(always)]
fn ask<S: State + Tables>(system: &S, endpoint: &Endpoint, scratch: &mut Scratch) -> Reason {
    let Scratch { packet, target, .. } = scratch;
    target.set(
        packet.family,
        &packet.destination,
        packet.protocol,
        packet.destination_port,
    );
    verdict(system, endpoint, target)
}

/// Whether the packet belongs to a flow of the pod's own on which the verdict still holds.
#[inline(always)]
fn established<S: State>(system: &S, tracked: &Tracked, subject: Subject, moment: &Moment) -> bool {
    if matches!(subject.role, Role::Answers) {
        return false;
    }
    let Some(known) = tracked.outbound(system, moment) else {
        return false;
    };
    // A port is used again: the new connection gets its own verdict and its own entry.
    let reopened = matches!(subject.role, Role::Opens) && known.flow.flags.get() != 0;
    if reopened || !moment.holds(&known.flow) {
        return false;
    }
    touch(&known, subject, moment);
    true
}
