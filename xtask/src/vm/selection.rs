//! Which tests run in a machine. Emulated, everything takes ten times as long as here, and
//! the agent's start, most of it the verifier's, five seconds: so few, unless more are asked for.

use super::kernel::Kernel;

/// How many of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Extent {
    /// What differs between kernels, by tests that wait for nothing but facts: minutes
    Short,
    /// A sample of each test program, faults and the clock that is set included
    Sample,
    /// Everything: an hour
    All,
}

/// Tests of one program: a test target of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tests {
    pub(super) package: &'static str,
    pub(super) target: &'static str,
    /// Those of [`Extent::Short`].
    short: Names,
    /// Those that [`Extent::Sample`] has besides.
    more: Names,
}

/// Some of a program's tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    All,
    These(&'static [&'static str]),
}

impl Names {
    const NONE: Self = Self::These(&[]);
}

/// What differs between kernels: attaching, adopting, letting go, parsing, the map types. That policies
/// mean what they should is the programs' own affair, and parity asks it all at once.
pub(super) const PROGRAMS: [Tests; 13] = [
    Tests {
        package: "egress-agent",
        target: "kernel",
        short: Names::All,
        more: Names::NONE,
    },
    Tests {
        package: "egress-tests",
        target: "stage",
        short: Names::These(&["hand_made_packets_come_out"]),
        more: Names::These(&["sockets_reach_everything"]),
    },
    Tests {
        package: "egress-tests",
        target: "policy",
        short: Names::These(&["port_entries_say_protocol_number_and_range"]),
        more: Names::These(&[
            "an_empty_egress_list_isolates_the_pods_of_its_namespace_only",
            "sctp_is_judged_by_port_and_other_protocols_by_rules_without_ports",
            "a_cluster_address_is_judged_by_its_endpoints",
        ]),
    },
    Tests {
        package: "egress-tests",
        target: "replies",
        short: Names::These(&["an_isolated_pod_answers_whoever_asks"]),
        more: Names::These(&[
            "isolating_a_pod_does_not_cut_what_others_opened_to_it",
            "icmp_errors_pass_only_about_what_was_received",
        ]),
    },
    Tests {
        package: "egress-tests",
        target: "lifecycle",
        short: Names::These(&["cleanup_removes_everything_and_not_under_a_running_agent"]),
        more: Names::These(&[
            "editing_a_policy_cuts_and_re_admits_what_is_open",
            "a_killed_agent_neither_leaks_nor_cuts",
            "a_restarted_agent_adopts_and_catches_up",
        ]),
    },
    Tests {
        package: "egress-tests",
        target: "hostile",
        short: Names::NONE,
        more: Names::These(&[
            "jumbo_frames_that_are_not_linear_are_judged",
            "fragments_follow_their_first_one",
            "extension_headers_are_walked",
            "stacked_vlan_tags_carry_nothing_past_the_hook",
        ]),
    },
    Tests {
        package: "egress-tests",
        target: "metrics",
        short: Names::NONE,
        more: Names::These(&["every_drop_is_counted_exactly"]),
    },
    Tests {
        package: "egress-tests",
        target: "status",
        short: Names::These(&["a_kernel_without_a_coarse_clock_is_told_of"]),
        more: Names::NONE,
    },
    Tests {
        package: "egress-tests",
        target: "neighbours",
        short: Names::These(&["a_filter_that_was_there_before_still_runs_after_a_pass"]),
        more: Names::These(&["cleanup_leaves_the_neighbours_filter"]),
    },
    Tests {
        package: "egress-tests",
        target: "parity",
        short: Names::These(&[
            "the_kernel_answers_as_the_oracle_does",
            "frames_on_a_veth_are_let_through_as_the_oracle_says",
        ]),
        more: Names::NONE,
    },
    Tests {
        package: "egress-tests",
        target: "updates",
        short: Names::These(&["no_packet_sees_a_third_verdict_between_the_steps_of_a_change"]),
        more: Names::These(&["a_swap_of_policies_is_seen_whole_by_packets_that_flow"]),
    },
    Tests {
        package: "egress-tests",
        target: "faults",
        short: Names::NONE,
        more: Names::These(&[
            "an_agent_that_is_killed_at_any_write_is_followed_by_one_that_finishes",
            "another_abi_version_is_taken_over_without_a_gap",
        ]),
    },
    Tests {
        package: "egress-tests",
        target: "clock",
        short: Names::NONE,
        more: Names::These(&["a_clock_that_jumps_changes_nothing_but_the_time_in_records"]),
    },
];

impl Tests {
    /// Those that are asked for; `None` is every test of the program.
    fn names(&self, extent: Extent) -> Option<Vec<&'static str>> {
        let groups: &[Names] = match extent {
            Extent::Short => &[self.short],
            Extent::Sample => &[self.short, self.more],
            Extent::All => &[Names::All],
        };
        let mut names = Vec::new();
        for group in groups {
            match group {
                Names::All => return None,
                Names::These(some) => names.extend(*some),
            }
        }
        Some(names)
    }

    /// Whether the program is run at all.
    pub(super) fn are_asked_for(&self, extent: Extent) -> bool {
        self.names(extent).is_none_or(|names| !names.is_empty())
    }

    /// The arguments of the test program.
    pub(super) fn arguments(&self, kernel: &Kernel, extent: Extent) -> Vec<String> {
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
        let names = self.names(extent).into_iter().flatten();
        arguments.extend(names.map(String::from));
        arguments
    }

    /// How many of its tests must have run at least: a name that no longer exists runs none.
    pub(super) fn at_least(&self, kernel: &Kernel, extent: Extent) -> usize {
        let skipped = |name: &&str| kernel.without.iter().any(|(without, _)| without == name);
        self.names(extent).map_or(1, |names| {
            names.into_iter().filter(|name| !skipped(name)).count()
        })
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
        short: Names::These(&["a"]),
        more: Names::These(&["b", "c"]),
    };

    fn arguments(tests: Tests, extent: Extent) -> String {
        let arguments = tests.arguments(&KERNEL, extent).join(" ");
        let own = arguments.split_once("--exact ").unwrap_or_default().1;
        own.to_owned()
    }

    #[test]
    fn a_test_that_cannot_pass_is_neither_run_nor_expected() {
        assert_eq!(arguments(TESTS, Extent::Sample), "--skip b a b c");
        assert_eq!(TESTS.at_least(&KERNEL, Extent::Sample), 2);
    }

    #[test]
    fn the_sample_has_what_the_short_form_has() {
        assert_eq!(arguments(TESTS, Extent::Short), "--skip b a");
        assert_eq!(TESTS.at_least(&KERNEL, Extent::Short), 1);
        let all = Tests {
            short: Names::All,
            ..TESTS
        };
        assert_eq!(arguments(all, Extent::Sample), "--skip b");
    }

    #[test]
    fn everything_is_no_filter_at_all() {
        assert_eq!(arguments(TESTS, Extent::All), "--skip b");
    }

    #[test]
    fn a_program_of_which_nothing_is_asked_is_not_run() {
        let none = Tests {
            short: Names::NONE,
            ..TESTS
        };
        assert!(!none.are_asked_for(Extent::Short));
        assert!(none.are_asked_for(Extent::Sample) && none.are_asked_for(Extent::All));
    }
}
