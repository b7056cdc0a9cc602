//! Traffic as an application would send it, and whether it was answered.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::iter;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};

use super::NetNs;
use crate::packet;

/// How long an answer that must come may take: several retransmissions, so that neither a frame
/// that was lost for another reason nor a machine that is elsewhere fails a test.
const ANSWER: Duration = Duration::from_secs(10);

/// Between two tries of what nobody retransmits, as a resolver has it.
const AGAIN: Duration = Duration::from_secs(1);

/// How long an open connection may take to go on after a cut. TCP doubles its retransmission timer
/// with each try, so that it goes on after another time as long as the cut at the latest.
const RESUMED: Duration = Duration::from_mins(1);

/// How long a probe that must stay silent is listened for: 100 times what an answer
/// takes between namespaces.
const SILENCE: Duration = Duration::from_millis(300);

/// One question to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection, and one exchange on it.
    Tcp(SocketAddr),
    /// A UDP datagram to an echo server.
    Udp(SocketAddr),
    /// An ICMP or `ICMPv6` echo request.
    Ping(IpAddr),
}

/// What became of a [`Probe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered by the server.
    Answered,
    /// Nothing came back.
    Silent,
    /// Something other than an answer came back.
    Failed(String),
}

impl Probe {
    /// TCP to an address and port.
    pub fn tcp(address: impl Into<IpAddr>, port: u16) -> Self {
        Self::Tcp(SocketAddr::new(address.into(), port))
    }

    /// UDP to an address and port.
    pub fn udp(address: impl Into<IpAddr>, port: u16) -> Self {
        Self::Udp(SocketAddr::new(address.into(), port))
    }

    /// An echo request.
    pub fn ping(address: impl Into<IpAddr>) -> Self {
        Self::Ping(address.into())
    }

    /// Sends it from `ns`. `expect_answer` only chooses how long to wait.
    pub fn send(self, ns: &NetNs, expect_answer: bool) -> Result<Outcome> {
        let patience = if expect_answer { ANSWER } else { SILENCE };
        ns.run(|| match self {
            Self::Tcp(to) => tcp(to, patience),
            Self::Udp(to) => udp(to, patience),
            Self::Ping(to) => ping(to, patience),
        })
    }

    /// As `egress-agent check --to` wants it.
    pub fn as_query(self) -> String {
        match self {
            Self::Tcp(to) => format!("{to}/TCP"),
            Self::Udp(to) => format!("{to}/UDP"),
            Self::Ping(to) => format!("{to}/ICMP"),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(to) => write!(f, "{to}/TCP"),
            Self::Udp(to) => write!(f, "{to}/UDP"),
            Self::Ping(to) => write!(f, "{to} ping"),
        }
    }
}

/// A question, who asks it from where, and whether it must be answered.
pub(crate) type Question<'a> = (&'a str, &'a NetNs, Probe, bool);

/// Sends every probe at once; a sentence for each whose outcome is wrong.
pub(crate) fn wrong(questions: &[Question<'_>]) -> Vec<String> {
    thread::scope(|scope| {
        let running: Vec<_> = questions
            .iter()
            .map(|(who, ns, probe, open)| {
                scope.spawn(move || match probe.send(ns, *open) {
                    Ok(Outcome::Answered) if *open => None,
                    Ok(Outcome::Silent) if !*open => None,
                    other => Some(format!(
                        "{who} to {probe}: expected {}, got {other:?}",
                        if *open { "an answer" } else { "silence" }
                    )),
                })
            })
            .collect();
        running
            .into_iter()
            .filter_map(|case| {
                case.join()
                    .unwrap_or_else(|_| Some("a probe panicked".to_owned()))
            })
            .collect()
    })
}

fn tcp(to: SocketAddr, patience: Duration) -> Result<Outcome> {
    let mut stream = match TcpStream::connect_timeout(&to, patience) {
        Ok(stream) => stream,
        Err(error) if quiet(error.kind()) => return Ok(Outcome::Silent),
        Err(error) => return Ok(Outcome::Failed(error.to_string())),
    };
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut answer = [0; 4];
    if let Err(error) = stream
        .write_all(b"ping")
        .and_then(|()| stream.read_exact(&mut answer))
    {
        return Ok(Outcome::Failed(format!("connected, then: {error}")));
    }
    Ok(Outcome::Answered)
}

fn udp(to: SocketAddr, patience: Duration) -> Result<Outcome> {
    let socket = UdpSocket::bind(any_address(to))?;
    socket.connect(to)?;
    let mut answer = [0; 16];
    for patience in tries(patience) {
        socket.set_read_timeout(Some(patience))?;
        match socket.send(b"ping").and_then(|_| socket.recv(&mut answer)) {
            Ok(_) => return Ok(Outcome::Answered),
            Err(error) if quiet(error.kind()) => {}
            Err(error) => return Ok(Outcome::Failed(error.to_string())),
        }
    }
    Ok(Outcome::Silent)
}

/// How long each try may take.
fn tries(patience: Duration) -> impl Iterator<Item = Duration> {
    let more = patience.saturating_sub(AGAIN).as_secs() / AGAIN.as_secs();
    iter::once(patience.min(AGAIN)).chain((0..more).map(|_| AGAIN))
}

fn ping(to: IpAddr, patience: Duration) -> Result<Outcome> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let socket = rustix::net::socket(family, SocketType::RAW, Some(protocol))
        .context("opening a raw ICMP socket")?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(20)))?;
    let token = packet::token();
    let request = packet::icmp_echo_request(to.is_ipv6(), 1, 1, &token);
    for patience in tries(patience) {
        rustix::net::sendto(
            &socket,
            &request,
            SendFlags::empty(),
            &SocketAddr::new(to, 0),
        )?;
        if is_answered(&socket, to, &token, patience) {
            return Ok(Outcome::Answered);
        }
    }
    Ok(Outcome::Silent)
}

/// Whether the echo of what carries `token` comes.
fn is_answered(socket: &OwnedFd, to: IpAddr, token: &[u8], patience: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < patience {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
        let Ok(((received, _), _, from)) =
            rustix::net::recvfrom(socket, &mut buffer, RecvFlags::empty())
        else {
            continue;
        };
        // Our own request comes back from our own address only when it is delivered
        // locally; the type tells it from the answer.
        let answer = packet::is_echo_reply(to.is_ipv6(), received) && contains(received, token);
        let from = from.and_then(|any| SocketAddr::try_from(any).ok());
        if answer && from.is_some_and(|from| from.ip() == to) {
            return true;
        }
    }
    false
}

/// Whether `needle` occurs in `hay`.
pub(super) fn contains(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|window| window == needle)
}

fn any_address(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// The kinds of error that mean "nothing came back".
fn quiet(kind: ErrorKind) -> bool {
    kind == ErrorKind::TimedOut || kind == ErrorKind::WouldBlock
}

/// A UDP exchange that goes on: same ports, many datagrams.
#[derive(Debug)]
pub struct UdpExchange {
    socket: UdpSocket,
    sent: u32,
}

impl UdpExchange {
    /// Opens a socket in `ns` towards an echo server.
    pub fn open(ns: &NetNs, to: SocketAddr) -> Result<Self> {
        let socket = ns.run(|| {
            let socket = UdpSocket::bind(any_address(to))?;
            socket.connect(to)?;
            Ok(socket)
        })?;
        Ok(Self { socket, sent: 0 })
    }

    /// Sends the next datagram and waits for exactly its echo.
    pub fn alive(&mut self) -> Result<bool> {
        self.ask(ANSWER)
    }

    /// Sends the next datagram and sees that no echo comes.
    pub fn cut(&mut self) -> Result<bool> {
        Ok(!self.ask(SILENCE)?)
    }

    /// Sends a datagram and does not wait.
    pub fn send(&mut self) -> Result<()> {
        self.sent = self.sent.wrapping_add(1);
        match self.socket.send(&self.sent.to_be_bytes()) {
            Ok(_) => Ok(()),
            // An ICMP error of an earlier datagram; this one was not sent.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The local address.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    fn ask(&mut self, patience: Duration) -> Result<bool> {
        self.send()?;
        let start = Instant::now();
        let mut answer = [0; 16];
        while let Some(left) = patience
            .checked_sub(start.elapsed())
            .filter(|left| !left.is_zero())
        {
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut answer) {
                Ok(_) if answer.starts_with(&self.sent.to_be_bytes()) => return Ok(true),
                Ok(_) => {}
                Err(error) if quiet(error.kind()) => break,
                Err(error) => bail!("receiving a datagram: {error}"),
            }
        }
        Ok(false)
    }
}

/// A TCP connection that stays open over policy changes.
#[derive(Debug)]
pub struct TcpExchange {
    stream: TcpStream,
    sent: u32,
}

impl TcpExchange {
    /// Connects from `ns` to an echo server.
    pub fn open(ns: &NetNs, to: SocketAddr) -> Result<Self> {
        let stream = ns.run(|| {
            TcpStream::connect_timeout(&to, ANSWER).with_context(|| format!("connecting to {to}"))
        })?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, sent: 0 })
    }

    /// The local address.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Sends four bytes and waits for them to come back. Bytes that were held up while
    /// the connection was cut come first and are read over.
    pub fn alive(&mut self) -> Result<bool> {
        self.ask(RESUMED)
    }

    /// Sends four bytes and sees that they do not come back.
    pub fn cut(&mut self) -> Result<bool> {
        Ok(!self.ask(SILENCE)?)
    }

    fn ask(&mut self, patience: Duration) -> Result<bool> {
        self.sent = self.sent.wrapping_add(1);
        self.stream.write_all(&self.sent.to_be_bytes())?;
        let start = Instant::now();
        let mut answer = [0; 4];
        while let Some(left) = patience
            .checked_sub(start.elapsed())
            .filter(|left| !left.is_zero())
        {
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read_exact(&mut answer) {
                Ok(()) if answer == self.sent.to_be_bytes() => return Ok(true),
                Ok(()) => {}
                Err(error) if quiet(error.kind()) => break,
                Err(error) => bail!("reading from an open connection: {error}"),
            }
        }
        Ok(false)
    }
}
