//! Which metrics and labels an expression of PromQL speaks of.
//!
//! Whether it *is* an expression is for promtool to say; this finds names in one that is.

use std::collections::BTreeSet;

use egress_agent::metrics::catalogue::{self, Kind, Metric};

/// Labels that Prometheus or its configuration gives to every series of a target.
const OF_TARGETS: [&str; 3] = ["job", "instance", "node"];

/// Why an expression asks for something that is not served; empty when it does not.
pub(crate) fn unknown(expression: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut offered: BTreeSet<&str> = OF_TARGETS.into();
    for (name, labels) in selectors(expression) {
        if name == "up" {
            continue;
        }
        let Some((metric, histogram)) = served(name) else {
            wrong.push(format!("no metric {name}"));
            continue;
        };
        let mut own: BTreeSet<&str> = metric.labels.iter().map(|label| label.name).collect();
        own.extend(OF_TARGETS);
        if histogram {
            own.insert("le");
        }
        for label in labels {
            if !own.contains(label) {
                wrong.push(format!("{name} has no label {label}"));
            }
        }
        offered.extend(own);
    }
    for label in grouped(expression) {
        if !offered.contains(label) {
            wrong.push(format!("nothing in it has a label {label}"));
        }
    }
    wrong
}

/// Metrics that an expression reads, with the labels it selects by.
pub(crate) fn selectors(expression: &str) -> Vec<(&str, Vec<&str>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some((name, after)) = next_metric(rest) {
        let braces = after
            .strip_prefix('{')
            .and_then(|inside| inside.split_once('}'));
        let labels = braces.map_or_else(Vec::new, |(inside, _)| labels(inside));
        found.push((name, labels));
        rest = after;
    }
    found
}

/// The next name of ours, or `up`, and what comes behind it.
fn next_metric(text: &str) -> Option<(&str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut from = 0;
    loop {
        let word = text.get(from..)?;
        let start = from + word.find(is_name)?;
        let rest = text.get(start..)?;
        let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let name = rest.get(..length)?;
        if name == "up" || name.starts_with("egress_") {
            return Some((name, rest.get(length..)?));
        }
        from = start + length;
    }
}

/// `job`, `state` of `job=~"x",state!="y"`.
fn labels(inside: &str) -> Vec<&str> {
    inside
        .split(',')
        .filter_map(|matcher| matcher.split(['=', '!']).next())
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect()
}

/// Labels in `by (…)`.
fn grouped(expression: &str) -> Vec<&str> {
    expression
        .split("by (")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .flat_map(|names| names.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect()
}

/// The metric behind a name of a series, and whether it is a histogram's buckets.
fn served(name: &str) -> Option<(&'static Metric, bool)> {
    let metric = |name: &str| {
        catalogue::ALL
            .into_iter()
            .find(|metric| metric.name == name)
    };
    let histogram = |suffix: &str| {
        let metric = metric(name.strip_suffix(suffix)?)?;
        matches!(metric.kind, Kind::Histogram(_)).then_some(metric)
    };
    metric(name)
        .filter(|metric| !matches!(metric.kind, Kind::Histogram(_)))
        .or_else(|| histogram("_sum"))
        .or_else(|| histogram("_count"))
        .map(|metric| (metric, false))
        .or_else(|| histogram("_bucket").map(|metric| (metric, true)))
}

#[test]
fn names_that_are_not_served_are_found() {
    for good in [
        "up{job=~\".*egress-agent.*\"} == 0",
        "sum by (reason) (rate(egress_dropped_packets_total{node=~\"$node\"}[5m]))",
        "histogram_quantile(0.9, sum by (le, stage) (rate(egress_policy_programming_seconds_bucket[1m])))",
        "egress_bpf_map_entries / egress_bpf_map_capacity > 0.8",
    ] {
        assert_eq!(unknown(good), [""; 0], "{good}");
    }
    for bad in [
        "egress_ready_total == 0",
        "egress_ready{pod=\"x\"}",
        "sum by (reason) (egress_ready)",
        "egress_policy_programming_seconds",
        "sum by (le) (egress_policy_programming_seconds_sum)",
    ] {
        assert_eq!(unknown(bad).len(), 1, "{bad}");
    }
}
