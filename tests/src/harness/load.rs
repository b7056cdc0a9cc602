//! Datagrams that go on while something else happens.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::NetNs;
use crate::length::is_sample;

/// Time between two datagrams: 5,000 a second, far below what a receive buffer holds
/// while its reader waits for a processor.
const PACE: Duration = Duration::from_micros(200);

/// A thread that sends datagrams until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Load {
    /// Sends from `ns` to `to`, from a new port after every `datagrams_a_flow`.
    pub fn start(ns: &NetNs, to: SocketAddr, datagrams_a_flow: u64) -> Result<Self> {
        let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        // Sockets stay in the namespace they were made in; a thread that makes them has to
        // stay too, and the namespace must be found again by name.
        let ns = ns.again()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        // Or the senders would be all that an emulated processor does.
        let pace = if is_sample() { 20 * PACE } else { PACE };
        let thread = thread::spawn(move || {
            ns.run(|| {
                let mut socket = UdpSocket::bind(any)?;
                let mut sent = 0_u64;
                while !stopped.load(Ordering::Relaxed) {
                    socket.send_to(&sent.to_be_bytes(), to)?;
                    sent += 1;
                    if sent.is_multiple_of(datagrams_a_flow) {
                        socket = UdpSocket::bind(any)?;
                    }
                    thread::sleep(pace);
                }
                Ok(sent)
            })
        });
        Ok(Self { stop, thread })
    }

    /// Stops and says how many datagrams were sent.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the sending thread panicked")))
    }
}
