//! The agent in the cluster, installed as the README says.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::Cluster;
use crate::harness::until;

/// Where the README installs it.
pub const NAMESPACE: &str = "egress-agent-system";

/// Of the release, the DaemonSet, the ServiceAccount and the ClusterRole's last part.
pub const NAME: &str = "egress-agent";

/// Several tests of a program want one, and one of them installs it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Whether there is a DaemonSet.
pub fn is_installed(cluster: &Cluster) -> Result<bool> {
    Ok(cluster.api.get(&daemonset())?.is_some())
}

/// `helm install` and waiting for it, unless it is installed.
pub fn by_helm(cluster: &Cluster) -> Result<()> {
    by_helm_with(cluster, &[])
}

/// The same with more arguments.
pub fn by_helm_with(cluster: &Cluster, more: &[&str]) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if is_installed(cluster)? {
        return Ok(());
    }
    cluster.api.apply(&json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": { "pod-security.kubernetes.io/enforce": "privileged" },
        },
    }))?;
    let chart = chart();
    let mut arguments = vec!["install", NAME, &chart, "--namespace", NAMESPACE];
    arguments.extend(more);
    cluster.run("helm", &arguments)?;
    rolled_out(cluster)
}

/// `helm test`: asks the agent of one node whether everything it has seen is enforced.
pub fn helm_test(cluster: &Cluster) -> Result<()> {
    cluster
        .run("helm", &["test", NAME, "--namespace", NAMESPACE])
        .map(drop)
        .map_err(|error| told_why(cluster, error))
}

/// `helm uninstall --wait`.
pub fn helm_uninstall(cluster: &Cluster) -> Result<()> {
    cluster
        .run(
            "helm",
            &["uninstall", NAME, "--namespace", NAMESPACE, "--wait"],
        )
        .map(drop)
}

/// To another tag, under which every node has the same image.
pub fn upgrade(cluster: &Cluster) -> Result<()> {
    let image = concat!("docker.io/library/egress-agent:", env!("CARGO_PKG_VERSION"));
    for node in cluster.nodes() {
        cluster.node(node)?.output(
            super::CTR,
            &[
                "--namespace=k8s.io",
                "images",
                "tag",
                "--force",
                image,
                "docker.io/library/egress-agent:next",
            ],
        )?;
    }
    upgrade_with(cluster, "image.tag=next")
}

/// `helm upgrade --wait` with one value changed.
pub fn upgrade_with(cluster: &Cluster, value: &str) -> Result<()> {
    let chart = chart();
    cluster
        .run(
            "helm",
            &[
                "upgrade",
                NAME,
                &chart,
                "--namespace",
                NAMESPACE,
                "--set",
                value,
                "--reuse-values",
                "--wait",
                "--timeout=300s",
            ],
        )
        .map(drop)
        .map_err(|error| told_why(cluster, error))
}

/// `helm rollback --wait`, to what was before the upgrade.
pub fn roll_back(cluster: &Cluster) -> Result<()> {
    cluster
        .run(
            "helm",
            &[
                "rollback",
                NAME,
                "--namespace",
                NAMESPACE,
                "--wait",
                "--timeout=300s",
            ],
        )
        .map(drop)
        .map_err(|error| told_why(cluster, error))
}

/// `kubectl apply`, and waiting for it.
pub fn by_manifest(cluster: &Cluster) -> Result<()> {
    cluster.run("kubectl", &["apply", "--filename", &manifest()])?;
    rolled_out(cluster)
}

/// `kubectl delete`, which waits.
pub fn delete_manifest(cluster: &Cluster) -> Result<()> {
    cluster
        .run("kubectl", &["delete", "--filename", &manifest()])
        .map(drop)
}

/// Waits until every node has an agent of the DaemonSet as it is now, and each is ready.
pub fn rolled_out(cluster: &Cluster) -> Result<()> {
    cluster
        .run(
            "kubectl",
            &[
                "--namespace",
                NAMESPACE,
                "rollout",
                "status",
                "daemonset/egress-agent",
                "--timeout=300s",
            ],
        )
        .map(drop)
        // That goes by numbers that are older than the last pod's end.
        .and_then(|()| {
            let wait = || until("every node has a ready agent", || is_everywhere(cluster));
            // Controllers come back slowly when the API server was away.
            wait().or_else(|_| wait()).or_else(|_| wait())
        })
        .map_err(|error| told_why(cluster, error))
}

fn is_everywhere(cluster: &Cluster) -> Result<bool> {
    let pods = pods(cluster)?;
    let is_ready = |pod: &Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|condition| {
            condition.get("type") == Some(&json!("Ready"))
                && condition.get("status") == Some(&json!("True"))
        })
    };
    let stays = |pod: &Value| pod.pointer("/metadata/deletionTimestamp").is_none();
    Ok(pods.len() == cluster.nodes().count() && pods.iter().all(|pod| stays(pod) && is_ready(pod)))
}

/// The agent's pods.
pub fn pods(cluster: &Cluster) -> Result<Vec<Value>> {
    cluster.api.list(
        &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": NAMESPACE } }),
        "app.kubernetes.io/component=agent",
    )
}

/// Deletes the agent's pods; the DaemonSet makes new ones.
pub fn delete_pods(cluster: &Cluster) -> Result<()> {
    for pod in pods(cluster)? {
        let part = |pointer: &str| {
            let found = pod.pointer(pointer).cloned();
            found.with_context(|| format!("a pod without {pointer}"))
        };
        cluster.api.delete(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": part("/metadata/namespace")?,
                "name": part("/metadata/name")?,
            },
        }))?;
    }
    Ok(())
}

/// What names its DaemonSet.
pub fn daemonset() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "namespace": NAMESPACE, "name": NAME },
    })
}

fn chart() -> String {
    in_repository("deploy/chart")
}

fn manifest() -> String {
    in_repository("deploy/install.yaml")
}

fn in_repository(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join(path).display().to_string()
}

/// With what the agent says: a time-out alone tells nobody anything.
fn told_why(cluster: &Cluster, error: anyhow::Error) -> anyhow::Error {
    let ask = |arguments: &[&str]| {
        cluster
            .run("kubectl", arguments)
            .unwrap_or_else(|error| format!("{error:#}"))
    };
    let pods = ask(&["--namespace", NAMESPACE, "describe", "pods"]);
    let log = ask(&[
        "--namespace",
        NAMESPACE,
        "logs",
        "--selector=app.kubernetes.io/component=agent",
        "--all-containers",
        "--prefix",
        "--tail=20",
    ]);
    error.context(format!("{pods}\n{log}"))
}

impl Cluster {
    /// Runs a program that finds the cluster by `KUBECONFIG`.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .output()
            .with_context(|| format!("running {program}"))?;
        if !output.status.success() {
            bail!(
                "{program} {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
