//! Asking the API server, for as long as it takes.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use egress_core::object::Kind;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use kube::Client;
use kube::api::{ListParams, Request, WatchEvent, WatchParams};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::failure::{Failure, Then};
use super::resource::Resource;
use super::session::{Ask, Page, Said, Session};

/// Something said of a kind.
pub(super) type Heard = (Kind, Said);

type Events = BoxStream<'static, kube::Result<WatchEvent<Box<RawValue>>>>;

/// The first and the longest wait after a failure; each is up to twice that by chance, so that
/// a thousand agents do not come back at once. The longest is what a policy waits at most
/// when the server is back.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Objects on a page: some 2 MB of pods.
const PAGE: u32 = 250;

/// The server begins to answer in this time, and a page comes whole in it: twice its own limit.
const ANSWER: Duration = Duration::from_mins(2);

/// A watch that says nothing for so long is asked for anew: bookmarks come every minute, so the
/// connection is dead, though nobody closed it. On a server without bookmarks it costs a request.
const SILENCE: Duration = Duration::from_secs(90);

/// A watch that ends sooner, and said nothing, was no success.
const SHORT: Duration = Duration::from_secs(1);

/// How long the server should keep a watch open, in seconds: at least this, at most twice this
/// by chance, as other clients do it. The agents of a cluster must not all ask anew at once.
const WATCH_SECONDS: u32 = 300;

/// Follows one kind until nobody listens.
pub(super) async fn follow(client: Client, resource: Resource, heard: mpsc::Sender<Heard>) {
    let mut line = Line {
        client,
        heard,
        session: Session::new(resource),
    };
    let mut waits = waits();
    while let Ok(Exchange { heard, end }) = line.exchange().await {
        if heard {
            waits = self::waits();
        }
        if let Err(failure) = end
            && line.failed(failure, &mut waits).await.is_err()
        {
            return;
        }
    }
}

fn waits() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_WAIT)
        .with_max_delay(LONGEST_WAIT)
        .with_factor(2.0)
        .without_max_times()
        .with_jitter()
        .build()
}

/// One request and all that it led to.
struct Exchange {
    /// The server said something.
    heard: bool,
    /// A page came, or the watch ran its time; or not.
    end: Result<(), Failure>,
}

/// The listener is gone.
struct Nobody;

/// One kind's connection to the server, and to whoever listens.
struct Line {
    client: Client,
    heard: mpsc::Sender<Heard>,
    session: Session,
}

impl Line {
    async fn exchange(&mut self) -> Result<Exchange, Nobody> {
        match self.session.ask().clone() {
            Ask::Page(token) => self.page(token).await,
            // Without a version the stream has what holds now, not what a cache remembers.
            Ask::Stream => self.watch("", true).await,
            Ask::Watch(version) => self.watch(&version, false).await,
        }
    }

    async fn page(&mut self, token: Option<String>) -> Result<Exchange, Nobody> {
        let page = match self.fetch(token).await {
            Ok(page) => page,
            Err(failure) => return Ok(Exchange::failed(failure)),
        };
        match self.session.page(page) {
            Ok(all) => {
                for said in all {
                    self.say(said).await?;
                }
                Ok(Exchange {
                    heard: true,
                    end: Ok(()),
                })
            }
            Err(failure) => Ok(Exchange::failed(failure)),
        }
    }

    async fn fetch(&self, token: Option<String>) -> Result<Page, Failure> {
        let resource = self.session.resource();
        let refused = |error| Failure::of_request(resource, "list", &error);
        let parameters = ListParams {
            limit: Some(PAGE),
            continue_token: token,
            ..ListParams::default()
        };
        let request = Request::new(resource.path())
            .list(&parameters)
            .map_err(|error| refused(kube::Error::BuildRequest(error)))?;
        let text = timeout(ANSWER, self.client.request_text(request))
            .await
            .unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())))
            .map_err(refused)?;
        serde_json::from_str(&text).map_err(|error| refused(kube::Error::SerdeError(error)))
    }

    async fn watch(&mut self, version: &str, list: bool) -> Result<Exchange, Nobody> {
        let started = Instant::now();
        let mut events = match self.open(version, list).await {
            Ok(events) => events,
            Err(failure) => return Ok(Exchange::failed(failure)),
        };
        self.say(self.session.begun()).await?;
        let mut heard = false;
        loop {
            let failure = match timeout(SILENCE, events.try_next()).await {
                Ok(Ok(Some(event))) => match self.session.event(event) {
                    Ok(said) => {
                        heard = true;
                        self.say(said).await?;
                        continue;
                    }
                    Err(failure) => failure,
                },
                Ok(Err(error)) => Failure::of_request(self.session.resource(), "watch", &error),
                Ok(Ok(None)) | Err(_) if *self.session.ask() == Ask::Stream => {
                    Failure::new(Then::Page, "the list broke off before its end")
                }
                Ok(Ok(None)) if !heard && started.elapsed() < SHORT => {
                    Failure::new(Then::Again, "the API server ended the watch at once")
                }
                Ok(Ok(None)) | Err(_) => {
                    return Ok(Exchange { heard, end: Ok(()) });
                }
            };
            return Ok(Exchange {
                heard,
                end: Err(failure),
            });
        }
    }

    async fn open(&self, version: &str, list: bool) -> Result<Events, Failure> {
        let resource = self.session.resource();
        let refused = |error| Failure::of_request(resource, "watch", &error);
        let parameters = WatchParams {
            timeout: Some(WATCH_SECONDS + fastrand::u32(0..WATCH_SECONDS)),
            send_initial_events: list,
            ..WatchParams::default()
        };
        let request = Request::new(resource.path())
            .watch(&parameters, version)
            .map_err(|error| refused(kube::Error::BuildRequest(error)))?;
        let events = timeout(ANSWER, self.client.request_events(request))
            .await
            .unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())))
            .map_err(refused)?;
        Ok(events.boxed())
    }

    async fn say(&self, said: Said) -> Result<(), Nobody> {
        let heard = (self.session.resource().kind, said);
        self.heard.send(heard).await.map_err(|_closed| Nobody)
    }

    /// Says why, and waits until it is time to ask again.
    async fn failed(
        &mut self,
        failure: Failure,
        waits: &mut ExponentialBackoff,
    ) -> Result<(), Nobody> {
        let resource = self.session.resource().plural;
        let refused_stream = failure.then == Then::Page && *self.session.ask() == Ask::Stream;
        self.session.failed(&failure);
        let Failure {
            message,
            retry_after,
            ..
        } = failure;
        if refused_stream {
            tracing::debug!(resource, message, "no streamed list; listing in pages");
            return Ok(());
        }
        self.say(Said::Failed(message)).await?;
        let wait = waits
            .next()
            .unwrap_or(LONGEST_WAIT)
            .max(retry_after.unwrap_or_default());
        tracing::debug!(resource, ?wait, "asking again later");
        tokio::select! {
            () = self.heard.closed() => Err(Nobody),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }
}

impl Exchange {
    fn failed(failure: Failure) -> Self {
        Self {
            heard: false,
            end: Err(failure),
        }
    }
}
