//! Waiting for a fact, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take that must happen: a test says that it happens, not how soon. An
/// agent starts in half a second, and in ten when four senders and two idle loops share two
/// processors with it; an emulated processor takes four times as long.
pub const DEADLINE: Duration = Duration::from_mins(2);

/// Asks every 10 ms until `fact` says yes; fails with `what` after [`DEADLINE`].
///
/// The first error that `fact` returns ends the wait: an agent that died does not get
/// better by asking again.
pub fn until(what: &str, mut fact: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !fact()? {
        if start.elapsed() > DEADLINE {
            bail!("not within {DEADLINE:?}: {what}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
