//! What `run` does when it is told to end: nothing, unless it is taken out of the cluster.

use std::path::Path;

use clap::builder::FalseyValueParser;

use super::PlacesArgs;
use super::cleanup::remove_all;
use crate::cni::install::keeper::Keeper;
use crate::source::cluster;
use crate::uninstall::{OwnDaemonSet, Standing, Watched};

/// How the end of an installation is told from a restart.
#[derive(Debug, clap::Args)]
pub(super) struct EndingArgs {
    /// The agent's own DaemonSet, which it may get, list and watch. When the agent is told to end and
    /// its DaemonSet is gone or going, it takes the CNI plugin out; otherwise everything stays.
    #[arg(long, value_name = "NAMESPACE/NAME", env = "EGRESS_DAEMONSET")]
    daemonset: Option<OwnDaemonSet>,

    /// Then also take back enforcement, as `cleanup` does.
    #[arg(
        long,
        env = "EGRESS_CLEANUP_ON_UNINSTALL",
        value_parser = FalseyValueParser::new()
    )]
    cleanup_on_uninstall: bool,
}

/// What is left to do when the agent is told to end.
#[derive(Debug)]
pub(super) struct Ending {
    daemonset: Option<Watched>,
    /// What goes besides the CNI plugin.
    cleanup: Option<PlacesArgs>,
}

impl EndingArgs {
    /// Begins to watch the DaemonSet, with the API server to ask and what `cleanup` would remove.
    pub(super) async fn start(self, kubeconfig: Option<&Path>, places: PlacesArgs) -> Ending {
        let daemonset = match self.daemonset {
            None => None,
            Some(own) => match cluster::connect(kubeconfig).await {
                Ok((client, _server)) => Some(Watched::start(client, own)),
                Err(error) => {
                    tracing::warn!(%error, "--daemonset: an uninstallation will not be noticed");
                    None
                }
            },
        };
        Ending {
            daemonset,
            cleanup: self.cleanup_on_uninstall.then_some(places),
        }
    }
}

impl Ending {
    /// Takes out what nobody would maintain any more. Each part is tried; what stays is told.
    pub(super) async fn end(self, keeper: Option<&Keeper>) {
        let Some(own) = &self.daemonset else {
            return;
        };
        match own.standing().await {
            Standing::Stays(why) => tracing::info!("{why}: what is enforced stays enforced"),
            Standing::Goes(why) => {
                tracing::info!("{why}: taking out what the agent made on this node");
                tokio::task::block_in_place(|| self.take_out(keeper));
            }
        }
    }

    fn take_out(&self, keeper: Option<&Keeper>) {
        // First what keeps pods from starting without an agent.
        match keeper.map(Keeper::remove) {
            None => {}
            Some(Ok(done)) => {
                for path in done.changed {
                    tracing::info!(path = %path.display(), "CNI plugin: taken out");
                }
            }
            Some(Err(error)) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::error!(error, "the CNI plugin stays");
            }
        }
        match self
            .cleanup
            .as_ref()
            .map(|places| remove_all(places, false))
        {
            None => tracing::info!("what is enforced stays enforced"),
            Some(Ok(removed)) => tracing::info!(removed, "nothing is enforced any more"),
            Some(Err(errors)) => {
                for error in errors {
                    tracing::error!(error, "this stays");
                }
            }
        }
    }
}
