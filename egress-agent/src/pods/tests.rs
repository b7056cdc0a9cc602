//! Looks at real namespaces. Each test makes an agent's namespace of its own, so that
//! tests neither see each other nor the machine.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a test may fail by panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::panic;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::conntrack::{PodFlow, older_flows};
use super::watch::TICK;
use super::*;

/// A named network namespace of this test.
struct Ns {
    name: String,
}

impl Ns {
    fn new(role: &str) -> Self {
        let ns = Self::unmade(role);
        ns.make();
        ns
    }

    /// A name nobody else uses, of a namespace that does not exist yet.
    fn unmade(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            name: format!("egress-pods-{}-{number}-{role}", std::process::id()),
        }
    }

    fn make(&self) {
        batch(&["-batch", "-"], &format!("netns add {}\n", self.name));
        self.ip("link set lo up");
    }

    fn unmake(&self) {
        batch(&["-batch", "-"], &format!("netns del {}\n", self.name));
    }

    /// Runs `ip` commands, one a line.
    fn ip(&self, commands: &str) {
        batch(&["-n", &self.name, "-batch", "-"], commands);
    }

    /// Makes a veth pair between here, `outer`, and `pod`, `inner`.
    fn pair(&self, outer: &str, pod: &Self, inner: &str) {
        self.ip(&format!(
            "link add {outer} type veth peer name {inner} netns {}\nlink set {outer} up",
            pod.name
        ));
        pod.ip(&format!("link set {inner} up"));
    }

    /// Runs `task` on a thread inside.
    fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                task()
            });
            inside
                .join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// One look from here at one pod.
    fn look(&self, annotation: &str) -> Found {
        self.look_at(&[annotation]).remove(0)
    }

    fn look_at(&self, annotations: &[&str]) -> Vec<Found> {
        let wanted: BTreeMap<_, _> = annotations
            .iter()
            .enumerate()
            .map(|(number, annotation)| (named(&format!("{number:04}")), annotated(annotation)))
            .collect();
        let found =
            self.run(|| Discovery::default().scan(&wanted, &BTreeSet::new(), Asking::InTurn));
        found.unwrap().into_values().collect()
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        let Ok(deleted) = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output()
        else {
            return;
        };
        // A test may have removed it itself.
        if !deleted.status.success() && Path::new("/run/netns").join(&self.name).exists() {
            eprintln!(
                "{} is left behind: {}",
                self.name,
                String::from_utf8_lossy(&deleted.stderr)
            );
        }
    }
}

fn batch(arguments: &[&str], commands: &str) {
    let mut ip = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("running ip (package iproute2)");
    ip.stdin
        .take()
        .unwrap()
        .write_all(commands.as_bytes())
        .unwrap();
    let output = ip.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{commands}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn named(name: &str) -> PodId {
    PodId {
        name: Name::new("test", name),
        uid: format!("uid-of-{name}"),
    }
}

fn annotated(annotation: &str) -> Wanted {
    Wanted {
        annotation: Some(annotation.to_owned()),
        ..Wanted::default()
    }
}

fn names(found: &Found) -> Vec<(&str, &str)> {
    found
        .interfaces
        .iter()
        .map(|interface| (interface.name.as_str(), interface.inner_name.as_str()))
        .collect()
}

fn addresses(text: &[&str]) -> BTreeSet<IpAddr> {
    text.iter()
        .map(|address| address.parse().unwrap())
        .collect()
}

#[test]
#[ignore = "needs root"]
fn the_host_side_of_a_veth_pair_is_found() {
    let (agent, pod) = (Ns::new("agent"), Ns::new("pod"));
    agent.pair("outside", &pod, "eth0");
    pod.ip("addr add 10.77.0.2/24 dev eth0\naddr add 169.254.7.7/16 dev eth0\naddr add fd77::2/64 dev eth0 nodad");

    let found = agent.look(&pod.name);
    assert_eq!(names(&found), [("outside", "eth0")]);
    assert_eq!(found.addresses, addresses(&["10.77.0.2", "fd77::2"]));
    assert_eq!(
        (found.problem.as_ref(), found.unhookable.as_slice()),
        (None, &[][..])
    );
    assert_eq!(found, agent.look(&format!("/run/netns/{}", pod.name)));

    let index: u32 = agent.run(|| {
        let text = Command::new("ip")
            .args(["-o", "link", "show", "outside"])
            .output()
            .unwrap()
            .stdout;
        String::from_utf8(text)
            .unwrap()
            .split(':')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    });
    assert_eq!(found.interfaces[0].index, index);
}

#[test]
#[ignore = "needs root"]
fn every_interface_with_a_peer_here_is_found() {
    let (agent, pod, other) = (Ns::new("agent"), Ns::new("pod"), Ns::new("other"));
    agent.pair("one", &pod, "eth0");
    agent.pair("two", &pod, "eth1");
    agent.pair("three", &other, "eth0");
    let found = agent.look_at(&[&pod.name, &other.name]);
    assert_eq!(names(&found[0]), [("one", "eth0"), ("two", "eth1")]);
    assert_eq!(names(&found[1]), [("three", "eth0")]);
}

#[test]
#[ignore = "needs root"]
fn equal_indexes_in_different_namespaces_are_not_confused() {
    let (agent, pod, other) = (Ns::new("agent"), Ns::new("pod"), Ns::new("other"));
    // Both inner ends have index 77, and so has a link of the agent's.
    for (outer, ns) in [("one", &pod), ("two", &other)] {
        agent.ip(&format!(
            "link add {outer} type veth peer name eth0 index 77 netns {}",
            ns.name
        ));
    }
    agent.ip("link add here index 77 type bridge");
    let found = agent.look_at(&[&other.name, &pod.name]);
    assert_eq!(
        (names(&found[0]), names(&found[1])),
        (vec![("two", "eth0")], vec![("one", "eth0")])
    );
}

#[test]
#[ignore = "needs root"]
fn renaming_either_end_changes_names_and_not_the_index() {
    let (agent, pod) = (Ns::new("agent"), Ns::new("pod"));
    agent.pair("outside", &pod, "eth0");
    let before = agent.look(&pod.name);
    agent.ip("link set outside down\nlink set outside name renamed");
    pod.ip("link set eth0 down\nlink set eth0 name net0");
    let after = agent.look(&pod.name);
    assert_eq!(names(&after), [("renamed", "net0")]);
    assert_eq!(before.interfaces[0].index, after.interfaces[0].index);
}

#[test]
#[ignore = "needs root"]
fn a_peer_in_a_third_namespace_is_reported_and_not_hooked() {
    let (agent, pod, third) = (Ns::new("agent"), Ns::new("pod"), Ns::new("third"));
    third.pair("outside", &pod, "eth0");
    let found = agent.look(&pod.name);
    assert_eq!(found.interfaces, []);
    assert_eq!(
        found.unhookable,
        ["eth0: its peer is in another network namespace than the agent's"]
    );
}

#[test]
#[ignore = "needs root"]
fn a_host_side_that_moves_away_is_no_longer_found() {
    let (agent, pod, third) = (Ns::new("agent"), Ns::new("pod"), Ns::new("third"));
    agent.pair("outside", &pod, "eth0");
    assert_eq!(agent.look(&pod.name).interfaces.len(), 1);
    agent.ip(&format!("link set outside netns {}", third.name));
    let found = agent.look(&pod.name);
    assert_eq!(
        (found.interfaces.len(), found.unhookable.len()),
        (0, 1),
        "{found:?}"
    );
}

#[test]
#[ignore = "needs root"]
fn the_agents_own_namespace_is_refused_under_any_name() {
    let agent = Ns::new("agent");
    for annotation in [
        agent.name.clone(),
        format!("/run/netns/{}", agent.name),
        "/proc/thread-self/ns/net".to_owned(),
    ] {
        let found = agent.look(&annotation);
        assert_eq!((found.place, found.interfaces.len()), (None, 0));
        assert!(
            found
                .problem
                .unwrap()
                .ends_with("is the agent's own network namespace, which no pod may claim")
        );
    }
}

#[test]
#[ignore = "needs root"]
fn a_namespace_of_another_kind_is_refused() {
    let agent = Ns::new("agent");
    for annotation in ["/proc/self/ns/mnt", "/proc/self/ns/user", "/etc/passwd"] {
        assert_eq!(
            agent.look(annotation).problem.unwrap(),
            format!("{annotation} is not a network namespace")
        );
    }
}

#[test]
#[ignore = "needs root"]
fn a_namespace_may_appear_vanish_and_be_replaced_under_one_name() {
    let (agent, pod) = (Ns::new("agent"), Ns::unmade("pod"));
    let missing = agent.look(&pod.name);
    assert!(
        missing
            .problem
            .as_ref()
            .unwrap()
            .ends_with("does not exist"),
        "{missing:?}"
    );

    pod.make();
    let empty = agent.look(&pod.name);
    assert!(empty.place.is_some() && empty.interfaces.is_empty() && empty.problem.is_none());

    agent.pair("outside", &pod, "eth0");
    let first = agent.look(&pod.name);
    assert_eq!(
        (names(&first), first.place.clone()),
        (vec![("outside", "eth0")], empty.place)
    );

    pod.unmake();
    assert_eq!(agent.look(&pod.name), missing);

    pod.make();
    agent.pair("again", &pod, "eth0");
    let second = agent.look(&pod.name);
    assert_eq!(names(&second), [("again", "eth0")]);
    assert_ne!(first.interfaces[0].index, second.interfaces[0].index);
}

#[test]
#[ignore = "needs root"]
fn interfaces_that_pass_the_hooks_are_reported() {
    let (agent, pod) = (Ns::new("agent"), Ns::new("pod"));
    agent.pair("outside", &pod, "eth0");
    agent.ip(&format!(
        "link add uplink type bridge\nlink set uplink up\nlink add link uplink name net1 type macvlan mode bridge\n\
         link set net1 netns {}",
        pod.name
    ));
    pod.ip(
        "link set net1 up\ntuntap add dev tun0 mode tun\nlink set tun0 up\n\
         link add br0 type bridge\nlink set br0 up\nlink add link eth0 name over type macvlan\nlink set over up\n\
         link add left type veth peer name right\nlink set left up\nlink set right up",
    );
    let found = agent.look(&pod.name);
    assert_eq!(names(&found), [("outside", "eth0")]);
    assert_eq!(
        found.unhookable,
        [
            "net1: macvlan interface on top of one in another network namespace",
            "tun0: tun interface without a peer in the agent's network namespace",
        ]
    );
    pod.ip("link set net1 down\nlink set tun0 down");
    assert_eq!(agent.look(&pod.name).unhookable, Vec::<String>::new());
}

#[test]
#[ignore = "needs root"]
fn a_namespace_that_two_pods_name_belongs_to_the_first() {
    let (agent, pod) = (Ns::new("agent"), Ns::new("pod"));
    agent.pair("outside", &pod, "eth0");
    let found = agent.look_at(&[&pod.name, &format!("/run/netns/{}", pod.name)]);
    assert_eq!(names(&found[0]), [("outside", "eth0")]);
    assert_eq!(
        (found[1].place.clone(), found[1].interfaces.len()),
        (None, 0)
    );
    assert_eq!(
        found[1].problem.as_deref().unwrap(),
        format!(
            "network namespace /run/netns/{} is that of pod test/0000 too, which keeps it",
            pod.name
        )
    );
}

#[test]
#[ignore = "needs root"]
fn a_discovery_follows_what_comes_later() {
    let (agent, pod) = (Ns::new("agent"), Ns::new("pod"));
    let wanted = BTreeMap::from([(named("a"), annotated(&pod.name))]);
    let mut discovery = Discovery::default();
    let mut look = || {
        agent
            .run(|| discovery.scan(&wanted, &BTreeSet::new(), Asking::InTurn))
            .unwrap()
            .remove(&named("a"))
            .unwrap()
    };

    assert_eq!(look().interfaces, []);
    agent.pair("one", &pod, "eth0");
    assert_eq!(names(&look()), [("one", "eth0")]);
    pod.ip("addr add 10.77.0.2/24 dev eth0");
    assert_eq!(look().addresses, addresses(&["10.77.0.2"]));
    agent.pair("two", &pod, "eth1");
    pod.ip("addr add 10.78.0.2/24 dev eth1");
    let both = look();
    assert_eq!(names(&both), [("one", "eth0"), ("two", "eth1")]);
    assert_eq!(both.addresses, addresses(&["10.77.0.2", "10.78.0.2"]));
    agent.ip("link del one");
    let left = look();
    assert_eq!(names(&left), [("two", "eth1")]);
    assert_eq!(left.addresses, addresses(&["10.78.0.2"]));
}

#[test]
#[ignore = "needs root"]
fn looking_while_interfaces_come_and_go_finds_what_stays() {
    let (agent, pod) = (Ns::new("agent"), Ns::new("pod"));
    agent.pair("stays", &pod, "eth0");
    let over = AtomicBool::new(false);
    let (mut seen, mut torn) = (0, 0);
    thread::scope(|scope| {
        let churn = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                agent.ip(&format!(
                    "link add goes type veth peer name eth1 netns {}\nlink set goes name gone\nlink del gone",
                    pod.name
                ));
            }
        });
        let wanted = BTreeMap::from([(named("a"), annotated(&pod.name))]);
        agent.run(|| {
            let mut discovery = Discovery::default();
            for _ in 0..300 {
                match discovery.scan(&wanted, &BTreeSet::new(), Asking::InTurn) {
                    Ok(found) => {
                        seen += 1;
                        let found = found.values().next().unwrap();
                        assert!(
                            found
                                .interfaces
                                .iter()
                                .any(|interface| interface.name == "stays"),
                            "{found:?}"
                        );
                        assert!(
                            found.interfaces.len() <= 2 && found.unhookable.is_empty(),
                            "{found:?}"
                        );
                    }
                    Err(Error::Kernel {
                        source: NetlinkError::Interrupted,
                        ..
                    }) => torn += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        over.store(true, Ordering::Relaxed);
        churn.join().unwrap();
    });
    assert!(seen > 200, "{seen} looks saw a whole list, {torn} did not");
}

#[test]
#[ignore = "needs root"]
fn a_look_at_250_pods_is_cheap() {
    const PODS: usize = 250;
    let agent = Ns::new("agent");
    let pods: Vec<_> = (0..PODS).map(|_| Ns::unmade("pod")).collect();
    let lines = |line: &dyn Fn(usize, &str) -> String| -> String {
        pods.iter()
            .enumerate()
            .map(|(number, pod)| line(number, &pod.name))
            .collect()
    };
    batch(
        &["-batch", "-"],
        &lines(&|_, name| format!("netns add {name}\n")),
    );
    agent.ip(&lines(&|number, name| {
        format!("link add pod{number} type veth peer name eth0 netns {name}\n")
    }));
    let wanted: BTreeMap<_, _> = pods
        .iter()
        .map(|ns| (named(&ns.name), annotated(&ns.name)))
        .collect();
    for pod in &pods {
        pod.ip("link set eth0 up\naddr add 10.77.0.2/24 dev eth0");
    }
    let took = agent.run(|| {
        let mut discovery = Discovery::default();
        let mut took = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            let found = discovery
                .scan(&wanted, &BTreeSet::new(), Asking::InTurn)
                .unwrap();
            took.push(begun.elapsed());
            assert!(found.values().all(|found| found.interfaces.len() == 1));
        }
        took.into_iter().min().unwrap()
    });
    eprintln!("a look at {PODS} pods took {took:?}");
    // 6 ms measured in a release build, 15 ms in this one.
    assert!(took < TICK / 2, "{took:?}");
}

/// A tick that does not come: whoever resolves was told.
const NEVER: Duration = Duration::from_hours(1);

/// Longer than anything takes that is told.
const PATIENCE: Duration = Duration::from_mins(1);

async fn told(changes: &mut Changes) {
    tokio::time::timeout(PATIENCE, changes.changed())
        .await
        .expect("nobody told");
}

#[test]
#[ignore = "needs root"]
fn changes_are_told_at_once_and_silence_at_every_tick() {
    let (agent, pod, late) = (Ns::new("agent"), Ns::new("pod"), Ns::unmade("late"));
    agent.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            told(&mut Changes::new(None).unwrap()).await;

            let mut changes = Changes::with_tick(None, NEVER).unwrap();
            late.make();
            told(&mut changes).await;
            assert!(agent.look(&late.name).place.is_some());

            agent.pair("outside", &pod, "eth0");
            told(&mut changes).await;
            assert_eq!(agent.look(&pod.name).interfaces.len(), 1);
        });
    });
}

#[test]
#[ignore = "needs root"]
fn a_change_survives_a_wait_that_was_given_up() {
    let (agent, pod) = (Ns::new("agent"), Ns::new("pod"));
    agent.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut changes = Changes::with_tick(None, NEVER).unwrap();
            // Shorter than the gap between two looks, but for a machine that was elsewhere meanwhile.
            for number in 0.. {
                agent.pair(&format!("outside{number}"), &pod, &format!("eth{number}"));
                let short = Duration::from_millis(1);
                if tokio::time::timeout(short, changes.changed())
                    .await
                    .is_err()
                {
                    break;
                }
            }
            told(&mut changes).await;
        });
    });
}

/// A pod's end and the agent's end of tracked connections, IPv4 and IPv6.
fn tracked() -> (Ns, Ns) {
    let (agent, pod) = (Ns::new("agent"), Ns::new("pod"));
    agent.pair("outside", &pod, "eth0");
    for (ns, device, last) in [(&agent, "outside", 1), (&pod, "eth0", 2)] {
        ns.ip(&format!(
            "addr add 10.77.0.{last}/24 dev {device}\naddr add fd77::{last}/64 dev {device} nodad"
        ));
    }
    agent.run(testing::track_connections);
    (agent, pod)
}

#[test]
#[ignore = "needs root"]
fn older_flows_are_told_apart_by_who_opened_them() {
    let (agent, pod) = tracked();
    let pods = addresses(&["10.77.0.2", "fd77::2"]);
    for (here, there) in [("10.77.0.1", "10.77.0.2"), ("fd77::1", "fd77::2")] {
        let (here, there): (IpAddr, IpAddr) = (here.parse().unwrap(), there.parse().unwrap());
        let at = |address: IpAddr, port| SocketAddr::new(address, port);

        let server = pod.run(|| TcpListener::bind(at(there, 0)).unwrap());
        let inbound = agent.run(|| TcpStream::connect(server.local_addr().unwrap()).unwrap());
        let answering = server.accept().unwrap().0;

        let elsewhere = agent.run(|| TcpListener::bind(at(here, 0)).unwrap());
        let outbound = pod.run(|| TcpStream::connect(elsewhere.local_addr().unwrap()).unwrap());

        let (asked, asking) = (
            pod.run(|| UdpSocket::bind(at(there, 0)).unwrap()),
            agent.run(|| UdpSocket::bind(at(here, 0)).unwrap()),
        );
        asking.send_to(b"?", asked.local_addr().unwrap()).unwrap();
        asked.recv(&mut [0; 8]).unwrap();

        let (client, resolver) = (
            pod.run(|| UdpSocket::bind(at(there, 0)).unwrap()),
            agent.run(|| UdpSocket::bind(at(here, 0)).unwrap()),
        );
        client
            .send_to(b"?", resolver.local_addr().unwrap())
            .unwrap();
        resolver.recv(&mut [0; 8]).unwrap();

        let flow = |protocol, local: SocketAddr, remote: SocketAddr, closing| PodFlow {
            local: local.ip(),
            local_port: local.port(),
            remote: remote.ip(),
            remote_port: remote.port(),
            protocol,
            closing,
        };
        let of_this_family = |flows: BTreeSet<PodFlow>| -> BTreeSet<_> {
            flows
                .into_iter()
                .filter(|flow| flow.local == there)
                .collect()
        };
        let look = || agent.run(|| older_flows(&pods)).unwrap();

        let found = look();
        let tcp = |closing| {
            flow(
                6,
                answering.local_addr().unwrap(),
                inbound.local_addr().unwrap(),
                closing,
            )
        };
        let udp = flow(
            17,
            asked.local_addr().unwrap(),
            asking.local_addr().unwrap(),
            false,
        );
        assert_eq!(found.note, None);
        assert_eq!(
            of_this_family(found.inbound),
            BTreeSet::from([tcp(false), udp])
        );
        assert_eq!(
            of_this_family(found.outbound_udp),
            BTreeSet::from([flow(
                17,
                client.local_addr().unwrap(),
                resolver.local_addr().unwrap(),
                false
            )])
        );

        // Half closed: the pod may still answer.
        inbound.shutdown(std::net::Shutdown::Write).unwrap();
        let until = Instant::now() + PATIENCE;
        while !look().inbound.contains(&tcp(true)) {
            assert!(Instant::now() < until, "{:?}", look());
        }
        drop((outbound, answering));
    }
    let nobody = agent
        .run(|| older_flows(&addresses(&["10.77.0.9"])))
        .unwrap();
    assert!(nobody.inbound.is_empty() && nobody.outbound_udp.is_empty());
}

#[test]
#[ignore = "needs root"]
fn an_untracked_namespace_has_no_older_flows() {
    let agent = Ns::new("agent");
    let found = agent
        .run(|| older_flows(&addresses(&["10.77.0.2"])))
        .unwrap();
    assert_eq!(
        found,
        conntrack::OlderFlows {
            note: found.note.clone(),
            ..Default::default()
        }
    );
}

/// A pod of the API: no annotation, and these addresses.
fn listed(texts: &[&str]) -> Wanted {
    Wanted {
        annotation: None,
        addresses: addresses(texts),
    }
}

fn seek(discovery: &mut Discovery, agent: &Ns, pod: &PodId, wanted: &Wanted) -> Found {
    let wanted = BTreeMap::from([(pod.clone(), wanted.clone())]);
    let found = agent.run(|| discovery.scan(&wanted, &addresses(&["172.30.0.1"]), Asking::InTurn));
    found.unwrap().remove(pod).unwrap()
}

/// What libcni keeps of a pod whose plugin named the link `link`.
fn keep_result(folder: &Path, pod: &PodId, link: &serde_json::Value, address: &str) {
    let text = serde_json::json!({
        "kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "networkName": "net",
        "cniArgs": [["K8S_POD_NAMESPACE", &*pod.name.namespace], ["K8S_POD_NAME", &*pod.name.name], ["K8S_POD_UID", pod.uid]],
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [link, {"name": "eth0", "sandbox": "/run/netns/x"}],
            "ips": [{"address": format!("{address}/24")}],
        },
    });
    std::fs::write(folder.join("net-c1-eth0"), text.to_string()).unwrap();
}

/// The record that a plugin has of the link `name` as it is now.
fn record_of(agent: &Ns, pod: &PodId, name: &str) -> Record {
    let link = agent.run(|| {
        let mut socket = Socket::route().unwrap();
        let links = links(&mut socket, None).unwrap();
        RecordedLink::from(links.iter().find(|link| link.name == name).unwrap())
    });
    Record {
        namespace: pod.name.namespace.to_string(),
        name: pod.name.name.to_string(),
        uid: pod.uid.clone(),
        way: Way::Plugin {
            container_id: "c1".to_owned(),
            interface: "eth0".to_owned(),
        },
        links: vec![link],
        addresses: addresses(&["10.77.0.2"]),
    }
}

/// A node whose own way out is a veth, as where nodes are containers.
fn node_in_a_namespace() -> (Ns, Ns) {
    let (agent, world) = (Ns::new("agent"), Ns::new("world"));
    agent.pair("uplink", &world, "eth0");
    agent.ip("addr add 172.30.0.1/24 dev uplink\nroute add default via 172.30.0.2");
    world.ip("addr add 172.30.0.2/24 dev eth0");
    (agent, world)
}

#[test]
#[ignore = "needs root"]
fn a_route_of_its_own_leads_to_a_pod() {
    let (agent, _world) = node_in_a_namespace();
    let pod = Ns::new("pod");
    agent.pair("ptp", &pod, "eth0");
    agent.ip("addr add 10.77.0.1/32 dev ptp\nroute add 10.77.0.2/32 dev ptp\nroute add fd77::2/128 dev ptp");
    pod.ip("addr add 10.77.0.2/24 dev eth0\naddr add fd77::2/64 dev eth0 nodad");
    for address in ["10.77.0.2", "fd77::2"] {
        let found = seek(
            &mut Discovery::default(),
            &agent,
            &named("a"),
            &listed(&[address]),
        );
        assert_eq!(names(&found), [("ptp", "eth0")], "{found:?}");
        assert_eq!(found.addresses, addresses(&["10.77.0.2", "fd77::2"]));
    }
    let nobody = seek(
        &mut Discovery::default(),
        &agent,
        &named("a"),
        &listed(&["10.77.0.9"]),
    );
    assert_eq!((nobody.place, nobody.interfaces.len()), (None, 0));
    assert!(nobody.problem.unwrap().starts_with("no interface found"));
}

#[test]
#[ignore = "needs root"]
fn a_neighbour_on_a_bridge_leads_to_a_pod_and_is_asked_for() {
    let (agent, _world) = node_in_a_namespace();
    agent.ip("link add cni0 type bridge\nlink set cni0 up\naddr add 10.77.0.1/24 dev cni0");
    let pods: Vec<_> = (2..5)
        .map(|number| {
            let pod = Ns::new("pod");
            agent.pair(&format!("port{number}"), &pod, "eth0");
            agent.ip(&format!("link set port{number} master cni0"));
            pod.ip(&format!("addr add 10.77.0.{number}/24 dev eth0"));
            pod
        })
        .collect();
    let mut discovery = Discovery::default();
    for number in 2..5 {
        let (id, wanted) = (
            named(&format!("{number}")),
            listed(&[&format!("10.77.0.{number}")]),
        );
        // Nobody has spoken yet: the first look makes the kernel ask.
        let until = Instant::now() + PATIENCE;
        let mut found = seek(&mut discovery, &agent, &id, &wanted);
        while found.interfaces.is_empty() {
            assert!(Instant::now() < until, "{found:?}");
            thread::sleep(Duration::from_millis(20));
            found = seek(&mut discovery, &agent, &id, &wanted);
        }
        assert_eq!(names(&found), [(format!("port{number}").as_str(), "eth0")]);
    }
    // What was found once is known when the bridge has forgotten it.
    agent.ip("neigh flush dev cni0\nlink set cni0 down");
    let again = seek(&mut discovery, &agent, &named("2"), &listed(&["10.77.0.2"]));
    assert_eq!(names(&again), [("port2", "eth0")]);
    drop(pods);
}

#[test]
#[ignore = "needs root"]
fn who_answers_for_anothers_address_is_not_believed() {
    let agent = Ns::new("agent");
    let liar = Ns::new("liar");
    agent.ip("link add cni0 type bridge\nlink set cni0 up\naddr add 10.77.0.1/24 dev cni0");
    agent.pair("port", &liar, "eth0");
    agent.ip("link set port master cni0");
    liar.ip("addr add 10.77.0.2/24 dev eth0");
    let mac = record_of(&liar, &named("x"), "eth0")
        .links
        .remove(0)
        .mac
        .unwrap();
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    agent.ip(&format!(
        "neigh replace 10.77.0.3 lladdr {mac} dev cni0 nud reachable\nlink set port type bridge_slave"
    ));
    liar.run(|| {
        let socket = UdpSocket::bind("10.77.0.2:0").unwrap();
        drop(socket.send_to(b"?", "10.77.0.1:9"));
    });
    let found = seek(
        &mut Discovery::default(),
        &agent,
        &named("a"),
        &listed(&["10.77.0.3"]),
    );
    assert_eq!(found.interfaces, []);
    assert_eq!(
        found.problem.as_deref(),
        Some(
            "the interface that a route leads to belongs to a namespace without the pod's address"
        )
    );
}

#[test]
#[ignore = "needs root"]
fn a_result_of_libcni_leads_to_a_pod() {
    let (agent, _world) = node_in_a_namespace();
    let (pod, folder) = (Ns::new("pod"), tempfile::tempdir().unwrap());
    agent.pair("veth1", &pod, "eth0");
    agent.pair("veth2", &pod, "net1");
    let id = named("a");
    let mut discovery = Discovery::new(Records::default(), folder.path());
    assert_eq!(
        seek(&mut discovery, &agent, &id, &listed(&[])).interfaces,
        []
    );

    let bridge = serde_json::json!({"name": "cni0", "mac": "02:00:00:00:00:01"});
    keep_result(folder.path(), &id, &bridge, "10.77.0.2");
    assert_eq!(
        seek(&mut discovery, &agent, &id, &listed(&[])).interfaces,
        []
    );

    keep_result(
        folder.path(),
        &id,
        &serde_json::json!({"name": "veth1"}),
        "10.77.0.2",
    );
    let found = seek(&mut discovery, &agent, &id, &listed(&[]));
    // And what else leads to its namespace.
    assert_eq!(names(&found), [("veth1", "eth0"), ("veth2", "net1")]);
    assert_eq!(
        found.addresses,
        addresses(&["10.77.0.2"]),
        "S58: the API has none yet"
    );
    // Those of the sandbox before this one.
    let (old, both) = (
        addresses(&["10.77.0.1"]),
        addresses(&["10.77.0.2", "fd77::2"]),
    );
    assert_eq!(found.addresses(&old), addresses(&["10.77.0.2"]));
    assert_eq!(found.addresses(&both), both, "the API knows of more");

    // The same name, another interface.
    let other = serde_json::json!({"name": "veth1", "mac": "02:00:00:00:00:77"});
    keep_result(folder.path(), &id, &other, "10.77.0.2");
    assert_eq!(
        seek(&mut discovery, &agent, &id, &listed(&[])).interfaces,
        []
    );
}

#[test]
#[ignore = "needs root"]
fn what_is_written_of_an_older_incarnation_never_counts() {
    let (agent, pod, folder) = (
        Ns::new("agent"),
        Ns::new("pod"),
        tempfile::tempdir().unwrap(),
    );
    agent.pair("veth1", &pod, "eth0");
    let (old, new) = (
        named("a"),
        PodId {
            uid: "newer".to_owned(),
            ..named("a")
        },
    );
    let mut records = Records::default();
    records.put(record_of(&agent, &old, "veth1")).unwrap();
    keep_result(
        folder.path(),
        &old,
        &serde_json::json!({"name": "veth1"}),
        "10.77.0.2",
    );
    let mut discovery = Discovery::new(records, folder.path());
    assert_eq!(
        names(&seek(&mut discovery, &agent, &old, &listed(&[]))),
        [("veth1", "eth0")]
    );
    assert_eq!(
        seek(&mut discovery, &agent, &new, &listed(&[])).interfaces,
        []
    );
}

#[test]
#[ignore = "needs root"]
fn a_record_goes_with_its_interface_and_follows_a_new_name() {
    let (agent, pod) = (Ns::new("agent"), Ns::new("pod"));
    agent.pair("veth1", &pod, "eth0");
    let id = named("a");
    let mut records = Records::default();
    records.put(record_of(&agent, &id, "veth1")).unwrap();
    let mut discovery = Discovery::new(records, Path::new("/nowhere"));
    agent.ip("link set veth1 down\nlink set veth1 name other");
    assert_eq!(
        names(&seek(&mut discovery, &agent, &id, &listed(&[]))),
        [("other", "eth0")]
    );
    agent.ip("link del other");
    // Another link takes over the name.
    agent.pair("veth1", &pod, "eth0");
    assert_eq!(
        seek(&mut discovery, &agent, &id, &listed(&[])).interfaces,
        []
    );
    assert_eq!(discovery.records().iter().count(), 0);
}

#[test]
#[ignore = "needs root"]
fn the_nodes_own_way_out_is_never_a_pods_whoever_says_so() {
    let (agent, world) = node_in_a_namespace();
    let (id, folder) = (named("a"), tempfile::tempdir().unwrap());
    let mut records = Records::default();
    records.put(record_of(&agent, &id, "uplink")).unwrap();
    keep_result(
        folder.path(),
        &id,
        &serde_json::json!({"name": "uplink"}),
        "172.30.0.2",
    );
    let mut discovery = Discovery::new(records, folder.path());
    // By a record, by a result, by a route, and by an annotation.
    let found = seek(&mut discovery, &agent, &id, &listed(&["172.30.0.2"]));
    assert_eq!((found.place, found.interfaces.len()), (None, 0));
    let found = seek(&mut discovery, &agent, &id, &annotated(&world.name));
    assert_eq!(found.interfaces, []);

    // A second way out has no default route, but the node's address.
    agent.ip("route del default");
    let found = seek(&mut discovery, &agent, &id, &listed(&["172.30.0.2"]));
    assert_eq!(found.interfaces, []);
    // Negative control: without both it is a link like any other.
    agent.ip("addr flush dev uplink");
    let found = seek(&mut discovery, &agent, &id, &listed(&[]));
    assert_eq!(names(&found), [("uplink", "eth0")]);
}

#[test]
#[ignore = "needs root"]
fn of_two_pods_that_claim_one_namespace_the_better_word_wins() {
    let (agent, pod, folder) = (
        Ns::new("agent"),
        Ns::new("pod"),
        tempfile::tempdir().unwrap(),
    );
    agent.pair("veth1", &pod, "eth0");
    let (first, second) = (named("a"), named("b"));
    keep_result(
        folder.path(),
        &first,
        &serde_json::json!({"name": "veth1"}),
        "10.77.0.2",
    );
    let mut records = Records::default();
    records.put(record_of(&agent, &second, "veth1")).unwrap();
    let mut discovery = Discovery::new(records, folder.path());
    let wanted = BTreeMap::from([(first.clone(), listed(&[])), (second.clone(), listed(&[]))]);
    let found = agent
        .run(|| discovery.scan(&wanted, &BTreeSet::new(), Asking::InTurn))
        .unwrap();
    assert_eq!(names(&found[&second]), [("veth1", "eth0")]);
    assert_eq!(
        found[&first].problem.as_deref(),
        Some("network namespace behind veth1 is that of pod test/b too, which keeps it")
    );
}

#[test]
#[ignore = "needs root"]
fn results_and_routes_are_told_when_they_change() {
    let agent = Ns::new("agent");
    let folder = tempfile::tempdir().unwrap();
    agent.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut changes = Changes::with_tick(Some(folder.path()), NEVER).unwrap();
            keep_result(
                folder.path(),
                &named("a"),
                &serde_json::json!({"name": "x"}),
                "10.77.0.2",
            );
            told(&mut changes).await;

            changes.search(true);
            agent.ip("route add 10.77.0.0/24 dev lo");
            told(&mut changes).await;
        });
    });
}
