//! ICMP errors that a pod sends about packets it got.

use super::Scratch;
use super::flow::{Moment, Tracked};
use crate::abi::{Endpoint, FlowKey};
use crate::decide::verdict;
use crate::event::Action;
use crate::packet::Transport;
use crate::tables::{State, Tables};

/// Whether an ICMP error of the pod, whose quote was read, is about a packet that was sent to it on a
/// live inbound flow, or on a flow of its own that is still allowed (S49, S54).
///
/// It must go where that packet came from, or a flow with one peer would be a pass to any
/// other (S53).
#[inline(never)]
pub(super) fn is_related<S: State + Tables>(
    system: &S,
    endpoint: &Endpoint,
    moment: &Moment,
    scratch: &mut Scratch,
) -> bool {
    let Scratch {
        packet,
        quote,
        target,
        ..
    } = scratch;
    if quote.source != packet.destination {
        return false;
    }
    let Some(local) = endpoint.local(packet.family, &quote.destination) else {
        return false;
    };
    // The quoted packet was sent to the pod.
    let key = FlowKey::new(
        endpoint.slot,
        (local, quote.protocol),
        (quote.destination_port, quote.source_port),
        &quote.source,
    );
    let tracked = Tracked::new(system, key);
    // A quoted echo request was sent to the pod by another, a quoted reply answers the pod's.
    if quote.echo != Transport::EchoReply && tracked.inbound(system, moment).is_some() {
        return true;
    }
    if quote.echo == Transport::EchoRequest {
        return false;
    }
    match tracked.outbound(system, moment) {
        None => false,
        Some(known) if moment.holds(&known.flow) => true,
        Some(_) => {
            target.set(
                packet.family,
                &quote.source,
                quote.protocol,
                quote.source_port,
            );
            let reason = verdict(system, endpoint, target);
            matches!(reason.action(), Action::Pass)
        }
    }
}
