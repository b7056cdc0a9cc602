//! ICMP errors that a pod sends about packets it got.

use zerocopy::network_endian::U16;

use super::flow::{self, Moment};
use super::{Scratch, address};
use crate::abi::{Endpoint, FlowKey};
use crate::decide::decide;
use crate::event::Action;
use crate::packet::{Frame, Quote, Transport};
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
    let Scratch { packet, quote } = scratch;
    *quote = Quote::unread();
    if !quote.read(frame, packet) {
        return false;
    }
    if quote.source != packet.destination {
        return false;
    }
    let Some(local) = endpoint.local(packet.family, &quote.destination) else {
        return false;
    };
    let key = key(endpoint, local, quote);
    // A quoted echo request was sent to the pod by another, a quoted reply answers the pod's.
    if quote.echo != Transport::EchoReply && flow::inbound(system, &key, moment).is_some() {
        return true;
    }
    if quote.echo == Transport::EchoRequest {
        return false;
    }
    match flow::outbound(system, &key, moment) {
        None => false,
        Some(flow) if moment.holds(endpoint, &flow) => true,
        Some(_) => {
            let remote = address(packet.family, key.remote);
            let reason = decide(
                system,
                endpoint,
                &remote,
                key.protocol,
                key.remote_port.get(),
            );
            matches!(reason.action(), Action::Pass)
        }
    }
}

/// The flow of a quoted packet that was sent to the pod's address `local`.
#[inline(always)]
fn key(endpoint: &Endpoint, local: u8, quote: &Quote) -> FlowKey {
    FlowKey {
        slot: endpoint.slot,
        local,
        protocol: quote.protocol,
        local_port: U16::new(quote.destination_port),
        remote_port: U16::new(quote.source_port),
        remote: quote.source,
    }
}
