//! `cargo xtask fuzz TARGET`: looks for inputs that break a target.
#![no_main]

use std::sync::LazyLock;

use egress_fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;

/// Which target; the engine has `main` and its arguments.
const NAME: &str = "EGRESS_FUZZ_TARGET";

#[expect(clippy::expect_used, reason = "there is nobody to return an error to")]
static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var(NAME).expect("EGRESS_FUZZ_TARGET names a target");
    target(&name).expect("there is such a target")
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
