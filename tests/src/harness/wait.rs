//! Waiting for a fact, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::length::is_sample;

/// How long anything may take that must happen. An agent starts in half a second, and in
/// ten when four senders and two idle loops share two processors with it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks every 10 ms until `fact` says yes; fails with `what` after [`DEADLINE`].
///
/// The first error that `fact` returns ends the wait: an agent that died does not get
/// better by asking again.
pub fn until(what: &str, mut fact: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    // An emulated processor that shares ours with others.
    let deadline = if is_sample() { 4 * DEADLINE } else { DEADLINE };
    while !fact()? {
        if start.elapsed() > deadline {
            bail!("not within {deadline:?}: {what}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
