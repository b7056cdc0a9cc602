//! What `explain` says: the objects' steps, the kernel's tables, and where the two differ.

#![expect(
    clippy::print_stdout,
    reason = "EGRESS_SHOW: to look at it, and for the documentation"
)]

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use egress_common::abi::Seat;
use egress_tests::harness::objects::{egress, policy, port, service};
use egress_tests::harness::{OUTSIDE, Pod, PodSpec, TcpExchange, World, on_world};
use serde_json::{Value, json};

const HTTP: u16 = 8080;

/// `shop/web`, which two policies isolate, and `data/db`.
fn shop(world: &mut World) -> Result<(Pod, Pod)> {
    world.namespace("shop", &[("team", "shop")])?;
    world.namespace("data", &[("team", "data")])?;
    let web = world.pod(PodSpec::new("shop", "web").label("app", "web"))?;
    let db = world.pod(
        PodSpec::new("data", "db")
            .label("app", "db")
            .port("sql", 5432, "TCP"),
    )?;
    world.outside.serve(&[HTTP])?;
    world
        .manifests
        .put("deny.json", &egress("shop", "deny", &json!([])))?;
    let rules = json!([
        {
            "to": [{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.20/32"]}}],
            "ports": [port(HTTP, "TCP")],
        },
        {
            "to": [{"namespaceSelector": {"matchLabels": {"team": "data"}}}],
            "ports": [{"port": "sql"}],
        },
    ]);
    world.manifests.put(
        "web.json",
        &policy(
            "shop",
            "web",
            &json!({
                "podSelector": {"matchLabels": {"app": "web"}},
                "policyTypes": ["Egress"],
                "egress": rules,
            }),
        ),
    )?;
    world.start_agent()?;
    Ok((web, db))
}

/// The exit code and the answer.
fn explain(world: &World, from: &Pod, to: &str) -> Result<(i32, Value)> {
    let (code, text) = ask(world, from, to, &["-o", "json"])?;
    let answer = serde_json::from_str(&text).with_context(|| text.clone())?;
    Ok((code, answer))
}

fn ask(world: &World, from: &Pod, to: &str, more: &[&str]) -> Result<(i32, String)> {
    let socket = world.agent.socket();
    let socket = socket.to_str().context("UTF-8")?;
    let from = from.reference();
    let arguments = [&["explain", &from, "--to", to, "--socket", socket], more].concat();
    let output = world.agent.cli(&world.host, &arguments)?;
    let code = output.status.code().context("no exit code")?;
    ensure!(
        code != 2,
        "explain {from} --to {to}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    if std::env::var_os("EGRESS_SHOW").is_some() {
        println!("$ egress-agent explain {from} --to {to}\n{text}");
    }
    Ok((code, text))
}

/// The value at a JSON pointer.
fn at<'v>(value: &'v Value, pointer: &str) -> Result<&'v Value> {
    value
        .pointer(pointer)
        .with_context(|| format!("no {pointer} in {value:#}"))
}

fn is(value: &Value, pointer: &str, expected: &Value) -> Result<()> {
    let found = at(value, pointer)?;
    ensure!(
        found == expected,
        "{pointer} is {found}, not {expected}: {value:#}"
    );
    Ok(())
}

/// A denial says how near each rule comes, and the kernel's tables say the same.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_denial_names_the_part_that_failed_and_the_tables_agree() {
    on_world(|world| {
        let (web, db) = shop(world)?;
        let (inside, outside) = (OUTSIDE[0].0, OUTSIDE[1].0);
        ask(world, &web, &format!("{outside}:{HTTP}"), &[])?;

        let (code, answer) = explain(world, &web, &format!("{outside}:{HTTP}"))?;
        ensure!(code == 1, "exit code {code}");
        is(&answer, "/schema", &json!("egress-agent.dev/explain/v1"))?;
        is(&answer, "/verdict", &json!("deny"))?;
        is(&answer, "/isolatedBy", &json!(["shop/deny", "shop/web"]))?;
        is(
            &answer,
            "/steps/sender/policies/1/selector",
            &json!("app=web"),
        )?;
        let rule = "/steps/destinations/0/policies/1/rules/0";
        is(
            &answer,
            &format!("{rule}/to/entries/0/failed"),
            &json!("except"),
        )?;
        is(&answer, &format!("{rule}/ports/matches"), &json!(true))?;
        is(&answer, "/live/0/lookups/0/verdict", &json!("deny"))?;
        is(
            &answer,
            "/live/0/lookups/0/prefix",
            &json!("203.0.113.20/32"),
        )?;
        ensure!(answer.get("drift").is_none(), "{answer:#}");

        let (code, answer) = explain(world, &web, &format!("{inside}:{HTTP}"))?;
        ensure!(code == 0, "exit code {code}");
        is(&answer, "/allowedBy", &json!(["shop/web"]))?;
        is(
            &answer,
            "/live/0/lookups/0/prefix",
            &json!("203.0.113.0/24"),
        )?;
        is(
            &answer,
            "/live/0/lookups/0/prefixPorts/ports",
            &json!("TCP 8080"),
        )?;

        let to_db = |number: u16| format!("data/db:{number}");
        let (code, answer) = explain(world, &web, &to_db(5433))?;
        ensure!(code == 1, "exit code {code}");
        let rule = "/steps/destinations/0/policies/1/rules/1";
        is(&answer, &format!("{rule}/to/matches"), &json!(true))?;
        is(
            &answer,
            &format!("{rule}/ports/entries/0/failed"),
            &json!("port-name-number"),
        )?;
        let (code, answer) = explain(world, &web, &to_db(5432))?;
        ensure!(code == 0, "exit code {code}");
        is(
            &answer,
            "/live/0/lookups/0/classPorts/ports",
            &json!("TCP 5432"),
        )?;
        let (code, answer) = explain(world, &db, &format!("{outside}:{HTTP}"))?;
        ensure!(code == 0, "exit code {code}");
        is(&answer, "/reason", &json!("not-isolated"))
    });
}

/// S84: a Service is shown with its endpoints, and each one's verdict.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_service_is_shown_with_its_endpoints() {
    on_world(|world| {
        let (web, _) = shop(world)?;
        world.pod(
            PodSpec::new("data", "other")
                .label("app", "db")
                .port("sql", 1, "TCP"),
        )?;
        let address: IpAddr = "10.96.0.10".parse()?;
        world.apply(
            "service.json",
            &service("data", "sql", address, 80, 5432, &[("app", "db")]),
        )?;
        ask(world, &web, "data/svc/sql:80", &[])?;
        let (code, answer) = explain(world, &web, "data/svc/sql:80")?;
        ensure!(code == 1, "exit code {code}");
        is(&answer, "/reason", &json!("frontend"))?;
        // One pod has the name at the port it receives, the other has not, in both families.
        let service = "/steps/destinations/0/service";
        is(&answer, &format!("{service}/name"), &json!("data/sql"))?;
        is(&answer, &format!("{service}/allowed"), &json!(1))?;
        is(&answer, &format!("{service}/denied"), &json!(1))?;
        is(
            &answer,
            &format!("{service}/endpoints/0/owner"),
            &json!("pod data/other"),
        )?;
        ensure!(at(&answer, "/live/0/lookups/0/frontend")?.is_u64());
        Ok(())
    });
}

/// An open flow is shown; it passes until the policy changes (S54).
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn an_open_flow_is_shown() {
    on_world(|world| {
        let (web, _) = shop(world)?;
        let server = SocketAddr::new(OUTSIDE[0].0.into(), HTTP);
        let mut open = TcpExchange::open(&web.ns, server)?;
        ensure!(open.alive()?);
        ask(world, &web, &server.to_string(), &[])?;
        let (_, answer) = explain(world, &web, &server.to_string())?;
        let flow = "/live/0/lookups/0/flows/0";
        is(&answer, &format!("{flow}/current"), &json!(true))?;
        is(
            &answer,
            &format!("{flow}/localPort"),
            &json!(open.local()?.port()),
        )?;
        world.apply(
            "deny.json",
            &egress("shop", "deny", &json!([{"ports": [port(1, "UDP")]}])),
        )?;
        let (_, answer) = explain(world, &web, &server.to_string())?;
        is(&answer, &format!("{flow}/current"), &json!(false))
    });
}

/// A table that somebody else changed shows as drift, and the verdict is what happens.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn drift_is_told_and_the_tables_decide() {
    on_world(|world| {
        let (web, _) = shop(world)?;
        let allowed = format!("{}:{HTTP}", OUTSIDE[0].0);
        let denied = format!("{}:{HTTP}", OUTSIDE[1].0);
        let map = world.agent.pins().join("maps/SEATS");
        let map = Map::from_map_data(MapData::from_pin(map)?)?;
        let mut seats: Array<_, [u8; size_of::<Seat>()]> = map.try_into()?;
        for seat in 0..seats.len() {
            seats.set(seat, [0; size_of::<Seat>()], 0)?;
        }
        ask(world, &web, &denied, &[])?;
        let (code, answer) = explain(world, &web, &denied)?;
        ensure!(
            code == 0,
            "everything passes a hook without an endpoint: {answer:#}"
        );
        is(&answer, "/reason", &json!("no-endpoint"))?;
        let drift = at(&answer, "/drift")?.to_string();
        for part in ["ENDPOINTS", "the objects say deny"] {
            ensure!(drift.contains(part), "{drift}");
        }
        let (_, answer) = explain(world, &web, &allowed)?;
        let drift = at(&answer, "/drift")?.to_string();
        ensure!(!drift.contains("the objects say"), "{drift}");
        Ok(())
    });
}

/// A name is resolved now, and all of its addresses are judged.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_dns_name_stands_for_its_addresses() {
    on_world(|world| {
        let (web, _) = shop(world)?;
        let (code, answer) = explain(world, &web, "localhost:80")?;
        ensure!(code == 1, "{answer:#}");
        let address = at(&answer, "/steps/destinations/0/address")?
            .as_str()
            .context("text")?;
        ensure!(address.parse::<IpAddr>()?.is_loopback(), "{address}");
        let socket = world.agent.socket();
        let output = world.agent.cli(
            &world.host,
            &[
                "explain",
                "shop/web",
                "--to",
                "no-such-name.invalid:80",
                "--socket",
                socket.to_str().context("UTF-8")?,
            ],
        )?;
        let complaint = String::from_utf8(output.stderr)?;
        if output.status.code() != Some(2) || !complaint.contains("NS/svc/NAME") {
            bail!("{:?} {complaint}", output.status);
        }
        Ok(())
    });
}

/// Text for people stays within 100 columns, and has no colour in a pipe.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_text_is_narrow_and_plain_in_a_pipe() {
    on_world(|world| {
        let (web, _) = shop(world)?;
        for to in [
            format!("{}:{HTTP}", OUTSIDE[1].0),
            format!("[{}]:{HTTP}", OUTSIDE[1].1),
            format!("{}/ICMP", OUTSIDE[0].0),
            "data/db:5433".to_owned(),
        ] {
            let (_, text) = ask(world, &web, &to, &[])?;
            for line in text.lines() {
                ensure!(line.chars().count() <= 100, "{line}");
                ensure!(!line.contains('\x1b'), "{line:?}");
            }
            ensure!(text.contains("KERNEL TABLES"), "{text}");
        }
        Ok(())
    });
}
