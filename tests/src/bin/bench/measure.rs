//! Rounds: the empty program, then the path, again and again; medians.
//!
//! A path's cost is a multiple of what the empty program costs in the same round, so that what
//! slows a machine down for a while slows both. Two ways to run a path:
//!
//! * [`Packets::Same`]: one frame, repeated.
//! * [`Packets::Varied`]: the driver makes each run another packet. What the driver costs beyond the
//!   empty program that it calls is measured in the same round and taken off; like that of a
//!   repeated frame, the cost includes that of an empty program.
//!
//! After the rounds, from-pod's own counters must say that every packet was allowed, or
//! dropped; and the flow table, that flows were new where the path says so.

use anyhow::{Context as _, Result, bail, ensure};

use super::driver::PATCHES;
use super::kernel::{Ran, test_run};
use super::rig::{Counted, Program, Rig};
use super::scene::Family;

/// Runs of one frame: 7 ms at the floor of the slower machine seen.
const REPEAT: u32 = 200_000;

/// `TC_ACT_UNSPEC` and `TC_ACT_SHOT`.
const PASSED: u32 = u32::MAX;
const DROPPED: u32 = 2;

/// What is run.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The peer's multiples on a Xeon and on an EPYC, where it was measured.
    pub(crate) peer: [Option<f64>; 2],
    pub(crate) family: Family,
    pub(crate) program: Program,
    pub(crate) frame: Vec<u8>,
    pub(crate) packets: Packets,
    pub(crate) verdict: Verdict,
}

/// Whether packets differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packets {
    /// All the same.
    Same,
    /// By the driver's patches.
    Varied(Flows),
}

/// What the flow table holds of packets that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flows {
    /// Nothing: every packet is of a new flow. It is emptied before each round.
    New,
    /// It is full of other flows: every packet is of a new flow and evicts another.
    Evicting {
        /// How many it holds at most.
        capacity: u32,
    },
    /// All of so many, by one packet each.
    Known(u32),
    /// Nothing, because the packets are dropped.
    None,
}

/// What must become of each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Drop,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    /// Median cost of a packet in nanoseconds, and of the empty program.
    pub(crate) nanoseconds: f64,
    pub(crate) floor: f64,
    /// Median of the rounds' multiples, and what a quarter of the rounds was below and above.
    pub(crate) ratio: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Measures a path.
pub(crate) fn measure(rig: &mut Rig, path: &Path, rounds: u32) -> Result<Cost> {
    let mut run = Run {
        rig,
        path,
        mark: 0,
        packets: 0,
    };
    run.all(rounds)
        .with_context(|| format!("measuring {}", path.name))
}

struct Run<'a> {
    rig: &'a mut Rig,
    path: &'a Path,
    /// Number of the next packet that differs.
    mark: u32,
    /// Sent through the measured program.
    packets: u64,
}

/// One round's nanoseconds.
struct Round {
    floor: f64,
    subject: f64,
}

impl Run<'_> {
    fn all(&mut self, rounds: u32) -> Result<Cost> {
        let before = self.rig.counted()?;
        self.begin()?;
        // Caches, branch predictors, and the CPU's clock.
        self.round()?;
        let rounds: Vec<Round> = (0..rounds).map(|_| self.round()).collect::<Result<_>>()?;
        self.check(before)?;
        let ratios = rounds.iter().map(|r| r.subject / r.floor).collect();
        let [low, ratio, high] = quartiles(ratios);
        let [_, nanoseconds, _] = quartiles(rounds.iter().map(|r| r.subject).collect());
        let [_, floor, _] = quartiles(rounds.iter().map(|r| r.floor).collect());
        Ok(Cost {
            nanoseconds,
            floor,
            ratio,
            low,
            high,
        })
    }

    /// Brings the flow table into the state that the path speaks of.
    fn begin(&mut self) -> Result<()> {
        let Packets::Varied(flows) = self.path.packets else {
            return Ok(());
        };
        let _forgotten: usize = self.rig.forget_flows()?;
        match flows {
            Flows::New | Flows::None => {}
            Flows::Evicting { capacity } => {
                // Twice, for an LRU table evicts before it is full.
                self.driven(self.path.program, 2 * capacity)?;
            }
            Flows::Known(count) => {
                self.driven(self.path.program, count)?;
                most(self.rig.datapath.outbound_flows()?, count, "fit the table")?;
                // The same packets again from now on.
                self.mark = 0;
            }
        }
        Ok(())
    }

    fn round(&mut self) -> Result<Round> {
        let frame = &self.path.frame;
        let empty = self.rig.program(Program::Empty)?;
        let floor = passed(test_run(empty, frame, REPEAT, 0)?, PASSED)?;
        let subject = match self.path.packets {
            Packets::Same => {
                let program = self.rig.program(self.path.program)?;
                let ran = test_run(program, frame, REPEAT, 0)?;
                self.packets += u64::from(REPEAT);
                passed(ran, self.expected())?
            }
            Packets::Varied(flows) => {
                let count = match flows {
                    Flows::New | Flows::Evicting { .. } | Flows::None => PATCHES,
                    Flows::Known(count) => count,
                };
                let start = self.mark;
                let driver = self.driven(Program::Empty, count)?;
                let subject = self.driven(self.path.program, count)?;
                if flows == Flows::New {
                    most(self.rig.forget_flows()?, count, "made a flow")?;
                }
                if let Flows::Known(_) = flows {
                    self.mark = start;
                }
                subject - (driver - floor)
            }
        };
        Ok(Round { floor, subject })
    }

    /// Sends the next packets that differ through the driver to a program; those that the empty
    /// program got are sent again.
    fn driven(&mut self, program: Program, count: u32) -> Result<f64> {
        let driver = self.rig.drivers.get(self.path.family, program.index())?;
        let ran = test_run(driver, &self.path.frame, count, self.mark)?;
        if program == Program::Empty {
            return passed(ran, PASSED);
        }
        self.mark = self.mark.wrapping_add(count);
        self.packets += u64::from(count);
        passed(ran, self.expected())
    }

    fn expected(&self) -> u32 {
        match self.path.verdict {
            Verdict::Pass => PASSED,
            Verdict::Drop => DROPPED,
        }
    }

    /// Whether every packet got its verdict. to-pod drops nothing, and counts nothing.
    fn check(&self, before: Counted) -> Result<()> {
        let now = self.rig.counted()?;
        let seen = Counted {
            allowed: now.allowed - before.allowed,
            dropped: now.dropped - before.dropped,
        };
        let mut wanted = Counted::default();
        match (self.path.program, self.path.verdict) {
            (Program::FromPod, Verdict::Pass) => wanted.allowed = self.packets,
            (Program::FromPod, Verdict::Drop) => wanted.dropped = self.packets,
            (Program::ToPod | Program::Empty, _) => {}
        }
        if seen != wanted {
            bail!("counted {seen:?}, expected {wanted:?}");
        }
        Ok(())
    }
}

/// Whether as good as all packets did what the path is named after. A table of flows is full where a
/// set is, so that some evict others before it is: a few in a hundred, at worst.
fn most(did: usize, count: u32, what: &str) -> Result<()> {
    ensure!(
        did >= usize::try_from(count - count / 20)?,
        "{did} of {count} packets {what}"
    );
    Ok(())
}

fn passed(ran: Ran, expected: u32) -> Result<f64> {
    ensure!(
        ran.verdict == expected,
        "a program returned {:#x}, expected {expected:#x}",
        ran.verdict
    );
    Ok(ran.nanoseconds)
}

/// What a quarter, a half and three quarters of the values are not above.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| {
        let at = (values.len().saturating_sub(1) * quarter + 2) / 4;
        values.get(at).copied().unwrap_or(f64::NAN)
    })
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "values that were put in come out")]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_an_odd_number_of_values() {
        let values = vec![5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(quartiles(values), [2.0, 3.0, 4.0]);
    }

    #[test]
    fn quartiles_of_one_value_are_that_value() {
        assert_eq!(quartiles(vec![7.0]), [7.0; 3]);
    }
}
