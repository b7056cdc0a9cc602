//! Servers that answer with what they were sent.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::NetNs;
use super::netns::report;

/// How long a server may go on after its [`Echo`] was dropped.
const TICK: Duration = Duration::from_millis(100);

/// Room for some 20,000 small datagrams, seconds of a [`super::Load`].
const BUFFER: usize = 16 << 20;

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    listener: Option<TcpListener>,
    /// Of datagrams.
    reader: Option<JoinHandle<()>>,
    port: u16,
}

impl Echo {
    /// A TCP server on `address` in `ns`; every connection gets its bytes back.
    pub fn tcp(ns: &NetNs, address: SocketAddr) -> Result<Self> {
        let listener = ns.run(|| {
            TcpListener::bind(address).with_context(|| format!("listening on {address}/TCP"))
        })?;
        let echo = Self {
            stop: Arc::default(),
            received: Arc::default(),
            listener: Some(listener.try_clone()?),
            reader: None,
            port: address.port(),
        };
        let (stop, received) = (Arc::clone(&echo.stop), Arc::clone(&echo.received));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let received = Arc::clone(&received);
                thread::spawn(move || answer(stream, &received));
            }
        });
        Ok(echo)
    }

    /// A UDP server on `address` in `ns`; every datagram goes back to its sender.
    ///
    /// Bound to one address, not to the wildcard: the answer must come from the address
    /// that was asked.
    pub fn udp(ns: &NetNs, address: SocketAddr) -> Result<Self> {
        let socket = ns.run(|| {
            UdpSocket::bind(address).with_context(|| format!("listening on {address}/UDP"))
        })?;
        socket.set_read_timeout(Some(TICK))?;
        // A reader that has to wait for a processor must not look like a cut.
        set_socket_recv_buffer_size_force(&socket, BUFFER)?;
        let mut echo = Self {
            stop: Arc::default(),
            received: Arc::default(),
            listener: None,
            reader: None,
            port: address.port(),
        };
        let (stop, received) = (Arc::clone(&echo.stop), Arc::clone(&echo.received));
        echo.reader = Some(thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    received.fetch_add(1, Ordering::Relaxed);
                    if let Some(data) = buffer.get(..length) {
                        // A peer that went away is not the server's problem.
                        drop(socket.send_to(data, peer));
                    }
                }
            }
        }));
        Ok(echo)
    }

    /// Stops it; then its address is free.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.reader.take().map(JoinHandle::join) {
            report("a server panicked");
        }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Datagrams (UDP) or reads (TCP) that arrived so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = &self.listener {
            // Wakes the thread that waits in accept.
            if let Err(error) = rustix::net::shutdown(listener, rustix::net::Shutdown::Both) {
                report(&format!("stopping a server: {error}"));
            }
        }
    }
}

fn answer(mut stream: TcpStream, received: &AtomicU64) {
    let mut buffer = vec![0; 65_536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                received.fetch_add(1, Ordering::Relaxed);
                let Some(data) = buffer.get(..length) else {
                    break;
                };
                if stream.write_all(data).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    drop(stream.shutdown(Shutdown::Both));
}

/// TCP and UDP servers on every one of `ports` of `address`.
pub(crate) fn serve(
    ns: &NetNs,
    servers: &mut Vec<Echo>,
    address: IpAddr,
    ports: &[u16],
) -> Result<()> {
    for port in ports {
        servers.push(Echo::tcp(ns, SocketAddr::new(address, *port))?);
        servers.push(Echo::udp(ns, SocketAddr::new(address, *port))?);
    }
    Ok(())
}
