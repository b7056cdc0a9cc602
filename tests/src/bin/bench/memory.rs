//! What a ruleset's tries take of the kernel, and what it takes to reach memory.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{ArrayOfMaps, Map, MapData};

use super::rig::Rig;
use super::scene::Family;

/// Bytes that the kernel says the pod's trie of a family takes: `memlock` of its descriptor.
/// Kernels before 6.4 name what a full trie would take.
pub(crate) fn of_trie(rig: &Rig, family: Family) -> Result<u64> {
    let name = match family {
        Family::V4 => "RULESET_CIDRS_V4",
        Family::V6 => "RULESET_CIDRS_V6",
    };
    let outer = MapData::from_pin(rig.datapath.map_pin(name))?;
    let outer: ArrayOfMaps<MapData> = ArrayOfMaps::try_from(Map::from_map_data(outer)?)?;
    let trie: MapData = outer.get(&rig.ruleset()?, 0)?;
    let fd = trie.fd().as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    field(&info, "memlock:").context("the trie's fdinfo has no memlock")
}

/// Bytes of the kernel's slabs that cannot be reclaimed, of the whole machine. A trie's nodes are
/// of these, rounded up to the slab's size, and its inner nodes, which `memlock` leaves out.
pub(crate) fn of_slabs() -> Result<u64> {
    let info = fs::read_to_string("/proc/meminfo")?;
    let kibibytes = field(&info, "SUnreclaim:").context("/proc/meminfo has no SUnreclaim")?;
    Ok(kibibytes * 1024)
}

/// The kernel frees a trie from a worker, after grace periods and in several steps; a million nodes
/// were gone in less than a second.
pub(crate) fn wait_for_frees() {
    thread::sleep(Duration::from_secs(3));
}

/// A cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Line {
    /// The line that is read after this one.
    next: usize,
}

/// Steps of [`a_line_of`].
const STEPS: u32 = 4_000_000;

/// What a processor waits for a cache line of so many bytes, each time another one at random: the least
/// that a look-up in a table can cost which spreads its entries over as much memory.
pub(crate) fn a_line_of(bytes: usize) -> Duration {
    let mut random = fastrand::Rng::with_seed(1);
    let mut lines = vec![Line::default(); bytes / size_of::<Line>()];
    // One circle through all of them, after S. Sattolo.
    let mut order: Vec<usize> = (0..lines.len()).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, random.usize(..last));
    }
    for (line, next) in lines.iter_mut().zip(order) {
        line.next = next;
    }
    let step = |at: usize| lines.get(at).map_or(0, |line| line.next);
    // What is in the caches afterwards is what stays there.
    let warm = (0..STEPS / 4).fold(0, |at, _| step(at));
    let begun = Instant::now();
    let end = (0..STEPS).fold(warm, |at, _| step(at));
    let took = begun.elapsed();
    std::hint::black_box(end);
    took / STEPS
}

/// The number behind a name in a file of the kernel's.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_with_and_without_a_unit() {
        let text = "pos:\t0\nmemlock:\t32000\nSUnreclaim:       7 kB\n";
        assert_eq!(field(text, "memlock:"), Some(32_000));
        assert_eq!(field(text, "SUnreclaim:"), Some(7));
        assert_eq!(field(text, "Slab:"), None);
    }
}
