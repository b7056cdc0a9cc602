//! Changes while traffic flows: edits, relabels, killed agents, namespaces that come and go
//! (S18, S27, S54, S55, S65).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use egress_tests::harness::objects::{deny_all, egress, namespace, port, to_blocks};
use egress_tests::harness::{
    Echo, Load, OUTSIDE, Outcome, Pod, PodSpec, Probe, TcpExchange, UdpExchange, World, ip_batch,
    on_world, until,
};
use serde_json::{Value, json};

const PORT: u16 = 8080;
const DENIED: u16 = 9090;

/// A pod `x/a`, an outside, a running agent, nothing isolated yet.
fn client(world: &mut World) -> Result<Pod> {
    world.outside.serve(&[PORT])?;
    world.namespace("x", &[])?;
    let pod = world.pod(PodSpec::new("x", "a"))?;
    world.start_agent()?;
    Ok(pod)
}

/// Exchanges of both protocols and families with the first place outside.
fn exchanges(pod: &Pod) -> Result<(Vec<TcpExchange>, Vec<UdpExchange>)> {
    let (v4, v6) = OUTSIDE[0];
    let places = [IpAddr::from(v4), v6.into()].map(|address| SocketAddr::new(address, PORT));
    let tcp = places
        .iter()
        .map(|to| TcpExchange::open(&pod.ns, *to))
        .collect::<Result<_>>()?;
    let udp = places
        .iter()
        .map(|to| UdpExchange::open(&pod.ns, *to))
        .collect::<Result<_>>()?;
    Ok((tcp, udp))
}

fn alive(open: &mut (Vec<TcpExchange>, Vec<UdpExchange>), when: &str) -> Result<()> {
    for tcp in &mut open.0 {
        ensure!(tcp.alive()?, "{tcp:?} {when}");
    }
    for udp in &mut open.1 {
        ensure!(udp.alive()?, "{udp:?} {when}");
    }
    Ok(())
}

fn cut(open: &mut (Vec<TcpExchange>, Vec<UdpExchange>), when: &str) -> Result<()> {
    for udp in &mut open.1 {
        ensure!(udp.cut()?, "{udp:?} {when}");
    }
    for tcp in &mut open.0 {
        ensure!(tcp.cut()?, "{tcp:?} {when}");
    }
    Ok(())
}

fn to_first_place(ports: &Value) -> Value {
    to_blocks(&["203.0.113.10/32", "2001:db8:113::10/128"], ports)
}

/// S54: an edit is felt by what is open, both ways.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn editing_a_policy_cuts_and_re_admits_what_is_open() {
    on_world(|world| {
        let a = client(world)?;
        let allow = egress(
            "x",
            "p",
            &json!([to_first_place(&json!([
                port(PORT, "TCP"),
                port(PORT, "UDP")
            ]))]),
        );
        let other = egress(
            "x",
            "p",
            &json!([to_first_place(&json!([
                port(DENIED, "TCP"),
                port(DENIED, "UDP")
            ]))]),
        );
        world.apply("p.json", &allow)?;
        let mut open = exchanges(&a)?;
        alive(&mut open, "while allowed")?;
        world.apply("p.json", &other)?;
        cut(&mut open, "after the rule was edited away")?;
        world.apply("p.json", &allow)?;
        alive(&mut open, "after the rule came back")?;
        world.withdraw("p.json")?;
        alive(&mut open, "after the policy was deleted")
    });
}

/// S54: one of two policies goes, and with it what only it allowed.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn deleting_a_rule_cuts_what_it_allowed() {
    on_world(|world| {
        let a = client(world)?;
        world.apply("deny.json", &deny_all("x"))?;
        world.apply(
            "allow.json",
            &egress("x", "allow", &json!([to_first_place(&json!([]))])),
        )?;
        let mut open = exchanges(&a)?;
        alive(&mut open, "while allowed")?;
        world.withdraw("allow.json")?;
        cut(&mut open, "after the allowing policy was deleted")
    });
}

/// S54: what the pod opened before any policy isolated it is judged when one does. Answers
/// it got meanwhile must not look like exchanges that others opened.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn isolating_a_pod_cuts_what_it_had_opened() {
    on_world(|world| {
        let a = client(world)?;
        let mut open = exchanges(&a)?;
        alive(&mut open, "before the policy")?;
        world.apply("deny.json", &deny_all("x"))?;
        cut(&mut open, "after the policy")?;
        world.apply(
            "allow.json",
            &egress("x", "allow", &json!([to_first_place(&json!([]))])),
        )?;
        alive(&mut open, "after a policy that allows it")
    });
}

/// S27, S54: labels of the peer, of its namespace and of the subject.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn relabelling_cuts_and_re_admits() {
    on_world(|world| {
        let mut a = client(world)?;
        world.namespace("y", &[("team", "blue")])?;
        let mut b = world.pod(PodSpec::new("y", "b").label("app", "web"))?;
        b.serve(&[PORT])?;
        world.settle()?;
        let peer = json!({
            "namespaceSelector": { "matchLabels": { "team": "blue" } },
            "podSelector": { "matchLabels": { "app": "web" } },
        });
        world.apply("p.json", &egress("x", "p", &json!([{ "to": [peer] }])))?;
        let places =
            [IpAddr::from(b.v4), b.v6.into()].map(|address| SocketAddr::new(address, PORT));
        let mut open = (
            places
                .iter()
                .map(|to| TcpExchange::open(&a.ns, *to))
                .collect::<Result<Vec<_>>>()?,
            places
                .iter()
                .map(|to| UdpExchange::open(&a.ns, *to))
                .collect::<Result<Vec<_>>>()?,
        );
        alive(&mut open, "while the labels match")?;

        b.relabel("app", "db");
        world.apply(&b.file(), &b.manifest())?;
        cut(&mut open, "after the peer was relabelled")?;
        b.relabel("app", "web");
        world.apply(&b.file(), &b.manifest())?;
        alive(&mut open, "after the peer's label came back")?;

        world.apply("namespace-y.json", &namespace("y", &[("team", "red")]))?;
        cut(&mut open, "after the namespace was relabelled")?;
        world.apply("namespace-y.json", &namespace("y", &[("team", "blue")]))?;
        alive(&mut open, "after the namespace's label came back")?;

        let selective = json!({ "podSelector": { "matchLabels": { "quarantine": "yes" } }, "policyTypes": ["Egress"] });
        world.manifests.remove("p.json")?;
        world.apply(
            "quarantine.json",
            &egress_tests::harness::objects::policy("x", "quarantine", &selective),
        )?;
        alive(&mut open, "while the policy selects nothing")?;
        a.relabel("quarantine", "yes");
        world.apply(&a.file(), &a.manifest())?;
        cut(&mut open, "after the subject was relabelled")
    });
}

/// S55: under load, over five killed agents: nothing denied gets out, nothing allowed is lost.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_killed_agent_neither_leaks_nor_cuts() {
    on_world(|world| {
        let a = client(world)?;
        let (v4, v6) = OUTSIDE[1];
        let place = |address: IpAddr, port: u16| SocketAddr::new(address, port);
        let allowed = [place(v4.into(), PORT + 1), place(v6.into(), PORT + 1)];
        let denied = [place(v4.into(), DENIED), place(v6.into(), DENIED)];
        let serve = |to: &SocketAddr| Echo::udp(&world.outside.ns, *to);
        let open: Vec<Echo> = allowed.iter().map(serve).collect::<Result<_>>()?;
        let shut: Vec<Echo> = denied.iter().map(serve).collect::<Result<_>>()?;
        for (index, to) in denied.iter().enumerate() {
            let outcome = Probe::Udp(*to).send(&a.ns, true)?;
            ensure!(outcome == Outcome::Answered, "control {index}: {outcome:?}");
        }
        let before: Vec<u64> = shut.iter().map(Echo::received).collect();
        world.apply(
            "p.json",
            &egress("x", "p", &json!([{ "ports": [port(PORT + 1, "UDP")] }])),
        )?;

        // Some flows live over all restarts, others are new all the time.
        let loads: Vec<Load> = allowed
            .iter()
            .chain(&denied)
            .flat_map(|to| {
                [
                    Load::start(&a.ns, *to, u64::MAX),
                    Load::start(&a.ns, *to, 50),
                ]
            })
            .collect::<Result<_>>()?;
        for _ in 0..5 {
            world.agent.kill()?;
            std::thread::sleep(Duration::from_millis(100));
            world.start_agent()?;
        }
        let mut sent = loads
            .into_iter()
            .map(Load::stop)
            .collect::<Result<Vec<_>>>()?
            .into_iter();
        let mut next = || sent.next().context("a load is missing");
        for echo in &open {
            let sent = next()? + next()?;
            ensure!(sent > 500, "only {sent} datagrams were sent");
            until("every allowed datagram has arrived", || {
                Ok(echo.received() == sent)
            })
            .with_context(|| format!("{} of {sent} arrived", echo.received()))?;
        }
        for (echo, before) in shut.iter().zip(before) {
            let sent = next()? + next()?;
            ensure!(sent > 500, "only {sent} datagrams were sent");
            ensure!(
                echo.received() == before,
                "{} of {sent} leaked",
                echo.received() - before
            );
        }
        Ok(())
    });
}

/// S55: what changed while no agent ran is enforced when one comes; until then the old holds.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_restarted_agent_adopts_and_catches_up() {
    on_world(|world| {
        let a = client(world)?;
        world.apply(
            "p.json",
            &egress("x", "p", &json!([{ "ports": [port(PORT, "TCP")] }])),
        )?;
        let to = SocketAddr::new(OUTSIDE[0].0.into(), PORT);
        let mut connection = TcpExchange::open(&a.ns, to)?;
        let (tcp, udp) = (Probe::Tcp(to), Probe::Udp(to));
        world.expect(&[(&a, tcp, true), (&a, udp, false)])?;

        world.agent.kill()?;
        world.expect_traffic(&[(&a, tcp, true), (&a, udp, false)])?;
        world.manifests.put(
            "p.json",
            &egress("x", "p", &json!([{ "ports": [port(PORT, "UDP")] }])),
        )?;
        world.expect_traffic(&[(&a, tcp, true), (&a, udp, false)])?;
        ensure!(connection.alive()?, "while no agent runs");
        let late = world.pod(PodSpec::new("x", "late"))?;

        world.start_agent()?;
        world.expect(&[
            (&a, tcp, false),
            (&a, udp, true),
            (&late, tcp, false),
            (&late, udp, true),
        ])?;
        ensure!(connection.cut()?, "the new rule does not allow it");

        world.agent.kill()?;
        world.manifests.remove("p.json")?;
        world.start_agent()?;
        world.expect(&[(&a, tcp, true), (&late, udp, true)])?;
        ensure!(connection.alive()?, "after the policy was deleted");
        Ok(())
    });
}

/// SIGTERM ends the agent with 0 and leaves enforcement on.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_stopped_agent_leaves_enforcement_on() {
    on_world(|world| {
        let a = client(world)?;
        world.apply(
            "p.json",
            &egress("x", "p", &json!([to_first_place(&json!([]))])),
        )?;
        let mut open = exchanges(&a)?;
        alive(&mut open, "while the agent runs")?;
        let status = world.agent.terminate()?;
        ensure!(status.success(), "SIGTERM: {status}");
        alive(&mut open, "after SIGTERM")?;
        let (denied, _) = OUTSIDE[1];
        world.expect_traffic(&[
            (&a, Probe::tcp(denied, PORT), false),
            (&a, Probe::ping(denied), false),
        ])?;
        world.start_agent()?;
        alive(&mut open, "after the agent came back")?;
        world.expect(&[(&a, Probe::tcp(denied, PORT), false)])
    });
}

/// A second agent on the same pins is refused; the first goes on.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn two_agents_on_one_pin_root_are_refused() {
    on_world(|world| {
        let a = client(world)?;
        world.apply("deny.json", &deny_all("x"))?;
        let output = world.agent.run_second(&world.host)?;
        ensure!(!output.status.success(), "the second agent ended with 0");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            said.contains("lock") || said.contains("another"),
            "it says: {said}"
        );
        world.expect(&[(&a, Probe::tcp(OUTSIDE[0].0, PORT), false)])
    });
}

/// `cleanup` refuses while an agent runs; afterwards nothing is left of it.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn cleanup_removes_everything_and_not_under_a_running_agent() {
    on_world(|world| {
        let a = client(world)?;
        world.apply("deny.json", &deny_all("x"))?;
        let probe = Probe::tcp(OUTSIDE[0].0, PORT);
        let output = world.agent.cleanup(&world.host)?;
        ensure!(
            !output.status.success(),
            "cleanup under a running agent ended with 0"
        );
        world.expect(&[(&a, probe, false)])?;
        world.agent.terminate()?;
        let output = world.agent.cleanup(&world.host)?;
        ensure!(
            output.status.success(),
            "cleanup: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        world.expect_traffic(&[(&a, probe, true)])?;
        let left = world.agent.pin_root();
        let entries = std::fs::read_dir(&left).map_or(0, Iterator::count);
        ensure!(
            entries == 0,
            "{entries} entries are left in {}",
            left.display()
        );
        world.start_agent()?;
        world.expect(&[(&a, probe, false)])
    });
}

/// The annotated namespace appears after its pod, vanishes, and is replaced.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_namespace_that_appears_vanishes_or_is_replaced_is_followed() {
    on_world(|world| {
        let other = client(world)?;
        world.manifests.put("deny.json", &deny_all("x"))?;
        let mut late = world.stage(PodSpec::new("x", "late"))?;
        late.ns.delete()?;
        world.manifests.put(&late.file(), &late.manifest())?;
        let state = |world: &World, pod: &Pod| -> Result<String> {
            let status = world.pod_status(pod)?.unwrap_or_default();
            Ok(status
                .get("state")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned())
        };
        until("the pod waits for its namespace", || {
            Ok(state(world, &late)? == "waiting")
        })?;
        world.expect(&[(&other, Probe::tcp(OUTSIDE[0].0, PORT), false)])?;

        for round in ["appeared", "was replaced"] {
            late.ns.make_again()?;
            until("the old interface is gone", || {
                Ok(world.plug(&late).is_ok())
            })?;
            until(
                &format!("the pod whose namespace {round} is isolated"),
                || Ok(state(world, &late)? == "isolated"),
            )?;
            world.expect(&[
                (&late, Probe::tcp(OUTSIDE[0].0, PORT), false),
                (&late, Probe::udp(OUTSIDE[0].1, PORT), false),
            ])?;
            late.ns.delete()?;
            until("the pod waits again", || {
                Ok(state(world, &late)? == "waiting")
            })?;
        }
        Ok(())
    });
}

/// A pod comes back with another address: the new one is its own, the old one is not.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn another_address_is_followed() {
    on_world(|world| {
        let mut a = client(world)?;
        world.apply(
            "p.json",
            &egress("x", "p", &json!([to_first_place(&json!([]))])),
        )?;
        let (old, new) = (a.v4, std::net::Ipv4Addr::new(10, 244, 9, 9));
        let place = Probe::tcp(OUTSIDE[0].0, PORT);
        world.expect(&[(&a, place, true)])?;
        ip_batch(
            world.host.name(),
            &format!("route add {new}/32 dev {}\n", a.host_interface),
        )?;
        ip_batch(
            a.ns.name(),
            &format!("addr del {old}/32 dev eth0\naddr add {new}/32 dev eth0\nroute replace default via 169.254.1.1 dev eth0 src {new}\n"),
        )
        .or_else(|_| {
            // Deleting the last address takes its routes along.
            ip_batch(
                a.ns.name(),
                "route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 dev eth0\n",
            )
        })?;
        world.expect_traffic(&[(&a, place, false)])?;
        a.v4 = new;
        world.apply(&a.file(), &a.manifest())?;
        world.expect(&[
            (&a, place, true),
            (&a, Probe::tcp(OUTSIDE[1].0, PORT), false),
        ])
    });
}

/// A pod's manifest goes: nothing of it is enforced any longer.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_deleted_pod_is_let_go() {
    on_world(|world| {
        let a = client(world)?;
        world.apply("deny.json", &deny_all("x"))?;
        let probe = Probe::tcp(OUTSIDE[0].0, PORT);
        world.expect(&[(&a, probe, false)])?;
        world.withdraw(&a.file())?;
        world.expect_traffic(&[(&a, probe, true)])?;
        world.apply(&a.file(), &a.manifest())?;
        world.expect(&[(&a, probe, false)])
    });
}
