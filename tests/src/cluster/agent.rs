//! The agent of one node, asked as an operator would.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Machine;
use crate::harness::{DEADLINE, Metrics, binary};

/// Where the chart has it.
const SOCKET: &str = "/run/egress-agent/agent.sock";

const PORT: u16 = 9810;

impl Machine {
    /// `egress-agent status -o json`.
    pub fn status(&self) -> Result<Value> {
        let output = Command::new(binary()?)
            .args(["status", "-o", "json", "--socket"])
            .arg(self.path(SOCKET))
            .output()
            .context("running egress-agent status")?;
        if !output.status.success() {
            bail!(
                "egress-agent status: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout).context("reading what `status -o json` printed")
    }

    /// What Prometheus would get, at the node's own address.
    pub fn scrape(&self) -> Result<String> {
        let at = SocketAddr::new(self.address()?, PORT);
        self.network()?.run(|| {
            let mut stream =
                TcpStream::connect(at).with_context(|| format!("connecting to {at}"))?;
            stream.set_read_timeout(Some(DEADLINE))?;
            write!(
                stream,
                "GET /metrics HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
            ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
            Ok(body.to_owned())
        })
    }

    /// The same, parsed.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.scrape()?)
    }
}
