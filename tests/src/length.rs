//! How long the tests run: minutes, or hours with `cargo xtask test --long`.

use std::env;

/// What `cargo xtask test --long` sets.
pub const LONG: &str = "EGRESS_TESTS_LONG";

/// Whether hours may be spent.
pub fn is_long() -> bool {
    env::var_os(LONG).is_some()
}

/// So many rounds in the short form, so many in the long one.
pub fn times<N>(short: N, long: N) -> N {
    if is_long() { long } else { short }
}
