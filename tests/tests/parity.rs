//! The agent answers as the oracle does. Longer runs: `cargo run --release -p egress-tests
//! --bin parity -- --cases 100000`.

use anyhow::{Result, ensure};
use egress_parity::run;
use egress_tests::harness::{binary, on_world};
use egress_tests::length::{is_long, is_sample, times};
use egress_tests::parity::{Command, kernel, wire};

#[test]
fn the_agents_command_answers_as_the_oracle_does() -> Result<()> {
    let command = Command { binary: binary()? };
    let report = run(&command, 1_000_000..1_000_100, 3)?;
    let found: Vec<String> = report.mismatches.iter().map(ToString::to_string).collect();
    ensure!(found.is_empty(), "\n{}", found.join("\n"));
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
#[expect(clippy::print_stdout, reason = "what was compared is worth reading")]
fn the_kernel_answers_as_the_oracle_does() -> Result<()> {
    let first = 2_000_000;
    let cases = u64::from(times(300, 10_000));
    let seeds = first..first + cases;
    let report = kernel::in_own_namespaces(|node| kernel::run(node, seeds, 3))?;
    println!("{report}");
    let found: Vec<String> = report.mismatches.iter().map(ToString::to_string).collect();
    ensure!(found.is_empty(), "\n{}", found.join("\n"));
    for (v4, allow) in [(true, true), (true, false), (false, true), (false, false)] {
        let packets = report.packets(v4, allow);
        ensure!(
            packets >= 6 * cases,
            "{packets} packets only, IPv4 {v4}, allowed {allow}"
        );
    }
    Ok(())
}

/// Real frames over a veth, past hooks that the real agent attached.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
#[expect(clippy::print_stdout, reason = "what was compared is worth reading")]
fn frames_on_a_veth_are_let_through_as_the_oracle_says() {
    on_world(|world| {
        let first = 3_000_000;
        let cases = u64::from(times(25, 2_000));
        let report = wire::run(world, first..first + cases)?;
        println!("{report}");
        ensure!(
            report.mismatches.is_empty(),
            "\n{}",
            report.mismatches.join("\n")
        );
        for kind in [(true, true), (true, false), (false, true), (false, false)] {
            let frames = report.verdicts.get(&kind).copied().unwrap_or_default();
            ensure!(
                frames >= 5 * cases,
                "{frames} frames only, (IPv4, passed) {kind:?}"
            );
        }
        let missing = report.coverage.missing();
        // Some statements are too rare for a few clusters; thousands must meet them all.
        let rare = if is_long() { 0 } else { 8 };
        ensure!(
            is_sample() || missing.len() <= rare,
            "never drawn: {missing:?}"
        );
        Ok(())
    });
}
