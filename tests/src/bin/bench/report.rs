//! The table, and the same as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::chart::{self, Bar};
use super::measure::{Cost, Packets, Path};
use super::scene::Family;

/// What the columns are.
const NOTES: &str = "
ns: processor time of a BPF_PROG_TEST_RUN, by packet. × floor: median over rounds of its multiple
of the empty program in the same round. One frame repeated: one flow, replies, \"wrong port\", pods
that are not isolated. The others: a driver makes every packet another one, and its own cost is
taken off. peer ×: aws-network-policy-agent's, Xeon/EPYC, measured on other machines.";

/// Layout of the JSON.
const SCHEMA: u32 = 1;

/// What is known so far.
pub(crate) struct Report {
    /// Where the packets were measured.
    cpu: Option<usize>,
    rounds: u32,
    only: String,
    except: Vec<String>,
    rows: Vec<(Path, Cost)>,
    facts: Vec<Fact>,
    /// What was left out, and why.
    notes: Vec<String>,
}

/// Something else that was measured.
#[derive(Debug)]
pub(crate) struct Fact {
    id: String,
    name: String,
    values: Vec<f64>,
    unit: &'static str,
    /// As a multiple of the same without enforcement, in the same rounds.
    ratio: Option<f64>,
}

impl Fact {
    fn new(id: &str, name: &str, values: Vec<f64>, unit: &'static str) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            values,
            unit,
            ratio: None,
        }
    }

    /// Something that was also measured without enforcement.
    pub(crate) fn compared(id: &str, name: &str, figure: (f64, &'static str), ratio: f64) -> Self {
        Self {
            ratio: Some(ratio),
            ..Self::new(id, name, vec![figure.0], figure.1)
        }
    }

    /// A size.
    pub(crate) fn mebibytes(id: &str, name: &str, bytes: u64) -> Self {
        let kibibytes = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        Self::new(id, name, vec![f64::from(kibibytes) / 1024.0], "MiB")
    }

    /// Times of the stages of something.
    pub(crate) fn milliseconds(id: &str, name: &str, times: &[Duration]) -> Self {
        let values = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        Self::new(id, name, values, "ms")
    }

    /// A time of less than a microsecond.
    pub(crate) fn nanoseconds(id: &str, name: &str, time: Duration) -> Self {
        Self::new(id, name, vec![time.as_secs_f64() * 1e9], "ns")
    }

    /// A part of a whole.
    pub(crate) fn percent(id: &str, name: &str, part: f64) -> Self {
        Self::new(id, name, vec![part * 100.0], "%")
    }

    /// What each of many takes.
    pub(crate) fn bytes_each(id: &str, name: &str, bytes: u64, count: u32) -> Self {
        let kibibytes = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        let each = f64::from(kibibytes) * 1024.0 / f64::from(count);
        Self::new(id, name, vec![each], "bytes")
    }
}

impl Report {
    pub(crate) fn new(rounds: u32, only: &str, except: &[String]) -> Self {
        Self {
            cpu: None,
            rounds,
            only: only.to_owned(),
            except: except.to_vec(),
            rows: Vec::new(),
            facts: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Packets are measured on this processor.
    pub(crate) const fn stays_on(&mut self, cpu: usize) {
        self.cpu = Some(cpu);
    }

    /// Whether only things whose ids begin so are asked for.
    pub(crate) fn is_only(&self, start: &str) -> bool {
        self.only.starts_with(start)
    }

    /// Says what was left out.
    pub(crate) fn note(&mut self, what: &str) {
        progress(what);
        self.notes.push(what.to_owned());
    }

    pub(crate) const fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Whether a path is asked for.
    pub(crate) fn wants(&self, id: &str) -> bool {
        id.contains(&self.only) && !self.except.iter().any(|part| id.contains(part))
    }

    pub(crate) fn add(&mut self, path: Path, cost: Cost) {
        progress(&format!("{:>6.1} × floor  {}", cost.ratio, path.name));
        self.rows.push((path, cost));
    }

    pub(crate) fn add_fact(&mut self, fact: Fact) {
        progress(&format!("{}: {}", fact.name, fact.shown()));
        self.facts.push(fact);
    }

    /// Two facts of the same: the median, and what one in a hundred exceeds.
    pub(crate) fn add_distribution(&mut self, id: &str, name: &str, mut times: Vec<Duration>) {
        times.sort_unstable();
        for hundredths in [50, 99] {
            if let Some(time) = times.get(times.len() * hundredths / 100) {
                self.add_fact(Fact::milliseconds(
                    &format!("{id}-p{hundredths}"),
                    &format!("{name}, p{hundredths} of {}", times.len()),
                    &[*time],
                ));
            }
        }
    }

    /// The table. `before` are the multiples of an earlier run by path.
    pub(crate) fn text(&self, before: &BTreeMap<String, f64>) -> String {
        let earlier = if before.is_empty() { "" } else { "before ×" };
        let mut lines = vec![format!(
            "\n{}, Linux {}{}",
            processor(),
            rustix::system::uname().release().to_string_lossy(),
            self.cpu.map_or_else(String::new, |cpu| {
                format!(", packets on CPU {cpu}, {} rounds", self.rounds)
            }),
        )];
        if !self.rows.is_empty() {
            lines.extend(self.packets(before, earlier));
        }
        lines.extend(self.facts.iter().map(|fact| {
            let earlier = before
                .get(&fact.id)
                .map(|value| format!("  (before {value:.1})"));
            format!(
                "{:<54} {}{}",
                fact.name,
                fact.shown(),
                earlier.unwrap_or_default()
            )
        }));
        lines.extend(self.notes.iter().cloned());
        lines.push(NOTES.to_owned());
        lines.join("\n")
    }

    fn packets(&self, before: &BTreeMap<String, f64>, earlier: &str) -> Vec<String> {
        let mut lines = vec![
            row([
                "a packet",
                "ns",
                "× floor",
                "middle half",
                "peer ×",
                earlier,
            ]),
            row([
                "empty program (the floor)",
                &format!("{:.1}", self.floor()),
                "1.0",
                "",
                "",
                "",
            ]),
        ];
        lines.extend(self.rows.iter().map(|(path, cost)| {
            row([
                &path.name,
                &format!("{:.1}", cost.nanoseconds),
                &format!("{:.1}", cost.ratio),
                &format!("{:.1}–{:.1}", cost.low, cost.high),
                &peers(path.peer),
                &before
                    .get(&path.id)
                    .map(|ratio| format!("{ratio:.1}"))
                    .unwrap_or_default(),
            ])
        }));
        lines.push(String::new());
        lines
    }

    /// Mean over the paths of the empty program's cost, in nanoseconds.
    fn floor(&self) -> f64 {
        let sum: f64 = self.rows.iter().map(|(_, cost)| cost.floor).sum();
        sum / f64::from(u32::try_from(self.rows.len()).unwrap_or(u32::MAX))
    }

    /// Writes `bench/latest.json` below cargo's target folder, and where packets were measured a chart
    /// beside it.
    pub(crate) fn write(&self) -> Result<Vec<PathBuf>> {
        let program = std::env::current_exe()?;
        let target = program
            .parent()
            .and_then(FilePath::parent)
            .context("the bench is not in a target folder")?;
        let folder = target.join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let text = serde_json::to_string_pretty(&self.json())?;
        let mut files = vec![("latest.json", text + "\n")];
        if !self.rows.is_empty() {
            files.push(("latest.svg", chart::draw(&self.bars(), &processor())));
        }
        // The bench is root, but the folder may be somebody's, who must be able to remove it.
        let owner = fs::metadata(target)?;
        chown(&folder, Some(owner.uid()), Some(owner.gid()))?;
        let mut written = Vec::new();
        for (name, text) in files {
            let file = folder.join(name);
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
            chown(&file, Some(owner.uid()), Some(owner.gid()))?;
            written.push(file);
        }
        Ok(written)
    }

    /// The paths of IPv4, with what the peer was measured at where it was.
    fn bars(&self) -> Vec<Bar> {
        let rows = self
            .rows
            .iter()
            .filter(|(path, _)| path.family == Family::V4);
        rows.map(|(path, cost)| Bar {
            name: path.name.trim_end_matches(", IPv4").to_owned(),
            ratio: cost.ratio,
            peer: path.peer.into_iter().flatten().reduce(f64::min),
        })
        .collect()
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(path, cost)| {
                json!({
                    "id": path.id,
                    "name": path.name,
                    "packets": match path.packets {
                        Packets::Same => "same",
                        Packets::Varied(_) => "varied",
                    },
                    "ns": cost.nanoseconds,
                    "floorNs": cost.floor,
                    "ratio": cost.ratio,
                    "ratioLow": cost.low,
                    "ratioHigh": cost.high,
                })
            })
            .collect();
        let facts: Vec<Value> = self
            .facts
            .iter()
            .map(|fact| {
                json!({"id": fact.id, "name": fact.name, "values": fact.values, "unit": fact.unit,
                    "ratio": fact.ratio})
            })
            .collect();
        json!({
            "schema": SCHEMA,
            "time": jiff::Timestamp::now().to_string(),
            "kernel": rustix::system::uname().release().to_string_lossy(),
            "processor": processor(),
            "rounds": self.rounds,
            "paths": rows,
            "facts": facts,
            "notes": self.notes,
        })
    }
}

impl Fact {
    fn shown(&self) -> String {
        let values: Vec<String> = self
            .values
            .iter()
            .map(|value| match value {
                value if *value < 100.0 => format!("{value:.1}"),
                value => format!("{value:.0}"),
            })
            .collect();
        let ratio = self.ratio.map(|ratio| format!("  ({ratio:.2} of none)"));
        format!(
            "{} {}{}",
            values.join(" + "),
            self.unit,
            ratio.unwrap_or_default()
        )
    }
}

/// The multiples of an earlier run by path, and its other figures.
pub(crate) fn read(file: &FilePath) -> Result<BTreeMap<String, f64>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    parse(&text).with_context(|| format!("{} is no JSON of this bench", file.display()))
}

fn parse(text: &str) -> Result<BTreeMap<String, f64>> {
    let value: Value = serde_json::from_str(text)?;
    let list = |name: &str| value.get(name).and_then(Value::as_array);
    let id = |of: &Value| -> Result<String> {
        let id = of.get("id").and_then(Value::as_str);
        Ok(id.context("something without an id")?.to_owned())
    };
    let mut known = BTreeMap::new();
    for path in list("paths").context("no paths")? {
        let ratio = path.get("ratio").and_then(Value::as_f64);
        known.insert(id(path)?, ratio.context("a path without a ratio")?);
    }
    for fact in list("facts").context("no facts")? {
        if let Some(figure) = fact.pointer("/values/0").and_then(Value::as_f64) {
            known.insert(id(fact)?, figure);
        }
    }
    Ok(known)
}

/// A line of the table, in at most 100 columns.
fn row(cells: [&str; 6]) -> String {
    let [name, ns, ratio, spread, peer, before] = cells;
    let row = format!("{name:<52}{ns:>7}{ratio:>8}{spread:>12}{peer:>11}{before:>9}");
    row.trim_end().to_owned()
}

fn peers(multiples: [Option<f64>; 2]) -> String {
    if multiples == [None, None] {
        return String::new();
    }
    let [xeon, epyc] = multiples.map(|m| match m {
        None => "–".to_owned(),
        Some(m) if m < 20.0 => format!("{m:.1}"),
        Some(m) => format!("{m:.0}"),
    });
    format!("{xeon}/{epyc}")
}

/// The CPU's name, or the architecture's where it has none.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or(std::env::consts::ARCH, |(_, name)| name)
        .to_owned()
}

#[expect(clippy::print_stderr, reason = "so that nobody waits in the dark")]
fn progress(what: &str) {
    eprintln!("{what}");
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::measure::Verdict;
    use super::super::rig::Program;
    use super::super::scene::Family;
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(3, "", &[]);
        report.rows.push((
            Path {
                id: "1m-all-v6".to_owned(),
                name: "new flow, 1M CIDRs, 5k ports, 65k destinations, IPv6".to_owned(),
                peer: [Some(12.6), Some(8.0)],
                family: Family::V6,
                program: Program::FromPod,
                frame: Vec::new(),
                packets: Packets::Same,
                verdict: Verdict::Pass,
            },
            Cost {
                nanoseconds: 1234.5,
                floor: 30.0,
                ratio: 41.25,
                low: 40.0,
                high: 102.0,
            },
        ));
        report
    }

    #[test]
    fn what_is_written_can_be_compared_with() {
        let before = parse(&report().json().to_string()).unwrap();
        assert_eq!(before, BTreeMap::from([("1m-all-v6".to_owned(), 41.25)]));
        assert!(report().text(&before).contains("41.2"));
    }

    #[test]
    fn a_line_is_at_most_a_hundred_columns_wide() {
        let before = BTreeMap::from([("1m-all-v6".to_owned(), 141.25)]);
        for line in report().text(&before).lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }

    #[test]
    fn json_of_something_else_is_refused() {
        for text in ["{}", "[]", r#"{"paths": [{"id": "x"}]}"#, "no"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
