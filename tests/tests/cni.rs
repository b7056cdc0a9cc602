//! The CNI plugin and the running agent: a pod is isolated before its first packet (S56, S58).

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use egress_agent::pods::{Side, filters};
use egress_tests::harness::gate::{Fault, Gate, Kind};
use egress_tests::harness::objects::{deny_all, egress};
use egress_tests::harness::{
    NODE, NODE_V4, OUTSIDE, Plugin, Pod, PodSpec, Probe, UdpExchange, World, fence_rule, on_world,
    until,
};
use egress_tests::packet::{self, proto};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use serde_json::{Value, json};

const PORT: u16 = 8080;

/// A namespace `x` where the default is to deny, all but what fences tests; a running agent.
fn denied_by_default(world: &mut World) -> Result<Plugin> {
    world.outside.serve(&[PORT])?;
    world.namespace("x", &[])?;
    world
        .manifests
        .put("deny.json", &egress("x", "deny", &json!([fence_rule()])))?;
    world.start_agent()?;
    Plugin::new(world)
}

/// A pod that the API knows and whose sandbox is made; no plugin has told of it.
fn made(world: &mut World, name: &str) -> Result<Pod> {
    let pod = world.stage(PodSpec::new("x", name))?;
    world
        .manifests
        .put(&pod.file(), &pod.manifest_before_start())?;
    Ok(pod)
}

/// Whether a datagram to a place that no policy allows comes out, as the very next frame.
fn leaks(world: &World, pod: &Pod) -> Result<bool> {
    let mut wire = world.wire(pod)?;
    let ends = wire.to_v4(OUTSIDE[1].0);
    let token = packet::token();
    let datagram = ends.packet(proto::UDP, packet::udp(ends, 1000, PORT, &token));
    wire.packets_get_through(ends.ethertype(), &[datagram], &token)
}

fn state(world: &World, pod: &Pod) -> Result<String> {
    let status = world.pod_status(pod)?.context("not in the status")?;
    let state = status.get("state").and_then(Value::as_str);
    Ok(state.unwrap_or_default().to_owned())
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_first_packet_after_add_is_judged() {
    on_world(|world| {
        let plugin = denied_by_default(world)?;
        for number in 0..20 {
            let pod = made(world, &format!("p{number}"))?;
            world.settle()?;
            // Negative control: without the plugin nobody knows where the pod is.
            ensure!(number > 2 || leaks(world, &pod)?, "enforced before ADD");
            plugin
                .call(&world.host, "ADD", &pod)?
                .is(&Plugin::previous(&pod))?;
            ensure!(!leaks(world, &pod)?, "{} sent after ADD", pod.reference());
            ensure!(state(world, &pod)? == "isolated");
        }
        Ok(())
    });
}

/// The hooks of a pod that filters hold, and how many links are pinned.
fn held(world: &World, pod: &Pod) -> Result<(BTreeSet<Side>, usize)> {
    let filtered = world.host.run(|| {
        let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let index = name_to_index(any, &pod.host_interface)?;
        let sides = filters(index)?.into_iter().map(|filter| filter.side);
        Ok(sides.collect())
    })?;
    let links = fs::read_dir(world.agent.links()).map_or(0, Iterator::count);
    Ok((filtered, links))
}

/// Whether the pod answers who asks it from outside.
fn answers(world: &World, pod: &Pod) -> Result<bool> {
    let to = SocketAddr::new(pod.v4.into(), PORT);
    UdpExchange::open(&world.outside.ns, to)?.alive()
}

/// ADD waits for no grace period: filters hold the pod until links do.
#[test]
#[ignore = "needs root: network namespaces and BPF; needs 6.6: TCX"]
fn links_replace_the_filters_that_held_a_starting_pod() {
    on_world(|world| {
        let plugin = denied_by_default(world)?;
        let mut pod = made(world, "a")?;
        pod.serve(&[PORT])?;
        world.settle()?;
        plugin
            .call(&world.host, "ADD", &pod)?
            .is(&Plugin::previous(&pod))?;
        ensure!(!leaks(world, &pod)? && answers(world, &pod)?);
        until("links hold both hooks", || {
            Ok(held(world, &pod)? == (BTreeSet::new(), 2))
        })?;
        ensure!(!leaks(world, &pod)? && answers(world, &pod)?);
        plugin.call(&world.host, "CHECK", &pod)?.is("")
    });
}

/// The agent dies after ADD was answered and before links hold the pod, or one of its hooks: the filters stay,
/// and the next agent goes on from there.
#[test]
#[ignore = "needs root: network namespaces and BPF; needs 6.6: TCX"]
fn an_agent_that_dies_before_links_hold_a_pod_leaves_it_held() {
    on_world(|world| {
        world.outside.serve(&[PORT])?;
        world.namespace("x", &[])?;
        world
            .manifests
            .put("deny.json", &egress("x", "deny", &json!([fence_rule()])))?;
        for linked in 0..2_usize {
            let mut pod = made(world, &format!("p{linked}"))?;
            pod.serve(&[PORT])?;
            let gate = Gate::default();
            world.agent.launch_behind(&world.host, &gate)?;
            world.agent.wait_ready(&world.host)?;
            world.settle()?;
            let mut links = 0..;
            gate.arm(
                move |call| call.kind == Kind::LinkCreate && links.next() == Some(linked),
                Fault::Kill,
            );
            let plugin = Plugin::new(world)?;
            plugin
                .call(&world.host, "ADD", &pod)?
                .is(&Plugin::previous(&pod))?;
            until("the agent is killed", || Ok(gate.struck()?.is_some()))?;
            world.agent.wait_ended()?;
            let both = [Side::FromPod, Side::ToPod].into();
            ensure!(
                held(world, &pod)? == (both, linked),
                "{:?}",
                held(world, &pod)?
            );
            ensure!(!leaks(world, &pod)?, "open without an agent");
            ensure!(answers(world, &pod)?, "an answer was not seen to be one");

            world.start_agent()?;
            ensure!(!leaks(world, &pod)? && answers(world, &pod)?);
            ensure!(state(world, &pod)? == "isolated");
            ensure!(
                held(world, &pod)? == (BTreeSet::new(), 2),
                "{:?}",
                held(world, &pod)?
            );
            plugin.call(&world.host, "CHECK", &pod)?.is("")?;
            world.agent.terminate()?;
            world.agent.cleanup(&world.host)?;
            pod.ns.delete()?;
            world.manifests.remove(&pod.file())?;
        }
        Ok(())
    });
}

/// Where no link can be had, the pod is held all the same, and status says what is wrong until it is not.
#[test]
#[ignore = "needs root: network namespaces and BPF; needs 6.6: TCX"]
fn a_link_that_is_refused_leaves_the_filter_and_is_told() {
    on_world(|world| {
        world.outside.serve(&[PORT])?;
        world.namespace("x", &[])?;
        world
            .manifests
            .put("deny.json", &egress("x", "deny", &json!([fence_rule()])))?;
        let gate = Gate::default();
        world.agent.launch_behind(&world.host, &gate)?;
        world.agent.wait_ready(&world.host)?;
        let pod = made(world, "a")?;
        world.settle()?;
        gate.arm(
            |call| call.kind == Kind::LinkCreate,
            Fault::RefuseAll(libc::ENOMEM),
        );
        let plugin = Plugin::new(world)?;
        plugin
            .call(&world.host, "ADD", &pod)?
            .is(&Plugin::previous(&pod))?;
        let told = |world: &World| {
            let status = world.agent.status(&world.host)?.to_string();
            Ok(status.contains("attach to-pod"))
        };
        until("status says so", || told(world))?;
        ensure!(!leaks(world, &pod)?, "open without a link");
        gate.open();
        until("links hold both hooks", || {
            Ok(held(world, &pod)? == (BTreeSet::new(), 2))
        })?;
        until("status says nothing any more", || Ok(!told(world)?))?;
        ensure!(!leaks(world, &pod)? && state(world, &pod)? == "isolated");
        Ok(())
    });
}

/// Programs of TCX run before all filters, so that a filter would not hold what they let through.
#[test]
#[ignore = "needs root: network namespaces and BPF; needs 6.6: TCX"]
fn a_pod_whose_interface_is_somebody_elses_too_gets_links_at_once() {
    on_world(|world| {
        let plugin = denied_by_default(world)?;
        let pod = made(world, "a")?;
        world.settle()?;
        let interface = &pod.host_interface;
        let host = world.host.name();
        let added = Command::new("tc")
            .args(["-netns", host, "qdisc", "add", "dev", interface, "clsact"])
            .status()?;
        ensure!(added.success());
        plugin
            .call(&world.host, "ADD", &pod)?
            .is(&Plugin::previous(&pod))?;
        ensure!(held(world, &pod)? == (BTreeSet::new(), 2));
        ensure!(!leaks(world, &pod)?);
        Ok(())
    });
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_pod_that_nothing_isolates_is_answered_at_once_and_isolated_later() {
    on_world(|world| {
        world.outside.serve(&[PORT])?;
        world.namespace("x", &[])?;
        world.start_agent()?;
        let plugin = Plugin::new(world)?;
        let pod = made(world, "a")?;
        world.settle()?;
        plugin
            .call(&world.host, "ADD", &pod)?
            .is(&Plugin::previous(&pod))?;
        let open = |open| [(&pod, Probe::tcp(OUTSIDE[0].0, PORT), open)];
        world.expect_traffic(&open(true))?;
        ensure!(state(world, &pod)? == "not-isolated");
        world.apply("deny.json", &deny_all("x"))?;
        world.expect_traffic(&open(false))?;
        // The API learns the addresses later.
        world.apply(&pod.file(), &pod.manifest())?;
        world.expect_traffic(&open(false))
    });
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_pod_the_api_has_not_told_of_is_closed_and_waited_for() {
    on_world(|world| {
        let plugin = denied_by_default(world)?;
        let pod = world.stage(PodSpec::new("x", "late"))?;
        thread::scope(|scope| {
            let adding = scope.spawn(|| plugin.call(&world.host, "ADD", &pod));
            // Not even what the policy would allow.
            let mut wire = world.wire(&pod)?;
            until("its interface is closed", || {
                let token = packet::token();
                let ends = wire.to_v4(OUTSIDE[0].0);
                let datagram = ends.packet(proto::UDP, packet::udp(ends, 7, 7, &token));
                wire.sender()
                    .send(&wire.frame(ends.ethertype(), &datagram))?;
                Ok(!wire.tap().wait_for(&token, Duration::from_millis(100))?)
            })?;
            ensure!(!adding.is_finished(), "answered while the pod is unknown");
            world
                .manifests
                .put(&pod.file(), &pod.manifest_before_start())?;
            let answered = adding.join().ok().context("the plugin's thread")??;
            answered.is(&Plugin::previous(&pod))?;
            ensure!(!leaks(world, &pod)?);
            anyhow::Ok(())
        })?;

        let nobody = world.stage(PodSpec::new("x", "never"))?;
        let (code, message) = plugin.call(&world.host, "ADD", &nobody)?.error()?;
        ensure!(
            code == 11 && message.contains("x/never"),
            "{code} {message}"
        );
        let sent = world.expect_traffic(&[(&nobody, Probe::tcp(OUTSIDE[0].0, PORT), false)]);
        sent.context("the pod that was refused is open")
    });
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn without_an_agent_the_configuration_decides() {
    on_world(|world| {
        let pod = world.stage(PodSpec::new("x", "a"))?;
        let waits = Plugin::new(world)?;
        let (code, message) = waits.call(&world.host, "ADD", &pod)?.error()?;
        let socket = world.agent.socket().display().to_string();
        ensure!(code == 11 && message.contains(&socket), "{code} {message}");
        ensure!(waits.call(&world.host, "CHECK", &pod)?.error()?.0 == 11);
        waits.call(&world.host, "DEL", &pod)?.is("")?;

        let starts = Plugin::new(world)?.starting_without_agent();
        let answered = starts.call(&world.host, "ADD", &pod)?;
        answered.is(&Plugin::previous(&pod))?;
        ensure!(answered.complaint.contains(&socket), "{answered:?}");

        let status = |world: &World, plugin: &Plugin| {
            plugin.raw(
                &world.host,
                &[("CNI_COMMAND", "STATUS")],
                &plugin.configuration(None),
            )
        };
        ensure!(status(world, &waits)?.error()?.0 == 50);
        status(world, &starts)?.is("")?;
        world.start_agent()?;
        status(world, &waits)?.is("")?;

        let versions = waits.raw(
            &world.host,
            &[("CNI_COMMAND", "VERSION")],
            r#"{"cniVersion":"1.0.0"}"#,
        )?;
        let versions: Value = serde_json::from_str(&versions.text)?;
        ensure!(
            versions
                == json!({
                    "cniVersion": "1.0.0",
                    "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
                }),
            "{versions}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_add_has_told_survives_the_agent() {
    on_world(|world| {
        let plugin = denied_by_default(world)?;
        let pod = made(world, "a")?;
        world.settle()?;
        plugin
            .call(&world.host, "ADD", &pod)?
            .is(&Plugin::previous(&pod))?;
        plugin.call(&world.host, "CHECK", &pod)?.is("")?;
        for _ in 0..2 {
            world.agent.kill()?;
            ensure!(!leaks(world, &pod)?, "open without an agent");
            world.start_agent()?;
            ensure!(!leaks(world, &pod)?, "open after a restart");
            ensure!(state(world, &pod)? == "isolated");
        }
        plugin.call(&world.host, "CHECK", &pod)?.is("")?;

        // The object goes before the sandbox: nobody knows what selects the pod.
        world.manifests.remove("deny.json")?;
        world.withdraw(&pod.file())?;
        world.expect_traffic(&[(&pod, Probe::tcp(OUTSIDE[0].0, PORT), false)])?;
        // Negative control: with the object it is open.
        world.apply(&pod.file(), &pod.manifest_before_start())?;
        world.expect_traffic(&[(&pod, Probe::tcp(OUTSIDE[0].0, PORT), true)])
    });
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn check_sees_that_the_programs_are_gone() {
    on_world(|world| {
        let plugin = denied_by_default(world)?;
        let (pod, other) = (made(world, "a")?, made(world, "b")?);
        world.settle()?;
        plugin
            .call(&world.host, "ADD", &pod)?
            .is(&Plugin::previous(&pod))?;
        let (code, message) = plugin.call(&world.host, "CHECK", &other)?.error()?;
        ensure!(
            code == 101 && message.contains(&other.host_interface),
            "{code} {message}"
        );
        plugin.call(&world.host, "CHECK", &pod)?.is("")?;
        let links = world.agent.pin_root();
        let links = links.to_str().context("path")?;
        // The agent, which runs, may pin links in the place of filters meanwhile.
        until("everything is removed", || {
            let cleanup = ["cleanup", "--force", "--pin-root", links];
            let forced = world.agent.cli(&world.host, &cleanup)?;
            Ok(forced.status.success())
        })?;
        let (code, _) = plugin.call(&world.host, "CHECK", &pod)?.error()?;
        ensure!(code == 101, "{code}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_pod_that_comes_back_under_its_name_is_another() {
    on_world(|world| {
        let plugin = denied_by_default(world)?;
        let old = made(world, "a")?;
        world.settle()?;
        plugin
            .call(&world.host, "ADD", &old)?
            .is(&Plugin::previous(&old))?;

        // Its object is replaced, its sandbox is still there.
        let new = made(world, "a")?;
        world.settle()?;
        let closed = [(&old, Probe::tcp(OUTSIDE[0].0, PORT), false)];
        world.expect_traffic(&closed).context("the old sandbox")?;
        plugin
            .call(&world.host, "ADD", &new)?
            .is(&Plugin::previous(&new))?;
        ensure!(!leaks(world, &new)?);
        world.expect_traffic(&closed).context("the old sandbox")?;
        let status = world.pod_status(&new)?.context("status")?;
        ensure!(
            status.get("interfaces") == Some(&json!([new.host_interface])),
            "{status}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_node_itself_is_never_enforced_whatever_the_runtime_says() {
    on_world(|world| {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
            "status": {"addresses": [{"type": "InternalIP", "address": NODE_V4}]},
        });
        world.manifests.put("node.json", &node)?;
        let plugin = denied_by_default(world)?;
        let pod = made(world, "a")?;
        world.settle()?;
        let uid = pod.manifest();
        let uid = uid
            .pointer("/metadata/uid")
            .and_then(Value::as_str)
            .context("uid")?;
        let outside = world.outside.ns.path();
        let answered = plugin.raw(
            &world.host,
            &[
                ("CNI_COMMAND", "ADD"),
                ("CNI_CONTAINERID", "c1"),
                ("CNI_NETNS", outside.to_str().context("path")?),
                ("CNI_IFNAME", "eth0"),
                (
                    "CNI_ARGS",
                    &format!("K8S_POD_NAMESPACE=x;K8S_POD_NAME=a;K8S_POD_UID={uid}"),
                ),
            ],
            &plugin.configuration(Some(&Plugin::previous(&pod))),
        )?;
        let (code, message) = answered.error()?;
        ensure!(
            code == 100 && message.contains("no interface of the node"),
            "{code} {message}"
        );
        // Through the node's own link goes what no policy of the pod would let through.
        world.expect_traffic(&[(&pod, Probe::tcp(OUTSIDE[0].0, PORT), true)])
    });
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_sandbox_that_goes_is_let_go() {
    on_world(|world| {
        let plugin = denied_by_default(world)?;
        let mut pod = made(world, "a")?;
        world.settle()?;
        plugin
            .call(&world.host, "ADD", &pod)?
            .is(&Plugin::previous(&pod))?;
        plugin.call(&world.host, "DEL", &pod)?.is("")?;
        ensure!(!leaks(world, &pod)?, "DEL comes before the interface goes");
        world.withdraw(&pod.file())?;
        pod.ns.delete()?;
        until("nothing is left of it", || {
            let status = world.agent.status(&world.host)?;
            let problems = status.get("problems").and_then(Value::as_array);
            let left = world.agent.links();
            let links = fs::read_dir(&left).map_or(0, Iterator::count);
            Ok(problems.is_some_and(Vec::is_empty) && links == 0)
        })?;
        Ok(())
    });
}
