//! Drops as lines of JSON, for as long as somebody reads.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};

use crate::drops::{DropLog, DropRecord, NotTo, To};

/// Lines that wait for a slow reader here; more wait in the [`DropLog`].
const QUEUE: usize = 64;

/// Which drops are asked for; what is absent does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Go on with new ones after the remembered ones.
    #[serde(default)]
    pub follow: bool,
    /// `POD`, or `NS/POD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The sender's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The reason's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where to, a [`To`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// A drop.
    Drop(Box<DropRecord>),
    /// The reader was too slow for this many.
    Missed {
        /// How many.
        missed: u64,
    },
}

/// [`Wanted`], understood.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    wanted: Wanted,
    to: Option<To>,
}

impl TryFrom<Wanted> for Filter {
    type Error = NotTo;

    fn try_from(wanted: Wanted) -> Result<Self, NotTo> {
        let to = wanted.to.as_deref().map(str::parse).transpose()?;
        Ok(Self { wanted, to })
    }
}

impl Filter {
    fn matches(&self, record: &DropRecord) -> bool {
        let Wanted {
            follow: _,
            pod,
            namespace,
            reason,
            to: _,
        } = &self.wanted;
        let pod_matches = pod.as_deref().is_none_or(|pod| match pod.split_once('/') {
            Some((namespace, pod)) => record.namespace == namespace && record.pod == pod,
            None => record.pod == pod,
        });
        pod_matches
            && namespace.as_deref().is_none_or(|n| record.namespace == n)
            && reason.as_deref().is_none_or(|r| record.reason == r)
            && self.to.is_none_or(|to| to.matches(record))
    }
}

/// The body of the answer: fed by a task that ends with the reader.
pub(super) fn body(drops: &DropLog, wanted: Filter) -> axum::body::Body {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let followed = drops.follow();
    tokio::spawn(async move {
        for record in &followed.remembered {
            if wanted.matches(record) && !send(&sender, record.as_ref()).await {
                return;
            }
        }
        if wanted.wanted.follow {
            follow(&sender, followed.next, &wanted).await;
        }
    });
    axum::body::Body::new(Lines(receiver))
}

async fn follow(
    sender: &mpsc::Sender<Bytes>,
    mut next: broadcast::Receiver<std::sync::Arc<DropRecord>>,
    wanted: &Filter,
) {
    loop {
        let received = tokio::select! {
            received = next.recv() => received,
            () = sender.closed() => return,
        };
        let sent = match received {
            Ok(record) if wanted.matches(&record) => send(sender, record.as_ref()).await,
            Ok(_) => true,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                send(sender, &Line::Missed { missed }).await
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if !sent {
            return;
        }
    }
}

/// False when there is nobody to read it.
async fn send<T: Serialize + Sync>(sender: &mpsc::Sender<Bytes>, line: &T) -> bool {
    match serde_json::to_vec(line) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            sender.send(bytes.into()).await.is_ok()
        }
        Err(error) => {
            tracing::error!(%error, "a drop record cannot be written as JSON");
            false
        }
    }
}

struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = ready!(self.0.poll_recv(context));
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
