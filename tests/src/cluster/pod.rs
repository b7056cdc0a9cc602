//! A pod in the cluster: what a test asks for, and where it is found.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{CTR, Machine, Namespace, PAUSE, sandbox};
use crate::harness::echo::serve;
use crate::harness::pod::Traits;
use crate::harness::{Echo, NetNs, until};

/// A pod as a test describes it.
#[derive(Clone, Debug)]
pub struct PodSpec {
    name: String,
    traits: Traits,
    node: Option<String>,
    image: &'static str,
    arguments: Vec<String>,
    restart: &'static str,
}

/// A pod that runs.
#[derive(Debug)]
pub struct Pod {
    /// Its network namespace.
    pub ns: NetNs,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Where it runs.
    pub node: String,
    name: String,
    uid: String,
    sandbox: String,
    servers: Vec<Echo>,
}

impl PodSpec {
    /// One that does nothing by itself.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            traits: Traits::default(),
            node: None,
            image: PAUSE,
            arguments: Vec::new(),
            restart: "Never",
        }
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.traits.label(key, value);
        self
    }

    /// With a named container port.
    #[must_use]
    pub fn port(mut self, name: &str, number: u16, protocol: &str) -> Self {
        self.traits.port(name, number, protocol);
        self
    }

    /// On this node, whatever the scheduler thinks.
    #[must_use]
    pub fn node(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// With a container that runs this.
    #[must_use]
    pub fn runs(mut self, image: &'static str, arguments: &[&str]) -> Self {
        self.image = image;
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self
    }

    /// Started again when it ends: `Always`, `OnFailure`, or `Never` as if nothing is said.
    #[must_use]
    pub fn restarts(mut self, when: &'static str) -> Self {
        self.restart = when;
        self
    }

    /// Its object. It ends at once when it is deleted.
    pub fn object(&self) -> Value {
        let Self {
            name,
            traits,
            node,
            image,
            arguments,
            restart,
        } = self;
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "labels": traits.labels() },
            "spec": {
                "restartPolicy": restart,
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "containers": [{
                    "name": "main",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "args": arguments,
                    "ports": traits.ports(),
                }],
            },
        });
        if let (Some(node), Some(Value::Object(spec))) = (node, object.get_mut("spec")) {
            spec.insert("nodeName".into(), node.clone().into());
        }
        object
    }
}

impl Pod {
    /// Waits until it runs, and finds where.
    pub(super) fn running(namespace: &Namespace<'_>, spec: PodSpec) -> Result<Self> {
        let object = spec.object();
        let mut last = Value::Null;
        until("the pod runs", || {
            last = namespace.get(&object)?.context("the pod is gone")?;
            Ok(last.pointer("/status/phase") == Some(&Value::from("Running")))
        })
        .with_context(|| format!("{last:#}"))?;
        let text = |pointer| last.pointer(pointer).and_then(Value::as_str);
        let uid = text("/metadata/uid").context("no uid")?;
        let node = text("/spec/nodeName").context("no node")?.to_owned();
        let machine = namespace.cluster.node(&node)?;
        let sandbox = sandbox::of(&machine, uid)?.with_context(|| format!("{last:#}"))?;
        let (v4, v6) = sandbox.families()?;
        let said = last.pointer("/status/podIPs");
        ensure!(
            said == Some(&json!([{ "ip": v4 }, { "ip": v6 }])),
            "{sandbox:?} has other addresses than {said:?}"
        );
        Ok(Self {
            ns: sandbox.ns,
            v4,
            v6,
            node,
            name: spec.name,
            uid: uid.to_owned(),
            sandbox: sandbox.id,
            servers: Vec::new(),
        })
    }

    /// Ends its sandbox, and waits until the kubelet has made another one: a new network, with
    /// new addresses. What served in the old one is gone.
    pub fn begin_again(&mut self, machine: &Machine) -> Result<()> {
        machine.output(
            CTR,
            &[
                "--namespace=k8s.io",
                "tasks",
                "kill",
                "--signal=SIGKILL",
                &self.sandbox,
            ],
        )?;
        self.servers.clear();
        until("the pod has another sandbox", || {
            let Some(new) = sandbox::of(machine, &self.uid)? else {
                return Ok(false);
            };
            if new.id == self.sandbox {
                return Ok(false);
            }
            (self.v4, self.v6) = new.families()?;
            (self.ns, self.sandbox) = (new.ns, new.id);
            Ok(true)
        })
    }

    /// Its name in the API.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Both addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Serves TCP and UDP on `ports` of both addresses.
    pub fn serve(&mut self, ports: &[u16]) -> Result<()> {
        for address in self.addresses() {
            serve(&self.ns, &mut self.servers, address, ports)?;
        }
        Ok(())
    }

    /// What arrived on a port so far: datagrams, and reads of connections.
    pub fn received(&self, port: u16) -> u64 {
        let here = self.servers.iter().filter(|server| server.port() == port);
        here.map(Echo::received).sum()
    }
}
