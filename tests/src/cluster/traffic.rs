//! Whether traffic flows as it must, and how soon.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Pod;
use crate::harness::probe::{self, Question};
use crate::harness::{DEADLINE, Probe};

/// A question of a pod's, and whether it must be answered.
pub type Case<'a> = (&'a Pod, Probe, bool);

/// Sends every probe at once, after a change that takes the cluster a moment: until all is right
/// twice in a row, because a state that is only passed through is none, and because a machine that is
/// elsewhere for a moment is silent, too. Returns how long the first took.
pub fn soon(cases: &[Case<'_>]) -> Result<Duration> {
    let start = Instant::now();
    let mut right: Option<Duration> = None;
    loop {
        let wrong = wrong(cases);
        if wrong.is_empty() {
            if let Some(took) = right {
                return Ok(took);
            }
            right = Some(start.elapsed());
            continue;
        }
        right = None;
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
