//! Changes while packets flow: each packet gets the old or the new verdict, never a third (S54).
//! Over the model, every prefix of random plans is judged in `egress-core` (`plan/tests.rs`).

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use egress_tests::harness::objects::{egress, port, to_blocks};
use egress_tests::harness::{NetNs, OUTSIDE, PodSpec, on_world, until};
use egress_tests::length::{is_sample, times};
use egress_tests::parity::kernel;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use serde_json::json;

/// The kernel's own tables and programs, asked after every step of a change.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
#[expect(clippy::print_stdout, reason = "what was compared is worth reading")]
fn no_packet_sees_a_third_verdict_between_the_steps_of_a_change() -> Result<()> {
    let first = 5_000_000;
    let count = u64::from(times(100, 5_000));
    // The last of these is cut between what moves and the epoch: flows that were known stayed allowed.
    let cut = 5_000_760..5_000_767;
    let count = count + (cut.end - cut.start);
    let seeds = cut.chain(first..).take(usize::try_from(count)?);
    let report = kernel::in_own_namespaces(|node| kernel::updates(node, seeds))?;
    println!("{report}");
    let turned = |to: bool| report.turned.get(&to).copied().unwrap_or_default();
    // In a sample anything may be missing.
    ensure!(
        is_sample()
            || report.transitions == count
                && report.steps > 8 * count
                && report.packets > 200 * count
                && report.cut > count / 6
                && report.replies > 10 * count
                && turned(true) > count / 2
                && turned(false) > count / 2,
        "too tame"
    );
    Ok(())
}

const PORT: u16 = 8080;
/// Time between two pairs of datagrams.
const PACE: Duration = Duration::from_micros(150);

/// After which nothing is on its way any more: a node forwards a datagram at once, if it runs.
const SILENCE: Duration = Duration::from_secs(2);

/// Takes the datagrams that arrive, each with the number it carries, as they come: a socket that nobody
/// reads is full after a hundred thousand, and what it loses looks like a verdict.
struct Arrivals {
    reader: Option<JoinHandle<std::io::Result<Vec<u64>>>>,
    is_last: Arc<AtomicBool>,
}

impl Arrivals {
    fn new(ns: &NetNs, at: SocketAddr) -> Result<Self> {
        let socket = ns.run(|| Ok(UdpSocket::bind(at)?))?;
        set_socket_recv_buffer_size_force(&socket, 64 << 20)?;
        socket.set_read_timeout(Some(SILENCE))?;
        let is_last = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_last);
        let reader = thread::spawn(move || {
            let (mut numbers, mut bytes) = (Vec::new(), [0; 8]);
            loop {
                // What was sent before is read before the silence.
                let ends = ends.load(Ordering::Acquire);
                match socket.recv(&mut bytes) {
                    Ok(_) => numbers.push(u64::from_be_bytes(bytes)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if ends {
                            return Ok(numbers);
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        });
        let reader = Some(reader);
        Ok(Self { reader, is_last })
    }

    /// What has arrived, once nothing is on its way any more.
    fn numbers(mut self) -> Result<Vec<u64>> {
        self.is_last.store(true, Ordering::Release);
        let reader = self.reader.take().context("there is no reader")?;
        Ok(reader
            .join()
            .map_err(|_payload| anyhow!("the reader panicked"))??)
    }
}

impl Drop for Arrivals {
    /// Or the reader would keep the namespace of a test that failed.
    fn drop(&mut self) {
        self.is_last.store(true, Ordering::Release);
    }
}

/// Two policies, each allows what the other denies, swapped under traffic: of every pair of datagrams
/// to the two places exactly one arrives, but for the pair that the swap falls into.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
#[expect(clippy::print_stdout, reason = "what was compared is worth reading")]
fn a_swap_of_policies_is_seen_whole_by_packets_that_flow() {
    on_world(|world| {
        world.namespace("x", &[])?;
        let a = world.pod(PodSpec::new("x", "a"))?;
        let sides = |side: usize| {
            let blocks = if side == 0 {
                ["203.0.113.10/32", "2001:db8:113::10/128"]
            } else {
                ["203.0.113.20/32", "2001:db8:113::20/128"]
            };
            // Ports differ too, so that the swap is of several tables.
            let ports = json!([
                port(PORT, "UDP"),
                port(if side == 0 { 1 } else { 2 }, "TCP")
            ]);
            egress("x", "p", &json!([to_blocks(&blocks, &ports)]))
        };
        world.manifests.put("p.json", &sides(0))?;
        world.start_agent()?;
        let [one, other, _] = OUTSIDE.map(|(v4, v6)| {
            [IpAddr::from(v4), v6.into()].map(|address| SocketAddr::new(address, PORT))
        });
        let arrivals = |places: [SocketAddr; 2]| -> Result<Vec<Arrivals>> {
            let bind = |at: SocketAddr| Arrivals::new(&world.outside.ns, at);
            places.into_iter().map(bind).collect()
        };
        let (first, second) = (arrivals(one)?, arrivals(other)?);
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let swaps = usize::try_from(times(30, 1_000))?;
        let total = thread::scope(|scope| -> Result<u64> {
            let sender = scope.spawn(|| {
                a.ns.run(|| {
                    let mut sockets = sockets()?;
                    let mut number = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        // Flows that are known, and ever new ones.
                        if number.is_multiple_of(64) {
                            sockets = self::sockets()?;
                        }
                        for (socket, (one, other)) in sockets.iter().zip(one.into_iter().zip(other))
                        {
                            socket.send_to(&number.to_be_bytes(), one)?;
                            socket.send_to(&number.to_be_bytes(), other)?;
                        }
                        number += 1;
                        sent.store(number, Ordering::Relaxed);
                        thread::sleep(PACE);
                    }
                    Ok(number)
                })
            });
            let mut swap = || -> Result<()> {
                for round in 1..=swaps {
                    let before = sent.load(Ordering::Relaxed);
                    until("some pairs were sent", || {
                        Ok(sent.load(Ordering::Relaxed) > before + 50 || sender.is_finished())
                    })?;
                    world.manifests.put("p.json", &sides(round % 2))?;
                    world.settle()?;
                }
                Ok(())
            };
            let swapped = swap();
            stop.store(true, Ordering::Relaxed);
            let sent = sender
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the sender panicked")))?;
            swapped.map(|()| sent)
        })?;
        for (family, (first, second)) in ["IPv4", "IPv6"].iter().zip(first.into_iter().zip(second))
        {
            let length = usize::try_from(total)?;
            let mut seen = vec![(false, false); length];
            for number in first.numbers()? {
                seen.get_mut(usize::try_from(number)?)
                    .context("a number")?
                    .0 = true;
            }
            for number in second.numbers()? {
                seen.get_mut(usize::try_from(number)?)
                    .context("a number")?
                    .1 = true;
            }
            let count = |pair| seen.iter().filter(|seen| **seen == pair).count();
            let (both, none) = (count((true, true)), count((false, false)));
            let mixed = both + none;
            let turns = seen
                .windows(2)
                .filter(|pair| matches!(pair, [was, is] if was != is))
                .count();
            println!(
                "{family}: {total} pairs, {swaps} swaps, {turns} turns; across a swap {both} pairs of which both arrived, {none} of which none"
            );
            ensure!(
                mixed <= swaps && turns >= swaps && turns <= 2 * swaps,
                "{family}: of {total} pairs {mixed} had a mixed verdict and {turns} turned, in {swaps} swaps"
            );
        }
        Ok(())
    });
}

/// A socket of each family.
fn sockets() -> Result<[UdpSocket; 2]> {
    Ok([UdpSocket::bind("0.0.0.0:0")?, UdpSocket::bind("[::]:0")?])
}
