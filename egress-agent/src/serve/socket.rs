//! The unix socket that the command line talks to.
//!
//! Root only (mode 0600): drops and answers name destinations.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use super::stream::{self, Wanted};
use super::{Request, View, cni};
use crate::drops::NotTo;
use crate::evaluate::Target;
use crate::query::{self, Destination, Subject};
use crate::status::{Warning, WarningKind, warnings};

/// The body of POST `/v1/explain`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// `NS/POD`.
    pub from: String,
    /// As in [`crate::query`].
    pub to: String,
}

/// How much of a status is asked for.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Detail {
    /// Also what takes reading every table back: drift, other programs on the hooks.
    #[serde(default)]
    survey: bool,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// A sentence for a person.
    pub error: String,
}

/// The socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent answers there.
    #[error("an agent already listens on {0}; give this one another --socket")]
    InUse(PathBuf),
    /// Something that is not a socket stands there.
    #[error("{0} is there and is no socket")]
    NoSocket(PathBuf),
    /// A step failed.
    #[error("socket {path}: {step}")]
    Step {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// A socket file that goes away with its listener.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// Removes the file on drop, unless another agent has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Listens on `path`: a stale socket is replaced, a live one refused.
    ///
    /// The socket is made under another name and renamed when its mode is right: nobody
    /// can connect to it before.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |step| {
            move |source| BindError::Step {
                path: path.to_owned(),
                step,
                source,
            }
        };
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(failed("making its folder"))?;
        }
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(BindError::NoSocket(path.to_owned()));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(BindError::InUse(path.to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("looking at it")(error)),
        }
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let new = PathBuf::from(name);
        match fs::remove_file(&new) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("removing a left-over")(error)),
        }
        let listener = UnixListener::bind(&new).map_err(failed("binding"))?;
        fs::set_permissions(&new, Permissions::from_mode(0o600))
            .map_err(failed("setting its mode"))?;
        let inode = fs::symlink_metadata(&new)
            .map_err(failed("looking at it"))?
            .ino();
        fs::rename(&new, path).map_err(failed("moving it into place"))?;
        Ok(Self {
            listener,
            file: SocketFile {
                path: path.to_owned(),
                inode,
            },
        })
    }

    /// Answers until the future is dropped.
    pub async fn serve(self, view: View) -> io::Result<()> {
        let Self {
            listener,
            file: _removed_at_the_end,
        } = self;
        axum::serve(listener, router(view)).await
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, socket = %self.path.display(), "the socket stays");
        }
    }
}

/// The routes.
pub fn router(view: View) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/drops", get(drops))
        .route("/v1/explain", post(explain))
        .merge(cni::router())
        .with_state(view)
}

/// The published status, with the tables' fill as the kernel has it now.
async fn status(
    State(view): State<View>,
    detail: Result<Query<Detail>, QueryRejection>,
) -> Response {
    let Detail { survey } = match detail {
        Ok(Query(detail)) => detail,
        Err(rejection) => return refused(rejection.status(), rejection.body_text()),
    };
    let published = view.status.borrow().clone();
    let found = if survey {
        view.ask(Request::Survey).await
    } else {
        Ok(Vec::new())
    };
    let read = tokio::task::spawn_blocking(move || {
        let attribution = view.attribution.borrow().clone();
        view.counters.scrape(&attribution)
    })
    .await;
    let mut status = Arc::unwrap_or_clone(published);
    match read {
        Ok(Ok(scrape)) if !scrape.maps.is_empty() => status.maps = scrape.maps,
        Ok(Ok(_)) => {}
        // The rest of the status is worth having all the same.
        Ok(Err(error)) => tracing::warn!(%error, "the fill of the tables cannot be read"),
        Err(error) => tracing::error!(%error, "the fill of the tables cannot be read"),
    }
    let told = warnings(&status, Timestamp::now());
    status.warnings.extend(told);
    match found {
        Ok(found) => status.warnings.extend(found),
        Err(error) => status.warnings.push(Warning {
            kind: WarningKind::Drift,
            object: String::new(),
            message: format!("the tables were not compared with what the agent wrote: {error}"),
        }),
    }
    status.warnings.sort();
    Json(status).into_response()
}

async fn drops(
    State(view): State<View>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    match wanted {
        Ok(Query(wanted)) => match wanted.try_into() {
            Ok(filter) => {
                let body = stream::body(&view.drops, filter);
                ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
            }
            Err(error) => refused(StatusCode::BAD_REQUEST, NotTo::to_string(&error)),
        },
        Err(rejection) => refused(rejection.status(), rejection.body_text()),
    }
}

async fn explain(
    State(view): State<View>,
    question: Result<Json<Question>, JsonRejection>,
) -> Response {
    let Question { from, to } = match question {
        Ok(Json(question)) => question,
        Err(rejection) => return refused(rejection.status(), rejection.body_text()),
    };
    let from: Subject = match from.parse() {
        Ok(from) => from,
        Err(error) => return refused(StatusCode::BAD_REQUEST, query::Error::to_string(&error)),
    };
    let to: Destination = match to.parse() {
        Ok(to) => to,
        Err(error) => return refused(StatusCode::BAD_REQUEST, query::Error::to_string(&error)),
    };
    let to = match tokio::task::spawn_blocking(move || Target::of(&to)).await {
        Ok(Ok(to)) => to,
        Ok(Err(error)) => return refused(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        Err(error) => return refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    match view.ask(|reply| Request::Explain { from, to, reply }).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(error)) => refused(StatusCode::UNPROCESSABLE_ENTITY, error),
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

pub(super) fn refused(status: StatusCode, error: String) -> Response {
    (status, Json(Refusal { error })).into_response()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::{Duration, Instant};

    use super::super::client::{Client, Error};
    use super::super::stream::Line;
    use super::super::testing::{Agent, drop_to};
    use super::*;
    use crate::answer::Verdict;

    struct Served {
        agent: Agent,
        client: Client,
        folder: tempfile::TempDir,
        server: tokio::task::JoinHandle<io::Result<()>>,
    }

    fn served() -> Served {
        let agent = Agent::start();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.sock");
        let socket = Socket::bind(&path).unwrap();
        let server = tokio::spawn(socket.serve(agent.view.clone()));
        Served {
            agent,
            client: Client::new(&path),
            folder,
            server,
        }
    }

    #[tokio::test]
    async fn the_status_goes_through_the_socket_unchanged() {
        let served = served();
        let status = served.client.status().await.unwrap();
        assert_eq!(status, **served.agent.view.status.borrow());
    }

    #[tokio::test]
    async fn who_waits_for_an_agent_is_told_as_soon_as_it_is_ready() {
        let served = served();
        let patient = tokio::spawn({
            let client = served.client.clone();
            async move { client.ready(Duration::from_mins(1)).await }
        });
        let late = served.client.ready(Duration::ZERO).await.unwrap();
        assert!(!late.ready && !patient.is_finished());
        served
            .agent
            .status
            .send_modify(|status| Arc::make_mut(status).ready = true);
        assert!(patient.await.unwrap().unwrap().ready);
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_told_why() {
        let folder = tempfile::tempdir().unwrap();
        let client = Client::new(&folder.path().join("none.sock"));
        let error = client.ready(Duration::from_millis(1)).await.unwrap_err();
        assert!(matches!(error, Error::NoAgent(_)), "{error}");
    }

    #[tokio::test]
    async fn the_fill_of_the_maps_is_read_when_asked() {
        let served = served();
        served.agent.kernel.fill("PEERS", 3, 10);
        let status = served.client.status().await.unwrap();
        assert_eq!(status.maps.first().unwrap().entries, 3);
    }

    #[tokio::test]
    async fn explain_asks_the_agent_task() {
        let served = served();
        let answer = served.client.explain("a/web", "10.0.0.1:80").await.unwrap();
        assert_eq!(
            (answer.verdict, answer.reason.as_str()),
            (Verdict::Deny, "no-rule")
        );
        let error = served
            .client
            .explain("a/none", "10.0.0.1:80")
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "there is no pod a/none");
        let error = served
            .client
            .explain("a/web", "10.0.0.1")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("has no port"), "{error}");
    }

    #[tokio::test]
    async fn remembered_drops_are_filtered_and_end() {
        let served = served();
        let drops = [
            drop_to("a", "web", 1),
            drop_to("b", "web", 2),
            drop_to("a", "db", 3),
        ];
        served.agent.view.drops.push(drops, Instant::now());
        for (wanted, ports) in [
            (Wanted::default(), vec![1, 2, 3]),
            (
                Wanted {
                    pod: Some("web".to_owned()),
                    ..Wanted::default()
                },
                vec![1, 2],
            ),
            (
                Wanted {
                    pod: Some("a/web".to_owned()),
                    ..Wanted::default()
                },
                vec![1],
            ),
            (
                Wanted {
                    namespace: Some("a".to_owned()),
                    ..Wanted::default()
                },
                vec![1, 3],
            ),
            (
                Wanted {
                    reason: Some("spoofed".to_owned()),
                    ..Wanted::default()
                },
                vec![],
            ),
            (
                Wanted {
                    to: Some("10.0.0.0/8:2".to_owned()),
                    ..Wanted::default()
                },
                vec![2],
            ),
            (
                Wanted {
                    to: Some("192.0.2.0/24".to_owned()),
                    ..Wanted::default()
                },
                vec![],
            ),
        ] {
            let mut drops = served.client.drops(&wanted).await.unwrap();
            let mut seen = Vec::new();
            while let Some(Line::Drop(record)) = drops.next().await.unwrap() {
                seen.push(record.port.unwrap());
            }
            assert_eq!(seen, ports, "{wanted:?}");
        }
    }

    #[tokio::test]
    async fn a_follower_sees_drops_as_they_happen() {
        let served = served();
        let now = Instant::now();
        served.agent.view.drops.push([drop_to("a", "web", 1)], now);
        let mut drops = served
            .client
            .drops(&Wanted {
                follow: true,
                ..Wanted::default()
            })
            .await
            .unwrap();
        for port in 1..=3 {
            let Some(Line::Drop(record)) = drops.next().await.unwrap() else {
                unreachable!()
            };
            assert_eq!(record.port, Some(port));
            let log = &served.agent.view.drops;
            log.push([drop_to("a", "web", port + 1)], now);
            log.advance(now + Duration::from_secs(1));
        }
        served.server.abort();
    }

    #[tokio::test]
    async fn an_unknown_filter_is_refused() {
        let served = served();
        let to_nowhere = Wanted {
            to: Some("nowhere".to_owned()),
            ..Wanted::default()
        };
        let error = served.client.drops(&to_nowhere).await.unwrap_err();
        assert!(error.to_string().contains("CIDR[:PORT]"), "{error}");
        let error = served
            .client
            .get_text("/v1/drops?pods=a")
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error}");
    }

    #[tokio::test]
    async fn only_root_may_connect() {
        let served = served();
        let path = served.folder.path().join("run/agent.sock");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777,
            0o755
        );
    }

    #[tokio::test]
    async fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let served = served();
        let path = served.folder.path().join("run/agent.sock");
        assert!(matches!(Socket::bind(&path), Err(BindError::InUse(_))));

        let stale = served.folder.path().join("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        Socket::bind(&stale).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        fs::write(&path, "text").unwrap();
        assert!(matches!(Socket::bind(&path), Err(BindError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }

    #[tokio::test]
    async fn the_file_goes_with_the_agent_and_the_client_then_says_so() {
        let served = served();
        let path = served.folder.path().join("run/agent.sock");
        served.server.abort();
        assert!(served.server.await.unwrap_err().is_cancelled());
        assert!(!path.exists());
        let error = served.client.status().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "no agent listens on {}: does it run, and with this --socket?",
                path.display()
            )
        );
    }

    #[tokio::test]
    async fn a_replaced_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let old = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let new = Socket::bind(&path).unwrap();
        drop(old);
        assert!(path.exists());
        drop(new);
        assert!(!path.exists());
    }
}
