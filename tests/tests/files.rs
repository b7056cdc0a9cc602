//! The folder of manifests: what counts as a change, and what broken files may not do.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use egress_tests::harness::objects::{deny_all, egress, policy, port, to_blocks};
use egress_tests::harness::{Echo, Load, OUTSIDE, Pod, PodSpec, Probe, World, on_world, until};
use serde_json::{Value, json};

const PORT: u16 = 8080;

fn there() -> Probe {
    Probe::tcp(OUTSIDE[0].0, PORT)
}

/// A pod `x/a`, an outside, a running agent, nothing isolated yet.
fn client(world: &mut World) -> Result<Pod> {
    world.outside.serve(&[PORT])?;
    world.namespace("x", &[])?;
    let pod = world.pod(PodSpec::new("x", "a"))?;
    world.start_agent()?;
    Ok(pod)
}

fn allow_all() -> Value {
    egress("x", "p", &json!([{}]))
}

fn deny() -> Value {
    egress("x", "p", &json!([]))
}

/// Waits until `status` says that the file does not say what it said.
fn wait_broken(world: &World, file: &str) -> Result<Value> {
    let mut source = Value::Null;
    until("the broken file is reported", || {
        source = world.source(file)?.unwrap_or_default();
        Ok(source.get("error").is_some_and(Value::is_string))
    })
    .with_context(|| format!("its status: {source}"))?;
    Ok(source)
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn an_empty_folder_enforces_nothing_and_breaks_nothing() {
    on_world(|world| {
        world.outside.serve(&[PORT])?;
        let a = world.stage(PodSpec::new("x", "a"))?;
        world.start_agent()?;
        ensure!(world.agent.http_status(&world.host, "/healthz")? == 200);
        world.expect_traffic(&[(&a, there(), true), (&a, Probe::ping(OUTSIDE[0].1), true)])
    });
}

/// Garbage in every form: the agent lives, says so, and what was closed stays closed.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_folder_of_garbage_opens_nothing() {
    on_world(|world| {
        let a = client(world)?;
        world.apply("policy.json", &deny())?;
        world.expect(&[(&a, there(), false)])?;
        let dir = world.manifests.dir().to_owned();
        let garbage: [(&str, &[u8]); 8] = [
            ("policy.json", b"{ \"apiVersion\": "),
            ("binary.yaml", &[0, 0xff, 0xfe, 7, b':', b'\n', 0x80]),
            ("list.yaml", b"- 1\n- [\n"),
            ("scalar.yml", b"42\n"),
            ("empty.yaml", b""),
            (
                "kind.json",
                b"{\"apiVersion\":\"v9\",\"kind\":\"Nothing\",\"metadata\":{\"name\":\"n\"}}",
            ),
            (
                "nameless.yaml",
                b"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nspec: {egress: [{}]}\n",
            ),
            ("pod-x-a.json", b"not a pod at all: [\n"),
        ];
        for (file, bytes) in garbage {
            fs::write(dir.join(file), bytes)?;
        }
        fs::create_dir(dir.join("folder.yaml"))?;
        symlink("loop.yaml", dir.join("loop.yaml"))?;
        symlink("nowhere", dir.join("dangling.yaml"))?;
        wait_broken(world, "policy.json")?;
        wait_broken(world, "pod-x-a.json")?;
        world.expect_traffic(&[(&a, there(), false)])?;
        // And a start on it.
        world.agent.kill()?;
        world.agent.launch(&world.host, &[])?;
        until("the agent answers", || {
            Ok(world.agent.status(&world.host).is_ok())
        })?;
        wait_broken(world, "policy.json")?;
        world.expect_traffic(&[(&a, there(), false)])
    });
}

/// A file that somebody is still writing says what it said before.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_file_that_is_still_open_changes_nothing() {
    on_world(|world| {
        let a = client(world)?;
        world.expect(&[(&a, there(), true)])?;
        let closed = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\n\
                      spec:\n  podSelector: {}\n  policyTypes: [Egress]\n  egress: []\n";
        world.manifests.put_text("policy.yaml", closed)?;
        world.settle()?;
        world.expect(&[(&a, there(), false)])?;
        // Cut to nothing, then a beginning that would not isolate: both are whole YAML.
        let opening = closed.replace(
            "policyTypes: [Egress]\n  egress: []\n",
            "policyTypes: [Ingress]\n",
        );
        let mut file = world.manifests.write_half("policy.yaml", "")?;
        std::thread::sleep(Duration::from_millis(300));
        world.expect_traffic(&[(&a, there(), false)])?;
        file.write_all(opening.as_bytes())?;
        file.sync_all()?;
        // Another file's change makes the agent look at the folder.
        world.manifests.put(
            "namespace-z.json",
            &egress_tests::harness::objects::namespace("z", &[]),
        )?;
        std::thread::sleep(Duration::from_millis(300));
        world.expect_traffic(&[(&a, there(), false)])?;
        drop(file);
        world.settle()?;
        world.expect(&[(&a, there(), true)])
    });
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_file_that_breaks_keeps_what_it_said_over_a_restart_too() {
    on_world(|world| {
        let a = client(world)?;
        let first = egress(
            "x",
            "p",
            &json!([to_blocks(&["203.0.113.10/32"], &json!([]))]),
        );
        let elsewhere = Probe::tcp(OUTSIDE[1].0, PORT);
        world.apply("policy.json", &first)?;
        world.expect(&[(&a, there(), true), (&a, elsewhere, false)])?;

        world
            .manifests
            .write_in_place("policy.json", "{ \"kind\": \"NetworkPolicy\", ")?;
        let source = wait_broken(world, "policy.json")?;
        ensure!(source.get("state") == Some(&json!("kept")), "{source}");
        world.expect_traffic(&[(&a, there(), true), (&a, elsewhere, false)])?;

        world.agent.kill()?;
        world.agent.launch(&world.host, &[])?;
        until("the agent answers", || {
            Ok(world.agent.status(&world.host).is_ok())
        })?;
        wait_broken(world, "policy.json")?;
        world.expect_traffic(&[(&a, there(), true), (&a, elsewhere, false)])?;

        world.apply(
            "policy.json",
            &egress(
                "x",
                "p",
                &json!([to_blocks(&["203.0.113.20/32"], &json!([]))]),
            ),
        )?;
        world.expect(&[(&a, there(), false), (&a, elsewhere, true)])
    });
}

/// S96: two different objects of one name are both unreadable, and an unreadable policy
/// isolates.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn two_objects_of_one_name_close() {
    on_world(|world| {
        let a = client(world)?;
        world.apply("one.json", &allow_all())?;
        world.expect(&[(&a, there(), true)])?;
        // The same once more is no contradiction.
        world.apply("same.json", &allow_all())?;
        world.expect(&[(&a, there(), true)])?;
        world.manifests.remove("same.json")?;
        world.manifests.put(
            "two.json",
            &egress("x", "p", &json!([{ "ports": [port(PORT, "TCP")] }])),
        )?;
        until("the policy is unreadable", || {
            let status = world.agent.status(&world.host)?;
            Ok(status
                .pointer("/policies/0/state")
                .is_some_and(|state| state == "unreadable"))
        })?;
        world.expect(&[(&a, there(), false)])?;
        world.withdraw("one.json")?;
        world.expect(&[
            (&a, there(), true),
            (&a, Probe::udp(OUTSIDE[0].0, PORT), false),
        ])
    });
}

/// One rename is one change: what both versions allow is never interrupted.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_rename_is_one_change_seen_whole() {
    on_world(|world| {
        let a = client(world)?;
        let to = SocketAddr::new(OUTSIDE[1].0.into(), PORT + 1);
        let echo = Echo::udp(&world.outside.ns, to)?;
        let rule = json!([to_blocks(&["203.0.113.20/32"], &json!([]))]);
        let policies = |first: &Value, second: &Value| json!({ "apiVersion": "v1", "kind": "List", "items": [egress("x", "one", first), egress("x", "two", second)] });
        let versions = [policies(&rule, &json!([])), policies(&json!([]), &rule)];
        world.apply("policies.json", &versions[0])?;
        let loads = [
            Load::start(&a.ns, to, u64::MAX)?,
            Load::start(&a.ns, to, 20)?,
        ];
        for version in versions.iter().cycle().skip(1).take(20) {
            world.apply("policies.json", version)?;
        }
        let mut sent = 0;
        for load in loads {
            sent += load.stop()?;
        }
        ensure!(sent > 500, "only {sent} datagrams were sent");
        until("every datagram has arrived", || Ok(echo.received() == sent))
            .with_context(|| format!("{} of {sent} arrived", echo.received()))?;
        world.expect(&[(&a, there(), false)])
    });
}

/// A ConfigMap volume: files are links through `..data`, which is renamed over.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_config_map_swap_is_followed() {
    on_world(|world| {
        let a = client(world)?;
        let dir = world.manifests.dir().to_owned();
        let version = |name: &str, object: &Value| -> Result<()> {
            fs::create_dir(dir.join(name))?;
            fs::write(dir.join(name).join("policy.yaml"), object.to_string())?;
            symlink(name, dir.join("..data_tmp"))?;
            fs::rename(dir.join("..data_tmp"), dir.join("..data"))?;
            Ok(())
        };
        version("..one", &deny())?;
        symlink("..data/policy.yaml", dir.join("policy.yaml"))?;
        world.settle()?;
        world.expect(&[(&a, there(), false)])?;
        version("..two", &allow_all())?;
        fs::remove_dir_all(dir.join("..one"))?;
        world.settle()?;
        world.expect(&[(&a, there(), true)])
    });
}

/// Folders below are read, hidden files are not, and a folder moved in is a change.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn folders_below_count_and_hidden_files_do_not() {
    on_world(|world| {
        let a = client(world)?;
        let dir = world.manifests.dir().to_owned();
        fs::write(dir.join(".hidden.yaml"), deny().to_string())?;
        world.settle()?;
        world.expect(&[(&a, there(), true)])?;
        fs::create_dir_all(dir.join("deep/deeper"))?;
        fs::write(dir.join("deep/deeper/policy.yml"), deny().to_string())?;
        world.settle()?;
        world.expect(&[(&a, there(), false)])?;
        fs::rename(dir.join("deep"), dir.join(".gone"))?;
        world.settle()?;
        world.expect(&[(&a, there(), true)])
    });
}

/// S91: a policy whose selector nobody can read isolates its namespace.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn an_unreadable_policy_isolates_its_namespace() {
    on_world(|world| {
        let a = client(world)?;
        world.namespace("y", &[])?;
        let b = world.pod(PodSpec::new("y", "b"))?;
        let selector =
            json!({ "matchExpressions": [{ "key": "app", "operator": "Near", "values": ["a"] }] });
        let spec = json!({ "podSelector": selector, "policyTypes": ["Egress"], "egress": [{}] });
        world
            .manifests
            .put("policy.json", &policy("x", "p", &spec))?;
        until("the policy is seen", || {
            let status = world.agent.status(&world.host)?;
            Ok(status.pointer("/policies/0/state").is_some())
        })?;
        world.settle()?;
        world.expect(&[(&a, there(), false), (&b, there(), true)])?;
        let status = world.agent.status(&world.host)?;
        ensure!(
            status.pointer("/policies/0/state") == Some(&json!("unreadable")),
            "{status}"
        );
        let problems = status
            .get("problems")
            .and_then(Value::as_array)
            .context("no problems")?;
        ensure!(
            problems.iter().any(|problem| {
                let text = problem.to_string();
                text.contains("policy.json") && text.contains("x/p") && text.contains("podSelector")
            }),
            "{problems:?}"
        );
        Ok(())
    });
}

/// S96: another group's NetworkPolicy is not ours.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_policy_of_another_api_group_is_ignored() {
    on_world(|world| {
        let a = client(world)?;
        let mut other = deny_all("x");
        if let Some(version) = other.get_mut("apiVersion") {
            *version = json!("crd.example.org/v1");
        }
        world.apply("policy.json", &other)?;
        world.expect(&[(&a, there(), true)])
    });
}
