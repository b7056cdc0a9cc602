//! What goes wrong around the agent: it is killed, refused memory, robbed of its interfaces and its
//! file system. Nothing denied gets out meanwhile, nothing allowed is cut, and the agent says what
//! happened and makes up for it (S55, S56).
//!
//! The faults are the kernel's own where they can be had, and put in front of its answer by
//! [`Gate`] where they cannot.

use std::collections::BTreeSet;
use std::fs;
use std::mem;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::programs::links::Link as _;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use egress_tests::harness::gate::{Call, Fault, Gate, Kind};
use egress_tests::harness::objects::{deny_all, egress, port, service, to_blocks};
use egress_tests::harness::{
    Echo, OUTSIDE, Outcome, Pod, PodSpec, Probe, Traffic, World, ip_batch, on_world, until,
};
use egress_tests::length::{is_long, is_sample, times};
use rustix::mount::{UnmountFlags, unmount};
use serde_json::{Value, json};

const PORT: u16 = 8080;

/// Of the agent's filters on kernels without TCX: their priority, and the second byte of their handles.
const PRIORITY: u16 = 1;
const OURS: u8 = 0xe6;

const ENOMEM: i32 = 12;
const E2BIG: i32 = 7;

/// Pods `x/a` (isolated, the sender) and `x/b`, an outside that answers; without the agent everything
/// flows: the control.
fn stage(world: &mut World) -> Result<(Pod, Pod)> {
    world.outside.serve(&[PORT])?;
    world.namespace("x", &[])?;
    let a = world.pod(PodSpec::new("x", "a").label("app", "client"))?;
    let mut b = world.pod(
        PodSpec::new("x", "b")
            .label("app", "web")
            .port("http", PORT, "TCP"),
    )?;
    b.serve(&[PORT])?;
    for address in [IpAddr::from(OUTSIDE[1].0), OUTSIDE[1].1.into()] {
        let to = SocketAddr::new(address, Traffic::DENIED);
        let echo = Echo::udp(&world.outside.ns, to)?;
        let outcome = Probe::Udp(to).send(&a.ns, true)?;
        ensure!(outcome == Outcome::Answered, "control: {outcome:?}");
        echo.stop();
    }
    Ok((a, b))
}

/// Two clusters that differ in everything that is written: blocks, ports, peers by label and by named
/// port, a Service, a pod that is elsewhere. What [`Traffic`] counts on is the same in both.
fn cluster(side: usize) -> Value {
    let always = json!({ "ports": [port(Traffic::ALLOWED, "UDP")] });
    let side = u16::try_from(side % 2).unwrap_or(0);
    let (block, range) = if side == 0 {
        (["203.0.113.10/32", "2001:db8:113::10/128"], (7000, 7100))
    } else {
        (["198.51.100.0/24", "2001:db8:51::/48"], (7050, 7777))
    };
    let labels = json!({ "app": if side == 0 { "web" } else { "far" } });
    let rules = json!([
        always,
        to_blocks(&block, &json!([{ "port": range.0, "endPort": range.1 }, port(PORT, "TCP")])),
        { "to": [{ "podSelector": { "matchLabels": labels } }], "ports": [{ "port": "http", "protocol": "TCP" }] },
    ]);
    let mut items = vec![
        egress("x", "p", &rules),
        service(
            "x",
            "s",
            "10.96.0.10".parse().unwrap_or(IpAddr::from([0; 4])),
            80 + side,
            PORT,
            &[("app", "web")],
        ),
    ];
    if side == 1 {
        items.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": "x", "name": "far", "labels": { "app": "far" } },
            "spec": { "nodeName": "node-b", "containers": [{
                "name": "c", "ports": [{ "name": "http", "containerPort": 7000, "protocol": "TCP" }] }] },
            "status": { "phase": "Running", "podIPs": [{ "ip": "10.244.9.9" }] },
        }));
    }
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// The verdicts that differ between the two.
fn expect_cluster(world: &World, a: &Pod, b: &Pod, side: usize) -> Result<()> {
    let even = side.is_multiple_of(2);
    world.expect(&[
        (a, Probe::tcp(OUTSIDE[0].0, PORT), even),
        (a, Probe::tcp(OUTSIDE[2].1, PORT), !even),
        (a, Probe::tcp(b.v4, PORT), even),
    ])
}

const FILE: &str = "cluster.json";

/// How many writes the change to `side` takes.
fn writes(world: &mut World, gate: &Gate, side: usize) -> Result<Vec<Call>> {
    gate.open();
    world.apply(FILE, &cluster(side))?;
    Ok(gate.writes())
}

/// Numbers of the writes to meet: all of them in the long form, else the first of every kind and the
/// last; in a sample three of those.
fn chosen(writes: &[Call]) -> Vec<usize> {
    if is_long() {
        return (0..writes.len()).collect();
    }
    let mut seen = BTreeSet::new();
    let first = writes
        .iter()
        .enumerate()
        .filter(|(_, call)| seen.insert(*call));
    let mut numbers: BTreeSet<usize> = first.map(|(number, _)| number).collect();
    numbers.extend(writes.len().checked_sub(1));
    let numbers: Vec<usize> = numbers.into_iter().collect();
    let every = if is_sample() {
        numbers.len().div_ceil(3).max(1)
    } else {
        1
    };
    numbers.into_iter().rev().step_by(every).collect()
}

/// ENOMEM or E2BIG for any one write: what is enforced goes on, the agent says which write it was and
/// makes up for it.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
#[expect(clippy::print_stdout, reason = "what was done is worth reading")]
fn a_write_that_is_refused_is_reported_and_made_up_for() {
    on_world(|world| {
        let (a, b) = stage(world)?;
        world.manifests.put(FILE, &cluster(0))?;
        let gate = Gate::default();
        world.agent.launch_behind(&world.host, &gate)?;
        world.agent.wait_ready(&world.host)?;
        world.settle()?;
        let traffic = Traffic::start(world, &a)?;
        // Both ways once without a fault: what there is to write.
        let forth = writes(world, &gate, 1)?;
        let back = writes(world, &gate, 0)?;
        let (mut met, mut kinds) = (0, BTreeSet::new());
        for (number, errno) in chosen(&forth)
            .into_iter()
            .zip([ENOMEM, E2BIG].into_iter().cycle())
        {
            for (side, writes) in [(1, &forth), (0, &back)] {
                if number >= writes.len() {
                    gate.open();
                    world.apply(FILE, &cluster(side))?;
                    continue;
                }
                let said = world.agent.log().len();
                gate.arm_write(number, Fault::Refuse(errno));
                world.apply(FILE, &cluster(side))?;
                let Some(call) = gate.struck()? else {
                    continue;
                };
                met += 1;
                // A refused batch is written one by one, which is no failure. What is only made ready for
                // later is written by a thread, and told of when somebody asks how far it is.
                if !matches!(call.kind, Kind::MapUpdateBatch | Kind::MapDeleteBatch) {
                    until(
                        &format!("the log tells of {call}, refused with {errno}"),
                        || {
                            let log = world.agent.log();
                            let log = log.get(said..).unwrap_or_default();
                            Ok(log.contains(&format!("(os error {errno})")))
                        },
                    )?;
                }
                kinds.insert(call);
            }
        }
        expect_cluster(world, &a, &b, 0)?;
        println!("{met} writes refused, of {} kinds", kinds.len());
        ensure!(
            met >= 10 && kinds.len() >= 5,
            "only {met} writes were refused: {kinds:?}"
        );
        traffic.stop()
    });
}

/// A table that takes nothing for a while: the old policy holds, `status` says why, and when the table
/// takes entries again the new one comes without anybody's help.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn while_a_table_is_refused_the_old_policy_holds_and_status_says_why() {
    on_world(|world| {
        let (a, b) = stage(world)?;
        world.manifests.put(FILE, &cluster(0))?;
        let gate = Gate::default();
        world.agent.launch_behind(&world.host, &gate)?;
        world.agent.wait_ready(&world.host)?;
        world.settle()?;
        let traffic = Traffic::start(world, &a)?;
        let tables = [
            "PORTS",
            "RULESET_KEYS",
            "RULESET_CLASSES",
            "SEATS",
            "CONFIG",
        ];
        for (index, table) in tables.into_iter().enumerate() {
            let errno = if index.is_multiple_of(2) {
                ENOMEM
            } else {
                E2BIG
            };
            gate.arm(
                move |call| call.kind == Kind::MapUpdate && call.map.as_deref() == Some(table),
                Fault::RefuseAll(errno),
            );
            world.manifests.put(FILE, &cluster(index + 1))?;
            let needle = format!("os error {errno}");
            until(&format!("status tells of {table}"), || {
                let status = world.agent.status(&world.host)?.to_string();
                Ok(status.contains(&format!("map {table}")) && status.contains(&needle))
            })?;
            let even = index.is_multiple_of(2);
            world.expect_traffic(&[
                (&a, Probe::tcp(OUTSIDE[0].0, PORT), even),
                (&a, Probe::tcp(OUTSIDE[2].1, PORT), !even),
            ])?;
            ensure!(
                world.agent.http_status(&world.host, "/readyz")? != 200,
                "ready with {table} refused"
            );
            gate.open();
            world
                .settle()
                .with_context(|| format!("after {table} was refused"))?;
            expect_cluster(world, &a, &b, index + 1)?;
        }
        let metrics = world.metrics()?;
        ensure!(
            metrics.sum("egress_bpf_errors_total", &[("map", "PORTS")]) > 0.5,
            "not counted"
        );
        traffic.stop()
    });
}

/// S55: killed in front of any write of a change, the agent leaves the old or the new policy; the next
/// one adopts what it finds and finishes.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
#[expect(clippy::print_stdout, reason = "what was done is worth reading")]
fn an_agent_that_is_killed_at_any_write_is_followed_by_one_that_finishes() {
    on_world(|world| {
        let (a, b) = stage(world)?;
        world.manifests.put(FILE, &cluster(0))?;
        let gate = Gate::default();
        world.agent.launch_behind(&world.host, &gate)?;
        world.agent.wait_ready(&world.host)?;
        world.settle()?;
        let traffic = Traffic::start(world, &a)?;
        writes(world, &gate, 1)?;
        let back = writes(world, &gate, 0)?;
        let mut killed = 0;
        for (turn, number) in chosen(&back).into_iter().enumerate() {
            gate.arm_write(number, Fault::Kill);
            world.manifests.put(FILE, &cluster(turn + 1))?;
            let ended = until("the agent is killed or done", || {
                Ok(gate.struck()?.is_some() || world.is_settled()?)
            });
            if gate.struck()?.is_some() {
                world.agent.wait_ended()?;
                killed += 1;
            } else {
                ended?;
                world.agent.kill()?;
            }
            gate.open();
            world.agent.launch_behind(&world.host, &gate)?;
            world.agent.wait_ready(&world.host)?;
            world.settle()?;
            expect_cluster(world, &a, &b, turn + 1)
                .with_context(|| format!("after the agent was killed at write {number}"))?;
        }
        println!("killed at {killed} of {} writes", back.len());
        let least = if is_sample() { 2 } else { 5 };
        ensure!(killed >= least, "only {killed} were killed in time");
        traffic.stop()
    });
}

/// S54: where an address left what is allowed, and the agent was refused or killed before it could write that
/// flows are to be judged anew, a flow that was known is denied all the same.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_known_flow_is_judged_anew_though_the_epoch_was_not_written() {
    const PEER: &str = "far.json";
    on_world(|world| {
        let (a, _) = stage(world)?;
        let (address, _) = OUTSIDE[0];
        // Somewhere else in the cluster; and all that changes is whether a rule selects it.
        let peer = |app: &str| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "namespace": "x", "name": "far", "labels": { "app": app } },
                "spec": { "nodeName": "node-b", "containers": [{ "name": "c" }] },
                "status": { "phase": "Running", "podIPs": [{ "ip": address.to_string() }] },
            })
        };
        let to_peer = json!({
            "to": [{ "podSelector": { "matchLabels": { "app": "peer" } } }],
            "ports": [port(PORT, "UDP")],
        });
        world
            .manifests
            .put("p.json", &egress("x", "p", &json!([to_peer])))?;
        let known = a.ns.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        known.connect((address, PORT))?;
        let is_answered = |socket: &UdpSocket, patience: Duration| -> Result<bool> {
            socket.set_read_timeout(Some(patience))?;
            socket.send(b"?")?;
            Ok(socket.recv(&mut [0; 8]).is_ok())
        };
        let gate = Gate::default();
        for fault in [Fault::Refuse(ENOMEM), Fault::Kill] {
            let what = format!("{fault:?}");
            let is_killed = matches!(fault, Fault::Kill);
            world.manifests.put(PEER, &peer("peer"))?;
            if !world.agent.is_started() {
                world.agent.launch_behind(&world.host, &gate)?;
                world.agent.wait_ready(&world.host)?;
            }
            world.settle()?;
            ensure!(
                is_answered(&known, Duration::from_secs(10))?,
                "{what}: not answered before"
            );
            let is_epoch =
                |call: &Call| call.kind == Kind::MapUpdate && call.map.as_deref() == Some("CONFIG");
            gate.arm(is_epoch, fault);
            world.manifests.put(PEER, &peer("other"))?;
            until("the agent comes to the epoch", || {
                Ok(gate.struck()?.is_some())
            })?;
            let before = gate.writes();
            let moved = |call: &Call| call.map.as_deref() == Some("PEERS");
            ensure!(
                before.iter().any(moved),
                "{what}: nothing moved: {before:?}"
            );
            if is_killed {
                world.agent.wait_ended()?;
                gate.open();
                world.agent.launch_behind(&world.host, &gate)?;
                world.agent.wait_ready(&world.host)?;
            }
            world.settle()?;
            ensure!(
                !is_answered(&known, Duration::from_millis(300))?,
                "{what}: a flow that was known goes on"
            );
            world.expect(&[(&a, Probe::udp(address, PORT), false)])?;
        }
        Ok(())
    });
}

/// S55: killed at any moment of its start, over and over.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn agents_that_are_killed_over_and_over_neither_leak_nor_cut() {
    on_world(|world| {
        let (a, b) = stage(world)?;
        world.manifests.put(FILE, &cluster(0))?;
        world.start_agent()?;
        let traffic = Traffic::start(world, &a)?;
        let rounds = usize::try_from(times(20, 1000))?;
        for round in 0..rounds {
            world.agent.kill()?;
            // Every fourth change comes while nobody looks.
            if round % 4 == 0 {
                world.manifests.put(FILE, &cluster(round / 4))?;
            }
            world.agent.launch(&world.host, &[])?;
            // Spread over a start and what follows it, a prime number of steps.
            let step = u64::try_from(round * 37 % 101)?;
            thread::sleep(Duration::from_millis(step * 8));
        }
        world.agent.wait_ready(&world.host)?;
        world.settle()?;
        expect_cluster(world, &a, &b, (rounds - 1) / 4)?;
        traffic.stop()
    });
}

/// The interface goes while its hooks are being attached: the others are enforced, and the pod is
/// when it has an interface again.
#[test]
#[ignore = "needs root: network namespaces and BPF; needs 6.6: TCX"]
fn an_interface_that_goes_in_the_middle_of_an_attach_holds_nothing_up() {
    on_world(|world| {
        let (a, _) = stage(world)?;
        world.manifests.put("deny.json", &deny_all("x"))?;
        for number in 0..2_usize {
            let victim = world.pod(PodSpec::new("x", &format!("victim-{number}")))?;
            let gate = Gate::default();
            let (host, interface) = (world.host.name().to_owned(), victim.host_interface.clone());
            // The first attach of this start is the victim's or another pod's; either way its
            // interface goes before one of its hooks is there.
            let mut attached = 0..;
            gate.arm(
                move |call| call.kind == Kind::LinkCreate && attached.next() == Some(number),
                Fault::First(Box::new(move || {
                    ip_batch(&host, &format!("link del {interface}\n"))
                })),
            );
            world.agent.launch_behind(&world.host, &gate)?;
            until("the interface is gone", || Ok(gate.struck()?.is_some()))?;
            until("the other pod is isolated", || {
                let status = world.pod_status(&a)?.unwrap_or_default();
                Ok(status.get("state") == Some(&json!("isolated")))
            })?;
            world.expect(&[(&a, Probe::tcp(OUTSIDE[0].0, PORT), false)])?;
            world.plug(&victim)?;
            until("the pod is isolated", || {
                let status = world.pod_status(&victim)?.unwrap_or_default();
                Ok(status.get("state") == Some(&json!("isolated")))
            })?;
            world.settle()?;
            world.expect(&[(&victim, Probe::tcp(OUTSIDE[0].0, PORT), false)])?;
            world.agent.terminate()?;
            world.agent.cleanup(&world.host)?;
        }
        Ok(())
    });
}

/// Somebody unmounts the BPF file system under the agent: it says so and pins everything anew, so that
/// enforcement outlives it as before.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_bpffs_that_is_unmounted_is_mounted_again_before_anything_ends() {
    on_world(|world| {
        let (a, b) = stage(world)?;
        world.manifests.put(FILE, &cluster(0))?;
        world.start_agent()?;
        let traffic = Traffic::start(world, &a)?;
        let pins = world.agent.pin_root();
        let links = pins.join(version(&pins)?).join("links");
        for side in [1, 0] {
            let mount = pins.parent().context("the pin root has no parent")?;
            unmount(mount, UnmountFlags::DETACH)?;
            until("the pins are there again", || Ok(links.exists()))?;
            until("the agent says so", || {
                Ok(world.agent.log().contains("unmounted"))
            })?;
            world.apply(FILE, &cluster(side))?;
            expect_cluster(world, &a, &b, side)?;
            world.agent.kill()?;
            thread::sleep(Duration::from_millis(300));
            world.start_agent()?;
            expect_cluster(world, &a, &b, side)?;
        }
        traffic.stop()
    });
}

/// An agent of another ABI version follows: older or newer, it takes over without a gap and leaves
/// nothing of the other behind.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn another_abi_version_is_taken_over_without_a_gap() {
    on_world(|world| {
        let (a, b) = stage(world)?;
        world.manifests.put(FILE, &cluster(0))?;
        world.start_agent()?;
        let traffic = Traffic::start(world, &a)?;
        let pins = world.agent.pin_root();
        let own = version(&pins)?;
        for (number, side) in [(0, 1), (99, 0)] {
            let other = &format!("v{number}");
            world.agent.kill()?;
            // What an agent of that version would have left: programs and tables of its own that
            // this one knows nothing of.
            fs::rename(pins.join(&own), pins.join(other))?;
            for pod in [&a, &b] {
                hand_filters_to(world, pod, number)?;
            }
            world.manifests.put(FILE, &cluster(side))?;
            world.start_agent()?;
            until("the other version is gone", || {
                Ok(!pins.join(other).exists())
            })?;
            ensure!(version(&pins)? == own, "pins of {}", version(&pins)?);
            expect_cluster(world, &a, &b, side)?;
            let log = world.agent.log();
            ensure!(
                log.contains("another ABI version"),
                "the log does not say so: {log}"
            );
        }
        traffic.stop()?;
        // Were a program of another version left, it would go on denying.
        world.withdraw(FILE)?;
        world.expect(&[
            (&a, Probe::tcp(OUTSIDE[1].0, PORT), true),
            (&a, Probe::tcp(OUTSIDE[1].1, PORT), true),
        ])
    });
}

/// Where there is no TCX, the filters that an agent has left at a pod's interface stand under the number
/// of its version: gives them another's.
fn hand_filters_to(world: &World, pod: &Pod, version: u8) -> Result<()> {
    let interface = pod.host_interface.as_str();
    world.host.run(|| {
        for (side, name) in [
            (TcAttachType::Ingress, "ingress"),
            (TcAttachType::Egress, "egress"),
        ] {
            let output = Command::new("tc")
                .args(["filter", "show", "dev", interface, name])
                .output()
                .context("running tc (package iproute2)")?;
            let text = String::from_utf8_lossy(&output.stdout);
            let Some((own, id)) = text.lines().find_map(our_filter) else {
                continue;
            };
            let info = loaded_programs()
                .find(|info| info.as_ref().is_ok_and(|info| info.id() == id))
                .context("the filter's program is not loaded")??;
            let mut program = SchedClassifier::from_program_info(info, name.into())?;
            let link = program.attach_with_options(
                interface,
                side,
                TcAttachOptions::Netlink(NlOptions {
                    priority: PRIORITY,
                    handle: TcHandle::new(0, u16::from_be_bytes([version, OURS])),
                    classid: None,
                }),
            )?;
            // A filter outlives whoever made it, unless its link is dropped.
            mem::forget(program.take_link(link)?);
            SchedClassifierLink::attached(interface, side, PRIORITY, TcHandle::new(0, own), None)?
                .detach()?;
        }
        Ok(())
    })
}

/// Handle and program of a line of `tc filter show`, if the filter is one of ours.
fn our_filter(line: &str) -> Option<(u16, u32)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let behind = |word: &str| {
        let at = words.iter().position(|found| *found == word)?;
        words.get(at + 1).copied()
    };
    let handle = u16::from_str_radix(behind("handle")?.strip_prefix("0x")?, 16).ok()?;
    let [_, mark] = handle.to_be_bytes();
    (mark == OURS).then_some((handle, behind("id")?.parse().ok()?))
}

/// The one version that has pins.
fn version(pins: &Path) -> Result<String> {
    let mut versions = Vec::new();
    for entry in fs::read_dir(pins)? {
        versions.push(entry?.file_name().to_string_lossy().into_owned());
    }
    ensure!(versions.len() == 1, "pins of {versions:?}");
    versions.pop().context("no pins")
}
