//! The dashboard and the alert rules, against what the agent serves.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "an integration test's helpers are not under #[test]"
)]

mod dashboard;
mod expression;
mod rules;

use std::path::{Path, PathBuf};

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
        .canonicalize()
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap()
}
