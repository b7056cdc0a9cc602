//! What pods notice: throughput, latency and new connections through a pod's interface, without
//! enforcement, with the agent, and with nftables under the same policy.
//!
//! Everything is in network namespaces of the bench's own: pods, a node, an outside. The agent knows one of
//! two pods of a node, so that the other one's interface has no hook; nftables has a node of its own, for
//! connection tracking is of all packets of a namespace. The three take turns, so that what slows the
//! machine down for a while slows each. Of each figure the quartile on the better side is reported: what else
//! runs on a machine makes rounds worse, never better. All of it shares the machine's processors: client,
//! server, both ends of both interfaces, and the policy.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use egress_tests::harness::objects::{egress, port};
use egress_tests::harness::{NetNs, OUTSIDE, Pod, PodSpec, World};
use serde_json::{Value, json};

use super::report::{Fact, Report};
use super::scene::{Family, networks};

const NAMESPACE: &str = "shop";
const FILE: &str = "policy.json";
const PORT: u16 = 8_443;
/// Networks of the policy beside the one that is used.
const CIDRS: usize = 10_000;
const ROUNDS: usize = 24;
/// How long each of the three is measured in a round.
const SPAN: Duration = Duration::from_millis(200);
/// What is written at once: more than a segment, so that segmentation is left to the interface.
const CHUNK: usize = 128 << 10;
/// Sockets poll the bench's clock this often.
const PATIENCE: Duration = Duration::from_millis(200);

/// Who enforces the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Enforcer {
    Nobody,
    Agent,
    Nftables,
}

impl Enforcer {
    const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "no policy",
            Self::Agent => "egress-agent",
            Self::Nftables => "nftables",
        }
    }

    const fn id(self) -> &'static str {
        match self {
            Self::Nobody => "none",
            Self::Agent => "agent",
            Self::Nftables => "nftables",
        }
    }
}

/// One round's figures.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// Bytes a second of one stream.
    stream: f64,
    /// Microseconds of a request of one byte and its answer: half of them, and all but a hundredth, are
    /// below.
    median: f64,
    tail: f64,
    /// Connections opened, used once and closed a second.
    connections: f64,
}

impl Figures {
    /// In the order of [`ROWS`].
    const fn values(&self) -> [f64; 4] {
        [
            self.stream / 125_000.0,
            self.median,
            self.tail,
            self.connections,
        ]
    }
}

/// Id, name and unit of each figure, and whether more of it is better.
const ROWS: [(&str, &str, &str, bool); 4] = [
    ("stream", "TCP stream", "Mbit/s", true),
    ("rr-p50", "TCP request and answer, p50", "µs", false),
    ("rr-p99", "TCP request and answer, p99", "µs", false),
    ("connect", "TCP connections", "/s", true),
];

/// Measures all three. Without `nft` nftables is left out, visibly.
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    if !report.wants("node") {
        return Ok(());
    }
    let blocks: Vec<String> = networks(Family::V4, CIDRS)?
        .iter()
        .map(ToString::to_string)
        .chain([format!("{}/32", OUTSIDE[0].0)])
        .collect();
    let (agents, open, enforced) = with_agent(&blocks)?;
    let mut nodes = vec![agents];
    let mut stages = vec![(Enforcer::Nobody, open), (Enforcer::Agent, enforced)];
    if has_nft(report) {
        let (world, pod) = with_nftables(&blocks)?;
        nodes.push(world);
        stages.push((Enforcer::Nftables, pod));
    }
    let listeners = nodes
        .iter()
        .map(|world| {
            let bind = || Ok(TcpListener::bind((OUTSIDE[0].0, PORT))?);
            world.outside.ns.run(bind)
        })
        .collect::<Result<Vec<TcpListener>>>()?;

    let done = AtomicBool::new(false);
    let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); stages.len()];
    thread::scope(|scope| -> Result<()> {
        let servers: Vec<_> = listeners
            .iter()
            .map(|listener| scope.spawn(|| serve(listener, &done)))
            .collect();
        let result = (0..ROUNDS).try_for_each(|_| {
            for ((enforcer, pod), figures) in stages.iter().zip(&mut rounds) {
                let round = self::figures(pod);
                figures.push(round.with_context(|| enforcer.name())?);
            }
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        for server in servers {
            match server.join() {
                Ok(served) => served?,
                Err(_panic) => bail!("a server panicked"),
            }
        }
        result
    })?;
    refuses(&stages)?;

    for (index, (id, name, unit, more)) in ROWS.into_iter().enumerate() {
        let of = |figures: &Vec<Figures>| {
            let values = figures
                .iter()
                .filter_map(|f| f.values().get(index).copied());
            quartile(values.collect(), more)
        };
        let nobody = rounds.first().map(of).context("nothing was measured")?;
        for ((enforcer, _), figures) in stages.iter().zip(&rounds) {
            let figure = of(figures);
            report.add_fact(Fact::compared(
                &format!("node-{id}-{}", enforcer.id()),
                &format!("{name}, {}", enforcer.name()),
                (figure, unit),
                figure / nobody,
            ));
        }
    }
    Ok(())
}

fn has_nft(report: &mut Report) -> bool {
    let found = Command::new("nft")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        report.note("nftables is left out: there is no `nft` here (Debian's package nftables)");
    }
    found
}

/// A node with the agent; a pod that it does not know, and one that the policy isolates.
fn with_agent(blocks: &[String]) -> Result<(World, Pod, Pod)> {
    let mut world = World::new()?;
    world.namespace(NAMESPACE, &[])?;
    let open = world.stage(PodSpec::new(NAMESPACE, "unknown"))?;
    let enforced = world.pod(PodSpec::new(NAMESPACE, "web"))?;
    let peers: Vec<Value> = blocks
        .iter()
        .map(|block| json!({"ipBlock": {"cidr": block}}))
        .collect();
    let rules = json!([{"to": peers, "ports": [port(PORT, "TCP")]}]);
    world
        .manifests
        .put(FILE, &egress(NAMESPACE, "web", &rules))?;
    world.start_agent()?;
    Ok((world, open, enforced))
}

/// A node with nftables, and a pod that it isolates.
fn with_nftables(blocks: &[String]) -> Result<(World, Pod)> {
    let mut world = World::new()?;
    let pod = world.stage(PodSpec::new(NAMESPACE, "web"))?;
    nft(&world.host, &nft_rules(&pod, blocks)?)?;
    Ok((world, pod))
}

/// Both enforcers enforce: another port is closed to their pods, and not to the one of nobody.
fn refuses(stages: &[(Enforcer, Pod)]) -> Result<()> {
    let closed = SocketAddr::from((OUTSIDE[0].0, PORT + 1));
    for (enforcer, pod) in stages {
        let outcome = pod
            .ns
            .run(|| Ok(TcpStream::connect_timeout(&closed, Duration::from_secs(1))))?;
        // Nobody listens there, and a host that is reached says so.
        let reached = outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        ensure!(
            reached == (*enforcer == Enforcer::Nobody),
            "{}: reached {closed}: {reached}",
            enforcer.name()
        );
    }
    Ok(())
}

/// The same policy as nftables would have it: a set of intervals, and connection tracking for replies
/// and for what is established.
fn nft_rules(pod: &Pod, blocks: &[String]) -> Result<String> {
    let mut text = String::from(
        "table inet bench {\n set allowed { type ipv4_addr; flags interval; elements = { ",
    );
    write!(text, "{}", blocks.join(", "))?;
    write!(
        text,
        " }} }}\n chain forward {{ type filter hook forward priority filter; policy accept;\n  \
         ct state established,related accept\n  \
         iifname \"{interface}\" ip daddr @allowed tcp dport {PORT} accept\n  \
         iifname \"{interface}\" drop\n }}\n}}\n",
        interface = pod.host_interface
    )?;
    Ok(text)
}

fn nft(ns: &NetNs, commands: &str) -> Result<()> {
    let output = ns.run(|| {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting nft")?;
        let mut input = child.stdin.take().context("nft has no input")?;
        input.write_all(commands.as_bytes())?;
        drop(input);
        Ok(child.wait_with_output()?)
    })?;
    ensure!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn figures(pod: &Pod) -> Result<Figures> {
    let server = SocketAddr::from((OUTSIDE[0].0, PORT));
    pod.ns.run(|| {
        let stream = stream(server)?;
        let mut times = requests(server)?;
        times.sort_by(f64::total_cmp);
        let at = |hundredths: usize| {
            let index = times.len() * hundredths / 100;
            times.get(index).copied().context("no request was answered")
        };
        Ok(Figures {
            stream,
            median: at(50)?,
            tail: at(99)?,
            connections: connections(server)?,
        })
    })
}

/// What a connection is for is its first byte.
const STREAM: u8 = b's';
const REQUESTS: u8 = b'r';

/// Sends as much as goes; bytes a second, as far as the server acknowledged them.
fn stream(server: SocketAddr) -> Result<f64> {
    let mut socket = TcpStream::connect(server)?;
    socket.write_all(&[STREAM])?;
    let chunk = vec![0; CHUNK];
    let start = Instant::now();
    let mut sent = 0_u32;
    while start.elapsed() < SPAN {
        socket.write_all(&chunk)?;
        sent += 1;
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    // The server closes when it has read everything.
    socket.read_to_end(&mut Vec::new())?;
    let bytes = f64::from(sent) * f64::from(u32::try_from(CHUNK)?);
    Ok(bytes / start.elapsed().as_secs_f64())
}

/// Microseconds of each request on one connection.
fn requests(server: SocketAddr) -> Result<Vec<f64>> {
    let mut socket = TcpStream::connect(server)?;
    socket.set_nodelay(true)?;
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < SPAN {
        let asked = Instant::now();
        socket.write_all(&[REQUESTS])?;
        socket.read_exact(&mut [0])?;
        times.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

/// Connections a second, each for one request.
fn connections(server: SocketAddr) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < SPAN {
        let mut socket = TcpStream::connect(server)?;
        socket.write_all(&[REQUESTS])?;
        socket.read_exact(&mut [0])?;
        // Reset, so that no port waits for a minute.
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// Serves one connection after the other until it is done.
fn serve(listener: &TcpListener, done: &AtomicBool) -> Result<()> {
    listener.set_nonblocking(true)?;
    let mut buffer = vec![0; CHUNK];
    while !done.load(Ordering::Relaxed) {
        match listener.accept() {
            // A client that resets is done.
            Ok((socket, _)) => match answer(&socket, &mut buffer) {
                Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                    return Err(error.into());
                }
                Ok(()) | Err(_) => {}
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait_for(listener)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait_for(listener: &TcpListener) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::try_from(PATIENCE)?))?;
    Ok(())
}

fn answer(mut socket: &TcpStream, buffer: &mut [u8]) -> std::io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    let mut first = [0];
    socket.read_exact(&mut first)?;
    if first == [STREAM] {
        while socket.read(buffer)? > 0 {}
        return Ok(());
    }
    socket.write_all(&first)?;
    while socket.read(&mut first)? > 0 {
        socket.write_all(&first)?;
    }
    Ok(())
}

/// Where the better quarter of the values begins.
fn quartile(mut values: Vec<f64>, more_is_better: bool) -> f64 {
    values.sort_by(f64::total_cmp);
    if more_is_better {
        values.reverse();
    }
    values.get(values.len() / 4).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_quarter_is_on_either_side() {
        let values: Vec<f64> = (0..8).map(f64::from).collect();
        assert!((quartile(values.clone(), false) - 2.0).abs() < 0.1);
        assert!((quartile(values, true) - 5.0).abs() < 0.1);
    }
}
