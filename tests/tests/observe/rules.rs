//! `deploy/chart/files/rules.yaml`, its tests, and the runbooks.

use std::process::Command;

use crate::expression::unknown;

const PATH: &str = "deploy/chart/files/rules.yaml";

#[test]
#[ignore = "needs promtool"]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    for arguments in [
        ["check", "rules", PATH],
        ["test", "rules", "deploy/rules/tests.yaml"],
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(crate::file("."))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Parses what the dashboard asks too: as rules, since that is what promtool can check.
#[test]
#[ignore = "needs promtool"]
fn promtool_can_parse_every_query_of_the_dashboard() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries.json");
    // JSON is YAML.
    let rules: Vec<serde_json::Value> = crate::dashboard::expressions()
        .iter()
        .enumerate()
        .map(|(number, expr)| serde_json::json!({"record": format!("query{number}"), "expr": expr}))
        .collect();
    let groups = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    std::fs::write(&file, groups.to_string()).unwrap();
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_metric_and_label_of_the_rules_is_served() {
    let text = crate::text(PATH);
    let mut expressions = 0;
    for rule in text.split("- alert: ").skip(1) {
        let expression = expression(rule);
        assert_eq!(unknown(expression), [""; 0], "{expression}");
        expressions += 1;
    }
    assert!(expressions > 10, "{expressions} rules");
}

#[test]
fn every_alert_has_a_runbook_that_names_it_and_a_test() {
    let tests = crate::text("deploy/rules/tests.yaml");
    for rule in crate::text(PATH).split("- alert: ").skip(1) {
        let alert = rule.lines().next().unwrap().trim();
        let runbook = rule
            .lines()
            .find_map(|line| line.trim().strip_prefix("runbook_url: "))
            .unwrap_or_else(|| panic!("{alert} has no runbook"));
        assert!(
            crate::text(runbook).contains(alert),
            "{runbook} does not speak of {alert}"
        );
        let fires = format!("alertname: {alert}\n        exp_alerts:\n          - exp_labels:");
        assert!(tests.contains(&fires), "no test sees {alert} fire");
    }
}

/// From `expr:` to the next key of the rule.
fn expression(rule: &str) -> &str {
    let (_, rest) = rule.split_once("expr: ").unwrap();
    let end = ["\n        for:", "\n        labels:"]
        .iter()
        .filter_map(|key| rest.find(key))
        .min()
        .unwrap();
    rest.get(..end).unwrap()
}
