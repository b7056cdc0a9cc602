//! The stage: a node, an outside, pods between them.
//!
//! ```text
//!   pod ns  eth0 ──── v1 ┐  host ns (the node; forwards; the agent runs here)
//!   pod ns  eth0 ──── v2 ┼── out0 ──── eth0  outside ns
//! ```
//!
//! A pod has one address of each family and a default route over its veth, as a routed CNI
//! sets it up: the host end answers as `169.254.1.1` and `fe80::1`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::echo::serve;
use super::folder::{Folder, PREFIX, sweep};
use super::probe::{Question, wrong};
use super::{
    Agent, Echo, Inbound, Manifests, Metrics, NetNs, Pod, PodSpec, Probe, Wire, ip_batch, objects,
    until,
};

/// The name of the node, as the pods' `spec.nodeName` says it.
pub const NODE: &str = "node-a";
/// The node's own IPv4 address.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// The node's own IPv6 address.
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 1);

/// Addresses outside, pairs of the two families; the third pair lies in other networks.
pub const OUTSIDE: [(Ipv4Addr, Ipv6Addr); 3] = [
    (
        Ipv4Addr::new(203, 0, 113, 10),
        Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10),
    ),
    (
        Ipv4Addr::new(203, 0, 113, 20),
        Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x20),
    ),
    (
        Ipv4Addr::new(198, 51, 100, 7),
        Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 7),
    ),
];

/// A node with an agent, an outside, and pods.
///
/// Fields are dropped in this order: the agent ends first, then its pins go, then the
/// network.
#[derive(Debug)]
pub struct World {
    /// The agent, not started yet.
    pub agent: Agent,
    _folder: Folder,
    /// What the agent reads.
    pub manifests: Manifests,
    /// The outside.
    pub outside: Outside,
    /// The node's namespace.
    pub host: NetNs,
    id: String,
    pods: u8,
}

/// What is outside of the cluster.
#[derive(Debug)]
pub struct Outside {
    /// Its namespace; the interface is `eth0`.
    pub ns: NetNs,
    servers: Vec<Echo>,
}

/// Builds a world, runs `test` on it.
///
/// # Panics
///
/// When `test` fails, or the agent ended by itself; with the end of the agent's log.
#[expect(clippy::panic, reason = "this is where a test fails")]
pub fn on_world(test: impl FnOnce(&mut World) -> Result<()>) {
    let mut world = match World::new() {
        Ok(world) => world,
        Err(error) => panic!("building the world: {error:#}"),
    };
    let result = test(&mut world).and_then(|()| {
        if world.agent.is_started() {
            world.agent.still_running()
        } else {
            Ok(())
        }
    });
    if let Err(error) = result {
        let status = match world.agent.status(&world.host) {
            Ok(status) => status.to_string(),
            Err(error) => format!("{error:#}"),
        };
        panic!(
            "{error:#}\n--- status ---\n{status}\n--- end of the agent's log ---\n{}",
            world.agent.log_tail()
        );
    }
}

impl World {
    /// A node and an outside; no pod yet, and the agent not started.
    pub fn new() -> Result<Self> {
        static SWEPT: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(sweep);
        let id = format!(
            "{PREFIX}{}-{}",
            process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let folder = Folder::new(&id)?;
        let host = NetNs::new(&format!("{id}-host"))?;
        let outside = NetNs::new(&format!("{id}-out"))?;
        host.sysctls(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/accept_source_route", "1"),
            ("net/ipv4/conf/default/accept_source_route", "1"),
        ])?;
        // Answers must leave at the rate of the questions.
        outside.sysctls(&[
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ])?;
        // Neighbours that need not be asked for: no frame waits, so that none overtakes another.
        ip_batch(
            host.name(),
            &format!(
                "link add out0 mtu 9000 address 02:00:00:00:ff:01 type veth \
                 peer name eth0 mtu 9000 address 02:00:00:00:ff:02 netns {out}\n\
                 link set out0 up\n\
                 addr add {NODE_V4}/24 dev out0\n\
                 addr add {NODE_V6}/64 dev out0 nodad\n\
                 neigh add 172.30.0.2 lladdr 02:00:00:00:ff:02 dev out0\n\
                 neigh add fd00:30::2 lladdr 02:00:00:00:ff:02 dev out0\n",
                out = outside.name(),
            ),
        )?;
        ip_batch(
            outside.name(),
            "link set eth0 up\n\
             addr add 172.30.0.2/24 dev eth0\n\
             addr add fd00:30::2/64 dev eth0 nodad\n",
        )?;
        for (v4, v6) in OUTSIDE {
            ip_batch(
                outside.name(),
                &format!("addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n"),
            )?;
            ip_batch(
                host.name(),
                &format!("route add {v4}/32 via 172.30.0.2\nroute add {v6}/128 via fd00:30::2\n"),
            )?;
        }
        // What goes out of the outside comes from the first place there.
        let (v4, v6) = OUTSIDE[0];
        ip_batch(
            outside.name(),
            &format!(
                "route add default via {NODE_V4} src {v4}\n\
                 route add default via {NODE_V6} src {v6}\n"
            ),
        )?;
        let manifests = Manifests::new(folder.path().join("manifests"))?;
        Ok(Self {
            agent: Agent::new(folder.path().to_owned(), manifests.dir().to_owned()),
            _folder: folder,
            manifests,
            outside: Outside {
                ns: outside,
                servers: Vec::new(),
            },
            host,
            id,
            pods: 0,
        })
    }

    /// Makes a pod's network and writes its manifest.
    pub fn pod(&mut self, spec: PodSpec) -> Result<Pod> {
        let pod = self.stage(spec)?;
        self.manifests.put(&pod.file(), &pod.manifest())?;
        Ok(pod)
    }

    /// Makes a pod's network and writes nothing.
    pub fn stage(&mut self, spec: PodSpec) -> Result<Pod> {
        self.pods = self.pods.checked_add(1).context("too many pods")?;
        let ns = NetNs::new(&format!("{}-p{}", self.id, self.pods))?;
        let pod = Pod::new(ns, self.pods, spec);
        self.plug(&pod)?;
        Ok(pod)
    }

    /// Wires the pod's namespace to the host, as a CNI plugin would.
    pub fn plug(&self, pod: &Pod) -> Result<()> {
        let Pod { v4, v6, .. } = pod;
        let number = pod.number();
        let interface = &pod.host_interface;
        ip_batch(
            self.host.name(),
            &format!(
                "link add {interface} mtu 9000 address 02:00:00:00:{number:02x}:01 type veth \
                 peer name eth0 mtu 9000 address 02:00:00:00:{number:02x}:02 netns {ns}\n\
                 link set {interface} up\n\
                 addr add 169.254.1.1/32 dev {interface}\n\
                 addr add fe80::1/64 dev {interface} nodad\n\
                 route add {v4}/32 dev {interface} src {NODE_V4}\n\
                 route add {v6}/128 dev {interface} src {NODE_V6}\n",
                ns = pod.ns.name(),
            ),
        )?;
        ip_batch(
            pod.ns.name(),
            &format!(
                "link set eth0 up\n\
                 addr add {v4}/32 dev eth0\n\
                 addr add {v6}/128 dev eth0 nodad\n\
                 route add 169.254.1.1 dev eth0 scope link\n\
                 route add default via 169.254.1.1 dev eth0\n\
                 route add default via fe80::1 dev eth0\n",
            ),
        )
    }

    /// Gives the outside one more address, which the node routes there.
    pub fn outside_address(&mut self, address: IpAddr, ports: &[u16]) -> Result<()> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let via = if address.is_ipv4() {
            "172.30.0.2"
        } else {
            "fd00:30::2"
        };
        ip_batch(
            self.outside.ns.name(),
            &format!("addr add {address}/{length} dev eth0\n"),
        )?;
        ip_batch(
            self.host.name(),
            &format!("route add {address}/{length} via {via}\n"),
        )?;
        let Outside { ns, servers } = &mut self.outside;
        serve(ns, servers, address, ports)
    }

    /// Writes a Namespace.
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        self.manifests.put(
            &format!("namespace-{name}.json"),
            &objects::namespace(name, labels),
        )
    }

    /// Starts the agent and waits until it enforces what the files say.
    pub fn start_agent(&mut self) -> Result<()> {
        self.agent.start(&self.host)?;
        self.settle()
    }

    /// Writes an object and waits until the agent enforces it.
    pub fn apply(&mut self, file: &str, object: &Value) -> Result<()> {
        self.manifests.put(file, object)?;
        self.settle()
    }

    /// Deletes a file and waits until the agent no longer enforces it.
    pub fn withdraw(&mut self, file: &str) -> Result<()> {
        self.manifests.remove(file)?;
        self.settle()
    }

    /// Waits until the agent has read every file as it is now and has programmed it.
    ///
    /// `status` names the SHA-256 of every file's content that counts, so there is no
    /// guessing which version `ready` speaks of.
    pub fn settle(&mut self) -> Result<()> {
        let want = self.manifests.digests()?;
        let mut last = String::new();
        let result = until("the agent enforces the files", || {
            self.agent.still_running()?;
            let status = self.agent.status(&self.host)?;
            last = status.to_string();
            Ok(tells_of(&status, &want))
        });
        result.with_context(|| format!("last status: {last}"))
    }

    /// What [`World::settle`] waits for, as of now; no while the agent does not answer.
    pub fn is_settled(&self) -> Result<bool> {
        let want = self.manifests.digests()?;
        let status = self.agent.status(&self.host);
        Ok(status.is_ok_and(|status| tells_of(&status, &want)))
    }

    /// What `status -o json` says of one source file.
    pub fn source(&self, file: &str) -> Result<Option<Value>> {
        self.find("sources", "path", |path| Path::new(path).ends_with(file))
    }

    /// What `status -o json` says of one pod (`NS/NAME`).
    pub fn pod_status(&self, pod: &Pod) -> Result<Option<Value>> {
        self.find("pods", "name", |name| name == pod.reference())
    }

    fn find(&self, list: &str, key: &str, matches: impl Fn(&str) -> bool) -> Result<Option<Value>> {
        let status = self.agent.status(&self.host)?;
        Ok(status
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .find(|entry| entry.get(key).and_then(Value::as_str).is_some_and(&matches))
            .cloned())
    }

    /// A scrape of the agent's metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        self.agent.metrics(&self.host)
    }

    /// Sends every probe and compares: the third of each is whether it must be answered.
    ///
    /// Where the agent runs, `egress-agent check` is asked the same and must agree.
    pub fn expect(&self, cases: &[(&Pod, Probe, bool)]) -> Result<()> {
        self.expect_traffic(cases)?;
        if !self.agent.is_started() {
            return Ok(());
        }
        let questions: Vec<(String, String)> = cases
            .iter()
            .map(|(pod, probe, _)| (pod.reference(), probe.as_query()))
            .collect();
        let answers = self.agent.check(&questions)?;
        for ((pod, probe, open), answer) in cases.iter().zip(answers) {
            if answer.allowed != *open {
                bail!(
                    "traffic {} to {probe} is right, `check` says {answer:?}",
                    pod.reference()
                );
            }
        }
        Ok(())
    }

    /// As [`World::expect`], without asking `check`: for states that the files alone do
    /// not tell.
    pub fn expect_traffic(&self, cases: &[(&Pod, Probe, bool)]) -> Result<()> {
        let names: Vec<String> = cases.iter().map(|(pod, ..)| pod.reference()).collect();
        let questions: Vec<Question<'_>> = cases
            .iter()
            .zip(&names)
            .map(|((pod, probe, open), name)| (name.as_str(), &pod.ns, *probe, *open))
            .collect();
        let wrong = wrong(&questions);
        if wrong.is_empty() {
            Ok(())
        } else {
            bail!("{}", wrong.join("\n"))
        }
    }

    /// Hand-made packets from the outside.
    pub fn inbound(&self) -> Result<Inbound> {
        Inbound::new(&self.outside.ns)
    }

    /// Hand-made frames from `pod`.
    pub fn wire(&self, pod: &Pod) -> Result<Wire> {
        Wire::new(pod, &self.outside.ns)
    }
}

/// Whether a status is about these files, and ready.
fn tells_of(status: &Value, want: &BTreeMap<String, String>) -> bool {
    let sources = status
        .get("sources")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let fresh = want.iter().all(|(path, digest)| {
        sources.iter().any(|source| {
            let text = |field| {
                source
                    .get(field)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            Path::new(text("path")).ends_with(path) && text("sha256") == digest
        })
    });
    let ready = status.get("ready") == Some(&Value::Bool(true));
    fresh && ready && sources.len() == want.len()
}

impl Outside {
    /// Serves TCP and UDP on `ports` of every address in [`OUTSIDE`].
    pub fn serve(&mut self, ports: &[u16]) -> Result<()> {
        for (v4, v6) in OUTSIDE {
            for address in [IpAddr::from(v4), v6.into()] {
                serve(&self.ns, &mut self.servers, address, ports)?;
            }
        }
        Ok(())
    }
}
