//! A question as the frame that opens the connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_oracle::Protocol;
use egress_parity::generate::Question;

use crate::packet::{self, Ends, flag, proto};

/// The first chunk of an SCTP association is INIT.
const INIT: u8 = 1;
/// What INIT carries at least: tag, window, streams out and in, first sequence number.
const INIT_PARAMETERS: [u8; 16] = [0, 0, 0, 1, 0, 0, 0x10, 0, 0, 1, 0, 1, 0, 0, 0, 1];
/// Locally administered; nobody looks at them.
const POD: [u8; 6] = [0x0a, 0, 0, 0, 0, 1];
const NODE: [u8; 6] = [0x0a, 0, 0, 0, 0, 2];
/// Somebody whom no policy is about.
const PEER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const PEER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x77);

/// The frame, sent from the one of these addresses that has the destination's family; `None`
/// when there is none: no pod can send such a packet.
///
/// `near` tells flows apart: the source port, or an echo's identifier. `token` is in what it carries.
pub(in crate::parity) fn frame<'a>(
    question: &Question,
    addresses: impl IntoIterator<Item = &'a IpAddr>,
    near: u16,
    token: &[u8],
) -> Option<Vec<u8>> {
    let Question {
        address, protocol, ..
    } = question;
    let ends = addresses
        .into_iter()
        .find_map(|source| match (source, address) {
            (IpAddr::V4(source), IpAddr::V4(to)) => Some(Ends::V4(*source, *to)),
            (IpAddr::V6(source), IpAddr::V6(to)) => Some(Ends::V6(*source, *to)),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        })?;
    let far = question.port;
    let (number, payload) = match protocol {
        Protocol::Tcp => (proto::TCP, packet::tcp(ends, near, far, flag::SYN, token)),
        Protocol::Udp => (proto::UDP, packet::udp(ends, near, far, token)),
        Protocol::Sctp => (
            proto::SCTP,
            packet::sctp(near, far, INIT, &[&INIT_PARAMETERS, token].concat()),
        ),
        Protocol::Icmp => match ends {
            Ends::V4(..) => (
                proto::ICMP,
                packet::icmp_echo_request(false, near, 1, token),
            ),
            Ends::V6(..) => (
                proto::ICMPV6,
                packet::icmpv6_in(ends, packet::icmp_echo_request(true, near, 1, token)),
            ),
        },
        Protocol::Other(number) => (*number, [&[0; 8], token].concat()),
    };
    let packet = ends.packet(number, payload);
    Some(packet::ethernet(NODE, POD, ends.ethertype(), &packet))
}

/// A connection that is opened towards a pod's address, and the pod's first answer.
pub(super) fn inbound(pod: IpAddr, near: u16) -> (Vec<u8>, Vec<u8>) {
    const SERVED: u16 = 8443;
    let (there, back) = match pod {
        IpAddr::V4(pod) => (Ends::V4(PEER_V4, pod), Ends::V4(pod, PEER_V4)),
        IpAddr::V6(pod) => (Ends::V6(PEER_V6, pod), Ends::V6(pod, PEER_V6)),
    };
    let request = packet::tcp(there, near, SERVED, flag::SYN, &[]);
    let answer = packet::tcp(back, SERVED, near, flag::SYN | flag::ACK, &[]);
    let frame = |to, from, ends: Ends, segment| {
        packet::ethernet(
            to,
            from,
            ends.ethertype(),
            &ends.packet(proto::TCP, segment),
        )
    };
    (
        frame(POD, NODE, there, request),
        frame(NODE, POD, back, answer),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));

    fn question(address: IpAddr) -> Question {
        Question {
            namespace: "x".to_owned(),
            pod: "p".to_owned(),
            address,
            protocol: Protocol::Tcp,
            port: 443,
        }
    }

    #[test]
    fn a_packet_leaves_from_the_address_of_its_own_family() {
        for (from, to) in [(V4, V4), (V6, V6)] {
            let both = frame(&question(to), &[V4, V6], 7, b"x");
            assert!(both.is_some());
            assert_eq!(both, frame(&question(to), &[from], 7, b"x"));
        }
        assert_eq!(frame(&question(V6), &[V4], 7, b"x"), None);
        assert_eq!(frame(&question(V4), &[], 7, b"x"), None);
    }
}
