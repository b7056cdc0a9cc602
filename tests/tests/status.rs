//! What `status` tells first.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::ProgramType;
use aya::sys::is_helper_supported;
use aya_obj::generated::bpf_func_id;
use egress_tests::harness::gate::{Fault, Gate, Kind};
use egress_tests::harness::objects::{egress, port, service, to_blocks};
use egress_tests::harness::{NODE, OUTSIDE, PodSpec, Probe, World, binary, on_world, until};
use serde_json::{Value, json};

const PORT: u16 = 8080;

/// What `status` prints.
fn status(world: &World, more: &[&str]) -> Result<String> {
    let socket = world.agent.socket();
    let socket = socket.to_str().context("UTF-8")?;
    let arguments = [&["status", "--socket", socket], more].concat();
    let output = world.agent.cli(&world.host, &arguments)?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// The warnings of a kind in a JSON status: object and message.
fn of_kind(status: &str, kind: &str) -> Result<Vec<(String, String)>> {
    let status: Value = serde_json::from_str(status)?;
    let warnings = status.get("warnings").and_then(Value::as_array);
    let text = |warning: &Value, field| {
        let text = warning.get(field).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    Ok(warnings
        .context("no warnings")?
        .iter()
        .filter(|warning| text(warning, "kind") == kind)
        .map(|warning| (text(warning, "object"), text(warning, "message")))
        .collect())
}

/// A Service that is denied for one of its endpoints is a problem with its name; drift is a warning,
/// looked for in text and where it is asked for.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn problems_and_warnings_come_first_and_name_what_they_are_about() {
    on_world(|world| {
        world.namespace("x", &[])?;
        let _web = world.pod(PodSpec::new("x", "web").label("app", "web"))?;
        let one = world.pod(PodSpec::new("x", "one").label("app", "db"))?;
        let _two = world.pod(PodSpec::new("x", "two").label("app", "db"))?;
        let address: IpAddr = "10.96.0.10".parse()?;
        world.manifests.put(
            "service.json",
            &service("x", "db", address, 80, 8080, &[("app", "db")]),
        )?;
        let rule = json!([{"to": [{"ipBlock": {"cidr": format!("{}/32", one.v4)}}]}]);
        world
            .manifests
            .put("policy.json", &egress("x", "p", &rule))?;
        world.start_agent()?;

        let text = status(world, &[])?;
        let problems = text.find("PROBLEMS").context("no problems")?;
        ensure!(problems < text.find("PODS").context("no pods")?, "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in ["Service x/db", "10.96.0.10:80 is denied to x/one, x/web:"] {
            ensure!(words.contains(part), "{part}: {text}");
        }
        ensure!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );

        let pin = world.agent.pin_root();
        let folder = std::fs::read_dir(&pin)?
            .filter_map(Result::ok)
            .find(|entry| entry.file_name().to_string_lossy().starts_with('v'))
            .context("no version folder")?;
        let map = Map::from_map_data(MapData::from_pin(folder.path().join("maps/FRONTENDS"))?)?;
        let mut frontends: HashMap<_, [u8; 20], [u8; 4]> = map.try_into()?;
        let keys: Vec<[u8; 20]> = frontends.keys().filter_map(Result::ok).collect();
        for key in keys {
            frontends.remove(&key)?;
        }
        ensure!(of_kind(&status(world, &["-o", "json"])?, "drift")?.is_empty());
        let surveyed = status(world, &["-o", "json", "--survey"])?;
        ensure!(!of_kind(&surveyed, "drift")?.is_empty(), "{surveyed}");
        let text = status(world, &[])?;
        ensure!(
            text.contains("FRONTENDS in the kernel is not what"),
            "{text}"
        );
        Ok(())
    });
}

/// Another owner's filter beside our hook is told with its kind; ours is none.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_filter_of_somebody_else_on_the_hook_is_told() {
    on_world(|world| {
        world.namespace("x", &[])?;
        let web = world.pod(PodSpec::new("x", "web"))?;
        world.start_agent()?;
        let found = |world: &World| -> Result<_> {
            of_kind(
                &status(world, &["-o", "json", "--survey"])?,
                "other-program",
            )
        };
        ensure!(found(world)?.is_empty(), "{:?}", found(world)?);
        for arguments in [
            // Before TCX, the agent's own filters are on a clsact too.
            format!("qdisc replace dev {} clsact", web.host_interface),
            format!(
                "filter add dev {} ingress protocol all prio 7 u32 match u32 0 0 classid 1:1",
                web.host_interface
            ),
        ] {
            world.host.run(|| {
                let output = Command::new("tc").args(arguments.split(' ')).output()?;
                let error = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "tc {arguments}: {error}");
                Ok(())
            })?;
        }
        let others = found(world)?;
        let [(object, message)] = others.as_slice() else {
            bail!("{others:?}");
        };
        ensure!(object == "Pod x/web", "{object}");
        let told = format!(
            "beside the from-pod hook of {}: a u32 filter of priority 7;",
            web.host_interface
        );
        ensure!(message.starts_with(&told), "{message}");
        Ok(())
    });
}

/// Tables and rulesets from four fifths on, a pod whose namespace is not there, a policy with a part
/// that cannot be read.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_is_nearly_full_missing_or_unreadable_is_told() {
    on_world(|world| {
        world.namespace("x", &[])?;
        let _web = world.pod(PodSpec::new("x", "web"))?;
        let gone = world.stage(PodSpec::new("x", "gone"))?;
        let mut manifest = gone.manifest();
        let annotations = manifest
            .pointer_mut("/metadata/annotations")
            .and_then(Value::as_object_mut);
        annotations
            .context("no annotations")?
            .insert("egress-agent.dev/netns".to_owned(), json!("not-there"));
        world.manifests.put("gone.json", &manifest)?;
        let host = world.stage(PodSpec::new("x", "host"))?;
        let mut manifest = host.manifest();
        *manifest.pointer_mut("/spec").context("no spec")? =
            json!({ "nodeName": NODE, "hostNetwork": true });
        world.manifests.put("host.json", &manifest)?;
        // 55 prefixes and 55 ports of 64.
        let blocks: Vec<String> = (0..55).map(|n| format!("192.0.2.{}/32", n * 2)).collect();
        let blocks: Vec<&str> = blocks.iter().map(String::as_str).collect();
        let ports: Vec<Value> = (0..55).map(|n| port(1_001 + 2 * n, "TCP")).collect();
        let mut rules = vec![to_blocks(&blocks, &Value::from(ports))];
        rules.push(to_blocks(&["not an address"], &json!([])));
        world
            .manifests
            .put("policy.json", &egress("x", "p", &Value::from(rules)))?;
        let small = ["--max-ports", "64", "--max-prefixes", "64"];
        world.agent.launch(&world.host, &small)?;
        until("status tells it", || {
            let Ok(text) = status(world, &["-o", "json"]) else {
                return Ok(false);
            };
            let objects = |kind| -> Result<Vec<String>> {
                Ok(of_kind(&text, kind)?.into_iter().map(|(o, _)| o).collect())
            };
            Ok(objects("map-fill")? == ["map PORTS", "ruleset 1"]
                && objects("not-enforced")? == ["Pod x/host"])
        })?;
        let text = status(world, &[])?;
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "NetworkPolicy x/p spec.egress[1].to[0].ipBlock.cidr",
            "85% full (55 of 64)",
            "85% of the prefixes that fit (55 of 64, --max-prefixes)",
            "Pod x/gone metadata.annotations[egress-agent.dev/netns]",
            "not-there does not exist: the pod is not enforced",
            "Pod x/host it is on the host network, where policies do not hold: x/p would isolate it",
        ] {
            ensure!(words.contains(part), "{part}: {text}");
        }
        Ok(())
    });
}

/// Where links to the hook are refused, as before TCX, pods are held by filters, and status tells
/// what that costs.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_kernel_without_tcx_is_told_of_and_enforced_by_filters() {
    on_world(|world| {
        world.outside.serve(&[PORT])?;
        world.namespace("x", &[])?;
        let web = world.pod(PodSpec::new("x", "web"))?;
        let open = [(&web, Probe::tcp(OUTSIDE[0].0, PORT), true)];
        world.expect_traffic(&open)?;
        world
            .manifests
            .put("policy.json", &egress("x", "p", &json!([])))?;
        let gate = Gate::default();
        gate.arm(
            |call| call.kind == Kind::LinkCreate,
            Fault::RefuseAll(libc::EINVAL),
        );
        world.agent.launch_behind(&world.host, &gate)?;
        world.agent.wait_ready(&world.host)?;
        world.settle()?;
        world.expect(&[(&web, Probe::tcp(OUTSIDE[0].0, PORT), false)])?;
        let told = of_kind(&status(world, &["-o", "json"])?, "kernel-feature")?;
        let of_tcx = |(object, message): &&(String, String)| {
            object.is_empty() && message.starts_with("this kernel has no TCX (6.6): ")
        };
        ensure!(told.iter().filter(of_tcx).count() == 1, "{told:?}");
        Ok(())
    });
}

/// Where programs that ask the coarse clock are refused, as before 5.11, they ask the precise one, and
/// status tells what that costs; it says nothing where there is one.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_kernel_without_a_coarse_clock_is_told_of() {
    const CLOCK: bpf_func_id = bpf_func_id::BPF_FUNC_ktime_get_coarse_ns;
    #[expect(clippy::as_conversions, reason = "the one way to an enum's number")]
    const NUMBER: u32 = CLOCK as u32;
    on_world(|world| {
        world.outside.serve(&[PORT])?;
        world.namespace("x", &[])?;
        let web = world.pod(PodSpec::new("x", "web"))?;
        world
            .manifests
            .put("policy.json", &egress("x", "p", &json!([])))?;
        let refused = Gate::default();
        refused.arm(
            |call| call.helper == Some(NUMBER),
            Fault::RefuseAll(libc::EINVAL),
        );
        let there = is_helper_supported(ProgramType::SchedClassifier, CLOCK)?;
        for (gate, is_told) in [(Gate::default(), !there), (refused, true)] {
            world.agent.launch_behind(&world.host, &gate)?;
            world.agent.wait_ready(&world.host)?;
            world.settle()?;
            world.expect(&[(&web, Probe::tcp(OUTSIDE[0].0, PORT), false)])?;
            let told = of_kind(&status(world, &["-o", "json"])?, "kernel-feature")?;
            let of_clock = |(object, message): &&(String, String)| {
                object.is_empty() && message.starts_with("this kernel has no coarse clock")
            };
            let count = told.iter().filter(of_clock).count();
            ensure!(count == usize::from(is_told), "{told:?}");
            world.agent.kill()?;
        }
        Ok(())
    });
}

/// What `script` records of a command on a terminal; it says how the command ended.
fn on_a_terminal(world: &World, environment: &[(&str, &str)]) -> Result<String> {
    let socket = world.agent.socket();
    let line = format!(
        "{} status --socket {}",
        binary()?.display(),
        socket.display()
    );
    let output = world.host.run(|| {
        let mut script = Command::new("script");
        script
            .args(["-qec", &line, "/dev/null"])
            .env_remove("NO_COLOR");
        Ok(script.envs(environment.iter().copied()).output()?)
    })?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{text}");
    Ok(text)
}

/// Escape codes go to a terminal only, and not there where `NO_COLOR` is set; the text is the same,
/// and no line is wider than 100 columns.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn colour_is_for_terminals() {
    on_world(|world| {
        world.namespace("x", &[])?;
        let _web = world.pod(PodSpec::new("x", "web"))?;
        world
            .manifests
            .put("policy.json", &egress("x", "p", &json!([])))?;
        world.start_agent()?;
        let piped = status(world, &[])?;
        let plain = on_a_terminal(world, &[("NO_COLOR", "1")])?.replace('\r', "");
        let coloured = on_a_terminal(world, &[])?.replace('\r', "");
        ensure!(
            !piped.contains('\u{1b}') && !plain.contains('\u{1b}'),
            "{plain}"
        );
        ensure!(coloured.contains("\u{1b}[32mready\u{1b}[0m"), "{coloured}");
        ensure!(plain == piped, "{plain}\n{piped}");
        let mut bare = coloured;
        for code in ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[32m"] {
            bare = bare.replace(code, "");
        }
        ensure!(bare == piped, "{bare}\n{piped}");
        ensure!(
            piped.lines().all(|line| line.chars().count() <= 100),
            "{piped}"
        );
        Ok(())
    });
}
