//! What `status` tells first.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use egress_tests::harness::objects::{egress, service};
use egress_tests::harness::{PodSpec, World, on_world};
use serde_json::{Value, json};

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

/// A Service that is denied for one of its endpoints is a problem with its name; drift is a warning,
/// looked for in text and where it is asked for.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn problems_and_warnings_come_first_and_name_what_they_are_about() {
    on_world(|world| {
        world.namespace("x", &[])?;
        world.pod(PodSpec::new("x", "web").label("app", "web"))?;
        let one = world.pod(PodSpec::new("x", "one").label("app", "db"))?;
        world.pod(PodSpec::new("x", "two").label("app", "db"))?;
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
        for part in ["Service x/db", "10.96.0.10 port 80 is denied to x/"] {
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
        let kinds = |text: &str| -> Result<Vec<Value>> {
            let status: Value = serde_json::from_str(text)?;
            let warnings = status.get("warnings").and_then(Value::as_array);
            let warnings = warnings.context("no warnings")?.clone();
            Ok(warnings
                .iter()
                .filter_map(|w| w.get("kind").cloned())
                .collect())
        };
        ensure!(!kinds(&status(world, &["-o", "json"])?)?.contains(&json!("drift")));
        let surveyed = status(world, &["-o", "json", "--survey"])?;
        ensure!(kinds(&surveyed)?.contains(&json!("drift")), "{surveyed}");
        let text = status(world, &[])?;
        ensure!(
            text.contains("FRONTENDS in the kernel is not what"),
            "{text}"
        );
        Ok(())
    });
}
