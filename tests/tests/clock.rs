//! The machine's clock is set while the agent enforces. Only `cargo xtask vm` runs this: its machines have
//! a clock of their own, which nobody else goes by.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use egress_tests::harness::objects::{egress, port, to_blocks};
use egress_tests::harness::{
    Echo, OUTSIDE, Outcome, Pod, PodSpec, Probe, Traffic, World, on_world,
};
use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, Timespec, clock_settime};
use serde_json::{Value, json};

const PORT: u16 = 8080;

/// What `cargo xtask vm` writes on its kernels' command line.
const MARK: &str = "egress.vm";

/// A day, and years: a bad battery, a first answer of a time server.
const JUMPS: [SignedDuration; 3] = [
    SignedDuration::from_hours(24),
    SignedDuration::from_hours(10 * 365 * 24),
    SignedDuration::from_hours(-15 * 365 * 24),
];

/// Sets the wall clock, and back when dropped.
struct Jump {
    by: SignedDuration,
}

impl Jump {
    fn new(by: SignedDuration) -> Result<Self> {
        let line = fs::read_to_string("/proc/cmdline")?;
        ensure!(
            line.split_whitespace().any(|word| word == MARK),
            "sets the clock: `cargo xtask vm` has machines for that"
        );
        step(by)?;
        Ok(Self { by })
    }
}

impl Drop for Jump {
    fn drop(&mut self) {
        if let Err(error) = step(-self.by) {
            egress_tests::harness::report(&format!("setting the clock back: {error:#}"));
        }
    }
}

fn step(by: SignedDuration) -> Result<()> {
    let then = Timestamp::now().checked_add(by)?;
    clock_settime(
        ClockId::Realtime,
        Timespec {
            tv_sec: then.as_second(),
            tv_nsec: then.subsec_nanosecond().into(),
        },
    )
    .context("setting the clock")
}

/// What [`Traffic`] goes by, and one of two blocks.
fn policy(side: usize) -> Value {
    let block = OUTSIDE
        .get(side * 2)
        .map_or(String::new(), |(v4, _)| format!("{v4}/32"));
    let always = json!({ "ports": [port(Traffic::ALLOWED, "UDP")] });
    let rule = to_blocks(&[&block], &json!([port(PORT, "TCP")]));
    egress("x", "p", &json!([always, rule]))
}

fn expect(world: &World, pod: &Pod, side: usize) -> Result<()> {
    world.expect(&[
        (pod, Probe::tcp(OUTSIDE[0].0, PORT), side == 0),
        (pod, Probe::tcp(OUTSIDE[2].0, PORT), side == 1),
    ])
}

/// Flows live by the time since boot, and so do all waits: a day later, years later and years earlier
/// nothing leaks, nothing is cut, changes and restarts are followed; only records tell the new time.
#[test]
#[ignore = "needs a machine of its own: sets the clock"]
fn a_clock_that_jumps_changes_nothing_but_the_time_in_records() {
    on_world(|world| {
        world.outside.serve(&[PORT])?;
        world.namespace("x", &[])?;
        let a = world.pod(PodSpec::new("x", "a"))?;
        for address in [IpAddr::from(OUTSIDE[1].0), OUTSIDE[1].1.into()] {
            let to = SocketAddr::new(address, Traffic::DENIED);
            let echo = Echo::udp(&world.outside.ns, to)?;
            let control = Probe::Udp(to).send(&a.ns, true)?;
            ensure!(control == Outcome::Answered, "control: {control:?}");
            echo.stop();
        }
        world.manifests.put("p.json", &policy(0))?;
        world.start_agent()?;
        let traffic = Traffic::start(world, &a)?;
        for (round, by) in JUMPS.into_iter().enumerate() {
            let jump = Jump::new(by)?;
            let side = (round + 1) % 2;
            // What is enforced goes on, then a change is followed, then a new agent adopts it.
            expect(world, &a, 1 - side)?;
            world.apply("p.json", &policy(side))?;
            expect(world, &a, side)?;
            world.agent.kill()?;
            world.start_agent()?;
            expect(world, &a, side)?;
            is_told_with_the_time(world)?;
            drop(jump);
            expect(world, &a, side)?;
        }
        traffic.stop()
    });
}

/// The newest drop is of now, as the clock is now.
fn is_told_with_the_time(world: &World) -> Result<()> {
    let drops = world.agent.drops(&world.host)?;
    let newest = drops.last().context("no drop is told of")?;
    let time = newest
        .get("time")
        .and_then(Value::as_str)
        .context("no time")?;
    let age = Timestamp::now().duration_since(time.parse()?);
    ensure!(
        age.abs() < SignedDuration::from_mins(10),
        "{time} is {age} ago"
    );
    Ok(())
}
