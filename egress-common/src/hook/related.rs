//! ICMP errors that a pod sends about packets it got.

use zerocopy::network_endian::U16;

use super::Scratch;
use super::flow::Moment;
use crate::abi::Endpoint;
use crate::decide::verdict;
use crate::event::Action;
use crate::packet::{Frame, Transport};
use crate::tables::{State, Tables};

/// Whether an ICMP error of the pod is about a packet that was sent to it on a live inbound flow,
/// or on a flow of its own that is still allowed (S49, S54).
///
/// It must go where that packet came from, or a flow with one peer would be a pass to any
/// other (S53).
#[inline(never)]
pub(super) fn is_related<S: State + Tables, F: Frame>(
    system: &S,
    endpoint: &Endpoint,
    moment: Moment,
    frame: &F,
    scratch: &mut Scratch,
) -> bool {
    let Scratch {
        packet,
        quote,
        tracked,
        target,
        ..
    } = scratch;
    if !quote.read(frame, packet) {
        return false;
    }
    if quote.source != packet.destination {
        return false;
    }
    let Some(local) = endpoint.local(packet.family, &quote.destination) else {
        return false;
    };
    // The quoted packet was sent to the pod.
    tracked.key.slot = endpoint.slot;
    tracked.key.local = local;
    tracked.key.protocol = quote.protocol;
    tracked.key.local_port = U16::new(quote.destination_port);
    tracked.key.remote_port = U16::new(quote.source_port);
    tracked.key.remote = quote.source;
    // A quoted echo request was sent to the pod by another, a quoted reply answers the pod's.
    if quote.echo != Transport::EchoReply && tracked.inbound(system, moment).is_some() {
        return true;
    }
    if quote.echo == Transport::EchoRequest {
        return false;
    }
    match tracked.outbound(system, moment) {
        None => false,
        Some(flow) if moment.holds(endpoint, &flow) => true,
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
