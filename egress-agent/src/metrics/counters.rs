//! From counters per endpoint to totals that never go down.
//!
//! An endpoint's counters are deleted with its pod. The node's totals must not go down
//! then (Prometheus would read a restart), and neither must a workload's while it has
//! other pods; its series vanish with its last pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use egress_common::event::Reason;

use super::kernel::{Kernel, ReadError, Readings};
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
    /// Held while the kernel is read and while an endpoint's counters are deleted: a scrape
    /// sees them in the kernel or in here, never in both or in neither.
    gone: Mutex<Totals>,
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
    /// How full the tables are.
    pub maps: Vec<MapFill>,
}

/// What is remembered of endpoints that are gone.
#[derive(Debug, Default)]
struct Totals {
    node: Scrape,
    /// Workloads that were counted at least once and still have a pod.
    workloads: BTreeMap<Series, Standing>,
    /// Drops of workloads in the overflow bucket that are gone.
    overflow: BTreeMap<Reason, u64>,
}

/// Decided when a workload is first counted, and kept: a series that moved into or out of
/// the overflow bucket would make a total go down.
#[derive(Debug)]
struct Standing {
    overflow: bool,
    gone: BTreeMap<Reason, u64>,
}

impl Counters {
    /// Counters over a kernel.
    pub fn new(kernel: Arc<dyn Kernel>, labels: WorkloadLabels) -> Self {
        Self {
            kernel,
            labels,
            gone: Mutex::new(Totals::default()),
        }
    }

    /// Takes over the counters of an endpoint whose pod is gone.
    ///
    /// `take` reads them and deletes them in the kernel. Call this before an [`Attribution`]
    /// without the pod is published, and before the slot is given out again.
    pub fn retire<E>(
        &self,
        owner: Option<&Owner>,
        take: impl FnOnce() -> Result<Readings, E>,
    ) -> Result<(), E> {
        let mut gone = self.gone();
        let readings = take()?;
        gone.node.add(&readings);
        if let Some(owner) = owner {
            let series = self.series(owner);
            for count in &readings.dropped {
                let standing = gone.standing(&series, self.labels.limit);
                *standing.gone.entry(count.reason).or_default() += count.packets;
            }
        }
        Ok(())
    }

    /// Reads the kernel and adds what is gone.
    pub fn scrape(&self, attribution: &Attribution) -> Result<Scrape, ReadError> {
        let mut gone = self.gone();
        let readings = self.kernel.readings()?;
        gone.forget(
            &attribution
                .values()
                .map(|owner| self.series(owner))
                .collect(),
        );

        let mut scrape = gone.node.clone();
        scrape.add(&readings);
        scrape.events_lost = readings.events_lost;
        scrape.maps = readings.maps;

        for count in &readings.dropped {
            if let Some(owner) = attribution.get(&count.slot) {
                let series = self.series(owner);
                let overflow = gone.standing(&series, self.labels.limit).overflow;
                let series = if overflow { self.overflow() } else { series };
                *scrape.workloads.entry((series, count.reason)).or_default() += count.packets;
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

    fn gone(&self) -> MutexGuard<'_, Totals> {
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
    fn add(&mut self, readings: &Readings) {
        for count in &readings.dropped {
            let (packets, bytes) = self
                .dropped
                .entry((count.reason, count.protocol, count.family))
                .or_default();
            *packets += count.packets;
            *bytes += count.bytes;
        }
        for count in &readings.allowed {
            *self.allowed.entry(count.family).or_default() += count.packets;
        }
    }

    fn add_workload(&mut self, series: &Series, counts: &BTreeMap<Reason, u64>) {
        for (reason, packets) in counts {
            *self.workloads.entry((series.clone(), *reason)).or_default() += packets;
        }
    }
}

impl Totals {
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
            node: _,
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
