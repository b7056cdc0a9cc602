//! The one table of metrics: names, types, labels and what they say.
//!
//! What `/metrics` serves is built from it, and so is `docs/reference/metrics.md`. Labels take
//! values from small closed sets or name things of the cluster; none ever holds a destination
//! address, a name that was looked up, or a port.

use egress_common::event::{Action, Reason};

use super::observations::Stage;
use crate::flows::Loss;
use crate::status::{PodState, PolicyState, ProblemKind};
use crate::traffic::{Family, Protocol};

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As in `/metrics`; of a histogram without `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels, in the order in which values are given.
    pub labels: &'static [Label],
    /// The `# HELP` line.
    pub help: &'static str,
}

/// A metric's type.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only grows, until the agent restarts.
    Counter,
    /// Is what it is now.
    Gauge,
    /// Seconds, in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word of the `# TYPE` line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One label of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it can be.
    pub values: Values,
    /// There only when this flag of `run` is given.
    pub flag: Option<&'static str>,
}

/// What a label can be.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// One of these.
    OneOf(fn() -> Vec<&'static str>),
    /// In words.
    Said(&'static str),
}

impl Label {
    const fn one_of(name: &'static str, values: fn() -> Vec<&'static str>) -> Self {
        Self {
            name,
            values: Values::OneOf(values),
            flag: None,
        }
    }

    const fn said(name: &'static str, values: &'static str) -> Self {
        Self {
            name,
            values: Values::Said(values),
            flag: None,
        }
    }

    const fn with_flag(self, flag: &'static str) -> Self {
        Self {
            flag: Some(flag),
            ..self
        }
    }
}

const REASON: Label = Label::one_of("reason", || {
    let drops = |reason: &Reason| match reason.action() {
        Action::Drop => true,
        Action::Pass => false,
    };
    let reasons = Reason::ALL.into_iter().filter(drops);
    reasons.map(Reason::name).collect()
});
const PROTOCOL: Label = Label::one_of("protocol", || Protocol::ALL.map(Protocol::name).to_vec());
const FAMILY: Label = Label::one_of("family", || Family::ALL.map(Family::name).to_vec());
const DROPPED_FAMILY: Label = Label::said("family", "`4`, `6`; empty for a frame that is neither");
const MAP: Label = Label::said("map", "name of a kernel table, as in `egress-agent status`");

/// The flag of `run` that brings the label `pod`.
pub const POD_LABEL: &str = "--metrics-pod-label";

/// Seconds. A small change takes 1 ms; ten thousand pods and a thousand policies are
/// meant to take a second; beyond a minute it is broken.
const PROGRAMMING_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0,
];

/// Seconds from a pod's interface to its enforcement.
const DELAY_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// See its `help`, as of all below.
pub const BUILD_INFO: Metric = Metric {
    name: "egress_build_info",
    kind: Kind::Gauge,
    labels: &[
        Label::said("version", "the agent's version"),
        Label::said("abi", "version of the layout of the kernel tables"),
    ],
    help: "Always 1; the labels say which agent runs.",
};

/// Readiness.
pub const READY: Metric = Metric {
    name: "egress_ready",
    kind: Kind::Gauge,
    labels: &[],
    help: "1 when everything seen so far is programmed, else 0.",
};

/// Pods by state.
pub const PODS: Metric = Metric {
    name: "egress_pods",
    kind: Kind::Gauge,
    labels: &[Label::one_of("state", || {
        PodState::ALL.map(PodState::name).to_vec()
    })],
    help: "Pods of this node by what is enforced.",
};

/// Policies by state.
pub const POLICIES: Metric = Metric {
    name: "egress_policies",
    kind: Kind::Gauge,
    labels: &[
        Label::said("kind", "kind of the object: `NetworkPolicy`"),
        Label::one_of("state", || PolicyState::ALL.map(PolicyState::name).to_vec()),
    ],
    help: "Policies by how much could be read.",
};

/// Unreadable input.
pub const SOURCE_PROBLEMS: Metric = Metric {
    name: "egress_source_problems",
    kind: Kind::Gauge,
    labels: &[Label::one_of("kind", || {
        let source = |kind: &ProblemKind| *kind != ProblemKind::Enforcement;
        let kinds = ProblemKind::ALL.into_iter().filter(source);
        kinds.map(ProblemKind::name).collect()
    })],
    help: "Input that cannot be read, by what it is; what it names is closed.",
};

/// Unenforced wishes.
pub const ENFORCEMENT_PROBLEMS: Metric = Metric {
    name: "egress_enforcement_problems",
    kind: Kind::Gauge,
    labels: &[],
    help: "Things the kernel does not enforce as asked.",
};

/// Refused rulesets.
pub const REFUSED_RULESETS: Metric = Metric {
    name: "egress_refused_rulesets",
    kind: Kind::Gauge,
    labels: &[],
    help: "Rulesets that do not fit into the kernel tables; their pods keep the rules they had, new pods are closed.",
};

/// Drops by reason.
pub const DROPPED_PACKETS: Metric = Metric {
    name: "egress_dropped_packets_total",
    kind: Kind::Counter,
    labels: &[REASON, PROTOCOL, DROPPED_FAMILY],
    help: "Packets dropped on this node; a GSO frame counts as its segments.",
};

/// Bytes of drops.
pub const DROPPED_BYTES: Metric = Metric {
    name: "egress_dropped_bytes_total",
    kind: Kind::Counter,
    labels: &[REASON, PROTOCOL, DROPPED_FAMILY],
    help: "Bytes of the IP packets dropped on this node.",
};

/// Drops by workload.
pub const WORKLOAD_DROPPED_PACKETS: Metric = Metric {
    name: "egress_workload_dropped_packets_total",
    kind: Kind::Counter,
    labels: &[
        Label::said("namespace", "namespace of the pod; empty for the overflow"),
        Label::said(
            "workload",
            "`KIND/NAME` of the topmost owner, `Pod/NAME` of a bare pod; `overflow` above `--metrics-workload-limit`",
        ),
        Label::said("pod", "name of the pod").with_flag(POD_LABEL),
        REASON,
    ],
    help: "Packets dropped by sending workload; those above the limit share workload=\"overflow\".",
};

/// Packets that passed.
pub const ALLOWED_PACKETS: Metric = Metric {
    name: "egress_allowed_packets_total",
    kind: Kind::Counter,
    labels: &[FAMILY],
    help: "Packets that pods of this node were allowed to send, isolated or not.",
};

/// Lost records.
pub const EVENTS_LOST: Metric = Metric {
    name: "egress_events_lost_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Drop records left out, above a pod's share of a second or for want of room; their packets are counted all the same.",
};

/// The flow log.
pub const FLOW_LOG_LINES: Metric = Metric {
    name: "egress_flow_log_lines_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Lines written to the flow log.",
};

/// What the flow log lacks.
pub const FLOW_LOG_LOST: Metric = Metric {
    name: "egress_flow_log_lost_total",
    kind: Kind::Counter,
    labels: &[Label::one_of("reason", || {
        Loss::ALL.map(Loss::name).to_vec()
    })],
    help: "Records and lines that the flow log lacks: over its rate, queue full, not written, or lost by the kernel.",
};

/// Entries of tables.
pub const MAP_ENTRIES: Metric = Metric {
    name: "egress_bpf_map_entries",
    kind: Kind::Gauge,
    labels: &[MAP],
    help: "Entries in a kernel table.",
};

/// Capacity of tables.
pub const MAP_CAPACITY: Metric = Metric {
    name: "egress_bpf_map_capacity",
    kind: Kind::Gauge,
    labels: &[MAP],
    help: "Entries that fit into a kernel table.",
};

/// Failed operations.
pub const BPF_ERRORS: Metric = Metric {
    name: "egress_bpf_errors_total",
    kind: Kind::Counter,
    labels: &[
        MAP,
        Label::said(
            "op",
            "`update`, `delete`, `lookup`, `iterate`, `create`; `full` for a change that was refused before its first write",
        ),
    ],
    help: "Operations on kernel tables that failed.",
};

/// Failed attachments.
pub const ATTACH_FAILURES: Metric = Metric {
    name: "egress_attach_failures_total",
    kind: Kind::Counter,
    labels: &[
        Label::said("hook", "`from-pod` or `to-pod`"),
        Label::said("reason", "what failed: `attach`, `detach`, `pin`"),
    ],
    help: "Programs that could not be attached.",
};

/// Programming time.
pub const PROGRAMMING_SECONDS: Metric = Metric {
    name: "egress_policy_programming_seconds",
    kind: Kind::Histogram(PROGRAMMING_BUCKETS),
    labels: &[Label::one_of("stage", || {
        Stage::ALL.map(Stage::name).to_vec()
    })],
    help: "Seconds from an event to the last write it led to, by stage.",
};

/// Delay of new pods.
pub const ENFORCEMENT_DELAY_SECONDS: Metric = Metric {
    name: "egress_pod_enforcement_delay_seconds",
    kind: Kind::Histogram(DELAY_BUCKETS),
    labels: &[],
    help: "Seconds from seeing a pod's interface to enforcing what its policies say.",
};

/// Age of what is known.
pub const WATCH_LAST_EVENT: Metric = Metric {
    name: "egress_watch_last_event_timestamp_seconds",
    kind: Kind::Gauge,
    labels: &[Label::said(
        "resource",
        "what is watched; `manifests` for files",
    )],
    help: "When the last event of a resource arrived, in seconds since 1970.",
};

/// Every metric, as the reference lists them: traffic, then what is enforced, then the agent.
pub const ALL: [&Metric; 21] = [
    &DROPPED_PACKETS,
    &DROPPED_BYTES,
    &WORKLOAD_DROPPED_PACKETS,
    &ALLOWED_PACKETS,
    &EVENTS_LOST,
    &FLOW_LOG_LINES,
    &FLOW_LOG_LOST,
    &PODS,
    &POLICIES,
    &SOURCE_PROBLEMS,
    &ENFORCEMENT_PROBLEMS,
    &REFUSED_RULESETS,
    &PROGRAMMING_SECONDS,
    &ENFORCEMENT_DELAY_SECONDS,
    &WATCH_LAST_EVENT,
    &MAP_ENTRIES,
    &MAP_CAPACITY,
    &BPF_ERRORS,
    &ATTACH_FAILURES,
    &READY,
    &BUILD_INFO,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_metric_is_there_twice_and_every_one_has_a_sentence() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind.name() == "counter",
                "{}",
                metric.name
            );
            for label in metric.labels {
                match label.values {
                    Values::OneOf(values) => assert!(!values().is_empty(), "{}", label.name),
                    Values::Said(words) => assert!(!words.is_empty(), "{}", label.name),
                }
            }
        }
    }

    #[test]
    fn no_label_is_for_a_destination() {
        for metric in ALL {
            for label in metric.labels {
                assert!(
                    !["address", "destination", "ip", "port", "host", "domain"]
                        .contains(&label.name),
                    "{} {}",
                    metric.name,
                    label.name
                );
            }
        }
    }
}
