//! What the agent itself measures and counts.

use std::time::Duration;

use jiff::Timestamp;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Error, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry,
};

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

/// Seconds. A small change takes 1 ms; ten thousand pods and a thousand policies are
/// meant to take a second; beyond a minute it is broken.
const PROGRAMMING_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0,
];

/// Seconds from a pod's interface to its enforcement.
const DELAY_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

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
}

impl Observations {
    /// Nothing observed yet.
    pub fn new() -> Result<Self, Error> {
        let registry = Registry::new();
        let programming = registered(
            &registry,
            HistogramVec::new(
                HistogramOpts::new(
                    "egress_policy_programming_seconds",
                    "Seconds from an event to the last write it led to, by stage.",
                )
                .buckets(PROGRAMMING_BUCKETS.to_vec()),
                &["stage"],
            )?,
        )?;
        // Histograms are there from the start, so that a rate over the first one is right.
        for stage in Stage::ALL {
            programming.get_metric_with_label_values(&[stage.name()])?;
        }
        let enforcement_delay = registered(
            &registry,
            Histogram::with_opts(
                HistogramOpts::new(
                    "egress_pod_enforcement_delay_seconds",
                    "Seconds from seeing a pod's interface to enforcing what its policies say.",
                )
                .buckets(DELAY_BUCKETS.to_vec()),
            )?,
        )?;
        let attach_failures = registered(
            &registry,
            IntCounterVec::new(
                Opts::new(
                    "egress_attach_failures_total",
                    "Programs that could not be attached.",
                ),
                &["hook", "reason"],
            )?,
        )?;
        let bpf_errors = registered(
            &registry,
            IntCounterVec::new(
                Opts::new(
                    "egress_bpf_errors_total",
                    "Operations on kernel tables that failed.",
                ),
                &["map", "op"],
            )?,
        )?;
        let last_event = registered(
            &registry,
            GaugeVec::new(
                Opts::new(
                    "egress_watch_last_event_timestamp_seconds",
                    "When the last event of a resource arrived, in seconds since 1970.",
                ),
                &["resource"],
            )?,
        )?;
        Ok(Self {
            registry,
            programming,
            enforcement_delay,
            attach_failures,
            bpf_errors,
            last_event,
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

    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
