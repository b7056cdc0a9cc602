//! Whether traffic flows as it must, and how soon.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Pod;
use crate::harness::probe::{self, Question};
use crate::harness::{DEADLINE, Probe};

/// A question of a pod's, and whether it must be answered.
pub type Case<'a> = (&'a Pod, Probe, bool);

/// Sends every probe at once and compares.
pub fn expect(cases: &[Case<'_>]) -> Result<()> {
    let wrong = wrong(cases);
    if wrong.is_empty() {
        Ok(())
    } else {
        bail!("{}", wrong.join("\n"))
    }
}

/// As [`expect`], after a change that takes the cluster a moment: until all is right, and
/// then once more, because a state that is only passed through is none.
pub fn soon(cases: &[Case<'_>]) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let wrong = wrong(cases);
        if wrong.is_empty() {
            let took = start.elapsed();
            expect(cases)?;
            return Ok(took);
        }
        if start.elapsed() > DEADLINE {
            bail!("still after {DEADLINE:?}:\n{}", wrong.join("\n"));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn wrong(cases: &[Case<'_>]) -> Vec<String> {
    let questions: Vec<Question<'_>> = cases
        .iter()
        .map(|(pod, probe, open)| (pod.name(), &pod.ns, *probe, *open))
        .collect();
    probe::wrong(&questions)
}
