//! `cargo xtask demo`: pods, policies, traffic, and what became of it.
//!
//! Everything is real: the agent's binary, its programs in this machine's kernel, packets
//! between network namespaces. Exits with 1 when anything differs from what it says should
//! happen.

#![expect(clippy::print_stdout, reason = "a demonstration is what it prints")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use egress_tests::harness::{
    Answer, OUTSIDE, Outcome, Pod, PodSpec, Probe, TcpExchange, World, binary,
};
use serde_json::Value;

const HTTPS: u16 = 443;
const POSTGRES: u16 = 5432;
const ADMIN: u16 = 8080;

/// The policies, beside this crate's sources.
const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo");

fn main() -> ExitCode {
    match demonstrate() {
        Ok(0) => {
            println!("\nEverything happened as expected.");
            ExitCode::SUCCESS
        }
        Ok(wrong) => {
            println!("\n{wrong} of the lines above differ from what should happen.");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("\nThe demonstration could not go on: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Pods and outside of the demonstration.
struct Cast {
    web: Pod,
    db: Pod,
    debug: Pod,
}

/// One line of a table: who sends what where, over IPv4 and IPv6, and what must become of it.
struct Line<'a> {
    from: &'a Pod,
    to: &'static str,
    probes: [Probe; 2],
    open: bool,
}

fn demonstrate() -> Result<usize> {
    println!("egress-agent: Kubernetes NetworkPolicy for egress, enforced in the kernel");
    println!();
    step("Agent", &binary()?.display().to_string());
    let mut world = World::new().context("making network namespaces (needs root and iproute2)")?;
    let result = play(&mut world);
    if result.is_err() {
        println!("\nThe agent's last words:\n{}", world.agent.log_tail());
    }
    result
}

fn play(world: &mut World) -> Result<usize> {
    let cast = Cast::new(world)?;
    step(
        "Stage",
        "one node, an outside, three pods; each pod has an IPv4 and an IPv6 address",
    );
    cast.introduce();

    let mut wrong = 0;
    heading("1. No agent, no policy");
    println!("Everything reaches everything: what is blocked below is the agent's doing.\n");
    wrong += table(world, &cast.lines(|_| true), false)?;

    heading("2. The agent starts and reads the policies");
    for name in ["10-namespaces.yaml", "20-default-deny.yaml", "30-web.yaml"] {
        publish(world, name, name)?;
    }
    let start = Instant::now();
    world.start_agent()?;
    step(
        "Ready",
        &format!(
            "after {} ms; every pod is enforced",
            start.elapsed().as_millis()
        ),
    );
    pods(world)?;
    show("30-web.yaml")?;
    let before = cast.lines(Way::allowed_at_first);
    wrong += table(world, &before, true)?;
    drops(world)?;
    let mut tables = vec![before];
    wrong += metrics(world, &tables)?;

    heading("3. A policy file is edited");
    let mut open = TcpExchange::open(&cast.web.ns, SocketAddr::new(cast.db.v4.into(), POSTGRES))?;
    wrong += report_connection(
        open.alive()?,
        "the web pod holds a connection to the database open",
    );
    publish(world, "30-web-edited.yaml", "30-web.yaml")?;
    show("30-web-edited.yaml")?;
    thread::sleep(Duration::from_secs(2));
    println!("Two seconds later:\n");
    let after = cast.lines(Way::allowed_after_edit);
    wrong += table(world, &after, true)?;
    wrong += report_connection(open.cut()?, "the open connection is cut, not only new ones");
    drops(world)?;
    tables.push(after);
    wrong += metrics(world, &tables)?;

    heading("4. The agent is killed");
    world.agent.kill()?;
    println!("Enforcement stays in the kernel:\n");
    wrong += table(world, &cast.lines(Way::allowed_after_edit), false)?;
    let start = Instant::now();
    world.start_agent()?;
    println!();
    step(
        "Restarted",
        &format!(
            "ready after {} ms, with the pins of the one before",
            start.elapsed().as_millis()
        ),
    );
    Ok(wrong)
}

/// The ways from pod to place that every table shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    WebToDatabase,
    WebToDatabaseAdmin,
    WebToPayments,
    WebToPaymentsTest,
    WebPingsPayments,
    DatabaseToPayments,
    DebugToDatabase,
    DebugToPayments,
}

impl Way {
    const ALL: [Self; 8] = [
        Self::WebToDatabase,
        Self::WebToDatabaseAdmin,
        Self::WebToPayments,
        Self::WebToPaymentsTest,
        Self::WebPingsPayments,
        Self::DatabaseToPayments,
        Self::DebugToDatabase,
        Self::DebugToPayments,
    ];

    /// What `demo/30-web.yaml` and `demo/20-default-deny.yaml` say.
    fn allowed_at_first(self) -> bool {
        match self {
            // No policy selects pods of the namespace tools; the database answers them.
            Self::WebToDatabase
            | Self::WebToPayments
            | Self::DebugToDatabase
            | Self::DebugToPayments => true,
            Self::WebToDatabaseAdmin
            | Self::WebToPaymentsTest
            | Self::WebPingsPayments
            | Self::DatabaseToPayments => false,
        }
    }

    /// What `demo/30-web-edited.yaml` makes of it.
    fn allowed_after_edit(self) -> bool {
        match self {
            Self::WebToDatabase | Self::WebToPayments => false,
            Self::WebToPaymentsTest => true,
            Self::WebToDatabaseAdmin
            | Self::WebPingsPayments
            | Self::DatabaseToPayments
            | Self::DebugToDatabase
            | Self::DebugToPayments => self.allowed_at_first(),
        }
    }
}

impl Cast {
    fn new(world: &mut World) -> Result<Self> {
        world.outside.serve(&[HTTPS])?;
        let web = world.pod(PodSpec::new("shop", "web").label("app", "web"))?;
        let mut db = world.pod(
            PodSpec::new("shop", "db")
                .label("app", "db")
                .port("postgres", POSTGRES, "TCP")
                .port("admin", ADMIN, "TCP"),
        )?;
        let debug = world.pod(PodSpec::new("tools", "debug"))?;
        db.serve(&[POSTGRES, ADMIN])?;
        Ok(Self { web, db, debug })
    }

    fn introduce(&self) {
        println!();
        for pod in [&self.web, &self.db, &self.debug] {
            println!("    {:<14} {:<14} {}", pod.reference(), pod.v4, pod.v6);
        }
        for ((v4, v6), name) in OUTSIDE.iter().zip(["payments", "payments-test"]) {
            println!("    {name:<14} {v4:<14} {v6}");
        }
    }

    /// Every way.
    fn lines(&self, open: impl Fn(Way) -> bool) -> Vec<Line<'_>> {
        let [payments, test, _] = OUTSIDE;
        Way::ALL
            .into_iter()
            .map(|way| {
                let (from, to, v4, v6): (_, _, IpAddr, IpAddr) = match way {
                    Way::WebToDatabase | Way::WebToDatabaseAdmin => {
                        (&self.web, "db", self.db.v4.into(), self.db.v6.into())
                    }
                    Way::WebToPayments | Way::WebPingsPayments => {
                        (&self.web, "payments", payments.0.into(), payments.1.into())
                    }
                    Way::WebToPaymentsTest => {
                        (&self.web, "payments-test", test.0.into(), test.1.into())
                    }
                    Way::DatabaseToPayments => {
                        (&self.db, "payments", payments.0.into(), payments.1.into())
                    }
                    Way::DebugToDatabase => {
                        (&self.debug, "db", self.db.v4.into(), self.db.v6.into())
                    }
                    Way::DebugToPayments => (
                        &self.debug,
                        "payments",
                        payments.0.into(),
                        payments.1.into(),
                    ),
                };
                Line {
                    from,
                    to,
                    probes: [v4, v6].map(|address| way.probe(address)),
                    open: open(way),
                }
            })
            .collect()
    }
}

impl Way {
    fn probe(self, to: IpAddr) -> Probe {
        match self {
            Self::WebToDatabase | Self::DebugToDatabase => Probe::tcp(to, POSTGRES),
            Self::WebToDatabaseAdmin => Probe::tcp(to, ADMIN),
            Self::WebPingsPayments => Probe::ping(to),
            Self::WebToPayments
            | Self::WebToPaymentsTest
            | Self::DatabaseToPayments
            | Self::DebugToPayments => Probe::tcp(to, HTTPS),
        }
    }
}

/// Sends every probe, prints what became of it and why, counts the lines that differ.
fn table(world: &World, lines: &[Line<'_>], explain: bool) -> Result<usize> {
    let answers = if explain {
        let questions: Vec<_> = lines
            .iter()
            .flat_map(|line| {
                line.probes
                    .map(|probe| (line.from.reference(), probe.as_query()))
            })
            .collect();
        world.agent.check(&questions)?
    } else {
        Vec::new()
    };
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let probes: Vec<_> = lines
            .iter()
            .flat_map(|line| {
                line.probes
                    .map(|probe| scope.spawn(move || probe.send(&line.from.ns, line.open)))
            })
            .collect();
        probes
            .into_iter()
            .map(|probe| probe.join().unwrap_or_else(|_| bail!("a probe panicked")))
            .collect::<Result<_>>()
    })?;
    row([
        "FROM",
        "TO",
        "PORT",
        "IPv4",
        "IPv6",
        if explain { "BECAUSE" } else { "" },
    ]);
    let mut wrong = 0;
    for (index, (line, outcomes)) in lines.iter().zip(outcomes.chunks(2)).enumerate() {
        let expected = if line.open { "allowed" } else { "blocked" };
        let results: Vec<&str> = outcomes.iter().map(result).collect();
        let answers = answers.iter().skip(2 * index).take(2);
        let mut text = answers.clone().next().map(because).unwrap_or_default();
        let right = results.iter().all(|result| *result == expected);
        let agrees = answers.clone().all(|answer| answer.allowed == line.open);
        if !right {
            text = format!("WRONG: should be {expected}; {outcomes:?}");
        } else if !agrees {
            text = format!("WRONG: `egress-agent check` says otherwise; {text}");
        }
        wrong += usize::from(!(right && agrees));
        let [probe, _] = line.probes;
        row([
            &line.from.reference(),
            line.to,
            &port(probe),
            results.first().unwrap_or(&""),
            results.last().unwrap_or(&""),
            &text,
        ]);
    }
    Ok(wrong)
}

fn row(cells: [&str; 6]) {
    let [from, to, port, v4, v6, because] = cells;
    let text = format!("    {from:<11} {to:<13} {port:<8} {v4:<7} {v6:<7} {because}");
    println!("{}", text.trim_end());
}

fn result(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "allowed",
        Outcome::Silent => "blocked",
        Outcome::Failed(_) => "failed",
    }
}

fn port(probe: Probe) -> String {
    match probe {
        Probe::Tcp(to) => format!("{}/TCP", to.port()),
        Probe::Udp(to) => format!("{}/UDP", to.port()),
        Probe::Ping(_) => "ping".to_owned(),
    }
}

/// The policies behind an answer, in words.
fn because(answer: &Answer) -> String {
    if answer.isolated_by.is_empty() {
        "no policy isolates the pod".to_owned()
    } else if answer.allowed {
        format!("a rule of {}", answer.allowed_by.join(", "))
    } else {
        format!("no rule of {}", answer.isolated_by.join(", "))
    }
}

/// What the agent says of its pods.
fn pods(world: &World) -> Result<()> {
    let status = world.agent.status(&world.host)?;
    println!();
    println!("    {:<14} {:<14} ISOLATED BY", "POD", "STATE");
    for pod in status
        .get("pods")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = |field| pod.get(field).and_then(Value::as_str).unwrap_or_default();
        println!(
            "    {:<14} {:<14} {}",
            text("name"),
            text("state"),
            list(pod.get("isolatedBy"))
        );
    }
    Ok(())
}

/// The last records of `egress-agent drops`, once for each pod, address and port.
fn drops(world: &World) -> Result<()> {
    println!("\nBlocked packets, as `egress-agent drops` tells them (the last five):\n");
    let mut seen: Vec<String> = Vec::new();
    for record in world.agent.drops(&world.host)?.iter().rev() {
        let text = |field| {
            record
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let port = record
            .get("port")
            .and_then(Value::as_u64)
            .filter(|port| *port != 0);
        let line = format!(
            "    {}/{} to {} {}{}: {} in {}",
            text("namespace"),
            text("pod"),
            text("destination"),
            text("protocol"),
            port.map(|port| format!(" {port}")).unwrap_or_default(),
            text("reason"),
            list(record.get("isolatedBy")),
        );
        if !seen.contains(&line) {
            seen.push(line);
        }
        if seen.len() == 5 {
            break;
        }
    }
    for line in &seen {
        println!("{line}");
    }
    if seen.is_empty() {
        println!("    none");
    }
    Ok(())
}

fn list(names: Option<&Value>) -> String {
    let names: Vec<&str> = names
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(", ")
    }
}

/// Prints the counters, and whether they hold at least the packets of the blocked lines.
fn metrics(world: &World, tables: &[Vec<Line<'_>>]) -> Result<usize> {
    println!("\nThe same on /metrics:\n");
    let metrics = world.metrics()?;
    for prefix in [
        "egress_workload_dropped_packets_total",
        "egress_allowed_packets_total",
    ] {
        for line in metrics.lines(prefix) {
            println!("    {line}");
        }
    }
    let blocked = tables.iter().flatten().filter(|line| !line.open).count() * 2;
    let counted = metrics.sum("egress_workload_dropped_packets_total", &[]);
    let enough = format!("{counted:.0}")
        .parse::<usize>()
        .is_ok_and(|counted| counted >= blocked);
    println!(
        "\n    {} at least {blocked} packets were blocked so far, {counted} are counted",
        if enough { "As expected:" } else { "WRONG:" }
    );
    Ok(usize::from(!enough))
}

fn report_connection(right: bool, what: &str) -> usize {
    println!(
        "\n    {} {what}",
        if right {
            "As expected:"
        } else {
            "WRONG: not so:"
        }
    );
    usize::from(!right)
}

/// Puts a file of the demonstration into the folder that the agent reads.
fn publish(world: &World, from: &str, to: &str) -> Result<()> {
    world.manifests.put_text(to, &read(from)?)
}

/// Prints a file of the demonstration.
fn show(name: &str) -> Result<()> {
    println!("\ntests/demo/{name}:\n");
    for line in read(name)?.lines() {
        println!("    | {line}");
    }
    println!();
    Ok(())
}

fn read(name: &str) -> Result<String> {
    let path = Path::new(FILES).join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

fn heading(text: &str) {
    println!("\n{text}\n{}", "-".repeat(text.len()));
}

fn step(what: &str, text: &str) {
    println!("{what}: {text}");
}
