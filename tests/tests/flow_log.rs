//! The flow log of the running agent.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use egress_tests::harness::objects::{egress, port, to_blocks};
use egress_tests::harness::{OUTSIDE, Pod, PodSpec, Probe, TcpExchange, World, on_world, until};
use serde_json::{Value, json};

const HTTP: u16 = 8080;

/// A pod `x/a` that may speak HTTP to one server, and an agent that logs flows.
fn logging(world: &mut World, more: &[&str]) -> Result<(Pod, PathBuf)> {
    world.namespace("x", &[])?;
    world.outside.serve(&[HTTP])?;
    let pod = world.pod(PodSpec::new("x", "a"))?;
    let server = format!("{}/32", OUTSIDE[0].0);
    let rule = to_blocks(&[&server], &json!([port(HTTP, "TCP")]));
    world
        .manifests
        .put("policy.json", &egress("x", "p", &json!([rule])))?;
    let file = world.agent.pin_root().with_file_name("flows.log");
    // Beside the bpffs, not on it.
    let file = file
        .parent()
        .and_then(Path::parent)
        .context("no folder")?
        .join("flows.log");
    let path = file.to_str().context("UTF-8")?;
    let arguments = [&["--flow-log", path], more].concat();
    world.agent.launch(&world.host, &arguments)?;
    world.agent.wait_ready(&world.host)?;
    world.settle()?;
    Ok((pod, file))
}

fn lines(file: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).context(line.to_owned()))
        .collect()
}

fn count(lines: &[Value], verdict: &str) -> u64 {
    let of = lines
        .iter()
        .filter(|line| line.get("verdict") == Some(&json!(verdict)));
    of.filter_map(|line| line.get("count")?.as_u64()).sum()
}

/// New flows are logged, allowed and denied, once each; packets of a flow that is open are not.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn new_flows_are_logged_once_allowed_and_denied() {
    on_world(|world| {
        let (a, file) = logging(world, &["--flow-log-interval", "1"])?;
        let server = SocketAddr::new(OUTSIDE[0].0.into(), HTTP);
        for _ in 0..3 {
            let mut exchange = TcpExchange::open(&a.ns, server)?;
            for _ in 0..5 {
                ensure!(exchange.alive()?);
            }
        }
        world.expect(&[(&a, Probe::udp(OUTSIDE[1].0, 53), false)])?;
        let mut seen = Vec::new();
        until("both are logged", || {
            seen = lines(&file)?;
            Ok(count(&seen, "allow") >= 3 && count(&seen, "deny") >= 1)
        })
        .with_context(|| format!("{seen:#?}"))?;
        ensure!(count(&seen, "allow") == 3, "{seen:#?}");
        let allowed = seen
            .iter()
            .find(|line| line.get("verdict") == Some(&json!("allow")))
            .context("no line")?;
        for (field, value) in [
            ("schema", json!("egress-agent.dev/flow/v1")),
            ("node", json!("node-a")),
            ("namespace", json!("x")),
            ("pod", json!("a")),
            ("reason", json!("allowed")),
            ("destination", json!(OUTSIDE[0].0)),
            ("port", json!(HTTP)),
            ("protocol", json!("tcp")),
            ("tcpFlags", json!(["SYN"])),
            ("isolatedBy", json!(["x/p"])),
        ] {
            ensure!(allowed.get(field) == Some(&value), "{field}: {allowed:#}");
        }
        let written = world.metrics()?.sum("egress_flow_log_lines_total", &[]);
        ensure!(written >= 2.0, "{written} lines");
        // Records of allowed flows are no drops.
        let drops = world.agent.drops(&world.host)?;
        ensure!(
            drops
                .iter()
                .all(|drop| drop.get("reason") != Some(&json!("allowed"))),
            "{drops:#?}"
        );
        Ok(())
    });
}

/// What is not written yet is written at the end; what is above a limit is counted.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_end_writes_the_rest_and_limits_are_counted() {
    on_world(|world| {
        let (a, file) = logging(
            world,
            &["--flow-log-interval", "3600", "--flow-log-pod-rate", "1"],
        )?;
        let server = SocketAddr::new(OUTSIDE[0].0.into(), HTTP);
        for _ in 0..20 {
            ensure!(TcpExchange::open(&a.ns, server)?.alive()?);
        }
        let lost = world
            .metrics()?
            .sum("egress_flow_log_lost_total", &[("reason", "kernel")]);
        ensure!(lines(&file)?.is_empty());
        ensure!(world.agent.terminate()?.success());
        let logged = count(&lines(&file)?, "allow");
        ensure!(logged >= 1 && lost >= 1.0, "{logged} logged, {lost} lost");
        let all = format!("{lost:.0}").parse::<u64>()? + logged;
        ensure!(all == 20, "{logged} logged and {lost} lost are not 20");
        Ok(())
    });
}
