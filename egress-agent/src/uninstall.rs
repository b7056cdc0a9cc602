//! Whether the agent ends because it is taken out of the cluster.
//!
//! An agent that ends leaves everything as it is: a restart, an upgrade or a lost API server must
//! change no verdict. Only when its DaemonSet goes too is nobody left to maintain what it made.
//!
//! A release that is deleted loses the agent's rights, and often its account, before its pods are
//! told to end: whoever asks only then is refused (401, 403). An agent whose rights an upgrade took
//! is refused as well, and opening traffic for it would be wrong. So the DaemonSet is watched from
//! the start: a watch that is open goes on without the rights, and tells of the deletion.

mod watch;

use std::str::FromStr;
use std::time::Duration;

use egress_core::object::Name;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client};
use tokio::task::AbortHandle;

use watch::{Seen, follow};

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

/// The agent's own DaemonSet, watched as long as this lives.
#[derive(Debug)]
pub struct Watched {
    sets: Api<DaemonSet>,
    name: String,
    seen: tokio::sync::watch::Receiver<Seen>,
    task: AbortHandle,
}

impl Watched {
    /// Begins to watch. Must be called within a Tokio runtime.
    pub fn start(client: Client, OwnDaemonSet(Name { namespace, name }): OwnDaemonSet) -> Self {
        let sets: Api<DaemonSet> = Api::namespaced(client, &namespace);
        let (sender, seen) = tokio::sync::watch::channel(Seen::Unknown);
        let name = name.to_string();
        let task = tokio::spawn(follow(sets.clone(), name.clone(), sender)).abort_handle();
        Self {
            sets,
            name,
            seen,
            task,
        }
    }

    /// Asks once more. A server that does not let us ask leaves what the watch has told.
    pub async fn standing(&self) -> Standing {
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.sets.get_metadata(&self.name)).await;
        let refused = match answer {
            Ok(Ok(set)) => {
                return match Seen::of(&set.metadata) {
                    Seen::Gone(why) => Standing::Goes(why),
                    Seen::Unknown | Seen::There => Standing::Stays("the DaemonSet is there"),
                };
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                return Standing::Goes("the DaemonSet is gone");
            }
            Ok(Err(kube::Error::Api(status))) => {
                tracing::debug!(%status, "asking for the DaemonSet");
                "the API server does not say what became of the DaemonSet"
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "asking for the DaemonSet");
                "the API server does not answer"
            }
            Err(tokio::time::error::Elapsed { .. }) => "the API server does not answer",
        };
        match *self.seen.borrow() {
            Seen::Gone(why) => Standing::Goes(why),
            Seen::Unknown | Seen::There => Standing::Stays(refused),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;

    use axum::Router;
    use axum::body::Body;
    use axum::http::{StatusCode, Uri};
    use axum::response::{IntoResponse as _, Response};
    use axum::routing::get;
    use futures_util::{StreamExt as _, stream};
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

    fn set(metadata: &Value) -> Value {
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata})
    }

    fn there() -> Value {
        set(&json!({"name": "egress-agent"}))
    }

    fn going() -> Value {
        set(&json!({"name": "egress-agent", "deletionTimestamp": "2026-01-01T00:00:00Z"}))
    }

    fn failure(code: u16) -> (u16, Value) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no", "reason": "No"});
        (code, status)
    }

    /// What follows from an API server whose watch tells `events` and then stays open, or is
    /// refused where there are none, and that gives `answer` when it is asked at the end.
    async fn standing(events: &[(&str, Value)], answer: (u16, Value)) -> Standing {
        let lines: Arc<Vec<String>> = Arc::new(
            events
                .iter()
                .map(|(kind, object)| format!("{}\n", json!({"type": kind, "object": object})))
                .collect(),
        );
        let watch = get(move |uri: Uri| async move {
            let query = uri.query().unwrap_or_default();
            let own = query.contains("fieldSelector=metadata.name%3Degress-agent");
            if lines.is_empty() || !own || !query.contains("watch=true") {
                let (code, status) = failure(403);
                return (StatusCode::from_u16(code).unwrap(), axum::Json(status)).into_response();
            }
            let lines: Vec<_> = lines.iter().cloned().map(Ok::<_, String>).collect();
            Response::new(Body::from_stream(
                stream::iter(lines).chain(stream::pending()),
            ))
        });
        let (code, body) = answer;
        let code = StatusCode::from_u16(code).unwrap();
        let sets = "/apis/apps/v1/namespaces/kube-system/daemonsets";
        let app = Router::new().route(sets, watch).route(
            &format!("{sets}/egress-agent"),
            get(move || async move { (code, axum::Json(body)) }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let mut watched = Watched::start(client(port), own());
        if let Some((kind, last)) = events.last() {
            let gone = *kind == "DELETED" || last.pointer("/metadata/deletionTimestamp").is_some();
            let heard = watched
                .seen
                .wait_for(|seen| *seen != Seen::Unknown && matches!(seen, Seen::Gone(_)) == gone);
            let _seen = tokio::time::timeout(Duration::from_mins(1), heard)
                .await
                .unwrap()
                .unwrap();
        }
        let standing = watched.standing().await;
        server.abort();
        standing
    }

    #[tokio::test]
    async fn a_daemonset_that_goes_means_the_end() {
        assert!(matches!(
            standing(&[], (200, going())).await,
            Standing::Goes(_)
        ));
        assert!(matches!(
            standing(&[], failure(404)).await,
            Standing::Goes(_)
        ));
    }

    #[tokio::test]
    async fn a_deletion_that_was_seen_means_the_end_when_the_rights_are_gone_too() {
        for code in [401, 403, 503] {
            for last in [("DELETED", there()), ("MODIFIED", going())] {
                let events = [("ADDED", there()), last];
                assert!(
                    matches!(standing(&events, failure(code)).await, Standing::Goes(_)),
                    "{code} {events:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn rights_that_are_taken_or_were_never_there_mean_nothing() {
        for code in [401, 403, 429, 500, 503] {
            for events in [&[][..], &[("ADDED", there())]] {
                assert!(
                    matches!(standing(events, failure(code)).await, Standing::Stays(_)),
                    "{code} {events:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_daemonset_that_is_there_or_there_again_stays() {
        let gone = ("DELETED", there());
        let again = ("ADDED", there());
        assert_eq!(
            standing(&[], (200, there())).await,
            Standing::Stays("the DaemonSet is there")
        );
        assert_eq!(
            standing(std::slice::from_ref(&gone), (200, there())).await,
            Standing::Stays("the DaemonSet is there")
        );
        assert!(matches!(
            standing(&[gone, again], failure(403)).await,
            Standing::Stays(_)
        ));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_or_silent_means_nothing() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = nobody.local_addr().unwrap().port();
        drop(nobody);
        let refused = Watched::start(client(port), own());
        let silence = Standing::Stays("the API server does not answer");
        assert_eq!(refused.standing().await, silence);
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        assert_eq!(
            Watched::start(client(port), own()).standing().await,
            silence
        );
    }

    #[test]
    fn a_daemonset_is_named_with_its_namespace() {
        for wrong in ["", "a", "/a", "a/", "a/b/c"] {
            assert!(wrong.parse::<OwnDaemonSet>().is_err(), "{wrong}");
        }
    }
}
