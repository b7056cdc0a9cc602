//! The most that the chart's objects may ask of a cluster and its nodes.
//!
//! A pod that is not the agent's gets less: no capability, no host network, no token. What is
//! allowed is listed; whatever is not, of whatever kind, is in excess.

use std::collections::BTreeSet;

use serde_json::Value;

/// Kinds that give nobody a privilege, beside those that are looked into.
const HARMLESS: [&str; 6] = [
    "ConfigMap",
    "Namespace",
    "PodMonitor",
    "PrometheusRule",
    "Service",
    "ServiceMonitor",
];

/// The agent's container may have these, no other may have any.
const CAPABILITIES: [&str; 3] = ["BPF", "NET_ADMIN", "PERFMON"];

/// Folders of the node, and whether they may be written to.
const HOST_PATHS: [(&str, bool); 5] = [
    ("/etc/cni/net.d", true),
    ("/opt/cni/bin", true),
    ("/run/egress-agent", true),
    ("/sys/fs/bpf", true),
    ("/var/lib/cni/results", false),
];

/// What the whole cluster is watched for: API group and resource.
const WATCHED: [(&str, &str); 6] = [
    ("", "namespaces"),
    ("", "nodes"),
    ("", "pods"),
    ("", "services"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "networkpolicies"),
];

/// What may be written, where drops are told as Events: create and patch, no more.
const WRITTEN: (&str, &str) = ("events.k8s.io", "events");

/// One line for each thing beyond that.
pub(super) fn excess(objects: &[Value]) -> Vec<String> {
    let mut report = Report::default();
    let roles: BTreeSet<&str> = objects
        .iter()
        .filter(|object| text(object, "/kind").ends_with("Role"))
        .map(|object| text(object, "/metadata/name"))
        .collect();
    let daemon_sets: BTreeSet<&str> = objects
        .iter()
        .filter(|object| text(object, "/kind") == "DaemonSet")
        .map(|object| text(object, "/metadata/name"))
        .collect();
    for object in objects {
        let kind = text(object, "/kind");
        report.object = format!("{kind}/{}", text(object, "/metadata/name"));
        match kind {
            "DaemonSet" => pod(&mut report, at(object, "/spec/template/spec"), true),
            "Pod" => pod(&mut report, at(object, "/spec"), false),
            "ServiceAccount" => {
                if at(object, "/automountServiceAccountToken") != &Value::Bool(false) {
                    report.add("gives its token to every pod");
                }
            }
            "ClusterRole" => cluster_role(&mut report, object),
            "Role" => role(&mut report, object, &daemon_sets),
            "ClusterRoleBinding" | "RoleBinding" => {
                let role = text(object, "/roleRef/name");
                if !roles.contains(role) {
                    report.add(&format!(
                        "binds the role {role}, which is not of this chart"
                    ));
                }
                for subject in list(object, "/subjects") {
                    if text(subject, "/kind") != "ServiceAccount" {
                        report.add("binds somebody who is no service account");
                    }
                }
            }
            harmless if HARMLESS.contains(&harmless) => {}
            _ => report.add("is of a kind that nobody has looked into"),
        }
    }
    report.lines
}

#[derive(Debug, Default)]
struct Report {
    object: String,
    lines: Vec<String>,
}

impl Report {
    fn add(&mut self, what: &str) {
        self.lines.push(format!("{}: {what}", self.object));
    }
}

fn cluster_role(report: &mut Report, role: &Value) {
    if !at(role, "/aggregationRule").is_null() {
        report.add("takes in other roles");
    }
    for rule in list(role, "/rules") {
        let verbs = list(rule, "/verbs");
        let writes = verbs.iter().all(|verb| verb == "create" || verb == "patch");
        if writes && pairs(rule) == [WRITTEN] && at(rule, "/nonResourceURLs").is_null() {
            continue;
        }
        if !verbs.iter().all(|verb| verb == "list" || verb == "watch") {
            report.add(&format!("verbs {}", at(rule, "/verbs")));
        }
        for resource in pairs(rule) {
            if !WATCHED.contains(&resource) {
                report.add(&format!(
                    "resource {:?} of API group {:?}",
                    resource.1, resource.0
                ));
            }
        }
        if !at(rule, "/nonResourceURLs").is_null() {
            report.add("URLs that are no resource");
        }
    }
}

/// An agent may find out whether its own DaemonSet is still there, and be told when it goes.
fn role(report: &mut Report, role: &Value, daemon_sets: &BTreeSet<&str>) {
    for rule in list(role, "/rules") {
        let names = list(rule, "/resourceNames");
        let own = names
            .iter()
            .all(|name| name.as_str().is_some_and(|name| daemon_sets.contains(name)));
        let reads = list(rule, "/verbs")
            .iter()
            .all(|verb| ["get", "list", "watch"].iter().any(|read| verb == read));
        let sets = pairs(rule)
            .iter()
            .all(|pair| *pair == ("apps", "daemonsets"));
        if names.is_empty() || !own || !reads || !sets {
            report.add("more than to read the chart's own DaemonSet");
        }
    }
}

fn pod(report: &mut Report, spec: &Value, agent: bool) {
    let more: &[&str] = if agent { &[] } else { &["/hostNetwork"] };
    for field in ["/hostPID", "/hostIPC", "/shareProcessNamespace"]
        .iter()
        .chain(more)
    {
        if is_true(at(spec, field)) {
            report.add(field.trim_start_matches('/'));
        }
    }
    if !agent && at(spec, "/automountServiceAccountToken") != &Value::Bool(false) {
        report.add("a token");
    }
    if !list(spec, "/securityContext/sysctls").is_empty() {
        report.add("sysctls");
    }
    let mut read_only = BTreeSet::new();
    for volume in list(spec, "/volumes") {
        let path = text(volume, "/hostPath/path");
        match HOST_PATHS.iter().find(|(allowed, _)| *allowed == path) {
            Some((_, true)) => {}
            Some((_, false)) => {
                read_only.insert(text(volume, "/name"));
            }
            None => report.add(&format!("volume {volume}")),
        }
    }
    for (field, main) in [
        ("/containers", true),
        ("/initContainers", false),
        ("/ephemeralContainers", false),
    ] {
        for container in list(spec, field) {
            let agent = agent && main && text(container, "/name") == "agent";
            self::container(report, spec, container, &read_only, agent);
        }
    }
}

fn container(
    report: &mut Report,
    spec: &Value,
    container: &Value,
    read_only: &BTreeSet<&str>,
    agent: bool,
) {
    let name = text(container, "/name");
    let security = at(container, "/securityContext");
    let mut add = |what: &str| report.add(&format!("container {name}: {what}"));
    if is_true(at(security, "/privileged")) {
        add("privileged");
    }
    if at(security, "/allowPrivilegeEscalation") != &Value::Bool(false) {
        add("privilege escalation");
    }
    if at(security, "/readOnlyRootFilesystem") != &Value::Bool(true) {
        add("a root file system that it can write to");
    }
    if !at(security, "/procMount").is_null() {
        add("a /proc of its own choice");
    }
    if list(security, "/capabilities/drop") != ["ALL"] {
        add("capabilities that it does not drop");
    }
    for capability in list(security, "/capabilities/add") {
        let allowed = agent && CAPABILITIES.iter().any(|allowed| capability == allowed);
        if !allowed {
            add(&format!("capability {capability}"));
        }
    }
    for place in [spec, container] {
        let profile = at(place, "/securityContext/seccompProfile/type");
        if !profile.is_null() && profile != "RuntimeDefault" {
            add(&format!("seccomp profile {profile}"));
        }
    }
    let profiles = [spec, container].map(|place| at(place, "/securityContext/seccompProfile"));
    if profiles.iter().all(|profile| profile.is_null()) {
        add("no seccomp profile");
    }
    for mount in list(container, "/volumeMounts") {
        if read_only.contains(text(mount, "/name")) && !is_true(at(mount, "/readOnly")) {
            add(&format!("writes to {}", text(mount, "/mountPath")));
        }
        if text(mount, "/mountPropagation") == "Bidirectional" {
            add("mounts that the node sees");
        }
    }
    for port in list(container, "/ports") {
        if !agent && !at(port, "/hostPort").is_null() {
            add("a port of the node");
        }
    }
}

/// API group and resource, each with each.
fn pairs(rule: &Value) -> Vec<(&str, &str)> {
    let mut pairs = Vec::new();
    for group in list(rule, "/apiGroups") {
        for resource in list(rule, "/resources") {
            // What is no string is in no list of allowed pairs.
            pairs.push((
                group.as_str().unwrap_or("?"),
                resource.as_str().unwrap_or("?"),
            ));
        }
    }
    pairs
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    at(value, pointer).as_array().map_or(&[], Vec::as_slice)
}

/// Anything but false and absence counts.
fn is_true(value: &Value) -> bool {
    !value.is_null() && value != &Value::Bool(false)
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, Result};
    use serde_json::json;

    use super::*;
    use crate::chart::{install, objects, read};

    fn installed() -> Result<Vec<Value>> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        objects(&read(&root.join(install::FILE))?)
    }

    /// The installed objects with one field of one of them changed.
    fn with(kind: &str, pointer: &str, value: Value) -> Result<Vec<Value>> {
        let mut objects = installed()?;
        let object = objects
            .iter_mut()
            .find(|object| text(object, "/kind") == kind)
            .with_context(|| format!("no {kind}"))?;
        let (parent, key) = pointer.rsplit_once('/').context("no pointer")?;
        let parent = object.pointer_mut(parent).context("nothing there")?;
        if let Some(list) = parent.as_array_mut() {
            list.push(value);
        } else {
            let map = parent.as_object_mut().context("no map")?;
            map.insert(key.to_owned(), value);
        }
        Ok(objects)
    }

    #[test]
    fn what_is_installed_asks_for_no_more() -> Result<()> {
        assert_eq!(excess(&installed()?), [""; 0]);
        Ok(())
    }

    #[test]
    fn each_thing_more_is_found() -> Result<()> {
        const POD: &str = "/spec/template/spec";
        let agent = |field: &str| format!("{POD}/containers/0/{field}");
        let init = |field: &str| format!("{POD}/initContainers/0/{field}");
        let host_path = |path: &str| json!({ "name": "more", "hostPath": { "path": path } });
        let role = |group: &str, resource: &str, verb: &str| json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] });
        let cases = [
            (
                "DaemonSet",
                format!("{POD}/hostPID"),
                json!(true),
                "hostPID",
            ),
            (
                "DaemonSet",
                format!("{POD}/hostIPC"),
                json!(true),
                "hostIPC",
            ),
            (
                "DaemonSet",
                format!("{POD}/shareProcessNamespace"),
                json!(true),
                "shareProcessNamespace",
            ),
            (
                "DaemonSet",
                agent("securityContext/privileged"),
                json!(true),
                "privileged",
            ),
            (
                "DaemonSet",
                agent("securityContext/allowPrivilegeEscalation"),
                json!(true),
                "privilege escalation",
            ),
            (
                "DaemonSet",
                agent("securityContext/readOnlyRootFilesystem"),
                json!(false),
                "root file system",
            ),
            (
                "DaemonSet",
                agent("securityContext/capabilities/add/-"),
                json!("SYS_ADMIN"),
                "SYS_ADMIN",
            ),
            (
                "DaemonSet",
                agent("securityContext/capabilities/drop"),
                json!(["NET_RAW"]),
                "does not drop",
            ),
            (
                "DaemonSet",
                agent("securityContext/seccompProfile"),
                json!({ "type": "Unconfined" }),
                "seccomp profile",
            ),
            (
                "DaemonSet",
                agent("securityContext/procMount"),
                json!("Unmasked"),
                "/proc",
            ),
            (
                "DaemonSet",
                init("securityContext/capabilities/add"),
                json!(["NET_ADMIN"]),
                "install-cni: capability",
            ),
            (
                "DaemonSet",
                format!("{POD}/securityContext"),
                json!({}),
                "no seccomp profile",
            ),
            (
                "DaemonSet",
                format!("{POD}/volumes/-"),
                host_path("/"),
                "volume",
            ),
            (
                "DaemonSet",
                format!("{POD}/volumes/-"),
                host_path("/proc"),
                "volume",
            ),
            (
                "DaemonSet",
                format!("{POD}/volumes/-"),
                json!({ "name": "more", "secret": { "secretName": "s" } }),
                "volume",
            ),
            (
                "DaemonSet",
                agent("volumeMounts/-"),
                json!({ "name": "cni-cache", "mountPath": "/x" }),
                "writes to /x",
            ),
            (
                "DaemonSet",
                agent("volumeMounts/-"),
                json!({ "name": "bpffs", "mountPath": "/x", "mountPropagation": "Bidirectional" }),
                "mounts that the node sees",
            ),
            (
                "ServiceAccount",
                "/automountServiceAccountToken".into(),
                json!(true),
                "token",
            ),
            (
                "ClusterRole",
                "/rules/-".into(),
                role("", "secrets", "list"),
                "secrets",
            ),
            (
                "ClusterRole",
                "/rules/-".into(),
                role("", "pods", "get"),
                "verbs",
            ),
            (
                "ClusterRole",
                "/rules/-".into(),
                role("events.k8s.io", "events", "delete"),
                "",
            ),
            (
                "ClusterRole",
                "/rules/-".into(),
                role("", "pods", "patch"),
                "verbs",
            ),
            (
                "ClusterRole",
                "/rules/-".into(),
                role("*", "*", "watch"),
                "resource \"*\"",
            ),
            (
                "ClusterRole",
                "/rules/-".into(),
                json!({ "nonResourceURLs": ["/metrics"], "verbs": ["list"] }),
                "no resource",
            ),
            (
                "ClusterRole",
                "/aggregationRule".into(),
                json!({ "clusterRoleSelectors": [] }),
                "other roles",
            ),
            (
                "Role",
                "/rules/-".into(),
                role("apps", "daemonsets", "get"),
                "own DaemonSet",
            ),
            (
                "Role",
                "/rules/0/verbs/-".into(),
                json!("delete"),
                "own DaemonSet",
            ),
            (
                "ClusterRoleBinding",
                "/roleRef/name".into(),
                json!("cluster-admin"),
                "cluster-admin",
            ),
            (
                "RoleBinding",
                "/subjects/-".into(),
                json!({ "kind": "Group", "name": "system:authenticated" }),
                "no service account",
            ),
            (
                "Service",
                "/kind".into(),
                json!("Secret"),
                "nobody has looked into",
            ),
        ];
        for (kind, pointer, value, expected) in cases {
            let found = excess(&with(kind, &pointer, value.clone())?);
            assert!(
                !found.is_empty() && found.iter().all(|line| line.contains(expected)),
                "{kind} {pointer} {value}: {found:?}"
            );
        }
        Ok(())
    }
}
