//! The chart under many values, as helm renders it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::helm::Helm;
use super::{CHART, objects, privileges, read, values, yaml};
use crate::workspace::Workspace;

/// What is not the default and renders.
const VARIANTS: [&[&str]; 11] = [
    &[],
    &["cni.install=false", "cleanupOnUninstall=false"],
    &["metrics.serviceMonitor.enabled=true,metrics.serviceMonitor.interval=15s"],
    &["metrics.podMonitor.enabled=true,metrics.podMonitor.labels.release=prometheus"],
    &["metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true"],
    &["dropEvents=true"],
    &["allowOwnNode=true,spoofCheck=false,metrics.podLabel=true,cni.whenAgentDown=start"],
    &["rbac.create=false,serviceAccount.create=false,serviceAccount.name=there"],
    &["metrics.service.enabled=false,tests.enabled=false,metrics.port=19810"],
    &["updateStrategy.type=OnDelete,updateStrategy.rollingUpdate=null,fullnameOverride=e"],
    &["imagePullSecrets[0].name=s,extraArgs[0]=--x,extraEnv[0].name=A,seLinuxOptions.type=spc_t"],
];

/// What the schema refuses.
const REFUSED: [&str; 16] = [
    "image.tags=typo",
    "image.pullPolicy=Sometimes",
    "image.repository=",
    "unknown=1",
    "hostPID=true",
    "securityContext.privileged=true",
    "metrics.port=0",
    "metrics.serviceMonitor.interval=often",
    "metrics.prometheusRule.runbookUrl=docs/runbooks",
    "dropEvents=sometimes",
    "cni.binDir=relative/path",
    "cni.whenAgentDown=maybe",
    "updateStrategy.type=Recreate",
    "updateStrategy.rollingUpdate.maxUnavailable=0",
    "log.format=xml",
    "tolerations=all",
];

/// What the templates refuse: each value is right, together they are not.
const CONTRADICTIONS: [&str; 3] = [
    "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true",
    "metrics.serviceMonitor.enabled=true,metrics.service.enabled=false",
    "serviceAccount.create=false",
];

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(CHART)
}

fn helm() -> Result<Helm> {
    Helm::find(&Workspace::find()?)?.context("no helm")
}

fn template(sets: &[&str]) -> Result<Vec<Value>> {
    let helm = helm()?;
    let options: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    objects(&helm.template(&chart(), "some-namespace", &options)?)
}

#[test]
#[ignore = "needs helm"]
fn helm_finds_nothing_to_complain_about() -> Result<()> {
    helm()?.lint(&chart())
}

#[test]
#[ignore = "needs helm"]
fn helm_renders_every_variant_and_none_asks_for_more_than_it_may() -> Result<()> {
    for sets in VARIANTS {
        let objects = template(sets).with_context(|| format!("{sets:?}"))?;
        assert!(
            objects
                .iter()
                .any(|object| object.get("kind") == Some(&"DaemonSet".into())),
            "{sets:?}"
        );
        assert_eq!(privileges::excess(&objects), [""; 0], "{sets:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs helm"]
fn helm_puts_alerts_and_dashboard_into_objects_as_they_are_in_their_files() -> Result<()> {
    const ENABLED: &str = "metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true";
    let spec = |sets: &[&str], kind: &str| -> Result<Value> {
        let objects = template(sets)?;
        let found = objects
            .into_iter()
            .find(|o| o.get("kind") == Some(&kind.into()));
        found.with_context(|| format!("no {kind}"))
    };
    let rules = yaml(&read(&chart().join("files/rules.yaml"))?)?;
    let rule = spec(&[ENABLED], "PrometheusRule")?;
    assert_eq!(rule.get("spec"), Some(&rules));
    let dashboard = spec(&[ENABLED], "ConfigMap")?;
    let text = dashboard.pointer("/data/egress-agent.json");
    let file = read(&chart().join("files/dashboard.json"))?;
    assert_eq!(
        text.and_then(Value::as_str).map(str::trim),
        Some(file.trim())
    );

    let base = "metrics.prometheusRule.runbookUrl=https://example.org/runbooks/";
    let linked = spec(&[ENABLED, base], "PrometheusRule")?.to_string();
    let links = linked.matches("https://example.org/runbooks/").count();
    assert_eq!(links, rules.to_string().matches("docs/runbooks/").count());
    assert!(links > 10 && !linked.contains("docs/runbooks/") && !linked.contains("runbooks//"));
    Ok(())
}

#[test]
#[ignore = "needs helm"]
fn helm_gives_the_right_to_write_events_only_where_they_are_on() -> Result<()> {
    let events = |sets: &[&str]| -> Result<bool> {
        Ok(template(sets)?
            .iter()
            .any(|object| object.to_string().contains("events.k8s.io")))
    };
    assert!(!events(&[])? && events(&["dropEvents=true"])?);
    Ok(())
}

#[test]
#[ignore = "needs helm"]
fn helm_gives_every_object_the_releases_namespace() -> Result<()> {
    for sets in VARIANTS {
        for object in template(sets)? {
            let cluster_wide = ["ClusterRole", "ClusterRoleBinding"].map(|kind| Some(kind.into()));
            let expected = (!cluster_wide.contains(&object.get("kind").cloned()))
                .then(|| Value::from("some-namespace"));
            assert_eq!(
                object.pointer("/metadata/namespace"),
                expected.as_ref(),
                "{sets:?} {object}"
            );
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs helm"]
fn helm_refuses_values_that_are_not_in_the_schema() {
    for set in REFUSED {
        let error = template(&[set]).map(drop).unwrap_err();
        assert!(
            format!("{error:#}").contains("specifications of the schema"),
            "{set}: {error:#}"
        );
    }
}

#[test]
#[ignore = "needs helm"]
fn helm_refuses_values_that_contradict_each_other() {
    for set in CONTRADICTIONS {
        assert!(template(&[set]).is_err(), "{set}");
    }
}

#[test]
fn every_value_has_a_description_and_a_schema_and_the_schema_nothing_else() -> Result<()> {
    let text = read(&chart().join("values.yaml"))?;
    assert!(values::rows(&text)?.len() > 40);
    let schema: Value = serde_json::from_str(&read(&chart().join("values.schema.json"))?)?;
    let mut wrong = Vec::new();
    compare(&yaml(&text)?, &schema, "", &mut wrong);
    assert_eq!(wrong, [""; 0]);
    Ok(())
}

/// What the schema may have and the default values need not: helm's own `global`, and choices
/// that exclude the default ones.
const OPTIONAL: [&str; 4] = ["global", "resources", "seccompProfile", "seLinuxOptions"];

/// Walks objects whose fields are listed on either side.
fn compare(values: &Value, schema: &Value, path: &str, wrong: &mut Vec<String>) {
    if OPTIONAL.contains(&path) {
        return;
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    if schema.get("additionalProperties") != Some(&Value::Bool(false)) {
        wrong.push(format!("{path:?} admits unknown fields"));
    }
    let empty = serde_json::Map::new();
    let values = values.as_object().unwrap_or(&empty);
    for key in values.keys().filter(|key| !properties.contains_key(*key)) {
        wrong.push(format!("{path}.{key} is not in the schema"));
    }
    for (key, schema) in properties {
        let path = format!("{path}.{key}").trim_start_matches('.').to_owned();
        match values.get(key) {
            Some(value) => compare(value, schema, &path, wrong),
            None if OPTIONAL.contains(&path.as_str()) => {}
            None => wrong.push(format!("{path} is not in values.yaml")),
        }
    }
}
