//! What is sent to a pod.

use super::Scratch;
use super::flow::{Moment, Near, Role, Tracked, touch};
use crate::abi::LOCAL_LINK_LOCAL;
use crate::packet::{Frame, Transport};
use crate::tables::State;

/// Remembers what is opened towards a pod, whether a policy isolates it or not: isolating it
/// must not cut what others opened (S52). Nothing is ever dropped here.
#[inline(always)]
pub fn to_pod<S: State, F: Frame>(system: &S, hook: u64, frame: &F, scratch: &mut Scratch) {
    let Some(endpoint) = system.endpoint(hook) else {
        return;
    };
    scratch.packet.begin(frame);
    if scratch.packet.read(frame).is_err() {
        return;
    }
    scratch.join(None);
    let packet = &scratch.packet;
    let local = match endpoint.local(packet.family, &packet.destination) {
        Some(local) => local,
        // To the multicast address of the one that is asked for.
        None if packet.transport == Transport::NeighbourSolicitation => LOCAL_LINK_LOCAL,
        None => return,
    };
    let Some(local) = scratch.join(Some(local)) else {
        return;
    };
    let packet = &scratch.packet;
    let moment = &Moment::of(system, endpoint);
    let Some((tracked, subject)) = Tracked::of(system, endpoint, local, packet, Near::Destination)
    else {
        return;
    };
    // An answer to an echo of the pod's.
    if matches!(subject.role, Role::Answers) {
        return;
    }
    if matches!(subject.role, Role::Opens) {
        tracked.write_inbound(system, &moment.begin_inbound());
        return;
    }
    if let Some(flow) = tracked.inbound(system, moment) {
        touch(&flow, subject, moment);
        return;
    }
    if !matches!(subject.role, Role::Either) {
        return;
    }
    match tracked.outbound(system, moment) {
        // An answer to what the pod opened. It keeps that flow alive, whatever the policy says of
        // it now: a flow that a policy cut must not become an inbound one because the other side
        // goes on sending (S54).
        Some(flow) => touch(&flow, subject, moment),
        None => tracked.write_inbound(system, &moment.begin_inbound()),
    }
}
