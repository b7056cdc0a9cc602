//! What the agent itself measures and counts.

use std::time::Duration;

use jiff::Timestamp;
use prometheus::proto::MetricFamily;
use prometheus::{Error, GaugeVec, Histogram, HistogramVec, IntCounterVec, IntGauge, Registry};

use super::catalogue;
use crate::flows::Tally;

/// A part of the way from an event to the last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Objects to tables.
    Compile,
    /// The writes.
    Apply,
    /// From the event to the last write.
    Total,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Self; 3] = [Self::Compile, Self::Apply, Self::Total];

    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compile => "compile",
            Self::Apply => "apply",
            Self::Total => "total",
        }
    }
}

/// Counters and histograms that the agent's tasks fill. Shared by reference: every
/// method takes `&self`.
#[derive(Clone, Debug)]
pub struct Observations {
    registry: Registry,
    programming: HistogramVec,
    enforcement_delay: Histogram,
    attach_failures: IntCounterVec,
    bpf_errors: IntCounterVec,
    last_event: GaugeVec,
    refused_rulesets: IntGauge,
    flow_log: Tally,
}

impl Observations {
    /// Nothing observed yet.
    pub fn new() -> Result<Self, Error> {
        let registry = Registry::new();
        let programming = catalogue::PROGRAMMING_SECONDS.histograms(&registry)?;
        // Histograms are there from the start, so that a rate over the first one is right.
        for stage in Stage::ALL {
            programming.get_metric_with_label_values(&[stage.name()])?;
        }
        let enforcement_delay = catalogue::ENFORCEMENT_DELAY_SECONDS.histogram(&registry)?;
        let attach_failures = catalogue::ATTACH_FAILURES.counters(&registry, &[])?;
        let bpf_errors = catalogue::BPF_ERRORS.counters(&registry, &[])?;
        let last_event = catalogue::WATCH_LAST_EVENT.float_gauges(&registry)?;
        let refused_rulesets = catalogue::REFUSED_RULESETS.gauge(&registry)?;
        Ok(Self {
            registry,
            programming,
            enforcement_delay,
            attach_failures,
            bpf_errors,
            last_event,
            refused_rulesets,
            flow_log: Tally::default(),
        })
    }

    /// A stage of a policy change took this long.
    pub fn programmed(&self, stage: Stage, took: Duration) {
        self.programming
            .with_label_values(&[stage.name()])
            .observe(took.as_secs_f64());
    }

    /// A new pod was enforced this long after its interface was seen.
    pub fn pod_enforced(&self, after: Duration) {
        self.enforcement_delay.observe(after.as_secs_f64());
    }

    /// A program could not be attached; `hook` is `from-pod` or `to-pod`, `reason` one of a few words.
    pub fn attach_failed(&self, hook: &str, reason: &str) {
        self.attach_failures
            .with_label_values(&[hook, reason])
            .inc();
    }

    /// An operation on a kernel table failed.
    pub fn bpf_failed(&self, map: &str, op: &str) {
        self.bpf_errors.with_label_values(&[map, op]).inc();
    }

    /// An event of a resource arrived (of files: `manifests`).
    pub fn event_seen(&self, resource: &str, now: Timestamp) {
        self.last_event
            .with_label_values(&[resource])
            .set(now.as_duration().as_secs_f64());
    }

    /// So many rulesets did not fit, at the last attempt.
    pub fn refused(&self, rulesets: usize) {
        self.refused_rulesets
            .set(rulesets.try_into().unwrap_or(i64::MAX));
    }

    /// What became of the lines of the flow log.
    pub const fn flow_log(&self) -> &Tally {
        &self.flow_log
    }

    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}
