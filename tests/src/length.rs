//! How long the tests run: minutes; hours with `cargo xtask test --long`; or, in the emulated machines
//! of `cargo xtask vm`, a sample.

use std::env;

/// `long` or `sample`; anything else is minutes.
const VARIABLE: &str = "EGRESS_TESTS_LENGTH";

/// An emulated processor takes about ten times as long.
const SAMPLE: u32 = 10;

/// Whether hours may be spent.
pub fn is_long() -> bool {
    env::var_os(VARIABLE).is_some_and(|length| length == "long")
}

/// Whether this is a sample only.
pub fn is_sample() -> bool {
    env::var_os(VARIABLE).is_some_and(|length| length == "sample")
}

/// So many rounds in the ordinary form, so many in the long one.
pub fn times(short: u32, long: u32) -> u32 {
    if is_long() {
        long
    } else if is_sample() {
        short.div_ceil(SAMPLE)
    } else {
        short
    }
}
