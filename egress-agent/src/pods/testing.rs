//! Netlink written by hand, for tests.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;

/// An attribute with its padding.
pub(super) fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute of attributes, flagged as the kernel flags it.
pub(super) fn nest(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attr(kind | 0x8000, &parts.concat())
}

/// Makes the kernel track the connections of the calling thread's namespace, which it does
/// only while a rule there asks for it: a table with a rule that reads `ct state`.
/// Source: `linux/netfilter/nf_tables.h`, `nfnetlink.h`.
pub(super) fn track_connections() {
    const NFPROTO_INET: u8 = 1;
    const SUBSYSTEM: u16 = 10;
    const BATCH: [u8; 4] = [0, 0, 0, 10];
    let text = |kind, text: &str| attr(kind, format!("{text}\0").as_bytes());
    let number = |kind, number: u32| attr(kind, &number.to_be_bytes());
    let local_in_at_0 = nest(4, &[number(1, 1), number(2, 0)]);
    let ct_state_to_register = nest(2, &[number(1, 8), number(2, 0)]);
    let expression = nest(1, &[text(1, "ct"), ct_state_to_register]);

    let inet = [NFPROTO_INET, 0, 0, 0];
    let rules = [
        (0x10, BATCH, vec![]),
        (SUBSYSTEM << 8, inet, vec![text(1, "t")]),
        (
            SUBSYSTEM << 8 | 3,
            inet,
            vec![text(1, "t"), text(3, "c"), local_in_at_0, text(7, "filter")],
        ),
        (
            SUBSYSTEM << 8 | 6,
            inet,
            vec![text(1, "t"), text(2, "c"), nest(4, &[expression])],
        ),
        (0x11, BATCH, vec![]),
    ];
    let mut batch = Vec::new();
    for (sequence, (kind, header, attributes)) in (0_u32..).zip(&rules) {
        let body = [header.to_vec(), attributes.concat()].concat();
        let flags = if attributes.is_empty() {
            NLM_F_REQUEST
        } else {
            NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND
        };
        batch.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
        batch.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
        batch.extend([sequence.to_ne_bytes(), [0; 4]].concat());
        batch.extend(body);
    }
    let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.send_to(&batch, &SocketAddr::new(0, 0), 0).unwrap();
    for _ in 0..3 {
        let (answer, _) = socket.recv_from_full().unwrap();
        let code = answer
            .get(16..20)
            .unwrap()
            .first_chunk()
            .copied()
            .map(i32::from_ne_bytes);
        assert_eq!(code, Some(0), "a rule of `ct state` was refused");
    }
}
