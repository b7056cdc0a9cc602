//! The metrics, as the table they are served from knows them.

use egress_agent::metrics::catalogue::{self, Kind, Label, Metric, Values};

use crate::markdown::{GENERATED, code, one_line, table};

const INTRODUCTION: &str = "\
Served on `--http-addr` (default `127.0.0.1:9810`) under `/metrics`, as Prometheus text or, for who asks for it, OpenMetrics 1.0. Packet and byte counts are the kernel's own, read at the \
moment of the scrape and never derived from drop records, which are rate limited; they go on while no agent runs. No label ever \
holds a destination address, a name that was looked up, or a port.

Some metrics carry a `namespace` or a `pod` of their own. Where Prometheus adds such labels to its targets (as the Prometheus \
Operator does), set `honorLabels: true`, or look for `exported_namespace`.
";

/// `docs/reference/metrics.md`.
pub(super) fn render() -> String {
    let metrics: Vec<Vec<String>> = catalogue::ALL.into_iter().map(row).collect();
    let mut text = format!("# Metrics\n\n{GENERATED}\n{INTRODUCTION}\n");
    text.push_str(&table(
        &["metric", "type", "labels", "what it says"],
        &metrics,
    ));

    let mut labels: Vec<Vec<String>> = Vec::new();
    let mut buckets: Vec<Vec<String>> = Vec::new();
    for metric in catalogue::ALL {
        for label in metric.labels {
            let known = labels.iter_mut().find(|row| {
                row.first() == Some(&code(label.name)) && row.get(1) == Some(&values(label))
            });
            match known.and_then(|row| row.get_mut(2)) {
                Some(of) => *of = format!("{of}, {}", code(metric.name)),
                None => labels.push(vec![code(label.name), values(label), code(metric.name)]),
            }
        }
        if let Kind::Histogram(bounds) = metric.kind {
            let bounds: Vec<String> = bounds.iter().map(ToString::to_string).collect();
            buckets.push(vec![code(metric.name), bounds.join(", ")]);
        }
    }
    text.push_str("\n## Labels\n\n");
    text.push_str(&table(&["label", "values", "of"], &labels));
    text.push_str("\n## Buckets\n\n");
    text.push_str(&table(&["histogram", "upper bounds, seconds"], &buckets));
    text
}

fn row(metric: &Metric) -> Vec<String> {
    let labels: Vec<String> = metric.labels.iter().map(|label| code(label.name)).collect();
    vec![
        code(metric.name),
        metric.kind.name().to_owned(),
        labels.join(", "),
        one_line(metric.help),
    ]
}

fn values(label: &Label) -> String {
    let values = match label.values {
        Values::OneOf(values) => {
            let values: Vec<String> = values().into_iter().map(code).collect();
            values.join(", ")
        }
        Values::Said(words) => words.to_owned(),
    };
    match label.flag {
        Some(flag) => format!("{values}; only with {}", code(flag)),
        None => values,
    }
}
