//! Whether the agent ends because it is taken out of the cluster.
//!
//! An agent that ends leaves everything as it is: a restart, an upgrade or a lost API server must
//! change no verdict. Only when its DaemonSet goes too is nobody left to maintain what it made.

use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use egress_core::object::Name;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client};

/// For the API server's answer: a pod has 30 s to end, by default.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// `NS/NAME` of the agent's own DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnDaemonSet(Name);

/// It is not `NS/NAME`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not NAMESPACE/NAME")]
pub struct NotAName(String);

impl FromStr for OwnDaemonSet {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self(Name::new(namespace, name)))
            }
            _ => Err(NotAName(text.to_owned())),
        }
    }
}

/// What the API server says of the DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there, or nobody says that it is not.
    Stays(&'static str),
    /// It is taken out.
    Goes(&'static str),
}

/// Asks once. `client` is awaited first: it is only needed here.
pub async fn standing<E: std::error::Error>(
    client: impl Future<Output = Result<Client, E>>,
    own: &OwnDaemonSet,
) -> Standing {
    let OwnDaemonSet(Name { namespace, name }) = own;
    let answer = async {
        match client.await {
            Ok(client) => {
                let sets: Api<DaemonSet> = Api::namespaced(client, namespace);
                Some(sets.get(name).await)
            }
            Err(error) => {
                tracing::debug!(%error, "no client of the API server");
                None
            }
        }
    };
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(Some(answer)) => judge(answer),
        Ok(None) | Err(tokio::time::error::Elapsed { .. }) => {
            Standing::Stays("the API server does not answer")
        }
    }
}

/// No upgrade takes the account or its rights away; a release that goes loses them first.
fn judge(answer: Result<DaemonSet, kube::Error>) -> Standing {
    match answer {
        Ok(set) if set.metadata.deletion_timestamp.is_some() => {
            Standing::Goes("the DaemonSet is being deleted")
        }
        Ok(_) => Standing::Stays("the DaemonSet is there"),
        Err(kube::Error::Api(status)) => match status.code {
            404 => Standing::Goes("the DaemonSet is gone"),
            401 => Standing::Goes("the agent's account is gone"),
            403 => Standing::Goes("the agent's rights are gone"),
            _ => Standing::Stays("the API server cannot say"),
        },
        Err(error) => {
            tracing::debug!(%error, "asking for the DaemonSet");
            Standing::Stays("the API server does not answer")
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::convert::Infallible;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;

    fn own() -> OwnDaemonSet {
        "kube-system/egress-agent".parse().unwrap()
    }

    fn client(port: u16) -> Client {
        let uri = format!("http://127.0.0.1:{port}").parse().unwrap();
        let mut config = kube::Config::new(uri);
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    /// What an API server that answers so leads to.
    async fn answered(status: u16, body: Value) -> Standing {
        let path = "/apis/apps/v1/namespaces/kube-system/daemonsets/egress-agent";
        let status = StatusCode::from_u16(status).unwrap();
        let answer = get(move || async move { (status, axum::Json(body)) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().route(path, answer);
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let standing = standing(async { Ok::<_, Infallible>(client(port)) }, &own()).await;
        server.abort();
        standing
    }

    fn set(metadata: &Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata})
    }

    fn failure(code: u16) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no", "reason": "No"})
    }

    #[tokio::test]
    async fn a_daemonset_that_goes_or_may_not_be_read_means_the_end() {
        let deleted =
            set(&json!({"name": "egress-agent", "deletionTimestamp": "2026-01-01T00:00:00Z"}));
        assert!(matches!(answered(200, deleted).await, Standing::Goes(_)));
        for code in [401, 403, 404] {
            assert!(
                matches!(answered(code, failure(code)).await, Standing::Goes(_)),
                "{code}"
            );
        }
    }

    #[tokio::test]
    async fn in_doubt_everything_stays() {
        let there = set(&json!({"name": "egress-agent"}));
        assert_eq!(
            answered(200, there).await,
            Standing::Stays("the DaemonSet is there")
        );
        for code in [429, 500, 503] {
            assert!(
                matches!(answered(code, failure(code)).await, Standing::Stays(_)),
                "{code}"
            );
        }
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = nobody.local_addr().unwrap().port();
        drop(nobody);
        let refused = standing(async { Ok::<_, Infallible>(client(port)) }, &own()).await;
        assert_eq!(refused, Standing::Stays("the API server does not answer"));
    }

    #[tokio::test]
    async fn a_server_that_is_silent_is_not_waited_for() {
        let never = std::future::pending::<Result<Client, Infallible>>();
        assert_eq!(
            standing(never, &own()).await,
            Standing::Stays("the API server does not answer")
        );
    }

    #[test]
    fn a_daemonset_is_named_with_its_namespace() {
        for wrong in ["", "a", "/a", "a/", "a/b/c"] {
            assert!(wrong.parse::<OwnDaemonSet>().is_err(), "{wrong}");
        }
    }
}
