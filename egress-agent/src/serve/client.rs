//! The command line's side of the unix socket.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use super::cni;
use super::socket::{Question, Refusal};
use super::stream::{Line, Wanted};
use crate::answer::Answer;
use crate::cni::message::{Attachment, Outcome};
use crate::status::Status;

/// Between two questions of [`Client::ready`].
const PAUSE: Duration = Duration::from_millis(500);

/// Talks to the agent behind a socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// The agent could not be asked, or did not like the question.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no socket, or nobody behind it.
    #[error("no agent listens on {}: does it run, and with this --socket?", .0.display())]
    NoAgent(PathBuf),
    /// The socket is root's.
    #[error("not allowed to connect to {}; run this as root", .0.display())]
    Forbidden(PathBuf),
    /// Connecting failed otherwise.
    #[error("connecting to {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or was no HTTP.
    #[error("talking to the agent")]
    Http(#[from] hyper::Error),
    /// The request could not be written.
    #[error("writing the request")]
    Request(#[from] axum::http::Error),
    /// The agent's answer was not understood; it is of another version.
    #[error("the agent's answer cannot be understood; is it of another version?")]
    Answer(#[from] serde_json::Error),
    /// The agent refused, in its own words.
    #[error("{0}")]
    Refused(String),
}

/// Drops as they arrive.
#[derive(Debug)]
pub struct Drops {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Client {
    /// A client of the agent that listens on `socket`.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// What the agent enforces.
    pub async fn status(&self) -> Result<Status, Error> {
        self.json(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// The same, with what takes reading every table back: drift, other programs on the hooks.
    pub async fn survey(&self) -> Result<Status, Error> {
        self.json(Method::GET, "/v1/status?survey=true", Bytes::new())
            .await
    }

    /// The last status within `limit`: that of an agent that is ready, if there was one. An
    /// agent that is not there yet is waited for too.
    pub async fn ready(&self, limit: Duration) -> Result<Status, Error> {
        let start = Instant::now();
        loop {
            let answer = self.status().await;
            if answer.as_ref().is_ok_and(|status| status.ready) || start.elapsed() >= limit {
                return answer;
            }
            sleep(PAUSE).await;
        }
    }

    /// The verdict of the live tables.
    pub async fn explain(&self, from: &str, to: &str) -> Result<Answer, Error> {
        let question = Question {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        self.json(
            Method::POST,
            "/v1/explain",
            serde_json::to_vec(&question)?.into(),
        )
        .await
    }

    /// Has a sandbox enforced.
    pub async fn enforce(&self, attachment: &Attachment) -> Result<Outcome, Error> {
        let body = serde_json::to_vec(attachment)?.into();
        self.json(Method::POST, cni::ENFORCE, body).await
    }

    /// Whether a sandbox is enforced as it was when it was made.
    pub async fn inspect(&self, attachment: &Attachment) -> Result<Outcome, Error> {
        let body = serde_json::to_vec(attachment)?.into();
        self.json(Method::POST, cni::INSPECT, body).await
    }

    /// Whether a sandbox would be served.
    pub async fn serves(&self) -> Result<Outcome, Error> {
        self.json(Method::GET, cni::SERVES, Bytes::new()).await
    }

    /// The drops that are remembered and, if wanted, those to come.
    pub async fn drops(&self, wanted: &Wanted) -> Result<Drops, Error> {
        let path = format!("/v1/drops?{}", query(wanted));
        let body = self
            .request(Method::GET, &path, Bytes::new())
            .await?
            .into_body();
        Ok(Drops {
            body,
            buffer: Vec::new(),
        })
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Error> {
        let body = self
            .request(method, path, body)
            .await?
            .into_body()
            .collect()
            .await?;
        Ok(serde_json::from_slice(&body.to_bytes())?)
    }

    /// One request, and its answer when that is a success.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Error> {
        let response = self.send(method, path, body).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let refusal: Result<Refusal, _> = serde_json::from_slice(&body);
        Err(Error::Refused(refusal.map_or_else(
            |_not_json| format!("{status}: {}", String::from_utf8_lossy(&body).trim_end()),
            |refusal| refusal.error,
        )))
    }

    /// One request on a connection of its own, whatever comes back.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| self.not_connected(source))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the agent ended");
            }
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        Ok(sender.send_request(request).await?)
    }
}

impl Client {
    fn not_connected(&self, source: io::Error) -> Error {
        use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};

        let socket = self.socket.clone();
        let kind = source.kind();
        if kind == NotFound || kind == ConnectionRefused {
            Error::NoAgent(socket)
        } else if kind == PermissionDenied {
            Error::Forbidden(socket)
        } else {
            Error::Connect { socket, source }
        }
    }
}

impl Drops {
    /// The next line; `None` when there are no more, or the agent went away.
    pub async fn next(&mut self) -> Result<Option<Line>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

/// The query string; names and reasons may hold anything a user typed.
fn query(wanted: &Wanted) -> String {
    let Wanted {
        follow,
        pod,
        namespace,
        reason,
        to,
    } = wanted;
    let mut query = format!("follow={follow}");
    for (key, value) in [
        ("pod", pod),
        ("namespace", namespace),
        ("reason", reason),
        ("to", to),
    ] {
        if let Some(value) = value {
            query.push('&');
            query.push_str(key);
            query.push('=');
            for byte in value.bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        query.push(byte.into());
                    }
                    _ => {
                        // Writing to a String cannot fail.
                        write!(query, "%{byte:02X}").unwrap_or_default();
                    }
                }
            }
        }
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_may_hold_any_character() {
        let wanted = Wanted {
            pod: Some("a/b c&d=é".to_owned()),
            ..Wanted::default()
        };
        assert_eq!(query(&wanted), "follow=false&pod=a%2Fb%20c%26d%3D%C3%A9");
    }
}
