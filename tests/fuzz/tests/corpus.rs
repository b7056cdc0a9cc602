//! Every input that was worth keeping, once more.

use std::fs;
use std::path::Path;

use egress_fuzz::{TARGETS, Target};

#[expect(clippy::expect_used, reason = "a test fails by panicking")]
#[expect(
    clippy::print_stdout,
    reason = "shown where a test fails: the input that was read last"
)]
fn replay(Target { name, run }: Target) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let entries = fs::read_dir(&folder).expect("every target has a folder");
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{name}: only {} inputs", files.len());
    for file in files {
        let bytes = fs::read(&file).expect("an input can be read");
        println!("{}", file.display());
        run(&bytes);
        // Whatever is read may end anywhere.
        for end in (0..bytes.len()).step_by(bytes.len() / 64 + 1) {
            run(bytes.get(..end).unwrap_or_default());
        }
    }
}

#[test]
fn every_kept_input_of_every_target_is_read() {
    TARGETS.into_iter().for_each(replay);
}
