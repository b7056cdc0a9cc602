//! Connections that are older than our hooks.
//!
//! When hooks are first attached on a live node, connections towards its pods are open
//! already, and isolating a pod must not cut them (S52, S55). The kernel's own table,
//! `nf_conntrack`, knows who opened them, where it tracks: it is not loaded everywhere, and
//! a namespace is tracked only when a rule there needs it. What it does not know stays
//! unknown, and such a connection is judged as one that the pod opens.
//!
//! A TCP connection that `nf_conntrack` itself first saw in the middle counts as opened by
//! whoever sent the packet it saw first; nothing better is known of it.
//!
//! Source: `linux/netfilter/nfnetlink_conntrack.h`, `nf_conntrack_tcp.h`,
//! `nf_conntrack_sctp.h`, `nf_conntrack_common.h`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use egress_common::abi::{Address, FlowKey};
use rustix::io::Errno;

use super::links::ip;
use super::netlink::{Error, Request, Socket, attribute, attributes};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
const CT_GET: u16 = 1 << 8 | 1;
/// `struct nfgenmsg`: family unspecified (both), version 0, no resource.
const NFGENMSG: [u8; 4] = [0; 4];

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;

const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_PROTOINFO_SCTP: u16 = 3;
const CTA_PROTOINFO_SCTP_STATE: u16 = 1;

const IPS_DYING: u32 = 1 << 9;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// A flow of a pod as the pod sees it: after the rewriting of what comes in, before the
/// rewriting of what goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodFlow {
    /// The pod's address.
    pub local: IpAddr,
    /// The pod's port.
    pub local_port: u16,
    /// The other side's address.
    pub remote: IpAddr,
    /// The other side's port.
    pub remote_port: u16,
    /// IP protocol number: 6, 17 or 132.
    pub protocol: u8,
    /// Its end has begun: it expires soon when idle
    /// ([`FLOW_CLOSING`](egress_common::abi::FLOW_CLOSING)).
    pub closing: bool,
}

impl PodFlow {
    /// The key under which the kernel tables have the flow; `local` says which of the
    /// endpoint's addresses [`PodFlow::local`] is.
    pub fn key(&self, slot: u16, local: u8) -> FlowKey {
        let remote = match self.remote {
            IpAddr::V4(address) => Address::v4(address.octets()),
            IpAddr::V6(address) => Address::v6(address.octets()),
        };
        FlowKey {
            slot: slot.into(),
            local,
            protocol: self.protocol,
            local_port: self.local_port.into(),
            remote_port: self.remote_port.into(),
            remote: remote.bytes,
        }
    }
}

/// Flows that are older than our hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OlderFlows {
    /// Opened towards a pod: TCP and SCTP once a handshake is answered, UDP always.
    pub inbound: BTreeSet<PodFlow>,
    /// UDP flows that a pod opened: what comes in on them is an answer and must not count
    /// as opened towards the pod (S54).
    pub outbound_udp: BTreeSet<PodFlow>,
    /// Why the kernel could say nothing, for a person.
    pub note: Option<String>,
}

/// Asks the table of the calling thread's network namespace for the flows of `pods`.
///
/// A kernel without connection tracking knows none, which is a note and no error. Blocks:
/// a full table of 262,144 entries is some 80 MB of answers.
pub fn older_flows(pods: &BTreeSet<IpAddr>) -> Result<OlderFlows, Error> {
    let answer = Socket::netfilter().and_then(|mut socket| {
        socket.dump(&Request::new(CT_GET, &NFGENMSG), |payload| {
            let flow = Tracked::read(payload.get(NFGENMSG.len()..)?)?;
            // Most entries are not a local pod's.
            let (inbound, outbound) = (flow.inbound(pods), flow.outbound_udp(pods));
            (inbound.is_some() || outbound.is_some()).then_some((inbound, outbound))
        })
    });
    match answer {
        Ok(flows) => {
            let (inbound, outbound): (Vec<_>, Vec<_>) = flows.into_iter().unzip();
            Ok(OlderFlows {
                inbound: inbound.into_iter().flatten().collect(),
                outbound_udp: outbound.into_iter().flatten().collect(),
                note: None,
            })
        }
        Err(error) if error.refusal().is_some_and(says_absent) => Ok(OlderFlows {
            note: Some(
                "the kernel tracks no connections (nf_conntrack_netlink is missing): those that are older than \
                 the agent count as opened by the pod"
                    .to_owned(),
            ),
            ..OlderFlows::default()
        }),
        Err(error) => Err(error),
    }
}

/// Without nfnetlink there is no such socket; with it, but without its conntrack part, a
/// request is invalid (`nfnetlink_rcv_msg`).
fn says_absent(errno: Errno) -> bool {
    [
        Errno::PROTONOSUPPORT,
        Errno::AFNOSUPPORT,
        Errno::OPNOTSUPP,
        Errno::INVAL,
    ]
    .contains(&errno)
}

/// An entry of the table, as far as it can be one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tracked {
    original: Tuple,
    reply: Tuple,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuple {
    source: IpAddr,
    source_port: u16,
    destination: IpAddr,
    destination_port: u16,
    protocol: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not answered yet, or over. Whoever opens it will try again.
    Unestablished,
    /// Data flows.
    Open,
    /// One side has begun to end it; data still flows the other way.
    Closing,
}

impl Tracked {
    fn read(payload: &[u8]) -> Option<Self> {
        let (mut original, mut reply, mut status, mut info) = (None, None, 0, None);
        for (kind, value) in attributes(payload) {
            match kind {
                CTA_TUPLE_ORIG => original = Tuple::read(value),
                CTA_TUPLE_REPLY => reply = Tuple::read(value),
                CTA_STATUS => status = u32::from_be_bytes(*value.first_chunk()?),
                CTA_PROTOINFO => info = Some(value),
                _ => {}
            }
        }
        let original = original?;
        if status & IPS_DYING != 0 {
            return None;
        }
        Some(Self {
            original,
            reply: reply?,
            state: State::read(original.protocol, info)?,
        })
    }

    /// The pod is where the replies come from; after its own rewriting the kernel
    /// addresses them to what the pod knows as the client.
    fn inbound(&self, pods: &BTreeSet<IpAddr>) -> Option<PodFlow> {
        let Tuple {
            source,
            source_port,
            destination,
            destination_port,
            protocol,
        } = self.reply;
        if self.state == State::Unestablished || !pods.contains(&source) {
            return None;
        }
        Some(PodFlow {
            local: source,
            local_port: source_port,
            remote: destination,
            remote_port: destination_port,
            protocol,
            closing: self.state == State::Closing,
        })
    }

    /// The pod sent the first packet, to what it knows as the server.
    fn outbound_udp(&self, pods: &BTreeSet<IpAddr>) -> Option<PodFlow> {
        let Tuple {
            source,
            source_port,
            destination,
            destination_port,
            protocol,
        } = self.original;
        if protocol != UDP || !pods.contains(&source) {
            return None;
        }
        Some(PodFlow {
            local: source,
            local_port: source_port,
            remote: destination,
            remote_port: destination_port,
            protocol,
            closing: false,
        })
    }
}

impl Tuple {
    fn read(value: &[u8]) -> Option<Self> {
        let (mut source, mut destination) = (None, None);
        for (kind, value) in attributes(attribute(value, CTA_TUPLE_IP)?) {
            match kind {
                CTA_IP_V4_SRC | CTA_IP_V6_SRC => source = ip(value),
                CTA_IP_V4_DST | CTA_IP_V6_DST => destination = ip(value),
                _ => {}
            }
        }
        let (mut protocol, mut source_port, mut destination_port) = (None, None, None);
        for (kind, value) in attributes(attribute(value, CTA_TUPLE_PROTO)?) {
            match kind {
                CTA_PROTO_NUM => protocol = value.first().copied(),
                CTA_PROTO_SRC_PORT => source_port = port(value),
                CTA_PROTO_DST_PORT => destination_port = port(value),
                _ => {}
            }
        }
        Some(Self {
            source: source?,
            source_port: source_port?,
            destination: destination?,
            destination_port: destination_port?,
            protocol: protocol?,
        })
    }
}

impl State {
    /// `None` for a protocol that has no flows here.
    fn read(protocol: u8, info: Option<&[u8]>) -> Option<Self> {
        let number = |of, state| {
            info.and_then(|info| attribute(info, of))
                .and_then(|info| attribute(info, state))
                .and_then(|value| value.first().copied())
        };
        match protocol {
            UDP => Some(Self::Open),
            TCP => Some(match number(CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE) {
                // SYN_RECV, ESTABLISHED
                Some(2 | 3) => Self::Open,
                // FIN_WAIT, CLOSE_WAIT, LAST_ACK
                Some(4..=6) => Self::Closing,
                // NONE, SYN_SENT, TIME_WAIT, CLOSE, SYN_SENT2, or not said
                _ => Self::Unestablished,
            }),
            SCTP => Some(match number(CTA_PROTOINFO_SCTP, CTA_PROTOINFO_SCTP_STATE) {
                // COOKIE_ECHOED, ESTABLISHED, HEARTBEAT_ACKED
                Some(3 | 4 | 9) => Self::Open,
                // SHUTDOWN_SENT, SHUTDOWN_RECD, SHUTDOWN_ACK_SENT
                Some(5..=7) => Self::Closing,
                // NONE, CLOSED, COOKIE_WAIT, HEARTBEAT_SENT, or not said
                _ => Self::Unestablished,
            }),
            _ => None,
        }
    }
}

fn port(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*value.first_chunk()?))
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test may fail by panic"
    )]

    use super::super::testing::{attr, nest};
    use super::*;

    fn tuple(kind: u16, protocol: u8, source: (&str, u16), destination: (&str, u16)) -> Vec<u8> {
        let address = |text: &str, v4, v6| match text.parse().unwrap() {
            IpAddr::V4(address) => attr(v4, &address.octets()),
            IpAddr::V6(address) => attr(v6, &address.octets()),
        };
        nest(
            kind,
            &[
                nest(
                    CTA_TUPLE_IP,
                    &[
                        address(source.0, CTA_IP_V4_SRC, CTA_IP_V6_SRC),
                        address(destination.0, CTA_IP_V4_DST, CTA_IP_V6_DST),
                    ],
                ),
                nest(
                    CTA_TUPLE_PROTO,
                    &[
                        attr(CTA_PROTO_NUM, &[protocol]),
                        attr(CTA_PROTO_SRC_PORT, &source.1.to_be_bytes()),
                        attr(CTA_PROTO_DST_PORT, &destination.1.to_be_bytes()),
                    ],
                ),
            ],
        )
    }

    fn state(protocol: u8, number: u8) -> Vec<u8> {
        let of = if protocol == TCP {
            CTA_PROTOINFO_TCP
        } else {
            CTA_PROTOINFO_SCTP
        };
        nest(
            CTA_PROTOINFO,
            &[nest(of, &[attr(CTA_PROTOINFO_TCP_STATE, &[number])])],
        )
    }

    /// A client at 192.0.2.1:4000 has opened a Service at 10.96.0.1:80, which is the pod
    /// 10.0.0.5:8080; the node has rewritten the client to its own 10.0.0.1:5000.
    fn rewritten(protocol: u8, number: u8) -> Vec<u8> {
        [
            tuple(
                CTA_TUPLE_ORIG,
                protocol,
                ("192.0.2.1", 4000),
                ("10.96.0.1", 80),
            ),
            tuple(
                CTA_TUPLE_REPLY,
                protocol,
                ("10.0.0.5", 8080),
                ("10.0.0.1", 5000),
            ),
            attr(CTA_STATUS, &0x1be_u32.to_be_bytes()),
            state(protocol, number),
        ]
        .concat()
    }

    fn pods(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect()
    }

    #[test]
    fn an_inbound_flow_is_what_the_pod_sees_of_it() {
        let flow = Tracked::read(&rewritten(TCP, 3)).unwrap();
        assert_eq!(
            flow.inbound(&pods(&["10.0.0.5"])),
            Some(PodFlow {
                local: "10.0.0.5".parse().unwrap(),
                local_port: 8080,
                remote: "10.0.0.1".parse().unwrap(),
                remote_port: 5000,
                protocol: TCP,
                closing: false,
            })
        );
        assert_eq!(
            flow.inbound(&pods(&["192.0.2.1", "10.96.0.1", "10.0.0.1"])),
            None
        );
    }

    #[test]
    fn an_outbound_udp_flow_is_what_the_pod_sent() {
        let entry = [
            tuple(CTA_TUPLE_ORIG, UDP, ("fd00::5", 4000), ("fd96::1", 53)),
            tuple(CTA_TUPLE_REPLY, UDP, ("fd00::9", 5353), ("fd00::1", 5000)),
        ]
        .concat();
        let flow = Tracked::read(&entry)
            .unwrap()
            .outbound_udp(&pods(&["fd00::5"]))
            .unwrap();
        assert_eq!((flow.local_port, flow.remote_port), (4000, 53));
        assert_eq!(flow.remote, "fd96::1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_tcp_flow_the_pod_opened_is_neither() {
        let flow = Tracked::read(&rewritten(TCP, 3)).unwrap();
        let client = pods(&["192.0.2.1"]);
        assert_eq!(
            (flow.inbound(&client), flow.outbound_udp(&client)),
            (None, None)
        );
    }

    #[test]
    fn only_answered_tcp_counts_and_closing_is_told() {
        let pod = pods(&["10.0.0.5"]);
        let closing = |number| {
            Tracked::read(&rewritten(TCP, number))
                .unwrap()
                .inbound(&pod)
                .map(|flow| flow.closing)
        };
        assert_eq!(
            (0..=10).map(closing).collect::<Vec<_>>(),
            [
                None,
                None,
                Some(false),
                Some(false),
                Some(true),
                Some(true),
                Some(true),
                None,
                None,
                None,
                None
            ]
        );
    }

    #[test]
    fn only_answered_sctp_counts() {
        let pod = pods(&["10.0.0.5"]);
        let found: Vec<u8> = (0..=10)
            .filter(|number| {
                Tracked::read(&rewritten(SCTP, *number))
                    .unwrap()
                    .inbound(&pod)
                    .is_some()
            })
            .collect();
        assert_eq!(found, [3, 4, 5, 6, 7, 9]);
    }

    #[test]
    fn a_dying_entry_and_other_protocols_are_nothing() {
        let dying = [
            rewritten(TCP, 3),
            attr(CTA_STATUS, &(0x1be | IPS_DYING).to_be_bytes()),
        ]
        .concat();
        assert_eq!(Tracked::read(&dying), None);
        assert_eq!(Tracked::read(&rewritten(47, 3)), None);
    }

    #[test]
    fn no_entry_panics_however_broken() {
        let entry = rewritten(TCP, 3);
        for cut in 0..entry.len() {
            let flow = Tracked::read(&entry[..cut]);
            assert!(
                flow.is_none_or(|flow| flow.state == State::Unestablished),
                "cut at {cut}"
            );
        }
        for position in 0..entry.len() {
            for value in 0..=u8::MAX {
                let mut broken = entry.clone();
                broken[position] = value;
                let _: Option<Tracked> = Tracked::read(&broken);
            }
        }
    }

    #[test]
    fn the_key_has_the_remote_in_network_order() {
        let flow = Tracked::read(&rewritten(TCP, 3))
            .unwrap()
            .inbound(&pods(&["10.0.0.5"]))
            .unwrap();
        let key = flow.key(7, 0);
        assert_eq!((key.slot.get(), key.local, key.protocol), (7, 0, TCP));
        assert_eq!((key.local_port.get(), key.remote_port.get()), (8080, 5000));
        assert_eq!(key.remote[..5], [10, 0, 0, 1, 0]);
    }
}
