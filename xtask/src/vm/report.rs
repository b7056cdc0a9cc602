//! What a machine's console said, and whether that is good. The lines that start with `@vm`
//! come from `tests/src/bin/vm_suite.rs`, the others are libtest's.

use std::collections::BTreeMap;
use std::time::Duration;

use super::kernel::{Kernel, MOST_INSTRUCTIONS};
use super::qemu::End;
use super::selection::{Extent, Tests};
use crate::test::Tally;

/// Behind this a line is the guest's own. Not at the start of a line: firmware leaves the
/// cursor where it was.
const MARK: &str = "@vm ";

/// The programs whose instructions are counted, as the guest names them.
const COUNTED: [&str; 2] = ["from_pod", "to_pod"];

/// What has been read so far.
#[derive(Clone, Debug)]
pub(super) struct Report {
    kernel: Kernel,
    /// Each program that is to run, by its path in the guest, with the tests it must run.
    expected: BTreeMap<String, usize>,
    release: Option<String>,
    facts: BTreeMap<String, String>,
    running: Option<(String, Tally)>,
    total: Tally,
    end: Option<Result<(), String>>,
}

/// A row of the table at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) columns: Vec<String>,
}

impl Report {
    /// `programs` are the paths in the guest.
    pub(super) fn new(kernel: Kernel, programs: &[(String, Tests)], extent: Extent) -> Self {
        Self {
            kernel,
            expected: programs
                .iter()
                .map(|(path, tests)| (path.clone(), tests.at_least(&kernel, extent)))
                .collect(),
            release: None,
            facts: BTreeMap::new(),
            running: None,
            total: Tally::default(),
            end: None,
        }
    }

    /// Takes one line. Whether it is worth showing: what comes before the guest's first word
    /// is firmware's and the kernel's, and moves the cursor.
    pub(super) fn read(&mut self, line: &str) -> bool {
        let Some((_, said)) = line.split_once(MARK) else {
            if let Some((_, tally)) = &mut self.running {
                tally.count(line, None);
            }
            return self.release.is_some();
        };
        let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
        match word {
            "kernel" => self.release = Some(rest.to_owned()),
            "fact" => {
                if let Some((name, value)) = rest.split_once(' ') {
                    self.facts.insert(name.to_owned(), value.to_owned());
                }
            }
            "begin" => self.running = Some((rest.to_owned(), Tally::default())),
            "end" => self.close_program(rest.ends_with(" ok")),
            "done" => self.end = Some(Ok(())),
            _ => self.end = Some(Err(said.to_owned())),
        }
        true
    }

    /// The machine is off: what counts, and its row.
    pub(super) fn close(mut self, end: End, limit: Duration) -> (Tally, Row) {
        if self.running.is_some() {
            self.close_program(false);
        }
        let how = match (self.end.take(), end) {
            (Some(Ok(())), End::Off) => Ok(()),
            (Some(Err(why)), _) => Err(why),
            (_, End::TimeLimit) => Err(format!("not done within {} s", limit.as_secs())),
            (None, End::Off) => Err("went off before it was done".to_owned()),
        };
        self.check("the machine", how);
        if self.facts.is_empty() {
            self.check("the agent", Err("did not start".to_owned()));
        } else {
            self.check_facts();
        }
        for (program, count) in std::mem::take(&mut self.expected) {
            self.check(&program, Err(format!("did not run its {count} tests")));
        }
        for (name, why) in self.kernel.without {
            self.total.skips.push(format!("{name}: {why}"));
        }
        let name = self.kernel.name;
        for text in self.total.failures.iter_mut().chain(&mut self.total.skips) {
            *text = format!("{name}: {text}");
        }
        let fact = |name: &str| self.facts.get(name).cloned().unwrap_or("-".to_owned());
        let mut columns = vec![
            name.to_owned(),
            self.release.clone().unwrap_or("-".to_owned()),
            fact("attached"),
            fact("coarse-clock"),
            fact("batches"),
        ];
        columns.extend(COUNTED.map(fact));
        columns.push(self.total.counts());
        (self.total, Row { columns })
    }

    fn close_program(&mut self, succeeded: bool) {
        let Some((program, mut tally)) = self.running.take() else {
            return;
        };
        tally.close(succeeded, &program);
        let ran = tally.passed.saturating_add(tally.failed);
        let wanted = self.expected.remove(&program).unwrap_or(0);
        self.total.add(tally);
        if ran < u64::try_from(wanted).unwrap_or(u64::MAX) {
            let why = format!("ran {ran} of its {wanted} tests: is each name still right?");
            self.check(&program, Err(why));
        }
    }

    fn check_facts(&mut self) {
        let Kernel {
            attached,
            coarse_clock,
            batches,
            ..
        } = self.kernel;
        let yes = |has: bool| if has { "yes" } else { "no" };
        let wanted = [
            ("attached", attached),
            ("coarse-clock", yes(coarse_clock)),
            ("batches", yes(batches)),
        ];
        for (fact, wanted) in wanted {
            let found = self.facts.get(fact).map_or("nothing", String::as_str);
            let result = if found == wanted {
                Ok(())
            } else {
                Err(format!(
                    "is {found}, and not {wanted} as this kernel should have it"
                ))
            };
            self.check(fact, result);
        }
        for program in COUNTED {
            let result = match self.facts.get(program).map(String::as_str) {
                None => Err("is not loaded".to_owned()),
                // Kernels before 5.16 do not tell.
                Some("n/a") => Ok(()),
                Some(text) => match text.parse::<u64>() {
                    Ok(count) if count <= MOST_INSTRUCTIONS => Ok(()),
                    Ok(count) => Err(format!(
                        "takes the verifier {count} instructions, more than {MOST_INSTRUCTIONS}"
                    )),
                    Err(_) => Err(format!("takes the verifier {text:?} instructions")),
                },
            };
            self.check(program, result);
        }
    }

    /// Counts as a test.
    fn check(&mut self, what: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.total.passed = self.total.passed.saturating_add(1),
            Err(why) => {
                self.total.failed = self.total.failed.saturating_add(1);
                self.total.failures.push(format!("{what}: {why}"));
            }
        }
    }
}

/// Columns of equal width, with a head.
pub(super) fn table(rows: &[Row]) -> String {
    let head = [
        "kernel",
        "release",
        "attached",
        "coarse clock",
        "batches",
        "from_pod",
        "to_pod",
        "tests",
    ];
    let head = Row {
        columns: head.map(String::from).into(),
    };
    let all: Vec<&Row> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| {
        all.iter()
            .filter_map(|row| row.columns.get(column))
            .map(String::len)
            .max()
            .unwrap_or(0)
    };
    let lines: Vec<String> = all
        .iter()
        .map(|row| {
            let cells: Vec<String> = row
                .columns
                .iter()
                .enumerate()
                .map(|(column, cell)| format!("{cell:<width$}", width = width(column)))
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::kernel::KERNELS;
    use super::super::selection::PROGRAMS;
    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    const GOOD: &str = "Booting from ROM..\x1bc@vm kernel 5.10.0\n@vm fact attached clsact\n\
        @vm fact coarse-clock no\n@vm fact batches no\n@vm fact from_pod n/a\n@vm fact to_pod 2000\n@vm begin /bin/kernel\n\
        test a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n@vm end /bin/kernel ok\n@vm done\n";

    fn read(text: &str, end: End) -> (Tally, Row) {
        let [oldest, ..] = KERNELS;
        let [first, ..] = PROGRAMS;
        let mut report = Report::new(oldest, &[("/bin/kernel".to_owned(), first)], Extent::Short);
        for line in text.lines() {
            report.read(line);
        }
        report.close(end, LIMIT)
    }

    #[test]
    fn a_machine_that_did_everything_passes() {
        let (tally, row) = read(GOOD, End::Off);
        assert_eq!(tally.failures, Vec::<String>::new());
        // The machine, three features, two programs, one test.
        assert_eq!((tally.passed, tally.failed), (7, 0));
        let expected = ["5.10", "5.10.0", "clsact", "no", "no", "n/a", "2000"];
        assert_eq!(row.columns.get(..7), Some(&expected.map(String::from)[..]));
    }

    #[test]
    fn a_machine_that_stops_halfway_fails() {
        for end in [End::Off, End::TimeLimit] {
            for stop in [
                "@vm fact",
                "@vm begin",
                "test result",
                "@vm end",
                "@vm done",
            ] {
                let (text, _) = GOOD.split_once(stop).unwrap_or_default();
                assert!(read(text, end).0.failed > 0, "{stop} {end:?}");
            }
        }
    }

    #[test]
    fn what_the_kernel_should_have_is_checked() {
        for (good, bad) in [
            ("attached clsact", "attached tcx"),
            ("coarse-clock no", "coarse-clock yes"),
            ("batches no", "batches yes"),
            ("to_pod 2000", "to_pod 500001"),
            ("@vm done", "@vm failed loading module veth"),
            ("1 passed; 0 failed", "0 passed; 1 failed"),
            ("1 passed; 0 failed", "0 passed; 0 failed"),
        ] {
            let (tally, _) = read(&GOOD.replace(good, bad), End::Off);
            assert_eq!(tally.failed, 1, "{bad}: {:?}", tally.failures);
        }
    }

    #[test]
    fn columns_line_up() {
        let row = |text: &str| Row {
            columns: text.split(' ').map(String::from).collect(),
        };
        let text = table(&[row("5.10 x"), row("sid a-long-release")]);
        let starts: Vec<Option<usize>> = text
            .lines()
            .zip(["release", "x", "a-long"])
            .map(|(line, cell)| line.find(cell))
            .collect();
        assert_eq!(starts, [Some(8); 3]);
    }
}
