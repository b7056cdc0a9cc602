//! From the kernel's record to the one that leaves the agent.

use std::net::IpAddr;
use std::time::Duration;

use egress_common::event::{Reason, Record};
use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::attribution::Attribution;
use crate::traffic::{Family, Protocol};

/// A drop. One line of `drops -o json`; the field names are a contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropRecord {
    /// When, RFC 3339.
    pub time: Timestamp,
    /// The sender's namespace; empty when the pod is gone already.
    pub namespace: String,
    /// The sender.
    pub pod: String,
    /// The sender's uid; empty when it is not known.
    #[serde(default)]
    pub pod_uid: String,
    /// The sender's workload, `KIND/NAME`.
    pub workload: String,
    /// Source address; `null` when the frame has none.
    pub source: Option<IpAddr>,
    /// Destination address; `null` when the frame has none.
    pub destination: Option<IpAddr>,
    /// Destination port; `null` when there is none, or it could not be read.
    pub port: Option<u16>,
    /// Source port of the last packet; `null` like `port`.
    #[serde(default)]
    pub source_port: Option<u16>,
    /// TCP flags of the last packet, by name; empty for other protocols.
    #[serde(default)]
    pub tcp_flags: Vec<String>,
    /// The pod's interface on the node's side; empty when the pod is gone already.
    #[serde(default)]
    pub interface: String,
    /// The protocol by the names of the metrics.
    pub protocol: Protocol,
    /// The IP protocol number, which `other` hides.
    pub protocol_number: u8,
    /// `null` for a frame that is neither IPv4 nor IPv6.
    pub family: Option<Family>,
    /// [`Reason::name`].
    pub reason: String,
    /// The policies that isolate the pod, `NS/NAME`, sorted.
    pub isolated_by: Vec<String>,
    /// How many such packets within a second; a source port does not tell them apart.
    pub count: u64,
}

impl DropRecord {
    /// The record of an event. A slot that nobody owns any more gives empty names.
    pub fn new(record: &Record, clocks: Clocks, attribution: &Attribution) -> Self {
        let owner = attribution.get(&record.slot.get());
        let family = Family::from_abi(record.family);
        let protocol = Protocol::from_number(record.protocol);
        let reason = Reason::from_number(record.reason);
        let port = record.destination_port.get();
        // A later fragment has no ports, and those of a malformed packet are not to be trusted.
        let port_was_read = protocol.has_ports() && !(port == 0 && record.source_port.get() == 0);
        Self {
            time: clocks.wall_time(record.time),
            namespace: owner.map(|o| o.namespace.clone()).unwrap_or_default(),
            pod: owner.map(|o| o.pod.clone()).unwrap_or_default(),
            pod_uid: owner.map(|o| o.uid.clone()).unwrap_or_default(),
            workload: owner.map(|o| o.workload.clone()).unwrap_or_default(),
            source: family.map(|f| f.address(record.source)),
            destination: family.map(|f| f.address(record.destination)),
            port: port_was_read.then_some(port),
            source_port: port_was_read.then_some(record.source_port.get()),
            tcp_flags: flags(record),
            interface: owner.map(|o| o.interface.clone()).unwrap_or_default(),
            protocol,
            protocol_number: record.protocol,
            family,
            reason: reason.map_or_else(
                || format!("reason-{}", record.reason),
                |r| r.name().to_owned(),
            ),
            isolated_by: owner.map(|o| o.isolated_by.clone()).unwrap_or_default(),
            count: 1,
        }
    }

    /// What records of one window have in common.
    pub(crate) fn key(&self) -> Key {
        let Self {
            time: _,
            namespace,
            pod,
            pod_uid,
            workload: _,
            source,
            destination,
            port,
            source_port: _,
            tcp_flags: _,
            interface,
            protocol: _,
            protocol_number,
            family,
            reason,
            isolated_by,
            count: _,
        } = self;
        Key {
            pod: [namespace, pod, pod_uid, interface].map(Clone::clone),
            flow: (*source, *destination, *port, *protocol_number, *family),
            reason: reason.clone(),
            isolated_by: isolated_by.clone(),
        }
    }

    /// Adds a later record of the same [`Key`].
    pub(crate) fn add(&mut self, later: Self) {
        self.time = later.time;
        self.source_port = later.source_port;
        self.tcp_flags = later.tcp_flags;
        self.count = self.count.saturating_add(later.count);
    }
}

/// What tells records apart: the pod, where to, and why. Not the source port, which changes with every
/// attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pod: [String; 4],
    flow: (
        Option<IpAddr>,
        Option<IpAddr>,
        Option<u16>,
        u8,
        Option<Family>,
    ),
    reason: String,
    isolated_by: Vec<String>,
}

/// The names of TCP's flags, from the least bit (RFC 9293, 3.1).
const FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

fn flags(record: &Record) -> Vec<String> {
    let set = |bit: usize| record.tcp_flags & (1 << bit) != 0;
    FLAGS
        .iter()
        .enumerate()
        .filter(|(bit, _)| set(*bit))
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

/// The monotonic and the wall clock at one moment: the kernel stamps records with the former.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// `CLOCK_MONOTONIC`.
    pub monotonic: Duration,
    /// The time of day.
    pub wall: Timestamp,
}

impl Clocks {
    /// Both clocks now. Take it anew for every batch: the wall clock may be set.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self {
            monotonic: Duration::try_from(now).unwrap_or_default(),
            wall: Timestamp::now(),
        }
    }

    /// The time of day of a record's nanoseconds.
    fn wall_time(self, monotonic: u64) -> Timestamp {
        // A record from the future (the coarse clock never is) counts as now.
        let age = self
            .monotonic
            .saturating_sub(Duration::from_nanos(monotonic));
        SignedDuration::try_from(age)
            .ok()
            .and_then(|age| self.wall.checked_sub(age).ok())
            .unwrap_or(self.wall)
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::attribution::Owner;

    /// A TCP connection to 10.1.2.3:443 that no rule allows.
    pub(in crate::drops) fn record() -> DropRecord {
        DropRecord::new(&event(), clocks(), &attribution())
    }

    fn event() -> Record {
        let mut destination = [0; 16];
        destination[..4].copy_from_slice(&[10, 1, 2, 3]);
        Record {
            time: 5_000_000_000,
            hook: 7,
            slot: 3.into(),
            reason: Reason::NoRule.number(),
            family: 4,
            protocol: 6,
            tcp_flags: 2,
            source_port: 40_000.into(),
            destination_port: 443.into(),
            ethertype: 0x0800.into(),
            length: 60.into(),
            generation: 1.into(),
            source: [10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            destination,
        }
    }

    fn clocks() -> Clocks {
        Clocks {
            monotonic: Duration::from_secs(6),
            wall: "2026-11-21T06:00:01Z".parse().unwrap(),
        }
    }

    fn attribution() -> Attribution {
        let isolated_by = vec!["shop/db".to_owned(), "shop/dns".to_owned()];
        let owner = Owner::new("shop", "web-0", Some("StatefulSet/web"), isolated_by);
        Attribution::from([(3, owner.with_uid("3f2a").at("veth7"))])
    }

    #[test]
    fn the_fields_are_those_of_the_contract() {
        let json = serde_json::to_value(record()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "time": "2026-11-21T06:00:00Z",
                "namespace": "shop",
                "pod": "web-0",
                "podUid": "3f2a",
                "workload": "StatefulSet/web",
                "source": "10.0.0.9",
                "destination": "10.1.2.3",
                "port": 443,
                "sourcePort": 40000,
                "tcpFlags": ["SYN"],
                "interface": "veth7",
                "protocol": "tcp",
                "protocolNumber": 6,
                "family": "4",
                "reason": "no-rule",
                "isolatedBy": ["shop/db", "shop/dns"],
                "count": 1,
            })
        );
        assert_eq!(
            serde_json::from_value::<DropRecord>(json).unwrap(),
            record()
        );
    }

    #[test]
    fn a_pod_that_is_gone_leaves_the_names_empty() {
        let record = DropRecord::new(&event(), clocks(), &Attribution::new());
        assert_eq!(
            (
                record.namespace.as_str(),
                record.pod.as_str(),
                record.workload.as_str()
            ),
            ("", "", "")
        );
        assert!(record.isolated_by.is_empty());
    }

    #[test]
    fn a_frame_that_is_not_ip_has_no_addresses() {
        let event = Record {
            family: 0,
            protocol: 0,
            reason: Reason::NotIp.number(),
            ..event()
        };
        let record = DropRecord::new(&event, clocks(), &attribution());
        assert_eq!(
            (
                record.family,
                record.source,
                record.destination,
                record.port
            ),
            (None, None, None, None)
        );
        assert_eq!(record.protocol, Protocol::Other);
    }

    #[test]
    fn ports_of_icmp_and_of_later_fragments_are_not_invented() {
        let icmp = Record {
            protocol: 1,
            ..event()
        };
        assert_eq!(DropRecord::new(&icmp, clocks(), &attribution()).port, None);
        let fragment = Record {
            source_port: 0.into(),
            destination_port: 0.into(),
            ..event()
        };
        assert_eq!(
            DropRecord::new(&fragment, clocks(), &attribution()).port,
            None
        );
    }

    #[test]
    fn a_record_newer_than_the_clock_counts_as_now() {
        let event = Record {
            time: 9_000_000_000,
            ..event()
        };
        assert_eq!(
            DropRecord::new(&event, clocks(), &attribution()).time,
            clocks().wall
        );
    }

    #[test]
    fn the_clocks_of_this_machine_can_be_read() {
        assert!(Clocks::now().monotonic > Duration::ZERO);
    }
}
