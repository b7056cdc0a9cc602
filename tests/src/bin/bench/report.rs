//! The table, and the same as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::measure::{Cost, Packets, Path};

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
    cpu: usize,
    rounds: u32,
    only: String,
    rows: Vec<(Path, Cost)>,
    facts: Vec<Fact>,
}

/// Something else that was measured.
#[derive(Debug)]
pub(crate) struct Fact {
    id: String,
    name: String,
    values: Vec<f64>,
    unit: &'static str,
}

impl Fact {
    /// Times of the stages of something.
    pub(crate) fn milliseconds(id: &str, name: &str, times: &[Duration]) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            values: times.iter().map(|time| time.as_secs_f64() * 1e3).collect(),
            unit: "ms",
        }
    }

    /// What each of many takes.
    pub(crate) fn bytes_each(id: &str, name: &str, bytes: u64, count: u32) -> Self {
        let kibibytes = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            values: vec![f64::from(kibibytes) * 1024.0 / f64::from(count)],
            unit: "bytes",
        }
    }
}

impl Report {
    pub(crate) fn new(cpu: usize, rounds: u32, only: &str) -> Self {
        Self {
            cpu,
            rounds,
            only: only.to_owned(),
            rows: Vec::new(),
            facts: Vec::new(),
        }
    }

    pub(crate) const fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Whether a path is asked for.
    pub(crate) fn wants(&self, id: &str) -> bool {
        id.contains(&self.only)
    }

    pub(crate) fn add(&mut self, path: Path, cost: Cost) {
        progress(&format!("{:>6.1} × floor  {}", cost.ratio, path.name));
        self.rows.push((path, cost));
    }

    pub(crate) fn add_fact(&mut self, fact: Fact) {
        progress(&format!("{}: {}", fact.name, fact.shown()));
        self.facts.push(fact);
    }

    /// The table. `before` are the multiples of an earlier run by path.
    pub(crate) fn text(&self, before: &BTreeMap<String, f64>) -> String {
        let earlier = if before.is_empty() { "" } else { "before ×" };
        let mut lines = vec![
            format!(
                "\n{}, Linux {}, CPU {}, {} rounds",
                processor(),
                rustix::system::uname().release().to_string_lossy(),
                self.cpu,
                self.rounds
            ),
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
        lines.extend(
            self.facts
                .iter()
                .map(|fact| format!("{:<54} {}", fact.name, fact.shown())),
        );
        lines.push(NOTES.to_owned());
        lines.join("\n")
    }

    /// Mean over the paths of the empty program's cost, in nanoseconds.
    fn floor(&self) -> f64 {
        let sum: f64 = self.rows.iter().map(|(_, cost)| cost.floor).sum();
        sum / f64::from(u32::try_from(self.rows.len()).unwrap_or(u32::MAX))
    }

    /// Writes `bench/latest.json` below cargo's target folder.
    pub(crate) fn write(&self) -> Result<PathBuf> {
        let program = std::env::current_exe()?;
        let target = program
            .parent()
            .and_then(FilePath::parent)
            .context("the bench is not in a target folder")?;
        let folder = target.join("bench");
        let file = folder.join("latest.json");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let text = serde_json::to_string_pretty(&self.json())?;
        fs::write(&file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
        // The bench is root, but the folder may be somebody's, who must be able to remove it.
        let owner = fs::metadata(target)?;
        for path in [&folder, &file] {
            chown(path, Some(owner.uid()), Some(owner.gid()))?;
        }
        Ok(file)
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
            .map(|fact| json!({"id": fact.id, "name": fact.name, "values": fact.values, "unit": fact.unit}))
            .collect();
        json!({
            "schema": SCHEMA,
            "time": jiff::Timestamp::now().to_string(),
            "kernel": rustix::system::uname().release().to_string_lossy(),
            "processor": processor(),
            "rounds": self.rounds,
            "paths": rows,
            "facts": facts,
        })
    }
}

impl Fact {
    fn shown(&self) -> String {
        let values: Vec<String> = self
            .values
            .iter()
            .map(|value| format!("{value:.0}"))
            .collect();
        format!("{} {}", values.join(" + "), self.unit)
    }
}

/// The multiples of an earlier run, by path.
pub(crate) fn read(file: &FilePath) -> Result<BTreeMap<String, f64>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    parse(&text).with_context(|| format!("{} is no JSON of this bench", file.display()))
}

fn parse(text: &str) -> Result<BTreeMap<String, f64>> {
    let value: Value = serde_json::from_str(text)?;
    let paths = value.get("paths").and_then(Value::as_array);
    paths
        .context("no paths")?
        .iter()
        .map(|path| {
            let id = path.get("id").and_then(Value::as_str);
            let ratio = path.get("ratio").and_then(Value::as_f64);
            Ok((
                id.context("a path without an id")?.to_owned(),
                ratio.context("a path without a ratio")?,
            ))
        })
        .collect()
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
        let mut report = Report::new(0, 3, "");
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
