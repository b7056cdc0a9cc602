//! The Prometheus text of one scrape.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Error, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::counters::Scrape;
use super::observations::Observations;
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
    let mut families: Vec<MetricFamily> = observations.gather();
    families.extend(registry.gather());
    families.sort_by(|a, b| a.name().cmp(b.name()));
    TextEncoder::new().encode_to_string(&families)
}

fn of_status(registry: &Registry, status: &Status) -> Result<(), Error> {
    let build = gauges(
        registry,
        "egress_build_info",
        "Always 1; the labels say which agent runs.",
        &["version", "abi"],
    )?;
    let abi = egress_common::abi::ABI_VERSION.to_string();
    build
        .get_metric_with_label_values(&[status.version.as_str(), abi.as_str()])?
        .set(1);

    let ready = IntGauge::new(
        "egress_ready",
        "1 when everything seen so far is programmed, else 0.",
    )?;
    registry.register(Box::new(ready.clone()))?;
    ready.set(i64::from(status.ready));

    let pods = gauges(
        registry,
        "egress_pods",
        "Pods of this node by what is enforced.",
        &["state"],
    )?;
    for state in PodState::ALL {
        let count = status.pods.iter().filter(|p| p.state == state).count();
        pods.get_metric_with_label_values(&[state.name()])?
            .set(signed(count));
    }

    let policies = gauges(
        registry,
        "egress_policies",
        "Policies by how much could be read.",
        &["kind", "state"],
    )?;
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

    let problems = gauges(
        registry,
        "egress_source_problems",
        "Input that cannot be read, by what it is; what it names is closed.",
        &["kind"],
    )?;
    let enforcement = IntGauge::new(
        "egress_enforcement_problems",
        "Things the kernel does not enforce as asked.",
    )?;
    registry.register(Box::new(enforcement.clone()))?;
    for kind in ProblemKind::ALL {
        let count = signed(status.problems.iter().filter(|p| p.kind == kind).count());
        match kind {
            ProblemKind::Object | ProblemKind::File => {
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
        maps,
    } = scrape;

    let names = ["reason", "protocol", "family"];
    let packets = counters(
        registry,
        "egress_dropped_packets_total",
        "Packets dropped on this node; a GSO frame counts as its segments.",
        &names,
    )?;
    let bytes = counters(
        registry,
        "egress_dropped_bytes_total",
        "Bytes of the IP packets dropped on this node.",
        &names,
    )?;
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

    let passed = counters(
        registry,
        "egress_allowed_packets_total",
        "Packets that pods of this node were allowed to send, isolated or not.",
        &["family"],
    )?;
    for family in [Family::V4, Family::V6] {
        let packets = allowed.get(&family).copied().unwrap_or(0);
        passed
            .get_metric_with_label_values(&[family.name()])?
            .inc_by(packets);
    }

    // All series have the label or none has: `WorkloadLabels` is one for the whole run.
    let by_pod = workloads.keys().any(|(series, _)| series.pod.is_some());
    let names: &[&str] = if by_pod {
        &["namespace", "workload", "pod", "reason"]
    } else {
        &["namespace", "workload", "reason"]
    };
    let by_workload = counters(
        registry,
        "egress_workload_dropped_packets_total",
        "Packets dropped by sending workload; those above the limit share workload=\"overflow\".",
        names,
    )?;
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

    let lost = prometheus::IntCounter::new(
        "egress_events_lost_total",
        "Drop records that found the ring buffer full; their packets are counted all the same.",
    )?;
    registry.register(Box::new(lost.clone()))?;
    lost.inc_by(*events_lost);

    let entries = gauges(
        registry,
        "egress_bpf_map_entries",
        "Entries in a kernel table.",
        &["map"],
    )?;
    let capacity = gauges(
        registry,
        "egress_bpf_map_capacity",
        "Entries that fit into a kernel table.",
        &["map"],
    )?;
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

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, Error> {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, Error> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// Gauges are signed; no count here comes near the limit.
fn signed<N: TryInto<i64>>(count: N) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}
