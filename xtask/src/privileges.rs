//! What this process may do.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};

/// Whether this process has all of root's means that the kernel tests use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Privileges {
    /// The effective user is root.
    pub(crate) root: bool,
    /// Names of the needed capabilities that are not effective.
    pub(crate) lacking: BTreeSet<&'static str>,
}

/// Bit numbers of linux/capability.h.
const NEEDED: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

impl Privileges {
    /// Of this process.
    pub(crate) fn own() -> Result<Self> {
        let status =
            fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
        Self::parse(&status).context("/proc/self/status has no Uid or no CapEff line")
    }

    /// From the text of `/proc/PID/status`; see `proc_pid_status(5)`.
    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        let effective_user = field("Uid")?.split_whitespace().nth(1)?;
        let capabilities = u64::from_str_radix(field("CapEff")?, 16).ok()?;
        Some(Self {
            root: effective_user == "0",
            lacking: NEEDED
                .into_iter()
                .filter(|(_, bit)| capabilities & (1 << bit) == 0)
                .map(|(name, _)| name)
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_with_every_capability_lacks_nothing() {
        let status = "Name:\tx\nUid:\t1000\t0\t0\t0\nCapEff:\t000001ffffffffff\n";
        let privileges = Privileges::parse(status);
        assert_eq!(
            privileges,
            Some(Privileges {
                root: true,
                lacking: BTreeSet::new()
            })
        );
    }

    #[test]
    fn a_user_lacks_what_the_mask_does_not_have() {
        // NET_ADMIN alone: bit 12.
        let status = "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000001000\n";
        let privileges = Privileges::parse(status);
        assert_eq!(
            privileges,
            Some(Privileges {
                root: false,
                lacking: BTreeSet::from(["CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"]),
            })
        );
    }

    #[test]
    fn a_status_without_the_fields_is_not_read_as_root() {
        assert_eq!(Privileges::parse("Name:\tx\n"), None);
    }
}
