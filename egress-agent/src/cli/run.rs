//! `run`: enforces until it is told to end.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::FalseyValueParser;
use egress_core::compile::Options;
use tokio::signal::unix::{SignalKind, signal};

use super::ending::EndingArgs;
use super::flow_log::FlowLogArgs;
use super::listen::Listen;
use super::sizes::SizesArgs;
use super::{PlacesArgs, SocketArgs};
use crate::agent::{self, Settings};
use crate::cni::install::Installation;
use crate::cni::install::conflist::Entry;
use crate::cni::install::keeper::Keeper;
use crate::cni::spec::WhenAgentDown;
use crate::datapath::Sizes;
use crate::logging::{self, Format};
use crate::metrics::WorkloadLabels;
use crate::pods::CACHE_DIR;
use crate::source::Origin;

/// Below `--help`. A test of the documents parses every line of it.
const EXAMPLES: &str = r"Examples:
  # objects from the API server, by KUBECONFIG or the service account of the pod this runs in
  egress-agent run --node-name node-1
  # objects from files; pods name their network namespace by an annotation
  egress-agent run --manifests manifests/ --node-name node-1
  # another agent on the same machine has places of its own
  egress-agent run --manifests other/ --node-name node-2 --http-addr 127.0.0.1:9811 \
    --socket /run/other.sock --pin-root /sys/fs/bpf/other --state-dir /run/other";

/// One thread for the agent task, which blocks while it writes tables, one for records and one
/// for scrapes; the machine's other processors are the pods'.
const THREADS: usize = 3;

/// Enforces the policies on the pods of this node, until SIGTERM; enforcement stays then.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the command line"
)]
pub(super) struct Args {
    /// Name of this node: pods whose `spec.nodeName` it is are enforced.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: String,

    /// Folder with the objects: every *.yaml, *.yml and *.json below it; changes are followed.
    /// Without it objects come from the API server.
    #[arg(long, value_name = "DIR", env = "EGRESS_MANIFESTS")]
    manifests: Option<PathBuf>,

    /// How to reach the API server. Default: the files that KUBECONFIG names, and without that
    /// the service account of the pod this runs in.
    // Not `env`: KUBECONFIG may name several files, and must not be in the way of --manifests.
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    kubeconfig: Option<PathBuf>,

    /// Address of /metrics, /healthz and /readyz; without a port, that of --http-port.
    #[arg(
        long,
        value_name = "ADDRESS[:PORT]",
        env = "EGRESS_HTTP_ADDR",
        default_value = "127.0.0.1"
    )]
    http_addr: Listen,

    /// Port of /metrics, /healthz and /readyz when --http-addr names none.
    #[arg(
        long,
        value_name = "PORT",
        env = "EGRESS_HTTP_PORT",
        default_value_t = 9810
    )]
    http_port: u16,

    #[command(flatten)]
    socket: SocketArgs,

    #[command(flatten)]
    places: PlacesArgs,

    /// Where libcni keeps the results of CNI plugins: they name pods' interfaces.
    #[arg(
        long,
        value_name = "DIR",
        env = "EGRESS_CNI_CACHE_DIR",
        default_value = CACHE_DIR
    )]
    cni_cache_dir: PathBuf,

    /// Keep the CNI plugin chained: folder of CNI plugins. Pods then start isolated.
    #[arg(
        long,
        value_name = "DIR",
        env = "EGRESS_CNI_BIN_DIR",
        requires = "cni_conf_dir"
    )]
    cni_bin_dir: Option<PathBuf>,

    /// Keep the CNI plugin chained: folder of network configurations.
    #[arg(
        long,
        value_name = "DIR",
        env = "EGRESS_CNI_CONF_DIR",
        requires = "cni_bin_dir"
    )]
    cni_conf_dir: Option<PathBuf>,

    /// What a new pod does while no agent runs.
    #[arg(
        long,
        value_enum,
        env = "EGRESS_CNI_WHEN_AGENT_DOWN",
        default_value = "wait"
    )]
    cni_when_agent_down: WhenAgentDown,

    #[command(flatten)]
    ending: EndingArgs,

    /// Always allow traffic to the own node's addresses.
    #[arg(long, env = "EGRESS_ALLOW_OWN_NODE", value_parser = FalseyValueParser::new())]
    allow_own_node: bool,

    /// Do not drop packets whose source is not one of the pod's addresses.
    #[arg(long, env = "EGRESS_NO_SPOOF_CHECK", value_parser = FalseyValueParser::new())]
    no_spoof_check: bool,

    /// Drop records that one pod may cause a second; 0 switches them off. Counters count all.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_EVENTS_PER_SECOND",
        default_value_t = 100
    )]
    events_per_second: u32,

    /// Write an Event on the pod for what it may not send: one for each destination, at most five a
    /// pod, told again with a count once a minute. Needs the API server, and the right to create and
    /// patch Events.
    #[arg(long, env = "EGRESS_DROP_EVENTS", value_parser = FalseyValueParser::new())]
    drop_events: bool,

    /// Give `egress_workload_dropped_packets_total` a pod label.
    #[arg(long, env = "EGRESS_METRICS_POD_LABEL", value_parser = FalseyValueParser::new())]
    metrics_pod_label: bool,

    /// Workloads (pods, with the pod label) that get metric series of their own; the rest share
    /// workload="overflow".
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EGRESS_METRICS_WORKLOAD_LIMIT",
        default_value_t = WorkloadLabels::default().limit
    )]
    metrics_workload_limit: usize,

    #[command(flatten)]
    flow_log: FlowLogArgs,

    /// How the log on standard error is written.
    #[arg(long, value_enum, env = "EGRESS_LOG_FORMAT", default_value_t = Format::Text)]
    log_format: Format,

    /// error, warn, info, debug or trace; or by module: info,egress_agent::datapath=debug.
    #[arg(
        long,
        value_name = "LEVEL",
        env = "EGRESS_LOG_LEVEL",
        default_value = "info"
    )]
    log_level: String,

    // Last: its heading holds for all that follow.
    #[command(flatten)]
    sizes: SizesArgs,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        // Not `conflicts_with`: an environment variable that switches it off is no conflict.
        if self.drop_events && self.manifests.is_some() {
            anyhow::bail!(
                "--drop-events writes to the API server, and with --manifests there is none"
            );
        }
        let installation = self.installation();
        logging::init(self.log_format, &self.log_level)?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            node = self.node_name,
            socket = %self.socket.socket.display(),
            "egress-agent starts"
        );
        let annotations = self.manifests.is_some();
        let pod_rate = self.flow_log.flow_log_pod_rate;
        let flow_log = self.flow_log.settings(&self.node_name);
        let (ending, kubeconfig) = (self.ending, self.kubeconfig.clone());
        let places = self.places.clone();
        let settings = Settings {
            options: Options {
                node: self.node_name,
                allow_own_node: self.allow_own_node,
                no_spoof_check: self.no_spoof_check,
            },
            origin: match self.manifests {
                Some(folder) => Origin::Manifests(folder),
                None => Origin::Cluster {
                    kubeconfig: self.kubeconfig,
                },
            },
            pin_root: self.places.pin_root,
            socket: self.socket.socket,
            http_addr: self.http_addr.or_port(self.http_port),
            state_dir: self.places.state_dir,
            // In a cluster a pod's author writes its annotations, and is not to be believed.
            annotations,
            cni_cache_dir: self.cni_cache_dir,
            events_per_second: self.events_per_second,
            drop_events: self.drop_events,
            sizes: Sizes {
                flow_events: if flow_log.is_some() { pod_rate } else { 0 },
                ..self.sizes.into()
            },
            flow_log,
            labels: WorkloadLabels {
                pod: self.metrics_pod_label,
                limit: self.metrics_workload_limit,
            },
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .context("starting threads")?;
        runtime.block_on(async {
            // Before anything is attached: a signal during the start ends it in order too.
            let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
            let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
            let keeper = installation
                .map(Keeper::start)
                .transpose()
                .context("keeping the CNI plugin")?;
            let ending = ending.start(kubeconfig.as_deref(), places).await;
            let mut terminated = false;
            agent::run(settings, async {
                tokio::select! {
                    _ = terminate.recv() => {
                        terminated = true;
                        tracing::info!("SIGTERM");
                    }
                    _ = interrupt.recv() => tracing::info!("SIGINT"),
                }
            })
            .await?;
            if terminated {
                ending.end(keeper.as_ref()).await;
            }
            anyhow::Ok(())
        })?;
        Ok(ExitCode::SUCCESS)
    }

    /// The CNI plugin, where it is to be kept.
    fn installation(&self) -> Option<Installation> {
        Some(Installation {
            bin_dir: self.cni_bin_dir.clone()?,
            conf_dir: self.cni_conf_dir.clone()?,
            entry: Entry::new(&self.socket.socket, self.cni_when_agent_down),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    fn parse(args: &[&str]) -> Args {
        let cli = Cli::try_parse_from(
            ["egress-agent", "run", "--node-name", "n"]
                .iter()
                .chain(args),
        )
        .unwrap();
        let Command::Run(args) = cli.command else {
            unreachable!()
        };
        *args
    }

    #[test]
    fn flags_have_the_defaults_of_the_contract() {
        let args = parse(&[]);
        assert_eq!(
            args.http_addr.or_port(args.http_port),
            "127.0.0.1:9810".parse().unwrap()
        );
        assert_eq!(
            args.socket.socket,
            PathBuf::from("/run/egress-agent/agent.sock")
        );
        assert_eq!(args.events_per_second, 100);
        assert!(!args.allow_own_node && !args.no_spoof_check && !args.metrics_pod_label);
    }

    #[test]
    fn manifests_and_a_kubeconfig_do_not_go_together() {
        let parsed = Cli::try_parse_from([
            "egress-agent",
            "run",
            "--node-name=n",
            "--manifests=/m",
            "--kubeconfig=/k",
        ]);
        assert!(parsed.is_err());
        assert_eq!(
            parse(&["--kubeconfig", "/k"]).kubeconfig,
            Some(PathBuf::from("/k"))
        );
    }

    #[test]
    fn events_without_an_api_server_are_refused_before_anything_starts() {
        let error = parse(&["--manifests", "/nowhere", "--drop-events"])
            .run()
            .unwrap_err();
        assert!(error.to_string().contains("--manifests"), "{error:#}");
    }

    #[test]
    fn a_level_that_is_none_is_refused_before_anything_starts() {
        let error = parse(&["--manifests", "/nowhere", "--log-level", "a=b=c"])
            .run()
            .unwrap_err();
        assert!(format!("{error:#}").starts_with("log level"), "{error:#}");
    }
}
