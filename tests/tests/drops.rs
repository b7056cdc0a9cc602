//! What `drops` says of packets that were dropped.

use anyhow::{Context as _, Result, ensure};
use egress_tests::harness::objects::egress;
use egress_tests::harness::{OUTSIDE, Pod, PodSpec, World, fence_rule, on_world, until};
use egress_tests::packet::{self, Ends, flag, proto};
use serde_json::{Value, json};

/// A pod of a Deployment that may send nothing, and a running agent.
fn isolated(world: &mut World) -> Result<Pod> {
    world.namespace("x", &[])?;
    let pod = world.pod(PodSpec::new("x", "a").label("pod-template-hash", "5d4f"))?;
    let mut manifest = pod.manifest();
    let metadata = manifest
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .context("metadata")?;
    metadata.insert(
        "ownerReferences".to_owned(),
        json!([{ "kind": "ReplicaSet", "name": "web-5d4f", "controller": true }]),
    );
    world.manifests.put(&pod.file(), &manifest)?;
    world
        .manifests
        .put("policy.json", &egress("x", "p", &json!([fence_rule()])))?;
    world.start_agent()?;
    Ok(pod)
}

fn drops(world: &World, filters: &[&str]) -> Result<Vec<Value>> {
    let socket = world.agent.socket();
    let socket = socket.to_str().context("UTF-8")?;
    let output = world.agent.cli(
        &world.host,
        &[&["drops", "--socket", socket, "-o", "json"], filters].concat(),
    )?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)?
        .lines()
        .map(|line| serde_json::from_str(line).context(line.to_owned()))
        .collect()
}

/// Attempts that differ in their source port only are one record, which says who and with what.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn attempts_of_a_client_are_one_record() {
    on_world(|world| {
        let a = isolated(world)?;
        let mut wire = world.wire(&a)?;
        let ends = Ends::V4(a.v4, OUTSIDE[1].0);
        for source in 1000..1020 {
            let syn = packet::tcp(ends, source, 443, flag::SYN, b"");
            let frame = wire.frame(ends.ethertype(), &ends.packet(proto::TCP, syn));
            wire.sender().send(&frame)?;
        }
        let rst = packet::tcp(ends, 1, 444, flag::RST, b"");
        let frame = wire.frame(ends.ethertype(), &ends.packet(proto::TCP, rst));
        wire.sender().send(&frame)?;
        wire.fence()?;
        let filter = ["--to", "203.0.113.0/24:443", "--pod", "x/a"];
        let mut seen = Vec::new();
        let count = |records: &[Value]| -> u64 {
            let counts = records.iter().filter_map(|r| r.get("count")?.as_u64());
            counts.sum()
        };
        until("twenty drops are told of", || {
            seen = drops(world, &filter)?;
            Ok(count(&seen) == 20)
        })?;
        // A second may begin between them.
        ensure!(seen.len() <= 3, "{seen:#?}");
        for (field, value) in [
            ("tcpFlags", json!(["SYN"])),
            ("interface", json!(a.host_interface)),
            ("workload", json!("Deployment/web")),
        ] {
            let last = seen.last().and_then(|record| record.get(field));
            ensure!(last == Some(&value), "{field}: {seen:#?}");
        }
        ensure!(seen.last().and_then(|r| r.get("sourcePort")) == Some(&json!(1019)));
        ensure!(drops(world, &["--to", "203.0.113.0/24:445"])?.is_empty());
        ensure!(drops(world, &["--namespace", "y"])?.is_empty());
        ensure!(drops(world, &["--reason", "spoofed"])?.is_empty());
        let flags = drops(world, &["--to", "203.0.113.0/24:444"])?;
        ensure!(
            flags.first().and_then(|r| r.get("tcpFlags")) == Some(&json!(["RST"])),
            "{flags:?}"
        );
        Ok(())
    });
}
