//! The CNI plugin, called as a container runtime calls it.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{NetNs, Pod, World, binary};

/// The name under which the agent's binary is the plugin.
const PLUGIN: &str = "egress-agent-cni";

/// The plugin of one world.
#[derive(Debug)]
pub struct Plugin {
    program: PathBuf,
    socket: PathBuf,
    when_agent_down: &'static str,
}

/// What it answered.
#[derive(Debug)]
pub struct Answered {
    /// Exit status 0.
    pub succeeded: bool,
    /// Standard output.
    pub text: String,
    /// Standard error.
    pub complaint: String,
}

impl Plugin {
    /// That of a world's agent; new pods wait while it is down.
    pub fn new(world: &World) -> Result<Self> {
        let program = world.agent.socket().with_file_name(PLUGIN);
        if !program.exists() {
            symlink(std::path::absolute(binary()?)?, &program)?;
        }
        Ok(Self {
            program,
            socket: world.agent.socket(),
            when_agent_down: "wait",
        })
    }

    /// New pods start while the agent is down.
    #[must_use]
    pub fn starting_without_agent(mut self) -> Self {
        self.when_agent_down = "start";
        self
    }

    /// What a plugin before this one answers for a pod, as text.
    pub fn previous(pod: &Pod) -> String {
        // Not as anybody would write it: it must come back byte by byte.
        format!(
            r#"{{"cniVersion":"1.0.0", "interfaces":[ {{"name":"{}"}},{{"name":"eth0","sandbox":"{}"}}],"ips":[{{"address":"{}/32","interface":1}},{{"address":"{}/128"}}],"x":1.50}}"#,
            pod.host_interface,
            pod.ns.path().display(),
            pod.v4,
            pod.v6,
        )
    }

    /// The configuration with a previous result.
    pub fn configuration(&self, previous: Option<&str>) -> String {
        let Self {
            program: _,
            socket,
            when_agent_down,
        } = self;
        let before = previous.map_or_else(String::new, |text| format!(r#","prevResult":{text}"#));
        format!(
            r#"{{"cniVersion":"1.1.0","name":"net","type":"{PLUGIN}","socket":{},"whenAgentDown":"{when_agent_down}"{before}}}"#,
            json!(socket)
        )
    }

    /// ADD, CHECK or DEL for a pod whose namespace is wired.
    pub fn call(&self, host: &NetNs, command: &str, pod: &Pod) -> Result<Answered> {
        let manifest = pod.manifest();
        let uid = manifest
            .pointer("/metadata/uid")
            .and_then(Value::as_str)
            .context("a pod without uid")?;
        let (namespace, name) = pod.reference_parts();
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"
        );
        let netns = pod.ns.path();
        self.raw(
            host,
            &[
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", &format!("c-{uid}")),
                ("CNI_NETNS", text(&netns)?),
                ("CNI_IFNAME", "eth0"),
                ("CNI_ARGS", &arguments),
                ("CNI_PATH", "/nowhere"),
            ],
            &self.configuration(Some(&Self::previous(pod))),
        )
    }

    /// Runs the plugin in `host` with this environment and standard input.
    pub fn raw(&self, host: &NetNs, environment: &[(&str, &str)], input: &str) -> Result<Answered> {
        let mut child = host.run(|| {
            Command::new(&self.program)
                .env_clear()
                .envs(environment.iter().copied())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("starting the CNI plugin")
        })?;
        child
            .stdin
            .take()
            .context("the plugin has no standard input")?
            .write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        Ok(Answered {
            succeeded: output.status.success(),
            text: String::from_utf8(output.stdout)?,
            complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

impl Answered {
    /// It answered this result and nothing else.
    pub fn is(&self, result: &str) -> Result<()> {
        ensure!(self.succeeded && self.text == result, "{self:?}");
        Ok(())
    }

    /// It answered an error: its code and what it says.
    pub fn error(&self) -> Result<(u64, String)> {
        ensure!(!self.succeeded, "{self:?}");
        let error: Value =
            serde_json::from_str(&self.text).with_context(|| format!("reading {self:?}"))?;
        let code = error.get("code").and_then(Value::as_u64);
        let message = error.get("msg").and_then(Value::as_str);
        ensure!(error.get("cniVersion").is_some(), "{error}");
        Ok((
            code.context("no code")?,
            message.context("no msg")?.to_owned(),
        ))
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
