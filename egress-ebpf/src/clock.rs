//! The clock.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};

/// Set to 1 by the loader where the kernel has `bpf_ktime_get_coarse_ns` (5.11): it costs a
/// tenth of the precise clock. The section is frozen before the programs are loaded, so the
/// verifier knows the value and drops the call that an older kernel would refuse.
#[unsafe(no_mangle)]
static COARSE_CLOCK: Global<u8> = Global::new(0);

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

/// Ticks of the kernel's clock in a second (`HZ`); set by the loader.
#[unsafe(no_mangle)]
static TICKS_PER_SECOND: Global<u32> = Global::new(250);

/// Seconds since boot, by the tick. The verifier makes a load of this call, while any other costs as
/// much as a look-up.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::as_conversions,
    reason = "2^32 seconds are 136 years of uptime"
)]
pub(crate) fn seconds() -> u32 {
    let hz = u64::from(TICKS_PER_SECOND.load());
    // SAFETY: the helper has no preconditions.
    let ticks = unsafe { bpf_jiffies64() };
    // Counting starts five minutes before 2^32 (linux/jiffies.h, INITIAL_JIFFIES).
    let ticks = ticks.wrapping_sub((1 << 32) - 300 * hz);
    ticks.checked_div(hz).unwrap_or(0) as u32
}
