//! The Prometheus text of one scrape.

use prometheus::proto::MetricFamily;
use prometheus::{Error, Registry, TextEncoder};

use super::catalogue;
use super::counters::Scrape;
use super::observations::Observations;
use crate::flows::{Loss, Tally};
use crate::status::{PodState, Policy, PolicyState, ProblemKind, Status};
use crate::traffic::Family;

/// The text of `/metrics`.
///
/// Without a scrape (the kernel could not be read) the packet counters are left out: a gap
/// is honest, a total that went down is not.
pub fn render(
    status: &Status,
    scrape: Option<&Scrape>,
    observations: &Observations,
) -> Result<String, Error> {
    let registry = Registry::new();
    of_status(&registry, status)?;
    if let Some(scrape) = scrape {
        of_scrape(&registry, scrape)?;
    }
    of_flow_log(&registry, observations.flow_log(), scrape)?;
    let mut families: Vec<MetricFamily> = observations.gather();
    families.extend(registry.gather());
    families.sort_by(|a, b| a.name().cmp(b.name()));
    TextEncoder::new().encode_to_string(&families)
}

fn of_status(registry: &Registry, status: &Status) -> Result<(), Error> {
    let build = catalogue::BUILD_INFO.gauges(registry)?;
    let abi = egress_common::abi::ABI_VERSION.to_string();
    build
        .get_metric_with_label_values(&[status.version.as_str(), abi.as_str()])?
        .set(1);

    catalogue::READY
        .gauge(registry)?
        .set(i64::from(status.ready));

    let pods = catalogue::PODS.gauges(registry)?;
    for state in PodState::ALL {
        let count = status.pods.iter().filter(|p| p.state == state).count();
        pods.get_metric_with_label_values(&[state.name()])?
            .set(signed(count));
    }

    let policies = catalogue::POLICIES.gauges(registry)?;
    // Zeros of the kind that always can be there; others show once they are.
    for state in PolicyState::ALL {
        policies
            .get_metric_with_label_values(&["NetworkPolicy", state.name()])?
            .set(0);
    }
    for Policy { kind, state, .. } in &status.policies {
        policies
            .get_metric_with_label_values(&[kind.as_str(), state.name()])?
            .inc();
    }

    let problems = catalogue::SOURCE_PROBLEMS.gauges(registry)?;
    let enforcement = catalogue::ENFORCEMENT_PROBLEMS.gauge(registry)?;
    for kind in ProblemKind::ALL {
        let count = signed(status.problems.iter().filter(|p| p.kind == kind).count());
        match kind {
            ProblemKind::Object | ProblemKind::File | ProblemKind::Watch => {
                problems
                    .get_metric_with_label_values(&[kind.name()])?
                    .set(count);
            }
            ProblemKind::Enforcement => enforcement.set(count),
        }
    }
    Ok(())
}

fn of_scrape(registry: &Registry, scrape: &Scrape) -> Result<(), Error> {
    let Scrape {
        dropped,
        allowed,
        workloads,
        events_lost,
        flow_events_lost: _,
        maps,
    } = scrape;

    let packets = catalogue::DROPPED_PACKETS.counters(registry, &[])?;
    let bytes = catalogue::DROPPED_BYTES.counters(registry, &[])?;
    for ((reason, protocol, family), (packets_seen, bytes_seen)) in dropped {
        let values = [
            reason.name(),
            protocol.name(),
            family.map_or("", Family::name),
        ];
        packets
            .get_metric_with_label_values(&values)?
            .inc_by(*packets_seen);
        bytes
            .get_metric_with_label_values(&values)?
            .inc_by(*bytes_seen);
    }

    let passed = catalogue::ALLOWED_PACKETS.counters(registry, &[])?;
    for family in Family::ALL {
        let packets = allowed.get(&family).copied().unwrap_or(0);
        passed
            .get_metric_with_label_values(&[family.name()])?
            .inc_by(packets);
    }

    // All series have the label or none has: `WorkloadLabels` is one for the whole run.
    let by_pod = workloads.keys().any(|(series, _)| series.pod.is_some());
    let flags: &[&str] = if by_pod { &[catalogue::POD_LABEL] } else { &[] };
    let by_workload = catalogue::WORKLOAD_DROPPED_PACKETS.counters(registry, flags)?;
    for ((series, reason), packets) in workloads {
        let mut values = vec![series.namespace.as_str(), series.workload.as_str()];
        if by_pod {
            values.push(series.pod.as_deref().unwrap_or(""));
        }
        values.push(reason.name());
        by_workload
            .get_metric_with_label_values(&values)?
            .inc_by(*packets);
    }

    catalogue::EVENTS_LOST
        .counter(registry)?
        .inc_by(*events_lost);

    let entries = catalogue::MAP_ENTRIES.gauges(registry)?;
    let capacity = catalogue::MAP_CAPACITY.gauges(registry)?;
    for map in maps {
        entries
            .get_metric_with_label_values(&[map.name.as_str()])?
            .set(signed(map.entries));
        capacity
            .get_metric_with_label_values(&[map.name.as_str()])?
            .set(signed(map.capacity));
    }
    Ok(())
}

fn of_flow_log(registry: &Registry, log: &Tally, scrape: Option<&Scrape>) -> Result<(), Error> {
    catalogue::FLOW_LOG_LINES
        .counter(registry)?
        .inc_by(log.written());
    let lost = catalogue::FLOW_LOG_LOST.counters(registry, &[])?;
    for loss in Loss::ALL {
        let records = match (loss, scrape) {
            (Loss::Kernel, Some(scrape)) => scrape.flow_events_lost,
            (Loss::Kernel, None) => continue,
            (Loss::Rate | Loss::Queue | Loss::Write, _) => log.lost(loss),
        };
        lost.get_metric_with_label_values(&[loss.name()])?
            .inc_by(records);
    }
    Ok(())
}

/// Gauges are signed; no count here comes near the limit.
fn signed<N: TryInto<i64>>(count: N) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use egress_common::event::Reason;
    use jiff::Timestamp;

    use super::super::counters::Series;
    use super::super::observations::Stage;
    use super::*;
    use crate::status::{MapFill, Pod, Problem};
    use crate::traffic::Protocol;

    fn text(scrape: Option<&Scrape>) -> String {
        let mut status = Status::starting("node-1");
        status.ready = true;
        Arc::make_mut(&mut status.pods).push(Pod {
            name: "a/web".to_owned(),
            addresses: Vec::new(),
            interface: None,
            interfaces: Vec::new(),
            state: PodState::Waiting,
            message: None,
            isolated_by: Vec::new(),
            ruleset: None,
        });
        status.policies.push(Policy {
            kind: "NetworkPolicy".to_owned(),
            name: "a/deny".to_owned(),
            state: PolicyState::Enforced,
            errors: Vec::new(),
        });
        status.problems.push(Problem {
            kind: ProblemKind::File,
            object: String::new(),
            field: None,
            file: Some("a.yaml".to_owned()),
            line: Some(3),
            message: "no YAML".to_owned(),
        });
        let observations = Observations::new().unwrap();
        observations.programmed(Stage::Total, Duration::from_millis(3));
        observations.pod_enforced(Duration::from_millis(30));
        observations.attach_failed("from-pod", "no-device");
        observations.bpf_failed("PEERS", "update");
        observations.event_seen("manifests", Timestamp::from_second(1_700_000_000).unwrap());
        render(&status, scrape, &observations).unwrap()
    }

    fn scrape() -> Scrape {
        let series = |pod: Option<&str>| Series {
            namespace: "a".to_owned(),
            workload: "Pod/web".to_owned(),
            pod: pod.map(str::to_owned),
        };
        Scrape {
            dropped: BTreeMap::from([
                ((Reason::NoRule, Protocol::Tcp, Some(Family::V4)), (3, 180)),
                ((Reason::NotIp, Protocol::Other, None), (1, 60)),
            ]),
            allowed: BTreeMap::from([(Family::V4, 7)]),
            workloads: BTreeMap::from([((series(None), Reason::NoRule), 3)]),
            events_lost: 2,
            flow_events_lost: 4,
            maps: vec![MapFill {
                name: "PEERS".to_owned(),
                entries: 5,
                capacity: 100,
            }],
        }
    }

    #[test]
    fn the_names_and_labels_are_those_of_the_contract() {
        let text = text(Some(&scrape()));
        for line in [
            "egress_dropped_packets_total{family=\"4\",protocol=\"tcp\",reason=\"no-rule\"} 3",
            "egress_dropped_bytes_total{family=\"4\",protocol=\"tcp\",reason=\"no-rule\"} 180",
            "egress_dropped_packets_total{family=\"\",protocol=\"other\",reason=\"not-ip\"} 1",
            "egress_workload_dropped_packets_total{namespace=\"a\",reason=\"no-rule\",workload=\"Pod/web\"} 3",
            "egress_allowed_packets_total{family=\"4\"} 7",
            "egress_allowed_packets_total{family=\"6\"} 0",
            "egress_pods{state=\"waiting\"} 1",
            "egress_pods{state=\"isolated\"} 0",
            "egress_policies{kind=\"NetworkPolicy\",state=\"enforced\"} 1",
            "egress_policies{kind=\"NetworkPolicy\",state=\"unreadable\"} 0",
            "egress_policy_programming_seconds_bucket{stage=\"total\",le=\"0.0025\"} 0",
            "egress_policy_programming_seconds_bucket{stage=\"total\",le=\"0.005\"} 1",
            "egress_policy_programming_seconds_count{stage=\"compile\"} 0",
            "egress_pod_enforcement_delay_seconds_count 1",
            "egress_bpf_map_entries{map=\"PEERS\"} 5",
            "egress_bpf_map_capacity{map=\"PEERS\"} 100",
            "egress_bpf_errors_total{map=\"PEERS\",op=\"update\"} 1",
            "egress_attach_failures_total{hook=\"from-pod\",reason=\"no-device\"} 1",
            "egress_events_lost_total 2",
            "egress_flow_log_lines_total 0",
            "egress_flow_log_lost_total{reason=\"kernel\"} 4",
            "egress_flow_log_lost_total{reason=\"rate\"} 0",
            "egress_watch_last_event_timestamp_seconds{resource=\"manifests\"} 1700000000",
            concat!(
                "egress_build_info{abi=\"3\",version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
            "egress_source_problems{kind=\"file\"} 1",
            "egress_source_problems{kind=\"object\"} 0",
            "egress_enforcement_problems 0",
            "egress_refused_rulesets 0",
            "egress_ready 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn every_metric_has_help_and_type_once() {
        let text = text(Some(&scrape()));
        let of = |keyword: &str| -> Vec<String> {
            let lines = text.lines().filter_map(|l| l.strip_prefix(keyword));
            lines
                .map(|l| l.split(' ').next().unwrap_or("").to_owned())
                .collect()
        };
        let helps = of("# HELP ");
        assert_eq!(helps, of("# TYPE "));
        assert!(helps.is_sorted_by(|a, b| a < b), "{helps:?}");
        assert!(helps.iter().all(|name| name.starts_with("egress_")));
    }

    #[test]
    fn every_metric_is_served_as_the_table_says() {
        let text = text(Some(&scrape()));
        let mut wanted: Vec<String> = catalogue::ALL
            .iter()
            .map(|metric| format!("# TYPE {} {}", metric.name, metric.kind.name()))
            .collect();
        wanted.sort();
        let served: Vec<&str> = text.lines().filter(|l| l.starts_with("# TYPE ")).collect();
        assert_eq!(served, wanted);
        for metric in catalogue::ALL {
            let help = format!("# HELP {} {}", metric.name, metric.help);
            assert!(text.lines().any(|line| line == help), "{help}");
        }
    }

    #[test]
    fn without_the_kernel_there_are_no_packet_counters() {
        let text = text(None);
        assert!(!text.contains("_packets_total"), "{text}");
        assert!(text.contains("egress_build_info"));
    }

    #[test]
    fn the_pod_label_shows_when_the_series_have_it() {
        let mut scrape = scrape();
        let series = Series {
            namespace: "a".to_owned(),
            workload: "Pod/web".to_owned(),
            pod: Some("web".to_owned()),
        };
        scrape.workloads = BTreeMap::from([((series, Reason::Spoofed), 1)]);
        let line = "egress_workload_dropped_packets_total{namespace=\"a\",pod=\"web\",reason=\"spoofed\",workload=\"Pod/web\"} 1\n";
        assert!(text(Some(&scrape)).contains(line));
    }

    /// `promtool check metrics` (Debian's `prometheus`) knows the naming rules.
    #[test]
    #[ignore = "needs promtool"]
    fn promtool_has_no_complaint() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};

        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        promtool
            .stdin
            .take()
            .unwrap()
            .write_all(text(Some(&scrape())).as_bytes())
            .unwrap();
        assert!(promtool.wait().unwrap().success());
    }
}
