//! Which tests run in a machine. Emulated, everything takes ten times as long as here, and
//! the agent's start, most of it the verifier's, five seconds: so a sample, unless `--full`.

use super::kernel::Kernel;

/// Tests of one program: a test target of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tests {
    pub(super) package: &'static str,
    pub(super) target: &'static str,
    /// All of them if empty.
    sample: &'static [&'static str],
}

/// What differs between kernels: attaching, adopting, letting go, parsing, the map types. That policies
/// mean what they should is the programs' own affair, and parity asks it all at once.
pub(super) const PROGRAMS: [Tests; 12] = [
    Tests {
        package: "egress-agent",
        target: "kernel",
        sample: &[],
    },
    Tests {
        package: "egress-tests",
        target: "stage",
        sample: &["sockets_reach_everything", "hand_made_packets_come_out"],
    },
    Tests {
        package: "egress-tests",
        target: "policy",
        sample: &[
            "an_empty_egress_list_isolates_the_pods_of_its_namespace_only",
            "port_entries_say_protocol_number_and_range",
            "sctp_is_judged_by_port_and_other_protocols_by_rules_without_ports",
            "a_cluster_address_is_judged_by_its_endpoints",
        ],
    },
    Tests {
        package: "egress-tests",
        target: "replies",
        sample: &[
            "an_isolated_pod_answers_whoever_asks",
            "isolating_a_pod_does_not_cut_what_others_opened_to_it",
            "icmp_errors_pass_only_about_what_was_received",
        ],
    },
    Tests {
        package: "egress-tests",
        target: "lifecycle",
        sample: &[
            "editing_a_policy_cuts_and_re_admits_what_is_open",
            "a_killed_agent_neither_leaks_nor_cuts",
            "a_restarted_agent_adopts_and_catches_up",
            "cleanup_removes_everything_and_not_under_a_running_agent",
        ],
    },
    Tests {
        package: "egress-tests",
        target: "hostile",
        sample: &[
            "jumbo_frames_that_are_not_linear_are_judged",
            "fragments_follow_their_first_one",
            "extension_headers_are_walked",
            "stacked_vlan_tags_carry_nothing_past_the_hook",
        ],
    },
    Tests {
        package: "egress-tests",
        target: "metrics",
        sample: &["every_drop_is_counted_exactly"],
    },
    Tests {
        package: "egress-tests",
        target: "neighbours",
        sample: &[
            "a_filter_that_was_there_before_still_runs_after_a_pass",
            "cleanup_leaves_the_neighbours_filter",
        ],
    },
    Tests {
        package: "egress-tests",
        target: "parity",
        sample: &[
            "the_kernel_answers_as_the_oracle_does",
            "frames_on_a_veth_are_let_through_as_the_oracle_says",
        ],
    },
    Tests {
        package: "egress-tests",
        target: "updates",
        sample: &[
            "no_packet_sees_a_third_verdict_between_the_steps_of_a_change",
            "a_swap_of_policies_is_seen_whole_by_packets_that_flow",
        ],
    },
    Tests {
        package: "egress-tests",
        target: "faults",
        sample: &[
            "an_agent_that_is_killed_at_any_write_is_followed_by_one_that_finishes",
            "another_abi_version_is_taken_over_without_a_gap",
        ],
    },
    Tests {
        package: "egress-tests",
        target: "clock",
        sample: &["a_clock_that_jumps_changes_nothing_but_the_time_in_records"],
    },
];

impl Tests {
    /// The arguments of the test program.
    pub(super) fn arguments(&self, kernel: &Kernel, full: bool) -> Vec<String> {
        let mut arguments: Vec<String> = [
            "--include-ignored",
            // One processor, and nobody to share it with.
            "--test-threads=1",
            "--color=never",
            "--exact",
        ]
        .map(String::from)
        .into();
        for (name, _) in kernel.without {
            arguments.extend(["--skip".to_owned(), (*name).to_owned()]);
        }
        if !full {
            arguments.extend(self.sample.iter().map(|name| (*name).to_owned()));
        }
        arguments
    }

    /// How many of its tests must have run at least: a name that no longer exists runs none.
    pub(super) fn at_least(&self, kernel: &Kernel, full: bool) -> usize {
        let skipped = |name: &&&str| kernel.without.iter().any(|(without, _)| without == *name);
        if full || self.sample.is_empty() {
            1
        } else {
            self.sample.iter().filter(|name| !skipped(name)).count()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: Kernel = Kernel {
        name: "old",
        suite: "old",
        attached: "clsact",
        coarse_clock: false,
        batches: false,
        without: &[("b", "reason")],
    };

    const TESTS: Tests = Tests {
        package: "p",
        target: "t",
        sample: &["a", "b"],
    };

    #[test]
    fn a_test_that_cannot_pass_is_neither_run_nor_expected() {
        let arguments = TESTS.arguments(&KERNEL, false).join(" ");
        assert!(arguments.ends_with("--exact --skip b a b"), "{arguments}");
        assert_eq!(TESTS.at_least(&KERNEL, false), 1);
    }

    #[test]
    fn everything_is_no_filter_at_all() {
        let arguments = TESTS.arguments(&KERNEL, true).join(" ");
        assert!(arguments.ends_with("--exact --skip b"), "{arguments}");
    }
}
