//! What to install, given what is there. Decides, never acts.

use std::collections::BTreeSet;
use std::fmt;

use super::survey::{Rustc, Survey};
use super::{LINKER_VERSION, LLVM_MAJOR, Purpose};

/// Debian's compiler, and the source of its `core`.
const COMPILER_PACKAGES: [&str; 3] = ["cargo-web", "rust-web-src", "rustc-web"];

/// Whether `rustup component add rust-src` is still worth a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RustupTried {
    No,
    InVain,
}

/// What is missing, in the order in which it is to be installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Add rust-src to rustup's nightly.
    pub(super) rust_source: bool,
    /// Debian packages.
    pub(super) packages: BTreeSet<String>,
    /// Build bpf-linker.
    pub(super) linker: bool,
    /// Take promtool and Prometheus out of Debian's package.
    pub(super) promtool: bool,
}

impl Plan {
    pub(super) fn new(survey: &Survey, purpose: Purpose, tried: RustupTried) -> Self {
        let mut plan = Self::default();
        if survey.compiler().is_none() {
            if tried == RustupTried::No && survey.nightly.is_some_and(Rustc::fits) {
                plan.rust_source = true;
            } else {
                plan.packages.extend(COMPILER_PACKAGES.map(String::from));
            }
        }
        if survey.linker.is_none() {
            plan.linker = true;
            if survey.llvm.is_none() {
                plan.packages.insert(format!("libllvm{LLVM_MAJOR}"));
            }
        }
        if purpose >= Purpose::Run {
            plan.packages
                .extend(survey.packages.iter().copied().map(String::from));
        }
        plan.promtool = purpose >= Purpose::Test && survey.promtool.is_none();
        plan
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rust_source,
            packages,
            linker,
            promtool,
        } = self;
        if *rust_source {
            writeln!(
                f,
                "  - rustup's component rust-src for the nightly toolchain"
            )?;
        }
        if !packages.is_empty() {
            let names: Vec<&str> = packages.iter().map(String::as_str).collect();
            writeln!(f, "  - Debian packages: {}", names.join(" "))?;
        }
        if *linker {
            writeln!(
                f,
                "  - bpf-linker {LINKER_VERSION}, built into the target directory (a few minutes, once)"
            )?;
        }
        if *promtool {
            writeln!(
                f,
                "  - promtool and prometheus, taken out of Debian's package prometheus into the target directory; nothing is installed"
            )?;
        }
        Ok(())
    }
}

/// For a machine where nothing can be installed from here.
pub(super) fn by_hand() -> String {
    format!(
        "\nBy hand, either\n  \
         - Debian 12 or newer, as root:\n      \
           apt-get update\n      \
           apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev iproute2 \
         rustc-web cargo-web rust-web-src libllvm{LLVM_MAJOR}\n  \
         - elsewhere: a rustup toolchain named `nightly` with `rust-src`, at least 1.95 and with LLVM \
         {LLVM_MAJOR} or older\n    (`rustup run nightly rustc -vV` tells), LLVM {LLVM_MAJOR}'s shared library, and iproute2\n\
         and then `cargo xtask toolchain` again, which builds bpf-linker itself."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: Rustc = Rustc {
        minor: 96,
        llvm: 22,
        source: true,
    };
    const WITHOUT_SOURCE: Rustc = Rustc {
        source: false,
        ..STABLE
    };

    fn bare() -> Survey {
        Survey {
            nightly: None,
            system: None,
            linker: None,
            llvm: None,
            packages: BTreeSet::new(),
            promtool: None,
        }
    }

    fn packages(plan: &Plan) -> Vec<&str> {
        plan.packages.iter().map(String::as_str).collect()
    }

    #[test]
    fn nothing_is_planned_where_all_is_there() {
        let survey = Survey {
            system: Some(STABLE),
            linker: Some("/usr/bin/bpf-linker".into()),
            ..bare()
        };
        assert!(Plan::new(&survey, Purpose::Run, RustupTried::No).is_empty());
    }

    #[test]
    fn a_bare_machine_gets_debians_compiler_and_a_linker() {
        let survey = Survey {
            packages: BTreeSet::from(["iproute2"]),
            ..bare()
        };
        let plan = Plan::new(&survey, Purpose::Run, RustupTried::No);
        assert!(plan.linker && !plan.rust_source);
        assert_eq!(
            packages(&plan),
            [
                "cargo-web",
                "iproute2",
                "libllvm22",
                "rust-web-src",
                "rustc-web"
            ]
        );
    }

    #[test]
    fn a_nightly_without_source_is_completed_first() {
        let survey = Survey {
            nightly: Some(WITHOUT_SOURCE),
            ..bare()
        };
        let plan = Plan::new(&survey, Purpose::Run, RustupTried::No);
        assert!(plan.rust_source);
        assert_eq!(packages(&plan), ["libllvm22"]);
    }

    #[test]
    fn debians_compiler_follows_when_rustup_has_no_source() {
        let survey = Survey {
            nightly: Some(WITHOUT_SOURCE),
            ..bare()
        };
        let plan = Plan::new(&survey, Purpose::Run, RustupTried::InVain);
        assert!(!plan.rust_source);
        assert_eq!(
            packages(&plan),
            ["cargo-web", "libllvm22", "rust-web-src", "rustc-web"]
        );
    }

    #[test]
    fn a_nightly_with_newer_bitcode_than_the_linker_reads_is_left_alone() {
        let survey = Survey {
            nightly: Some(Rustc { llvm: 23, ..STABLE }),
            ..bare()
        };
        let plan = Plan::new(&survey, Purpose::Run, RustupTried::No);
        assert!(!plan.rust_source);
        assert!(plan.packages.contains("rustc-web"));
    }

    #[test]
    fn a_system_compiler_older_than_the_workspace_needs_is_replaced() {
        let survey = Survey {
            system: Some(Rustc {
                minor: 85,
                ..STABLE
            }),
            ..bare()
        };
        let plan = Plan::new(&survey, Purpose::Run, RustupTried::No);
        assert!(plan.packages.contains("rustc-web"));
    }

    #[test]
    fn a_build_alone_asks_for_no_programs_that_only_tests_start() {
        let survey = Survey {
            system: Some(STABLE),
            linker: Some("/usr/bin/bpf-linker".into()),
            packages: BTreeSet::from(["iproute2"]),
            ..bare()
        };
        assert!(Plan::new(&survey, Purpose::Build, RustupTried::No).is_empty());
        let run = Plan::new(&survey, Purpose::Run, RustupTried::No);
        assert!(packages(&run) == ["iproute2"] && !run.promtool);
        assert!(Plan::new(&survey, Purpose::Test, RustupTried::No).promtool);
    }
}
