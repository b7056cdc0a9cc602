//! `cni`: the plugin's place on this node.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::SocketArgs;
use crate::cni::install::conflist::Entry;
use crate::cni::install::{Done, Installation};
use crate::cni::spec::WhenAgentDown;

/// Below `--help`. A test of the documents parses every line of it.
const EXAMPLES: &str = "\
Examples:
  # by hand; the chart's DaemonSet does it with an init container
  egress-agent cni install --bin-dir /opt/cni/bin --conf-dir /etc/cni/net.d
  # pods start without waiting where no agent runs
  egress-agent cni install --when-agent-down start
  # on a node that was down when the agent was uninstalled
  egress-agent cni uninstall --bin-dir /opt/cni/bin --conf-dir /etc/cni/net.d";

/// Puts the CNI plugin on this node, or takes it away: pods then start isolated.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Copies this program as the plugin egress-agent-cni, and chains it behind the first
    /// network configuration, in a list that comes before it. Doing it again changes nothing.
    Install {
        #[command(flatten)]
        places: Places,

        /// What a new pod does while no agent runs.
        #[arg(
            long,
            value_enum,
            env = "EGRESS_CNI_WHEN_AGENT_DOWN",
            default_value = "wait"
        )]
        when_agent_down: WhenAgentDown,

        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Takes the plugin out of every network configuration, then its binary.
    Uninstall {
        #[command(flatten)]
        places: Places,
    },
}

/// Where container runtimes look.
#[derive(Debug, clap::Args)]
struct Places {
    /// Folder of CNI plugins.
    #[arg(
        long,
        value_name = "DIR",
        env = "EGRESS_CNI_BIN_DIR",
        default_value = "/opt/cni/bin"
    )]
    bin_dir: PathBuf,

    /// Folder of network configurations.
    #[arg(
        long,
        value_name = "DIR",
        env = "EGRESS_CNI_CONF_DIR",
        default_value = "/etc/cni/net.d"
    )]
    conf_dir: PathBuf,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Done { network, changed } = match self.action {
            Action::Install {
                places,
                when_agent_down,
                socket,
            } => {
                let entry = Entry::new(&socket.socket, when_agent_down);
                let done = places.installation(entry).establish()?;
                if done.network.is_none() {
                    super::complain(
                        "no network is configured yet: the running agent chains the plugin when one is",
                    );
                }
                done
            }
            Action::Uninstall { places } => {
                let nobody = Entry::new(&PathBuf::new(), WhenAgentDown::Wait);
                places.installation(nobody).remove()?
            }
        };
        let mut out = io::stdout();
        for path in changed {
            writeln!(out, "changed {}", path.display())?;
        }
        if let Some(network) = network {
            writeln!(out, "the plugin is in {}", network.display())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Places {
    fn installation(self, entry: Entry) -> Installation {
        let Self { bin_dir, conf_dir } = self;
        Installation {
            bin_dir,
            conf_dir,
            entry,
        }
    }
}
