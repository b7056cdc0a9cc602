//! A question as the frame that opens the connection.

use std::net::IpAddr;

use egress_oracle::Protocol;

use crate::generate::Question;
use crate::packet::{self, Ends, flag, proto};

/// The first chunk of an SCTP association is INIT.
const INIT: u8 = 1;
/// What INIT carries at least: tag, window, streams out and in, first sequence number.
const INIT_PARAMETERS: [u8; 16] = [0, 0, 0, 1, 0, 0, 0x10, 0, 0, 1, 0, 1, 0, 0, 0, 1];
/// Locally administered; nobody looks at them.
const POD: [u8; 6] = [0x0a, 0, 0, 0, 0, 1];
const NODE: [u8; 6] = [0x0a, 0, 0, 0, 0, 2];

/// The frame, sent from the one of these addresses that has the destination's family; `None`
/// when there is none: no pod can send such a packet.
///
/// `near` tells flows apart: the source port, or an echo's identifier.
pub(super) fn frame<'a>(
    question: &Question,
    addresses: impl IntoIterator<Item = &'a IpAddr>,
    near: u16,
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
        Protocol::Tcp => (proto::TCP, packet::tcp(ends, near, far, flag::SYN, &[])),
        Protocol::Udp => (proto::UDP, packet::udp(ends, near, far, b"question")),
        Protocol::Sctp => (proto::SCTP, packet::sctp(near, far, INIT, &INIT_PARAMETERS)),
        Protocol::Icmp => match ends {
            Ends::V4(..) => (
                proto::ICMP,
                packet::icmp_echo_request(false, near, 1, b"question"),
            ),
            Ends::V6(..) => (
                proto::ICMPV6,
                packet::icmpv6_in(ends, packet::icmp_echo_request(true, near, 1, b"question")),
            ),
        },
        Protocol::Other(number) => (*number, vec![0; 8]),
    };
    let packet = ends.packet(number, payload);
    Some(packet::ethernet(NODE, POD, ends.ethertype(), &packet))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

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
            let both = frame(&question(to), &[V4, V6], 7);
            assert!(both.is_some());
            assert_eq!(both, frame(&question(to), &[from], 7));
        }
        assert_eq!(frame(&question(V6), &[V4], 7), None);
        assert_eq!(frame(&question(V4), &[], 7), None);
    }
}
