//! The lines of an interval: sampled, equal flows as one, no more than the rate allows.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use egress_common::event::Record;

use super::record::FlowRecord;
use super::{Loss, Settings, Tally};
use crate::attribution::Attribution;
use crate::drops::{Clocks, Key};

/// What becomes lines when the interval ends.
#[derive(Debug)]
pub(super) struct Collector {
    node: String,
    interval: Duration,
    sample: u32,
    /// Lines of one interval at most.
    most: usize,
    since: Instant,
    lines: BTreeMap<Key, FlowRecord>,
    tally: Tally,
}

impl Collector {
    pub(super) fn new(settings: &Settings, tally: Tally, now: Instant) -> Self {
        // Whole seconds, at least one: an interval of half a second may have a second's lines.
        let seconds = settings.interval.as_secs().max(1);
        let most = u64::from(settings.rate).saturating_mul(seconds);
        Self {
            node: settings.node.clone(),
            interval: settings.interval,
            sample: settings.sample.max(1),
            most: usize::try_from(most).unwrap_or(usize::MAX),
            since: now,
            lines: BTreeMap::new(),
            tally,
        }
    }

    pub(super) fn take(&mut self, record: &Record, clocks: Clocks, owners: &Attribution) {
        if self.sample > 1 && !sampled_by(record).is_multiple_of(self.sample.into()) {
            return;
        }
        let line = FlowRecord::new(record, clocks, owners, &self.node, self.sample);
        let full = self.lines.len() >= self.most;
        match self.lines.entry(line.flow.key()) {
            Entry::Occupied(mut known) => known.get_mut().flow.add(line.flow),
            Entry::Vacant(_) if full => self.tally.lose(Loss::Rate, 1),
            Entry::Vacant(free) => {
                free.insert(line);
            }
        }
    }

    /// The lines of an interval that is over, the oldest first.
    pub(super) fn due(&mut self, now: Instant) -> Option<Vec<FlowRecord>> {
        if now.saturating_duration_since(self.since) < self.interval {
            return None;
        }
        self.since = now;
        let lines = self.rest();
        (!lines.is_empty()).then_some(lines)
    }

    /// What there is.
    pub(super) fn rest(&mut self) -> Vec<FlowRecord> {
        let mut lines: Vec<FlowRecord> = std::mem::take(&mut self.lines).into_values().collect();
        lines.sort_by_key(|line| line.flow.time);
        lines
    }
}

/// Equal for every record of one flow, so that a sampled flow is logged whole.
fn sampled_by(record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    (
        record.source,
        record.destination,
        record.protocol,
        record.source_port.get(),
        record.destination_port.get(),
    )
        .hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use egress_common::event::Reason;

    use super::super::Target;
    use super::*;
    use crate::answer::Verdict;
    use crate::attribution::Owner;

    fn settings() -> Settings {
        Settings {
            target: Target::Stdout,
            interval: Duration::from_secs(10),
            sample: 1,
            rate: 1_000,
            pod_rate: 1_000,
            size: 1 << 20,
            kept: 1,
            node: "node-1".to_owned(),
        }
    }

    fn record(reason: Reason, source_port: u16, port: u16) -> Record {
        Record {
            time: 0,
            hook: 7,
            slot: 3.into(),
            reason: reason.number(),
            family: 4,
            protocol: 6,
            tcp_flags: 2,
            source_port: source_port.into(),
            destination_port: port.into(),
            ethertype: 0x0800.into(),
            length: 60.into(),
            generation: 1.into(),
            source: [10; 16],
            destination: [11; 16],
        }
    }

    fn take(collector: &mut Collector, record: &Record) {
        let owner = Owner::new("shop", "web-0", None, vec!["shop/db".to_owned()]).with_uid("3f2a");
        let owners = Attribution::from([(3, owner.at("veth7"))]);
        collector.take(record, Clocks::now(), &owners);
    }

    #[test]
    fn equal_flows_of_an_interval_are_one_line() {
        let start = Instant::now();
        let tally = Tally::default();
        let mut collector = Collector::new(&settings(), tally.clone(), start);
        for source in 0..5 {
            take(&mut collector, &record(Reason::Allowed, source, 443));
        }
        take(&mut collector, &record(Reason::NoRule, 9, 443));
        assert_eq!(collector.due(start + Duration::from_secs(9)), None);
        let lines = collector.due(start + Duration::from_secs(10)).unwrap();
        let told: Vec<_> = lines
            .iter()
            .map(|line| (line.verdict, line.flow.count, line.flow.reason.as_str()))
            .collect();
        assert!(told.contains(&(Verdict::Allow, 5, "allowed")), "{told:?}");
        assert!(told.contains(&(Verdict::Deny, 1, "no-rule")), "{told:?}");
        assert_eq!(collector.due(start + Duration::from_secs(20)), None);
        assert_eq!(tally.lost(Loss::Rate), 0);
    }

    #[test]
    fn lines_above_the_rate_are_lost_and_counted_and_known_ones_still_count() {
        let start = Instant::now();
        let tally = Tally::default();
        let few = Settings {
            rate: 2,
            interval: Duration::from_secs(1),
            ..settings()
        };
        let mut collector = Collector::new(&few, tally.clone(), start);
        for port in [1, 2, 3, 4, 1] {
            take(&mut collector, &record(Reason::Allowed, 1, port));
        }
        let lines = collector.due(start + Duration::from_secs(1)).unwrap();
        let counts: Vec<_> = lines.iter().map(|line| line.flow.count).collect();
        assert_eq!(counts.iter().sum::<u64>(), 3, "{counts:?}");
        assert_eq!(tally.lost(Loss::Rate), 2);
    }

    #[test]
    fn a_sample_takes_about_one_flow_in_n_and_each_flow_whole() {
        let sampled = Settings {
            sample: 10,
            ..settings()
        };
        let mut collector = Collector::new(&sampled, Tally::default(), Instant::now());
        for port in 0..5_000 {
            for _ in 0..2 {
                take(&mut collector, &record(Reason::Allowed, 1, port));
            }
        }
        let lines = collector.rest();
        assert!((400..600).contains(&lines.len()), "{}", lines.len());
        assert!(
            lines
                .iter()
                .all(|line| line.flow.count == 2 && line.sample == 10)
        );
    }

    #[test]
    fn a_line_has_the_fields_of_the_document() {
        let mut collector = Collector::new(&settings(), Tally::default(), Instant::now());
        take(&mut collector, &record(Reason::Allowed, 40_000, 443));
        let lines = collector.rest();
        let mut value = serde_json::to_value(lines.first().unwrap()).unwrap();
        let time = value.as_object_mut().unwrap().remove("time");
        assert!(time.is_some_and(|time| time.is_string()));
        assert_eq!(
            value,
            serde_json::json!({
                "schema": "egress-agent.dev/flow/v1", "node": "node-1", "verdict": "allow", "sample": 1,
                "namespace": "shop", "pod": "web-0", "podUid": "3f2a", "workload": "Pod/web-0", "interface": "veth7",
                "source": "10.10.10.10", "sourcePort": 40000, "destination": "11.11.11.11", "port": 443,
                "protocol": "tcp", "protocolNumber": 6, "family": "4", "tcpFlags": ["SYN"],
                "reason": "allowed", "isolatedBy": ["shop/db"], "count": 1,
            })
        );
    }
}
