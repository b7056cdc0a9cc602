//! What policies and Services mean, in a cluster.
//!
//! Each scenario runs twice: with an agent, and without, where everything has to flow.

pub(crate) mod policies;
pub(crate) mod services;

/// Makes a test of every scenario, on the stage that `$stage` builds.
#[macro_export]
macro_rules! scenarios {
    ($stage:expr) => {
        $crate::scenarios! { $stage,
            policies: selectors_choose_pods_and_peers,
            policies: a_namespace_that_is_relabelled_changes_what_it_selects,
            policies: default_deny_leaves_cluster_dns_when_that_is_allowed,
            policies: a_block_of_one_family_says_nothing_of_the_other,
            policies: named_ports_are_those_of_the_pod_that_is_asked,
            policies: an_edit_cuts_and_readmits_what_is_open,
            policies: blocks_reach_outside_but_for_their_exceptions,
            policies: pods_on_two_nodes_are_told_apart_on_both,
            services: a_service_is_judged_by_its_pods_ports,
            services: a_named_target_port_follows_each_pod,
            services: a_headless_service_is_its_pods,
            services: a_node_port_is_judged_by_its_pods,
            services: an_external_address_is_judged_by_its_pods,
        }
    };
    ($stage:expr, $($module:ident: $name:ident,)*) => {
        $(
            #[test]
            #[ignore = "needs a cluster"]
            fn $name() -> anyhow::Result<()> {
                scenarios::$module::$name(&$stage?)
            }
        )*
    };
}
