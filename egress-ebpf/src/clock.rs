//! The clock.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};

/// Set to 1 by the loader where the kernel has `bpf_ktime_get_coarse_ns` (5.11): it costs a
/// tenth of the precise clock. The section is frozen before the programs are loaded, so the
/// verifier knows the value and drops the call that an older kernel would refuse.
#[unsafe(no_mangle)]
static COARSE_CLOCK: Global<u8> = Global::new(0);

const NANOSECONDS: u64 = 1_000_000_000;

/// `CLOCK_MONOTONIC` in nanoseconds, perhaps a tick late.
#[inline(always)]
pub(crate) fn nanoseconds() -> u64 {
    if COARSE_CLOCK.load() == 0 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_ns() }
    } else {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_coarse_ns() }
    }
}

/// `CLOCK_MONOTONIC` in seconds.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::as_conversions,
    reason = "2^32 seconds are 136 years of uptime"
)]
pub(crate) fn seconds() -> u32 {
    (nanoseconds() / NANOSECONDS) as u32
}
