//! A real Prometheus that reads agents.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{NetNs, until};

/// Where it serves; every namespace has a loopback of its own.
const HTTP: &str = "127.0.0.1:9090";

/// The name of the job that reads the agents.
pub const JOB: &str = "egress-agent";

/// Reads every agent twice a second, and evaluates rules as often. Dropping it kills it.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    folder: PathBuf,
}

impl Prometheus {
    /// Starts it in `ns`, with a folder of its own for its data, and waits until it has read all
    /// of `agents`: their addresses, and what their nodes are called.
    ///
    /// `prometheus` and `promtool` must be on the path (Debian's package `prometheus`).
    pub fn start(
        ns: &NetNs,
        folder: &Path,
        rules: &Path,
        agents: &[(SocketAddr, &str)],
    ) -> Result<Self> {
        let folder = folder.join("prometheus");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let configuration = folder.join("prometheus.yaml");
        // As the chart's monitors have it: the agent's own labels stay, and targets know their node.
        let mut text = format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: [{}]\n\
             scrape_configs:\n\
             - job_name: {JOB}\n\
             \x20 honor_labels: true\n\
             \x20 static_configs:\n",
            rules.display()
        );
        for (address, node) in agents {
            writeln!(
                text,
                "  - {{targets: ['{address}'], labels: {{node: {node}}}}}"
            )?;
        }
        fs::write(&configuration, text)
            .with_context(|| format!("writing {}", configuration.display()))?;
        let log = File::create(folder.join("prometheus.log"))?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={HTTP}"))
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null());
        let child = ns.run(|| {
            command
                .spawn()
                .context("starting prometheus (Debian's package `prometheus`)")
        })?;
        let mut prometheus = Self { child, folder };
        until("prometheus has read the agents", || {
            if let Some(status) = prometheus.child.try_wait()? {
                bail!("prometheus ended: {status}\n{}", prometheus.log());
            }
            Ok(prometheus
                .query(ns, &format!("up{{job=\"{JOB}\"}} == 1"))
                .is_ok_and(|samples| samples.len() == agents.len()))
        })?;
        Ok(prometheus)
    }

    /// The samples that an expression has now.
    pub fn query(&self, ns: &NetNs, expression: &str) -> Result<Vec<Value>> {
        let output = ns.run(|| {
            Command::new("promtool")
                .args(["query", "instant", "-o", "json"])
                .arg(format!("http://{HTTP}"))
                .arg(expression)
                .output()
                .context("starting promtool")
        })?;
        if !output.status.success() {
            bail!(
                "{expression}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("reading the answer to {expression}"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("prometheus.log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            super::netns::report(&format!("killing prometheus: {error}"));
        }
    }
}
