//! `deploy/chart/files/dashboard.json`.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use egress_tests::harness::objects::egress;
use egress_tests::harness::prometheus::{JOB, Prometheus};
use egress_tests::harness::{NODE, OUTSIDE, PodSpec, World, fence_rule, on_world, until};
use egress_tests::packet::{self, ethertype, proto};
use serde_json::{Value, json};

use crate::expression::unknown;

const PATH: &str = "deploy/chart/files/dashboard.json";

/// Queries without an answer on a node where all is well, and why.
const QUIET: [(&str, &str); 2] = [
    (
        "egress_bpf_errors_total",
        "has no series until an operation on a kernel table fails",
    ),
    (
        "egress_attach_failures_total",
        "has no series until a program cannot be attached",
    ),
];

/// A query, and the panel it is for.
#[derive(Debug)]
struct Query {
    panel: String,
    expression: String,
}

fn dashboard() -> Value {
    serde_json::from_str(&crate::text(PATH)).unwrap()
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().collect()
}

fn queries(dashboard: &Value) -> Vec<Query> {
    let mut queries = Vec::new();
    for panel in panels(dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push(Query {
                panel: panel["title"].as_str().unwrap().to_owned(),
                expression: target["expr"].as_str().unwrap().to_owned(),
            });
        }
    }
    queries
}

/// As Grafana would send it, with every variable at "All".
fn filled_in(expression: &str) -> String {
    let filled = expression
        .replace("$__rate_interval", "10s")
        .replace("$__range", "1m")
        .replace("$job", JOB)
        .replace("$node", ".*")
        .replace("$namespace", ".*")
        .replace("$workload", ".*");
    assert!(!filled.contains('$'), "{expression}");
    filled
}

/// What Prometheus is asked, with every variable at "All".
pub(crate) fn expressions() -> Vec<String> {
    let queries = queries(&dashboard());
    queries
        .iter()
        .map(|query| filled_in(&query.expression))
        .collect()
}

#[test]
fn every_metric_and_label_of_the_dashboard_is_served() {
    let dashboard = dashboard();
    let queries = queries(&dashboard);
    assert!(queries.len() > 25, "{} queries", queries.len());
    for Query { panel, expression } in queries {
        assert_eq!(unknown(&expression), [""; 0], "{panel}: {expression}");
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        // label_values(METRIC{…}, LABEL): the label is asked for as in `by (LABEL)`.
        let Some(query) = variable["definition"].as_str() else {
            continue;
        };
        let (metric, label) = query
            .strip_prefix("label_values(")
            .and_then(|query| query.strip_suffix(')'))
            .and_then(|query| query.rsplit_once(", "))
            .unwrap();
        let expression = format!("count by ({label}) ({metric})");
        assert_eq!(unknown(&expression), [""; 0], "{query}");
    }
}

/// Grafana shows a broken panel where these do not hold, and says nothing.
#[test]
fn panels_have_ids_units_titles_of_their_own_and_do_not_overlap() {
    let dashboard = dashboard();
    let variables: BTreeSet<&str> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    let (mut ids, mut titles, mut cells) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        assert!(titles.insert(title), "{title}");
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is too wide");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(cells.insert((x, y)), "{title} lies on another");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap();
        let units = ["none", "pps", "Bps", "s", "cps", "percentunit"];
        assert!(units.contains(&unit), "{title}: {unit}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
    }
    for name in ["datasource", "job", "node", "namespace", "workload"] {
        assert!(variables.contains(name), "{name}");
    }
}

/// The real thing: the agent drops packets, Prometheus reads it, every query has an answer.
#[test]
#[ignore = "needs root, promtool and prometheus"]
fn promtool_gets_an_answer_from_prometheus_to_every_query() {
    on_world(|world| {
        world.namespace("x", &[])?;
        world.start_agent()?;
        let folder = tempfile::tempdir()?;
        let rules = crate::file("deploy/chart/files/rules.yaml");
        let prometheus = Prometheus::start(
            &world.host,
            folder.path(),
            &rules,
            &[("127.0.0.1:9810".parse()?, NODE)],
        )?;
        // From here on Prometheus sees everything begin, which rates and quantiles need.
        let pod = world.pod(PodSpec::new("x", "a"))?;
        let policy = egress("x", "p", &json!([fence_rule()]));
        world.apply("policy.json", &policy)?;
        let wire = world.wire(&pod)?;
        let datagram = |to: packet::Ends| {
            let payload = packet::udp(to, 1, 2, b"");
            wire.frame(to.ethertype(), &to.packet(proto::UDP, payload))
        };
        let frames = [
            datagram(wire.to_v4(OUTSIDE[1].0)),
            datagram(wire.to_v6(OUTSIDE[1].1)),
            datagram(wire.to_v4(OUTSIDE[0].0)),
            // No IP at all: a family without a number.
            wire.frame(ethertype::EXPERIMENTAL, &[0; 46]),
        ];
        let send = || -> Result<()> {
            for frame in &frames {
                wire.sender().send(frame)?;
            }
            // Three drops each time: a third of the records that one pod may cause a second.
            thread::sleep(Duration::from_millis(100));
            Ok(())
        };
        // Two seconds hold four scrapes: a rate needs two.
        let begun = Instant::now();
        until("some seconds of traffic have been read", || {
            send()?;
            Ok(begun.elapsed() > Duration::from_secs(2))
        })?;
        let dashboard = dashboard();
        for query in queries(&dashboard) {
            answered(world, &prometheus, &query, &send)?;
        }
        // No alert is firing or about to: all is well, but for a surge of drops.
        let alerts = prometheus.query(&world.host, "ALERTS{alertname!=\"EgressDropSurge\"}")?;
        ensure!(alerts.is_empty(), "alerts on a healthy node: {alerts:?}");
        Ok(())
    });
}

/// Fails unless the query has an answer, or a reason to have none.
fn answered(
    world: &World,
    prometheus: &Prometheus,
    query: &Query,
    send: &impl Fn() -> Result<()>,
) -> Result<()> {
    let Query { panel, expression } = query;
    let filled = filled_in(expression);
    if let Some((_, reason)) = QUIET.iter().find(|(part, _)| expression.contains(part)) {
        let samples = prometheus.query(&world.host, &filled)?;
        return ensure_quiet(&samples).with_context(|| format!("{panel}: {reason}; {expression}"));
    }
    until(&format!("{panel}: {filled} has an answer"), || {
        send()?;
        let samples = prometheus.query(&world.host, &filled)?;
        Ok(samples.iter().any(is_number))
    })
}

fn ensure_quiet(samples: &[Value]) -> Result<()> {
    ensure!(samples.is_empty(), "it has an answer: {samples:?}");
    Ok(())
}

/// A quantile of nothing is not a number, and no answer.
fn is_number(sample: &Value) -> bool {
    sample["value"][1]
        .as_str()
        .and_then(|value| value.parse::<f64>().ok())
        .is_some_and(f64::is_finite)
}
