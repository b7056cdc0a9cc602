//! What other pods notice of a pod that floods.
//!
//! The noisy pod sends a million datagrams a second that no rule allows, through its veth and the real
//! agent ([`noisy`] says how). The quiet pod is isolated too, and does what its rule allows: a TCP stream
//! to the outside, then questions and answers one after the other. Noisy on one processor, quiet on
//! another; the agent runs where the scheduler puts it.
//!
//! Each round measures the quiet pod three times, one right after the other: with nothing else going on,
//! with a thread that only computes in the noisy pod's place (processors share caches, power, and often
//! a core), and with the flood. What counts is the ratios within a round, and that every frame was counted
//! as one drop.

mod noisy;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use egress_tests::harness::objects::{egress, port, to_blocks};
use egress_tests::harness::{NetNs, OUTSIDE, PodSpec, World, fence_rule};
use egress_tests::packet::{self, Ends, ethertype, proto};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::json;

use noisy::{Beside, FORBIDDEN, Noisy};

/// How long each condition lasts before it is measured, and while it is.
const WARM: Duration = Duration::from_millis(200);
const SPAN: Duration = Duration::from_secs(1);

/// Where the quiet pod may send.
const STREAM: u16 = 8080;
const QUESTIONS: u16 = 8081;

/// The quiet pod in one condition.
#[derive(Clone, Copy, Debug, Default)]
struct Quiet {
    /// Megabytes a second.
    stream: f64,
    /// Answers a second.
    answers: f64,
}

/// Measures and prints.
pub(crate) fn measure(rounds: u32) -> Result<()> {
    let [quiet_cpu, noisy_cpu] = two_processors()?;
    let mut world = World::new()?;
    world.namespace("flood", &[])?;
    let quiet = world.pod(PodSpec::new("flood", "quiet").label("role", "quiet"))?;
    let noisy = world.pod(PodSpec::new("flood", "noisy"))?;
    let (outside, _) = OUTSIDE[0];
    let allowed = to_blocks(
        &[&format!("{outside}/32")],
        &json!([port(STREAM, "TCP"), port(QUESTIONS, "TCP")]),
    );
    let policy = egress("flood", "some", &json!([allowed, fence_rule()]));
    world.manifests.put("policy.json", &policy)?;
    if let Err(error) = world.start_agent() {
        return Err(error.context(world.agent.log_tail()));
    }

    let ends = Ends::V4(noisy.v4, outside);
    let datagram = packet::udp(ends, 1_000, FORBIDDEN, b"flood");
    let packet = ends.packet(proto::UDP, datagram);
    let frame = packet::ethernet(noisy.gateway_mac(), noisy.mac(), ethertype::IPV4, &packet);
    let mut noisy = Noisy::new(&world, &noisy, frame, noisy_cpu)?;
    let [to_stream, to_questions] =
        [STREAM, QUESTIONS].map(|port| SocketAddr::new(outside.into(), port));
    serve(&world.outside.ns, to_stream, false, quiet_cpu)?;
    serve(&world.outside.ns, to_questions, true, quiet_cpu)?;

    let dropped = || -> Result<f64> {
        let metrics = world.metrics()?;
        Ok(metrics.sum("egress_dropped_packets_total", &[("reason", "no-rule")]))
    };
    let before_all = dropped()?;
    let mut sent_in_all = 0;
    let mut stream_ratios = [Vec::new(), Vec::new()];
    let mut answer_ratios = [Vec::new(), Vec::new()];
    let mut rates = Vec::new();
    for round in 0..rounds {
        let mut found = [Quiet::default(); 3];
        // The order changes, so that what drifts is not taken for an effect.
        let mut order = [Beside::Nothing, Beside::Computing, Beside::Flood];
        order.rotate_left(usize::try_from(round % 3)?);
        for beside in order {
            let ((told, rate), sent) = noisy.during(beside, || {
                thread::sleep(WARM);
                let (before, start) = (dropped()?, Instant::now());
                let told = on(quiet_cpu, || {
                    quiet.ns.run(|| {
                        Ok(Quiet {
                            stream: stream(to_stream)?,
                            answers: answers(to_questions)?,
                        })
                    })
                })?;
                let rate = (dropped()? - before) / start.elapsed().as_secs_f64();
                Ok((told, rate))
            })?;
            let place = match beside {
                Beside::Nothing => 0,
                Beside::Computing => 1,
                Beside::Flood => 2,
            };
            if beside == Beside::Flood {
                rates.push(rate);
                sent_in_all += sent;
            }
            *found.get_mut(place).context("three conditions")? = told;
        }
        let [nothing, computing, flood] = found;
        stream_ratios[0].push(flood.stream / nothing.stream);
        stream_ratios[1].push(flood.stream / computing.stream);
        answer_ratios[0].push(flood.answers / nothing.answers);
        answer_ratios[1].push(flood.answers / computing.answers);
        println!(
            "round {round}: TCP MB/s {:.0} / {:.0} / {:.0}, answers/s {:.0} / {:.0} / {:.0} (nothing / computing / flood)",
            nothing.stream,
            computing.stream,
            flood.stream,
            nothing.answers,
            computing.answers,
            flood.answers
        );
    }
    let counted = dropped()? - before_all;
    println!(
        "\nflood: {:.0} drops a second (median); {sent_in_all} frames sent, {counted} drops counted",
        median(&mut rates)
    );
    for (what, [against_nothing, against_computing]) in [
        ("TCP stream", &mut stream_ratios),
        ("answers", &mut answer_ratios),
    ] {
        println!(
            "{what}: {:.3} of what it is beside nothing, {:.3} of what it is beside a thread that computes (medians of {rounds} rounds)",
            median(against_nothing),
            median(against_computing)
        );
    }
    // A whole number of frames, far below where a float skips one.
    if format!("{counted}") != sent_in_all.to_string() {
        bail!("{sent_in_all} frames were sent, and {counted} drops counted");
    }
    Ok(())
}

/// Megabytes a second that a TCP stream carries.
fn stream(to: SocketAddr) -> Result<f64> {
    let mut connection = TcpStream::connect(to)?;
    let block = vec![0_u8; 64 << 10];
    let start = Instant::now();
    let mut megabytes = 0.0;
    while start.elapsed() < SPAN {
        connection.write_all(&block)?;
        megabytes += 65_536.0 / 1e6;
    }
    Ok(megabytes / start.elapsed().as_secs_f64())
}

/// Questions of one byte that are answered in a second, one after the other.
fn answers(to: SocketAddr) -> Result<f64> {
    let mut connection = TcpStream::connect(to)?;
    connection.set_nodelay(true)?;
    let start = Instant::now();
    let mut answered = 0.0;
    while start.elapsed() < SPAN {
        connection.write_all(b"?")?;
        connection.read_exact(&mut [0])?;
        answered += 1.0;
    }
    Ok(answered / start.elapsed().as_secs_f64())
}

/// Takes connections in a namespace, on a thread that ends with the process: reads all that comes, and
/// answers every byte where it is to.
fn serve(ns: &NetNs, address: SocketAddr, answer: bool, cpu: usize) -> Result<()> {
    let listener = ns.run(|| Ok(TcpListener::bind(address)?))?;
    thread::spawn(move || {
        on(cpu, || {
            let mut block = vec![0_u8; 64 << 10];
            loop {
                let (mut connection, _) = listener.accept()?;
                connection.set_nodelay(true)?;
                // An end or a reset: the next one.
                while let Ok(read @ 1..) = connection.read(&mut block) {
                    if answer
                        && connection
                            .write_all(block.get(..read).unwrap_or_default())
                            .is_err()
                    {
                        break;
                    }
                }
            }
        })
        .map(|never: std::convert::Infallible| match never {})
    });
    Ok(())
}

/// Runs a task with this thread on one processor; the caller's is what it was afterwards.
fn on<T>(cpu: usize, task: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).with_context(|| format!("staying on CPU {cpu}"))?;
    let done = task();
    sched_setaffinity(None, &before)?;
    done
}

/// The first two processors that this process may use.
fn two_processors() -> Result<[usize; 2]> {
    let mine = sched_getaffinity(None)?;
    let mut usable = (0..CpuSet::MAX_CPU).filter(|cpu| mine.is_set(*cpu));
    match (usable.next(), usable.next()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => bail!("the flood needs a processor of its own, and there is only one"),
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
