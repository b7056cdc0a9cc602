//! Drops as Kubernetes Events on the pod: what `kubectl describe pod` shows its author.
//!
//! One Event for each pod, destination, port, protocol and reason, whose series counts the packets.
//! What may be written, and when, is decided in [`series`]; here it is carried out. Source:
//! `k8s.io/api/events/v1`. Not kube-rs's `Recorder`: it takes different notes of one pod for one
//! event, and counts calls, not packets.

mod object;
mod series;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::series::{Book, Outcome, Write};
use super::DropLog;

/// How often it is looked whether something may be written: the rate of writes, once the first are out.
const TICK: Duration = Duration::from_secs(1);

/// An API server that has not answered by then does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Writes Events for the drops that a log tells of, for ever. `instance` names this agent.
pub async fn publish(client: kube::Client, instance: String, log: Arc<DropLog>) -> Infallible {
    let mut records = log.follow().next;
    let mut book = Book::default();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            record = records.recv() => match record {
                Ok(record) => book.take(&record, Instant::now()),
                // The metrics have counted them.
                Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "too many drops for Events"),
                Err(RecvError::Closed) => return std::future::pending().await,
            },
            _ = tick.tick() => {
                while let Some(write) = book.due(Instant::now()) {
                    let outcome = match carry_out(&client, &instance, &write).await {
                        Ok(outcome) => {
                            if std::mem::take(&mut failing) {
                                tracing::info!("Events are written again");
                            }
                            outcome
                        }
                        Err(error) => {
                            if !std::mem::replace(&mut failing, true) {
                                tracing::warn!(error, "Events of drops (--drop-events) cannot be written");
                            }
                            Outcome::Failed
                        }
                    };
                    book.done(write, outcome, Instant::now());
                }
            }
        }
    }
}

async fn carry_out(
    client: &kube::Client,
    instance: &str,
    write: &Write,
) -> Result<Outcome, String> {
    let events: Api<Event> = Api::namespaced(client.clone(), &write.told.namespace);
    let answer = match &write.name {
        None => {
            let event = object::event(write, instance);
            timeout(ANSWER_WITHIN, events.create(&PostParams::default(), &event)).await
        }
        Some(name) => {
            let patch = Patch::Merge(object::series(write));
            timeout(
                ANSWER_WITHIN,
                events.patch(name, &PatchParams::default(), &patch),
            )
            .await
        }
    };
    match answer {
        Ok(Ok(event)) => Ok(Outcome::Written(event.metadata.name.unwrap_or_default())),
        // The API server keeps Events for an hour.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 && write.name.is_some() => {
            Ok(Outcome::Gone)
        }
        // The pod's namespace goes: nobody will read it.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(Outcome::Unwanted),
        Ok(Err(kube::Error::Api(status)))
            if status.code == 403 && status.message.contains("is being terminated") =>
        {
            Ok(Outcome::Unwanted)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(tokio::time::error::Elapsed { .. }) => Err("no answer".to_owned()),
    }
}

#[cfg(test)]
mod tests;
