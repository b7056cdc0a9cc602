//! What the running agent answers, and the client that asks it.

pub mod client;
mod cni;
pub mod http;
pub mod socket;
mod stream;
#[cfg(test)]
mod testing;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::answer::Answer;
use crate::attribution::Attribution;
use crate::cni::message::{Attachment, Outcome};
use crate::drops::DropLog;
use crate::evaluate::Target;
use crate::metrics::{Counters, Observations};
use crate::query::Subject;
use crate::status::{Status, Warning};

pub use stream::{Line, Wanted};

/// Where the unix socket is, unless it is said otherwise.
pub const SOCKET: &str = "/run/egress-agent/agent.sock";

/// How long the agent task may take to answer. Compiling a large change takes a second or
/// two; after this long something is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// What only the agent task can answer: it owns the store and the image of the tables.
#[derive(Debug)]
pub enum Request {
    /// Are you there?
    Ping(oneshot::Sender<()>),
    /// The verdict of the live tables; an error is a sentence for a person.
    Explain {
        /// Which pod.
        from: Subject,
        /// Where to.
        to: Target,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Answer, String>>,
    },
    /// Would a pod's sandbox be enforced?
    Serves(oneshot::Sender<Outcome>),
    /// What is looked for only when somebody asks.
    Survey(oneshot::Sender<Vec<Warning>>),
    /// A pod's sandbox was made: answered when every policy that is known holds there (S56).
    Enforce {
        /// The sandbox.
        attachment: Attachment,
        /// Where the answer goes.
        reply: oneshot::Sender<Outcome>,
    },
    /// Is a sandbox enforced as it was when it was made?
    Inspect {
        /// The sandbox.
        attachment: Attachment,
        /// Where the answer goes.
        reply: oneshot::Sender<Outcome>,
    },
}

/// The agent as seen by its servers: everything they may read, and the way to ask.
#[derive(Clone, Debug)]
pub struct View {
    /// What is enforced.
    pub status: watch::Receiver<Arc<Status>>,
    /// Whose slot is whose.
    pub attribution: watch::Receiver<Arc<Attribution>>,
    /// Packet counters.
    pub counters: Arc<Counters>,
    /// What the agent measured.
    pub observations: Arc<Observations>,
    /// The last drops.
    pub drops: Arc<DropLog>,
    /// To the agent task.
    pub requests: mpsc::Sender<Request>,
}

/// The agent task did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// It ended.
    #[error("the agent task has ended")]
    Ended,
    /// It is busy or stuck.
    #[error("the agent task did not answer within {} s", PATIENCE.as_secs())]
    TooSlow,
}

impl View {
    /// Sends a request and waits for its reply.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        let reply = async {
            if self.requests.send(request(sender)).await.is_err() {
                return Err(NoAnswer::Ended);
            }
            receiver
                .await
                .map_err(|oneshot::error::RecvError { .. }| NoAnswer::Ended)
        };
        match tokio::time::timeout(PATIENCE, reply).await {
            Ok(answer) => answer,
            Err(tokio::time::error::Elapsed { .. }) => Err(NoAnswer::TooSlow),
        }
    }
}
