//! Other owners' programs on the same hook: a frame that we pass goes on to them, a frame
//! that we drop never reaches them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use egress_tests::harness::objects::{egress, port, to_blocks};
use egress_tests::harness::raw::{EVERY, Tap};
use egress_tests::harness::{
    DEADLINE, OUTSIDE, Pod, PodSpec, World, fence_rule, ip_batch, on_world,
};
use egress_tests::packet::{self, Ends, ethertype, proto};
use serde_json::json;

const OPEN: u16 = 2000;
const SHUT: u16 = 2001;

/// For a copy that must not come; the drop itself was seen before.
const SILENCE: Duration = Duration::from_millis(50);

/// A tc filter of somebody else on the pod's interface: copies every frame to `mirror`.
fn attach_mirror(world: &World, pod: &Pod) -> Result<Tap> {
    ip_batch(
        world.host.name(),
        "link add mirror type veth peer name mirrored\nlink set mirror up\nlink set mirrored up\n",
    )?;
    for arguments in [
        // Before TCX, the agent's own filters are on a clsact too.
        format!("qdisc replace dev {} clsact", pod.host_interface),
        format!(
            "filter add dev {} ingress protocol all prio 7 u32 match u32 0 0 action mirred egress mirror dev mirror",
            pod.host_interface
        ),
    ] {
        world.host.run(|| {
            let output = Command::new("tc").args(arguments.split(' ')).output()?;
            ensure!(
                output.status.success(),
                "tc {arguments}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(())
        })?;
    }
    Tap::new(&world.host, "mirrored", EVERY)
}

fn start(world: &mut World) -> Result<()> {
    world.namespace("x", &[])?;
    let rule = to_blocks(&["203.0.113.20/32"], &json!([port(OPEN, "UDP")]));
    world.manifests.put(
        "policy.json",
        &egress("x", "p", &json!([rule, fence_rule()])),
    )?;
    world.start_agent()
}

/// Sends one datagram; whether it came out, and whether the neighbour saw it.
fn datagram(world: &World, pod: &Pod, mirrored: &mut Tap, to: u16) -> Result<(bool, bool)> {
    let mut wire = world.wire(pod)?;
    let token = packet::token();
    let ends = Ends::V4(pod.v4, OUTSIDE[1].0);
    let bytes = ends.packet(proto::UDP, packet::udp(ends, 1000, to, &token));
    let through = wire.packets_get_through(ethertype::IPV4, &[bytes], &token)?;
    // A frame that came out had passed the neighbour before; how long it takes the copy to arrive
    // is the machine's affair.
    let patience = if through { DEADLINE } else { SILENCE };
    Ok((through, mirrored.wait_for(&token, patience)?))
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_filter_that_was_there_before_still_runs_after_a_pass() {
    on_world(|world| {
        let a = world.pod(PodSpec::new("x", "a"))?;
        let mut mirrored = attach_mirror(world, &a)?;
        ensure!(
            datagram(world, &a, &mut mirrored, OPEN)? == (true, true),
            "control"
        );
        ensure!(
            datagram(world, &a, &mut mirrored, SHUT)? == (true, true),
            "control"
        );
        start(world)?;
        ensure!(
            datagram(world, &a, &mut mirrored, OPEN)? == (true, true),
            "allowed"
        );
        ensure!(
            datagram(world, &a, &mut mirrored, SHUT)? == (false, false),
            "denied"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_filter_that_comes_later_runs_after_a_pass() {
    on_world(|world| {
        let a = world.pod(PodSpec::new("x", "a"))?;
        start(world)?;
        let mut mirrored = attach_mirror(world, &a)?;
        ensure!(
            datagram(world, &a, &mut mirrored, OPEN)? == (true, true),
            "allowed"
        );
        ensure!(
            datagram(world, &a, &mut mirrored, SHUT)? == (false, false),
            "denied"
        );
        // A restart neither jumps behind the neighbour nor takes its filter along.
        world.agent.kill()?;
        world.start_agent()?;
        ensure!(
            datagram(world, &a, &mut mirrored, OPEN)? == (true, true),
            "allowed, after a restart"
        );
        ensure!(
            datagram(world, &a, &mut mirrored, SHUT)? == (false, false),
            "denied, after a restart"
        );
        Ok(())
    });
}

/// `cleanup` takes ours and leaves theirs.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn cleanup_leaves_the_neighbours_filter() {
    on_world(|world| {
        let a = world.pod(PodSpec::new("x", "a"))?;
        start(world)?;
        let mut mirrored = attach_mirror(world, &a)?;
        world.agent.terminate()?;
        let output = world.agent.cleanup(&world.host)?;
        ensure!(
            output.status.success(),
            "cleanup: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(datagram(world, &a, &mut mirrored, SHUT)? == (true, true));
        Ok(())
    });
}
