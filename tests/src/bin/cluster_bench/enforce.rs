//! From the request that applies a policy to the first packet that it stops.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use egress_tests::cluster::{Cluster, Namespace, Pod, PodSpec};
use egress_tests::harness::objects::deny_all;
use egress_tests::harness::until;

/// Where it is measured.
pub(crate) const NODE: &str = "node-0";

/// Policies that are applied, one after the other.
pub(crate) const ROUNDS: usize = 100;

const PORT: u16 = 8080;

/// Between two datagrams, and so how exact it is.
const PACE: Duration = Duration::from_micros(500);

/// Without an answer for so long, none will come.
const SILENCE: Duration = Duration::from_millis(250);

/// Datagrams that are answered as long as no policy stops them.
struct Pulse {
    /// When each was sent, by its number.
    sent: Mutex<Vec<Instant>>,
    /// One more than the number of the last that was answered.
    answered: AtomicU64,
    stop: AtomicBool,
}

/// Two pods of a namespace of their own, one of which asks the other.
pub(crate) struct Pair<'a> {
    ns: Namespace<'a>,
    socket: UdpSocket,
    _pods: [Pod; 2],
}

impl<'a> Pair<'a> {
    pub(crate) fn start(cluster: &'a Cluster) -> Result<Self> {
        let ns = cluster.namespace("enforce", &[])?;
        let [client, mut server] = ns.pods([
            PodSpec::new("client").node(NODE),
            PodSpec::new("server").node(NODE),
        ])?;
        server.serve(&[PORT])?;
        let to = SocketAddr::new(server.v4.into(), PORT);
        let socket = client.ns.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(socket)
        })?;
        Ok(Self {
            ns,
            socket,
            _pods: [client, server],
        })
    }

    /// Applies a policy and takes it away again, [`ROUNDS`] times.
    pub(crate) fn measure(&self) -> Result<Vec<Duration>> {
        let Self { ns, socket, _pods } = self;
        let pulse = Pulse {
            sent: Mutex::default(),
            answered: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            scope.spawn(|| pulse.send(socket));
            scope.spawn(|| pulse.listen(socket));
            let times = (0..ROUNDS)
                .map(|_| {
                    let policy = deny_all(ns.name());
                    pulse.until_answered()?;
                    let begun = Instant::now();
                    ns.apply(&policy)?;
                    let first = pulse.first_unanswered(begun)?;
                    ns.delete(&policy)?;
                    Ok(first.saturating_duration_since(begun))
                })
                .collect();
            pulse.stop.store(true, Ordering::Relaxed);
            times
        })
    }
}

impl Pulse {
    fn send(&self, socket: &UdpSocket) {
        let mut number = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            self.sent
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(now);
            // One that is refused is one that is not answered.
            drop(socket.send(&number.to_be_bytes()));
            number += 1;
            thread::sleep(PACE);
        }
    }

    fn listen(&self, socket: &UdpSocket) {
        let mut number = [0; 8];
        while !self.stop.load(Ordering::Relaxed) {
            if socket.recv(&mut number).is_ok_and(|length| length == 8) {
                let next = u64::from_be_bytes(number) + 1;
                self.answered.fetch_max(next, Ordering::Relaxed);
            }
        }
    }

    fn until_answered(&self) -> Result<()> {
        let before = self.answered.load(Ordering::Relaxed);
        until("datagrams are answered", || {
            Ok(self.answered.load(Ordering::Relaxed) > before + 20)
        })
    }

    /// When the first of the datagrams that nobody answers any more was sent.
    fn first_unanswered(&self, begun: Instant) -> Result<Instant> {
        let mut last = (self.answered.load(Ordering::Relaxed), Instant::now());
        while last.1.elapsed() < SILENCE {
            ensure!(begun.elapsed() < Duration::from_secs(30), "never enforced");
            thread::sleep(Duration::from_millis(5));
            let now = self.answered.load(Ordering::Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let first = sent.get(usize::try_from(last.0)?);
        first.copied().context("no datagram was sent since")
    }
}
