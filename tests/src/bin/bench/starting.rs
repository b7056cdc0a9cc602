//! What our CNI plugin adds to the start of a pod, without a cluster: from before its process is started to
//! after it has ended.
//!
//! Every pod's object is there before its sandbox, and its namespace denies all egress. One after the other;
//! the same where somebody else has put a qdisc on the interface, so that links are attached at once; ten
//! at once.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use egress_tests::harness::objects::deny_all;
use egress_tests::harness::{Plugin, Pod, PodSpec, World};

use super::report::Report;

const NAMESPACE: &str = "shop";
const PODS: usize = 50;
const TOGETHER: usize = 10;
const BURSTS: usize = 5;
/// Between two starts, some times what the agent still does after one.
const PAUSE: Duration = Duration::from_millis(200);

/// Measures both.
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    if !report.wants("starting") {
        return Ok(());
    }
    let mut world = World::new()?;
    world.namespace(NAMESPACE, &[])?;
    world.manifests.put("deny.json", &deny_all(NAMESPACE))?;
    world.start_agent()?;
    let plugin = Plugin::new(&world)?;

    for (name, id, what) in [
        ("one", "starting-add", "CNI ADD of a denied pod"),
        ("shared", "starting-shared", "the same, links at once"),
    ] {
        let mut times = Vec::new();
        for pod in &made(&mut world, name, PODS)? {
            if name == "shared" {
                put_qdisc(&world, pod)?;
            }
            thread::sleep(PAUSE);
            times.push(added(&world, &plugin, pod)?);
        }
        report.add_distribution(id, what, times);
    }

    let pods = made(&mut world, "many", BURSTS * TOGETHER)?;
    let mut together = Vec::new();
    for burst in pods.chunks(TOGETHER) {
        thread::sleep(PAUSE * 2);
        let (world, plugin) = (&world, &plugin);
        let times = thread::scope(|scope| {
            let started: Vec<_> = burst
                .iter()
                .map(|pod| scope.spawn(move || added(world, plugin, pod)))
                .collect();
            let ended = started.into_iter();
            ended
                .map(|thread| thread.join().ok().context("a thread panicked")?)
                .collect::<Result<Vec<_>>>()
        })?;
        together.extend(times);
    }
    let name = format!("the same, {TOGETHER} at once");
    report.add_distribution("starting-burst", &name, together);
    world.agent.terminate()?;
    world.agent.cleanup(&world.host)?;
    Ok(())
}

/// Pods whose objects are known and whose sandboxes no plugin has told of.
fn made(world: &mut World, name: &str, count: usize) -> Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for number in 0..count {
        let pod = world.stage(PodSpec::new(NAMESPACE, &format!("{name}-{number}")))?;
        let manifest = pod.manifest_before_start();
        world.manifests.put(&pod.file(), &manifest)?;
        pods.push(pod);
    }
    world.settle()?;
    Ok(pods)
}

fn put_qdisc(world: &World, pod: &Pod) -> Result<()> {
    let added = world.host.run(|| {
        let mut tc = Command::new("tc");
        tc.args(["qdisc", "add", "dev", &pod.host_interface, "clsact"]);
        tc.status().context("running tc (package iproute2)")
    })?;
    ensure!(added.success(), "tc: {added}");
    Ok(())
}

fn added(world: &World, plugin: &Plugin, pod: &Pod) -> Result<Duration> {
    let begun = Instant::now();
    let answered = plugin.call(&world.host, "ADD", pod)?;
    let took = begun.elapsed();
    answered.is(&Plugin::previous(pod))?;
    Ok(took)
}
