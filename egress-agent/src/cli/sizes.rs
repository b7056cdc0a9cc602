//! How much fits into the kernel's tables.

use clap::builder::RangedU64ValueParser;

use crate::datapath::Sizes;

/// Below it a table is of no use, …
const LEAST: u64 = 64;

/// … and beyond it (some GB) it is a mistake.
const MOST: u64 = 1 << 26;

/// Capacities. Those that are not given are the kernel object's own; `status` shows them.
#[derive(Clone, Copy, Debug, clap::Args)]
#[expect(
    clippy::struct_field_names,
    reason = "the flags say that they are limits"
)]
#[command(
    next_help_heading = "Capacities of kernel tables (pinned ones keep theirs until cleanup)"
)]
pub(super) struct SizesArgs {
    /// Prefixes of one ruleset and family; a prefix that is there takes some 140 bytes.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_MAX_PREFIXES",
        default_value_t = Sizes::default().trie,
        value_parser = limit()
    )]
    max_prefixes: u32,

    /// Outbound flows of all pods whose verdict is remembered, of each family; 96 bytes each, taken at
    /// once.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_MAX_FLOWS",
        value_parser = limit()
    )]
    max_flows: Option<u32>,

    /// Addresses of pods in the whole cluster that some policy tells apart from others.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_MAX_PEERS",
        value_parser = limit()
    )]
    max_peers: Option<u32>,

    /// What rulesets say of classes of pods: rulesets times the classes they allow.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_MAX_CLASS_RULES",
        value_parser = limit()
    )]
    max_class_rules: Option<u32>,

    /// Port prefixes of all different sets of ports.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_MAX_PORTS",
        value_parser = limit()
    )]
    max_ports: Option<u32>,

    /// Service frontends: addresses times ports.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_MAX_FRONTENDS",
        value_parser = limit()
    )]
    max_frontends: Option<u32>,

    /// What rulesets say of frontends: rulesets times the frontends they allow.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_MAX_FRONTEND_RULES",
        value_parser = limit()
    )]
    max_frontend_rules: Option<u32>,
}

fn limit() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(LEAST..=MOST)
}

impl From<SizesArgs> for Sizes {
    fn from(args: SizesArgs) -> Self {
        let SizesArgs {
            max_prefixes,
            max_flows,
            max_peers,
            max_class_rules,
            max_ports,
            max_frontends,
            max_frontend_rules,
        } = args;
        let maps = [
            ("FLOWS", max_flows.map(Sizes::flow_sets)),
            ("PEERS", max_peers),
            ("RULESET_CLASSES", max_class_rules),
            ("PORTS", max_ports),
            ("FRONTENDS", max_frontends),
            ("RULESET_FRONTENDS", max_frontend_rules),
        ];
        let given = maps
            .into_iter()
            .filter_map(|(map, entries)| Some((map, entries?)));
        Self {
            trie: max_prefixes,
            maps: given.collect(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        sizes: SizesArgs,
    }

    fn sizes(args: &[&str]) -> Result<Sizes, clap::Error> {
        let args = std::iter::once("x").chain(args.iter().copied());
        Command::try_parse_from(args).map(|command| command.sizes.into())
    }

    #[test]
    fn what_is_not_given_is_as_the_object_has_it() {
        let none = sizes(&[]).unwrap();
        let default = Sizes::default();
        assert_eq!((none.trie, none.maps.len()), (default.trie, 0));
        let some = sizes(&["--max-flows=1000", "--max-prefixes=64"]).unwrap();
        assert_eq!((some.trie, some.maps), (64, vec![("FLOWS", 375)]));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for wrong in ["0", "63", "67108865", "-1", "many", ""] {
            assert!(sizes(&["--max-ports", wrong]).is_err(), "{wrong}");
        }
    }
}
