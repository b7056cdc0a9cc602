//! The real agent as a process of its own.

use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use egress_common::abi::ABI_VERSION;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{DEADLINE, Gate, Metrics, NODE, NetNs, until};

/// Where the agent serves HTTP; every world has a loopback of its own.
const HTTP: &str = "127.0.0.1:9810";

/// The binary under test: `EGRESS_AGENT_BIN`, else the release build, else the debug build.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("EGRESS_AGENT_BIN") {
        return Ok(path.into());
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    ["release", "debug"]
        .iter()
        .map(|profile| target.join(profile).join("egress-agent"))
        .find(|path| path.exists())
        .context("no egress-agent: run `cargo xtask build`, or name one in EGRESS_AGENT_BIN")
}

/// The agent of one world. Dropping it kills it; what it pinned stays until the world goes.
#[derive(Debug)]
pub struct Agent {
    child: Option<Child>,
    dir: PathBuf,
    manifests: PathBuf,
    kubeconfig: Option<PathBuf>,
    starts: u32,
}

/// What `egress-agent check` and `explain` answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `verdict` is `allow`.
    pub allowed: bool,
    /// `reason`.
    pub reason: String,
    /// `isolatedBy`.
    pub isolated_by: Vec<String>,
    /// `allowedBy`.
    pub allowed_by: Vec<String>,
}

impl Agent {
    /// An agent that has not been started; `dir` takes its socket, state, pins and logs.
    pub(super) fn new(dir: PathBuf, manifests: PathBuf) -> Self {
        Self {
            child: None,
            dir,
            manifests,
            kubeconfig: None,
            starts: 0,
        }
    }

    /// Where its pins go; a bpffs of the world's own.
    pub fn pin_root(&self) -> PathBuf {
        self.dir.join("bpf/egress")
    }

    /// Where the pins of its version of the tables go.
    pub fn pins(&self) -> PathBuf {
        self.pin_root().join(format!("v{ABI_VERSION}"))
    }

    /// Where it pins its hooks.
    pub fn links(&self) -> PathBuf {
        self.pins().join("links")
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// From its next start on its objects come from the API server that a kubeconfig names, and no
    /// longer from manifests.
    pub fn follow(&mut self, kubeconfig: &Value) -> Result<()> {
        let path = self.dir.join("kubeconfig");
        fs::write(&path, kubeconfig.to_string())?;
        self.kubeconfig = Some(path);
        Ok(())
    }

    /// Starts it in `ns` and returns at once.
    pub fn launch(&mut self, ns: &NetNs, more: &[&str]) -> Result<()> {
        self.launch_by(ns, more, |mut command| Ok(command.spawn()?))
    }

    /// Starts it in `ns`, every write to the kernel by way of `gate`, and returns at once.
    pub fn launch_behind(&mut self, ns: &NetNs, gate: &Gate) -> Result<()> {
        self.launch_by(ns, &[], |command| gate.spawn(command))
    }

    fn launch_by(
        &mut self,
        ns: &NetNs,
        more: &[&str],
        spawn: impl FnOnce(Command) -> Result<Child> + Send,
    ) -> Result<()> {
        if self.child.is_some() {
            bail!("the agent runs already");
        }
        let mut command = self.command(&binary()?, more);
        self.starts += 1;
        let log = File::create(self.log_path())?;
        command
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null());
        let child = ns.run(|| spawn(command).context("starting egress-agent"))?;
        fs::write(self.dir.join("agent.pid"), child.id().to_string())?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts it in `ns` and waits until it is ready.
    pub fn start(&mut self, ns: &NetNs) -> Result<()> {
        self.launch(ns, &[])?;
        self.wait_ready(ns)
    }

    /// Waits until `/readyz` is 200.
    pub fn wait_ready(&mut self, ns: &NetNs) -> Result<()> {
        until("/readyz is 200", || {
            self.still_running()?;
            Ok(http_get(ns, "/readyz").is_ok_and(|(status, _)| status == 200))
        })
    }

    /// Whether it was started and nobody ended it.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the agent does not run")?.id())
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the agent does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until it has ended by what somebody else did.
    pub fn wait_ended(&mut self) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("the agent does not run")?;
        let mut status = None;
        until("the agent ends", || {
            status = child.try_wait()?;
            Ok(status.is_some())
        })?;
        self.child = None;
        status.context("no exit status")
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let child = self.child.as_ref().context("the agent does not run")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("process id 0")?;
        kill_process(pid, Signal::TERM)?;
        self.wait_ended()
    }

    /// Runs the agent's binary with `arguments` in `ns`, to its end.
    pub fn cli(&self, ns: &NetNs, arguments: &[&str]) -> Result<Output> {
        let binary = binary()?;
        ns.run(|| {
            Command::new(&binary)
                .args(arguments)
                .output()
                .with_context(|| format!("running egress-agent {}", arguments.join(" ")))
        })
    }

    /// Starts a second agent on the same pins, with a socket and an HTTP address of its
    /// own, and waits until it ends: it must.
    pub fn run_second(&self, ns: &NetNs) -> Result<Output> {
        let binary = binary()?;
        let mut command = Command::new(binary);
        let (source, place) = match &self.kubeconfig {
            Some(kubeconfig) => ("--kubeconfig", kubeconfig),
            None => ("--manifests", &self.manifests),
        };
        command
            .arg("run")
            .arg(source)
            .arg(place)
            .args(["--node-name", NODE, "--http-addr", "127.0.0.1:9811"])
            .arg("--socket")
            .arg(self.dir.join("second.sock"))
            .arg("--pin-root")
            .arg(self.pin_root())
            .arg("--state-dir")
            .arg(self.dir.join("second"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = ns.run(|| command.spawn().context("starting a second egress-agent"))?;
        let ended = until("the second agent ends", || Ok(child.try_wait()?.is_some()));
        if ended.is_err() {
            child.kill()?;
        }
        let output = child.wait_with_output()?;
        ended.map(|()| output)
    }

    /// `egress-agent cleanup` of this agent's pins.
    pub fn cleanup(&self, ns: &NetNs) -> Result<Output> {
        let pins = self.pin_root();
        let state = self.dir.join("state");
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .context("path is not UTF-8")
        };
        self.cli(
            ns,
            &[
                "cleanup",
                "--pin-root",
                &text(&pins)?,
                "--state-dir",
                &text(&state)?,
            ],
        )
    }

    /// `egress-agent status -o json`.
    pub fn status(&self, ns: &NetNs) -> Result<Value> {
        let socket = self.socket();
        let socket = socket.to_str().context("socket path is not UTF-8")?;
        let output = self.cli(ns, &["status", "--socket", socket, "-o", "json"])?;
        if !output.status.success() {
            bail!(
                "egress-agent status: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout).context("reading what `status -o json` printed")
    }

    /// `egress-agent drops -o json`: what is remembered.
    pub fn drops(&self, ns: &NetNs) -> Result<Vec<Value>> {
        let socket = self.socket();
        let socket = socket.to_str().context("socket path is not UTF-8")?;
        let output = self.cli(ns, &["drops", "--socket", socket, "-o", "json"])?;
        if !output.status.success() {
            bail!(
                "egress-agent drops: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("drop record {line:?}")))
            .collect()
    }

    /// `egress-agent check`, many questions at once.
    pub fn check(&self, questions: &[(String, String)]) -> Result<Vec<Answer>> {
        let mut child = Command::new(binary()?)
            .arg("check")
            .arg("--manifests")
            .arg(&self.manifests)
            .args(["--batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("running egress-agent check")?;
        let mut text = String::new();
        for (from, to) in questions {
            text.push_str(&serde_json::json!({ "from": from, "to": to }).to_string());
            text.push('\n');
        }
        child
            .stdin
            .take()
            .context("no standard input")?
            .write_all(text.as_bytes())?;
        let output = child.wait_with_output()?;
        let answers: Vec<Answer> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| answer(line).with_context(|| format!("answer of check: {line}")))
            .collect::<Result<_>>()?;
        if answers.len() != questions.len() {
            bail!(
                "check answered {} of {} questions: {}",
                answers.len(),
                questions.len(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(answers)
    }

    /// A scrape of `/metrics`.
    pub fn metrics(&self, ns: &NetNs) -> Result<Metrics> {
        let (status, body) = http_get(ns, "/metrics")?;
        if status != 200 {
            bail!("/metrics answered {status}: {body}");
        }
        Metrics::parse(&body)
    }

    /// Status of a GET.
    pub fn http_status(&self, ns: &NetNs, path: &str) -> Result<u16> {
        Ok(http_get(ns, path)?.0)
    }

    /// Its log since it was started last.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(60);
        lines.get(from..).unwrap_or_default().join("\n")
    }

    /// Fails, with the log, when the process has ended by itself.
    pub(super) fn still_running(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("the agent does not run")?;
        if let Some(status) = child.try_wait()? {
            self.child = None;
            bail!("the agent ended by itself: {status}");
        }
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join(format!("agent-{}.log", self.starts))
    }

    fn command(&self, binary: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(binary);
        let (source, place) = match &self.kubeconfig {
            Some(kubeconfig) => ("--kubeconfig", kubeconfig),
            None => ("--manifests", &self.manifests),
        };
        command
            .arg("run")
            .arg(source)
            .arg(place)
            .args(["--node-name", NODE, "--http-addr", HTTP])
            .arg("--socket")
            .arg(self.socket())
            .arg("--pin-root")
            .arg(self.pin_root())
            .arg("--state-dir")
            .arg(self.dir.join("state"))
            .args(more);
        command
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.child.is_some()
            && let Err(error) = self.kill()
        {
            super::netns::report(&format!("killing the agent: {error:#}"));
        }
    }
}

fn answer(line: &str) -> Result<Answer> {
    let value: Value = serde_json::from_str(line)?;
    let text = |field: &str| {
        value
            .get(field)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .with_context(|| format!("no {field}"))
    };
    let list = |field: &str| -> Result<Vec<String>> {
        value
            .get(field)
            .and_then(Value::as_array)
            .with_context(|| format!("no {field}"))?
            .iter()
            .map(|name| {
                name.as_str()
                    .map(str::to_owned)
                    .with_context(|| format!("{field} is not a list of names"))
            })
            .collect()
    };
    let allowed = match text("verdict")?.as_str() {
        "allow" => true,
        "deny" => false,
        other => bail!("verdict {other:?}"),
    };
    Ok(Answer {
        allowed,
        reason: text("reason")?,
        isolated_by: list("isolatedBy")?,
        allowed_by: list("allowedBy")?,
    })
}

/// GET over HTTP/1.0, so that the answer ends with the connection and is not chunked.
fn http_get(ns: &NetNs, path: &str) -> Result<(u16, String)> {
    let patience = Some(DEADLINE);
    let mut stream =
        ns.run(|| TcpStream::connect(HTTP).context("connecting to the agent's HTTP address"))?;
    stream.set_read_timeout(patience)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {HTTP}\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("answer without a body")?;
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("answer starts with {:?}", head.lines().next()))?;
    Ok((status, body.to_owned()))
}
