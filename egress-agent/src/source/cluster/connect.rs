//! Whom to ask: a kubeconfig, or the service account of the pod this runs in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::http::header::USER_AGENT;
use hyper::http::{HeaderValue, Uri};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use super::failure::chain;

/// Beyond it the server counts as not there; the watch asks again later.
const CONNECT: Duration = Duration::from_secs(5);

/// Set by the kubelet in every pod.
const SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";

/// Why it is not known whom to ask. That nobody answers is no such error.
///
/// The client's errors tell their causes in their own text, so these carry texts.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing names an API server.
    #[error(
        "there is no source of objects: give --manifests DIR, or --kubeconfig FILE (or KUBECONFIG), or run in a pod of the cluster, where {SERVICE_HOST} is set"
    )]
    NoConfig,
    /// The file of `--kubeconfig`.
    #[error("the kubeconfig {} (--kubeconfig): {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The files of `KUBECONFIG`.
    #[error("the kubeconfig that KUBECONFIG names: {reason}")]
    Environment {
        /// Why.
        reason: String,
    },
    /// What the kubelet mounts into every pod.
    #[error("the service account of this pod (is automountServiceAccountToken off?): {reason}")]
    ServiceAccount {
        /// Why.
        reason: String,
    },
    /// Its certificates or credentials are of no use.
    #[error("the credentials for {server}: {reason}")]
    Credentials {
        /// The API server.
        server: Uri,
        /// Why.
        reason: String,
    },
}

/// A client of the API server that `kubeconfig` names, and where that is; without it `KUBECONFIG`,
/// without that the service account. Sends nothing yet.
///
/// The user's own `~/.kube/config` is not looked at: a daemon that enforces whatever cluster
/// somebody worked with last would be a surprise.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<(Client, Uri), ConnectError> {
    let mut config = configuration(kubeconfig).await?;
    config.connect_timeout = Some(CONNECT);
    // The watches wait and ask again themselves, and say so.
    config.default_retry = false;
    config.headers.push((
        USER_AGENT,
        HeaderValue::from_static(concat!("egress-agent/", env!("CARGO_PKG_VERSION"))),
    ));
    let server = config.cluster_url.clone();
    match Client::try_from(config) {
        Ok(client) => Ok((client, server)),
        Err(error) => Err(ConnectError::Credentials {
            server,
            reason: chain(&error),
        }),
    }
}

async fn configuration(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
    if let Some(path) = kubeconfig {
        let read = async { of_file(Kubeconfig::read_from(path)?).await };
        return read.await.map_err(|error| ConnectError::File {
            path: path.to_owned(),
            reason: chain(&error),
        });
    }
    let environment = |error| ConnectError::Environment {
        reason: chain(&error),
    };
    if let Some(file) = Kubeconfig::from_env().map_err(environment)? {
        return of_file(file).await.map_err(environment);
    }
    if std::env::var_os(SERVICE_HOST).is_none() {
        return Err(ConnectError::NoConfig);
    }
    Config::incluster().map_err(|error| ConnectError::ServiceAccount {
        reason: chain(&error),
    })
}

async fn of_file(file: Kubeconfig) -> Result<Config, KubeconfigError> {
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    async fn refused(path: &Path) -> String {
        let Err(error) = connect(Some(path)).await else {
            unreachable!("a client of {}", path.display())
        };
        error.to_string()
    }

    #[tokio::test]
    async fn a_kubeconfig_of_no_use_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let absent = refused(&path).await;
        assert!(
            absent.starts_with(&format!(
                "the kubeconfig {} (--kubeconfig): ",
                path.display()
            )),
            "{absent}"
        );
        assert_eq!(absent.matches("No such file").count(), 1, "{absent}");
        std::fs::write(&path, "clusters: 7").unwrap();
        assert!(refused(&path).await.contains("parse"));
        std::fs::write(&path, "current-context: gone").unwrap();
        assert!(refused(&path).await.contains("context"));
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let config = "
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
users: [{name: u, user: {token: t}}]
current-context: x
";
        std::fs::write(&path, config).unwrap();
        assert!(connect(Some(&path)).await.is_ok());
    }
}
