//! The JSON that other programs read, against the tables that say what its fields are.

use std::collections::BTreeSet;

use egress_agent::answer::Answer;
use egress_agent::drops::DropRecord;
use egress_agent::flows::FlowRecord;
use egress_agent::status::{PodState, PolicyState, ProblemKind, Status, WarningKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::page::Page;

/// One of everything: what the example lacks, the types demand or add.
fn status() -> Value {
    whole::<Status>(json!({
        "schema": "", "version": "", "node": "", "ready": true, "waitingFor": [],
        "problems": [{"kind": "object", "object": "", "message": ""}],
        "warnings": [{"kind": "drift", "object": "", "message": ""}],
        "sources": [
            {"path": "", "sha256": "", "state": "read"},
            {"resource": "", "synced": true},
        ],
        "policies": [{"kind": "", "name": "", "state": "enforced", "errors": []}],
        "pods": [{"name": "", "addresses": [], "interfaces": [], "state": "isolated", "isolatedBy": []}],
        "rulesets": [{
            "id": 1, "sha256": "", "pods": 1, "prefixesV4": 1, "prefixesV6": 1, "classes": 1, "frontends": 1,
        }],
        "maps": [{"name": "", "entries": 1, "capacity": 1}],
    }))
}

/// What is left out where there is nothing to say is in the example, too.
fn explain() -> Value {
    let entry = json!({"index": 0, "text": "", "failed": "", "because": ""});
    let part = json!({"matches": false, "any": false, "entries": [entry], "moreEntries": 1});
    let rule = json!({"index": 0, "allows": false, "to": part, "ports": part, "unreadable": [""]});
    let policy = json!({
        "policy": "", "allows": false, "rules": [rule], "moreRules": 1, "unreadable": [""],
    });
    let endpoint = json!({
        "address": "10.0.0.1", "port": 1, "owner": "", "verdict": "deny", "own": false, "policies": [policy],
    });
    let service = json!({
        "name": "", "port": 1, "closed": "", "allowed": 1, "denied": 1, "endpoints": [endpoint],
        "moreEndpoints": 1,
    });
    let ports = json!({"id": 1, "ports": ""});
    let flow = json!({"localPort": 1, "idleSeconds": 1, "current": true, "closing": false});
    whole::<Answer>(json!({
        "schema": "", "verdict": "deny", "reason": "", "isolatedBy": [], "allowedBy": [],
        "addresses": [{"address": "10.0.0.1", "verdict": "deny"}],
        "steps": {
            "sender": {
                "pod": "", "node": "", "state": "enforced",
                "policies": [{"policy": "", "effect": "isolates", "selector": "", "unreadable": false}],
            },
            "destinations": [{
                "address": "10.0.0.1", "verdict": "deny", "reason": "", "owner": "", "way": "rules",
                "policies": [policy], "service": service,
            }],
        },
        "live": [{
            "interface": "",
            "endpoint": {"slot": 1, "generation": 1, "isolated": true, "ruleset": 1},
            "lookups": [{
                "address": "10.0.0.1", "verdict": "deny", "reason": "", "frontend": 1, "class": 1,
                "classPorts": ports, "prefix": "", "prefixPorts": ports, "flows": [flow], "moreFlows": 1,
            }],
        }],
        "drift": [""],
    }))
}

fn drop_record() -> Value {
    json!({
        "time": "2026-11-21T06:00:00Z", "namespace": "", "pod": "", "workload": "", "protocol": "tcp",
        "protocolNumber": 6, "reason": "", "isolatedBy": [], "count": 1,
    })
}

fn flow() -> Value {
    let mut line = drop_record();
    let fields = json!({"schema": "", "node": "", "verdict": "allow", "sample": 1});
    if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
        line.extend(fields);
    }
    whole::<FlowRecord>(line)
}

/// As the agent would write it.
fn whole<T: DeserializeOwned + Serialize>(example: Value) -> Value {
    let read: T = serde_json::from_value(example).unwrap();
    serde_json::to_value(read).unwrap()
}

/// Every name of a field, at whatever depth.
fn names(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                into.insert(name.clone());
                names(value, into);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| names(value, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The code in a line, as names of fields: `…rules[]` is one, `steps.sender` two.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    let spans = line.split('`').skip(1).step_by(2);
    let parts = spans.flat_map(|span| span.trim_end_matches("[]").split(['.', '…']));
    parts.filter(|part| !part.is_empty())
}

/// The rows of the tables with one of these heads.
fn rows_of<'p>(page: &'p Page, heads: &[&str]) -> Vec<&'p str> {
    let mut inside = false;
    let lines = page.text.lines();
    lines
        .filter(|line| {
            let begins = heads.iter().any(|head| line.starts_with(head));
            inside = begins || inside && line.starts_with('|');
            inside
        })
        .collect()
}

#[test]
fn every_field_of_the_json_has_its_words_and_no_other_has() {
    let mut dropped = whole::<DropRecord>(drop_record());
    if let Value::Object(fields) = &mut dropped {
        // Written beside the record.
        fields.insert("schema".to_owned(), Value::Null);
    }
    let mut wrong = Vec::new();
    for (name, example) in [
        ("docs/status.md", status()),
        ("docs/explain.md", explain()),
        ("docs/drops.md", dropped),
        ("docs/flow-log.md", flow()),
    ] {
        let page = crate::page::of(name);
        let mut fields = BTreeSet::new();
        names(&example, &mut fields);
        let rows = rows_of(&page, &["| field |"]);
        let told: BTreeSet<&str> = rows.iter().flat_map(|row| spans(row)).collect();
        for field in &fields {
            if !told.contains(field.as_str()) {
                wrong.push(format!("{name} does not say what `{field}` is"));
            }
        }
        let first = |row: &&str| row.split('|').nth(1).unwrap_or_default().to_owned();
        for cell in rows.iter().map(first) {
            for field in spans(&cell) {
                if !fields.contains(field) {
                    wrong.push(format!("{name} tells of `{field}`, which is no field"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_state_and_kind_of_a_status_is_on_its_page() {
    let warnings = [
        WarningKind::NotEnforced,
        WarningKind::Drift,
        WarningKind::StaleWatch,
        WarningKind::MapFill,
        WarningKind::OtherProgram,
        WarningKind::KernelFeature,
    ];
    let warnings = warnings.map(|kind| serde_json::to_value(kind).unwrap());
    let names = PodState::ALL.map(PodState::name).into_iter();
    let names = names
        .chain(PolicyState::ALL.map(PolicyState::name))
        .chain(ProblemKind::ALL.map(ProblemKind::name))
        .chain(warnings.iter().filter_map(Value::as_str));
    let page = crate::page::of("docs/status.md");
    let rows = rows_of(&page, &["| field |", "| `kind` |"]).join("\n");
    let told: BTreeSet<&str> = rows
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .collect();
    let missing: Vec<_> = names.filter(|name| !told.contains(name)).collect();
    assert!(missing.is_empty(), "docs/status.md lacks {missing:?}");
}
