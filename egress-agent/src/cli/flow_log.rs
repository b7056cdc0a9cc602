//! The flags of `run` about the flow log.

use std::time::Duration;

use clap::value_parser;

use crate::flows::{Settings, Target};

/// Bytes of a mebibyte.
const MEBIBYTE: u64 = 1 << 20;

/// The flow log: a JSON line for every new flow that isolated pods open, allowed or denied.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Flow log")]
#[expect(clippy::struct_field_names, reason = "the flags' names")]
pub(super) struct FlowLogArgs {
    /// Write the flow log to standard output (stdout) or to a file; off without it.
    #[arg(long, value_name = "stdout|FILE", env = "EGRESS_FLOW_LOG")]
    flow_log: Option<Target>,

    /// Seconds within which equal flows are one line.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "EGRESS_FLOW_LOG_INTERVAL",
        default_value_t = 10,
        value_parser = value_parser!(u32).range(1..=3600)
    )]
    flow_log_interval: u32,

    /// Log one flow in so many.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_FLOW_LOG_SAMPLE",
        default_value_t = 1,
        value_parser = value_parser!(u32).range(1..)
    )]
    flow_log_sample: u32,

    /// Lines a second at most; more are counted in `egress_flow_log_lost_total`.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_FLOW_LOG_RATE",
        default_value_t = 1_000,
        value_parser = value_parser!(u32).range(1..)
    )]
    flow_log_rate: u32,

    /// New allowed flows that one pod may cause records of a second; more are counted likewise. Denied
    /// ones come from drop records, see --events-per-second.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_FLOW_LOG_POD_RATE",
        default_value_t = 500,
        value_parser = value_parser!(u32).range(1..)
    )]
    pub(super) flow_log_pod_rate: u32,

    /// MiB after which the file is put aside as FILE.1.
    #[arg(
        long,
        value_name = "MIB",
        env = "EGRESS_FLOW_LOG_SIZE",
        default_value_t = 64,
        value_parser = value_parser!(u32).range(1..)
    )]
    flow_log_size: u32,

    /// Files that are kept beside the present one.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_FLOW_LOG_FILES",
        default_value_t = 3
    )]
    flow_log_files: u32,
}

impl FlowLogArgs {
    /// What was asked for, if anything.
    pub(super) fn settings(self, node: &str) -> Option<Settings> {
        let Self {
            flow_log,
            flow_log_interval,
            flow_log_sample,
            flow_log_rate,
            flow_log_pod_rate,
            flow_log_size,
            flow_log_files,
        } = self;
        Some(Settings {
            target: flow_log?,
            interval: Duration::from_secs(flow_log_interval.into()),
            sample: flow_log_sample,
            rate: flow_log_rate,
            pod_rate: flow_log_pod_rate,
            size: u64::from(flow_log_size).saturating_mul(MEBIBYTE),
            kept: flow_log_files,
            node: node.to_owned(),
        })
    }
}
