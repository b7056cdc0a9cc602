//! From counters per endpoint to totals that never go down.
//!
//! The node's totals are the kernel's own. An endpoint's counters are set back with its pod; a
//! workload's total must not go down then (Prometheus would read a restart) while it has
//! other pods. Its series vanish with its last pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use egress_common::event::Reason;

use super::kernel::{Kernel, ReadError, SlotDrops};
use crate::attribution::{Attribution, Owner};
use crate::status::MapFill;
use crate::traffic::{Family, Protocol};

/// How workloads become label values.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadLabels {
    /// A `pod` label too.
    pub pod: bool,
    /// How many get series of their own; the others share one bucket.
    pub limit: usize,
}

impl Default for WorkloadLabels {
    /// 2,000 workloads: with eight reasons to drop at most 16,000 series a node, and far
    /// above the 250 pods that a large node runs.
    fn default() -> Self {
        Self {
            pod: false,
            limit: 2_000,
        }
    }
}

/// Labels of a workload's series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    /// The namespace; empty for the overflow bucket.
    pub namespace: String,
    /// `KIND/NAME`; `overflow` for the overflow bucket.
    pub workload: String,
    /// The pod, when [`WorkloadLabels::pod`]; empty for the overflow bucket.
    pub pod: Option<String>,
}

/// The kernel's counters together with those of endpoints that are gone.
pub struct Counters {
    kernel: Arc<dyn Kernel>,
    labels: WorkloadLabels,
    /// Held while the kernel is read and while an endpoint's counters are set back: a scrape
    /// sees them in the kernel or in here, never in both or in neither.
    gone: Mutex<Gone>,
}

/// Totals at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrape {
    /// The node's drops: packets, bytes.
    pub dropped: BTreeMap<(Reason, Protocol, Option<Family>), (u64, u64)>,
    /// Packets the node's pods were allowed to send.
    pub allowed: BTreeMap<Family, u64>,
    /// Dropped packets by workload.
    pub workloads: BTreeMap<(Series, Reason), u64>,
    /// Records that found the ring buffer full.
    pub events_lost: u64,
    /// Records of new flows that were over the limit or found the ring buffer full.
    pub flow_events_lost: u64,
    /// How full the tables are.
    pub maps: Vec<MapFill>,
}

/// What is remembered of endpoints that are gone.
#[derive(Debug, Default)]
struct Gone {
    /// Workloads that were counted at least once and still have a pod.
    workloads: BTreeMap<Series, Standing>,
    /// Drops of workloads in the overflow bucket that are gone.
    overflow: SlotDrops,
}

/// Decided when a workload is first counted, and kept: a series that moved into or out of
/// the overflow bucket would make a total go down.
#[derive(Debug)]
struct Standing {
    overflow: bool,
    gone: SlotDrops,
}

impl Counters {
    /// Counters over a kernel.
    pub fn new(kernel: Arc<dyn Kernel>, labels: WorkloadLabels) -> Self {
        Self {
            kernel,
            labels,
            gone: Mutex::new(Gone::default()),
        }
    }

    /// Takes over the counters of an endpoint whose pod is gone.
    ///
    /// `take` reads them and sets them back in the kernel. Call this before an [`Attribution`]
    /// without the pod is published, and before the slot is given out again.
    pub fn retire<E>(
        &self,
        owner: Option<&Owner>,
        take: impl FnOnce() -> Result<SlotDrops, E>,
    ) -> Result<(), E> {
        let mut gone = self.gone();
        let drops = take()?;
        if let Some(owner) = owner
            && !drops.is_empty()
        {
            let standing = gone.standing(&self.series(owner), self.labels.limit);
            for (reason, packets) in drops {
                *standing.gone.entry(reason).or_default() += packets;
            }
        }
        Ok(())
    }

    /// Reads the kernel and adds what is gone.
    pub fn scrape(&self, attribution: &Attribution) -> Result<Scrape, ReadError> {
        let mut gone = self.gone();
        let slots: Vec<u16> = attribution.keys().copied().collect();
        let readings = self.kernel.readings(&slots)?;
        gone.forget(
            &attribution
                .values()
                .map(|owner| self.series(owner))
                .collect(),
        );

        let dropped = readings.dropped.iter().map(|count| {
            (
                (count.reason, count.protocol, count.family),
                (count.packets, count.bytes),
            )
        });
        let mut scrape = Scrape {
            dropped: dropped.collect(),
            allowed: readings.allowed,
            workloads: BTreeMap::new(),
            events_lost: readings.events_lost,
            flow_events_lost: readings.flow_events_lost,
            maps: readings.maps,
        };
        for (slot, drops) in &readings.by_slot {
            if let Some(owner) = attribution.get(slot)
                && !drops.is_empty()
            {
                let series = self.series(owner);
                let overflow = gone.standing(&series, self.labels.limit).overflow;
                let series = if overflow { &self.overflow() } else { &series };
                scrape.add_workload(series, drops);
            }
        }
        for (series, standing) in &gone.workloads {
            let series = if standing.overflow {
                &self.overflow()
            } else {
                series
            };
            scrape.add_workload(series, &standing.gone);
        }
        scrape.add_workload(&self.overflow(), &gone.overflow);
        Ok(scrape)
    }

    fn gone(&self) -> MutexGuard<'_, Gone> {
        // A panic between two additions leaves sums that are too small, nothing worse.
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn series(&self, owner: &Owner) -> Series {
        Series {
            namespace: owner.namespace.clone(),
            workload: owner.workload.clone(),
            pod: self.labels.pod.then(|| owner.pod.clone()),
        }
    }

    fn overflow(&self) -> Series {
        Series {
            namespace: String::new(),
            workload: "overflow".to_owned(),
            pod: self.labels.pod.then(String::new),
        }
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters")
            .field("labels", &self.labels)
            .field("gone", &self.gone)
            .finish_non_exhaustive()
    }
}

impl Scrape {
    fn add_workload(&mut self, series: &Series, counts: &SlotDrops) {
        for (reason, packets) in counts {
            *self.workloads.entry((series.clone(), *reason)).or_default() += packets;
        }
    }
}

impl Gone {
    /// A workload's standing, decided now if it was never counted.
    fn standing(&mut self, series: &Series, limit: usize) -> &mut Standing {
        let own = self.workloads.values().filter(|s| !s.overflow).count();
        self.workloads
            .entry(series.clone())
            .or_insert_with(|| Standing {
                overflow: own >= limit,
                gone: BTreeMap::new(),
            })
    }

    /// Forgets workloads that have no pod any more.
    fn forget(&mut self, alive: &BTreeSet<Series>) {
        let Self {
            workloads,
            overflow,
        } = self;
        workloads.retain(|series, standing| {
            let stays = alive.contains(series);
            if !stays && standing.overflow {
                for (reason, packets) in &standing.gone {
                    *overflow.entry(*reason).or_default() += packets;
                }
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::kernel::{DropCount, Readings};
    use super::*;

    /// A kernel that a test writes: the node's drops, and those of endpoints.
    #[derive(Default)]
    struct Numbers {
        total: Mutex<u64>,
        by_slot: Mutex<BTreeMap<u16, u64>>,
    }

    impl Numbers {
        fn drop_packets(&self, slot: u16, packets: u64) {
            *self.total.lock().unwrap() += packets;
            *self.by_slot.lock().unwrap().entry(slot).or_default() += packets;
        }
    }

    impl Kernel for Numbers {
        fn readings(&self, slots: &[u16]) -> Result<Readings, ReadError> {
            let packets = *self.total.lock().unwrap();
            let by_slot = self.by_slot.lock().unwrap();
            let of = |slot: &u16| Some((*slot, drops(*by_slot.get(slot)?)));
            Ok(Readings {
                dropped: vec![DropCount {
                    reason: Reason::NoRule,
                    protocol: Protocol::Udp,
                    family: Some(Family::V6),
                    packets,
                    bytes: packets * 100,
                }],
                by_slot: slots.iter().filter_map(of).collect(),
                ..Readings::default()
            })
        }
    }

    fn drops(packets: u64) -> SlotDrops {
        SlotDrops::from([(Reason::NoRule, packets)])
    }

    struct Node {
        kernel: Arc<Numbers>,
        counters: Counters,
        attribution: Attribution,
    }

    impl Node {
        fn new(labels: WorkloadLabels) -> Self {
            let kernel = Arc::new(Numbers::default());
            let shared: Arc<dyn Kernel> = kernel.clone();
            let counters = Counters::new(shared, labels);
            Self {
                kernel,
                counters,
                attribution: Attribution::new(),
            }
        }

        fn add(&mut self, slot: u16, workload: &str, packets: u64) {
            let owner = Owner::new("a", &format!("pod-{slot}"), Some(workload), Vec::new());
            self.attribution.insert(slot, owner);
            self.kernel.drop_packets(slot, packets);
        }

        fn remove(&mut self, slot: u16) {
            let take = || -> Result<SlotDrops, ReadError> {
                let mut by_slot = self.kernel.by_slot.lock().unwrap();
                Ok(drops(by_slot.remove(&slot).unwrap()))
            };
            self.counters
                .retire(self.attribution.get(&slot), take)
                .unwrap();
            self.attribution.remove(&slot);
        }

        fn total(&self) -> (u64, u64) {
            let scrape = self.counters.scrape(&self.attribution).unwrap();
            let key = (Reason::NoRule, Protocol::Udp, Some(Family::V6));
            scrape.dropped.get(&key).copied().unwrap_or_default()
        }

        fn workloads(&self) -> Vec<(String, u64)> {
            let scrape = self.counters.scrape(&self.attribution).unwrap();
            scrape
                .workloads
                .into_iter()
                .map(|((series, _), packets)| (series.workload, packets))
                .collect()
        }
    }

    #[test]
    fn totals_of_the_node_stay_when_a_pod_goes() {
        let mut node = Node::new(WorkloadLabels::default());
        node.add(1, "ReplicaSet/web", 10);
        node.add(2, "ReplicaSet/db", 5);
        assert_eq!(node.total(), (15, 1_500));
        node.remove(1);
        assert_eq!(node.total(), (15, 1_500));
        node.add(1, "ReplicaSet/db", 1);
        assert_eq!(node.total(), (16, 1_600));
    }

    #[test]
    fn a_workload_keeps_its_count_until_its_last_pod_goes() {
        let mut node = Node::new(WorkloadLabels::default());
        node.add(1, "ReplicaSet/web", 10);
        node.add(2, "ReplicaSet/web", 5);
        assert_eq!(node.workloads(), [("ReplicaSet/web".to_owned(), 15)]);
        node.remove(1);
        assert_eq!(node.workloads(), [("ReplicaSet/web".to_owned(), 15)]);
        node.remove(2);
        assert_eq!(node.workloads(), []);
        assert_eq!(node.total(), (15, 1_500));
    }

    #[test]
    fn a_failed_retirement_counts_nothing_twice() {
        let mut node = Node::new(WorkloadLabels::default());
        node.add(1, "ReplicaSet/web", 10);
        assert_eq!(
            node.counters
                .retire(node.attribution.get(&1), || Err("busy")),
            Err("busy")
        );
        assert_eq!(node.total(), (10, 1_000));
    }

    #[test]
    fn workloads_above_the_limit_share_a_bucket_that_never_goes_down() {
        let mut node = Node::new(WorkloadLabels {
            limit: 1,
            ..WorkloadLabels::default()
        });
        let web = ("ReplicaSet/web".to_owned(), 1);
        let overflow = |packets| ("overflow".to_owned(), packets);
        node.add(1, "ReplicaSet/web", 1);
        assert_eq!(node.workloads(), std::slice::from_ref(&web));
        node.add(2, "ReplicaSet/a", 2);
        node.add(3, "ReplicaSet/z", 4);
        assert_eq!(node.workloads(), [overflow(6), web.clone()]);
        node.remove(2);
        assert_eq!(node.workloads(), [overflow(6), web]);
        // A place is free again: those in the bucket stay there, a new one takes it.
        node.remove(1);
        node.add(4, "ReplicaSet/new", 8);
        assert_eq!(
            node.workloads(),
            [overflow(6), ("ReplicaSet/new".to_owned(), 8)]
        );
    }

    #[test]
    fn the_pod_label_is_opt_in() {
        let mut node = Node::new(WorkloadLabels {
            pod: true,
            ..WorkloadLabels::default()
        });
        node.add(1, "ReplicaSet/web", 1);
        node.add(2, "ReplicaSet/web", 2);
        let scrape = node.counters.scrape(&node.attribution).unwrap();
        let pods: Vec<_> = scrape
            .workloads
            .keys()
            .map(|(series, _)| series.pod.as_deref().unwrap())
            .collect();
        assert_eq!(pods, ["pod-1", "pod-2"]);
    }

    #[test]
    fn counters_of_an_unknown_slot_count_for_the_node_only() {
        let node = Node::new(WorkloadLabels::default());
        node.kernel.drop_packets(9, 3);
        assert_eq!(node.total(), (3, 300));
        assert_eq!(node.workloads(), []);
    }
}
