//! The kernels that must work, and what is known of each.

/// A kernel of a Debian release. The cloud flavour: it has every table and hook that the
/// agent uses, and few drivers, so that it boots quickly without a processor's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As `--kernel` names it.
    pub(crate) name: &'static str,
    /// The Debian release it comes from.
    pub(super) suite: &'static str,
    /// How hooks are attached: TCX came with 6.6.
    pub(super) attached: &'static str,
    /// Whether there is `bpf_ktime_get_coarse_ns`, which came with 5.11.
    pub(super) coarse_clock: bool,
    /// Whether tries take many entries in one call, which came with 5.16.
    pub(super) batches: bool,
    /// Tests that cannot pass there, and why.
    pub(super) without: &'static [(&'static str, &'static str)],
}

const MEASUREMENT: (&str, &str) = ("what_a_packet_costs", "would measure the emulation");

/// Oldest first. Between them every feature probe is seen to take both ways.
pub(crate) const KERNELS: [Kernel; 4] = [
    Kernel {
        name: "5.10",
        suite: "bullseye",
        attached: "clsact",
        coarse_clock: false,
        batches: false,
        without: &[MEASUREMENT],
    },
    Kernel {
        name: "6.1",
        suite: "bookworm",
        attached: "clsact",
        coarse_clock: true,
        batches: true,
        without: &[MEASUREMENT],
    },
    Kernel {
        name: "6.12",
        suite: "trixie",
        attached: "tcx",
        coarse_clock: true,
        batches: true,
        without: &[MEASUREMENT],
    },
    Kernel {
        name: "sid",
        suite: "sid",
        attached: "tcx",
        coarse_clock: true,
        batches: true,
        without: &[MEASUREMENT],
    },
];

/// The more instructions the verifier looks at, the nearer is its limit of a million, and
/// the longer a start takes. Half of it leaves room for what other kernels count.
pub(super) const MOST_INSTRUCTIONS: u64 = 500_000;
