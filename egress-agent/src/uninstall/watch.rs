//! Following one DaemonSet by name.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::TryStreamExt as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use tokio::sync::watch::Sender;
use tokio::time::{Instant, sleep};

/// After a failure, or a watch that ended at once. Nothing waits for it.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// A watch that ends sooner was no success.
const SHORT: Duration = Duration::from_secs(10);

/// How long the server should keep a watch open, in seconds: at least this, at most twice this by
/// chance. The agents of a cluster must not all ask anew at once.
const WATCH_SECONDS: u32 = 300;

/// What the watch has told of the DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing yet.
    Unknown,
    /// It is there.
    There,
    /// It is deleted, or will be.
    Gone(&'static str),
}

impl Seen {
    /// What an object that is there says of itself.
    pub(super) const fn of(metadata: &ObjectMeta) -> Self {
        if metadata.deletion_timestamp.is_some() {
            Self::Gone("the DaemonSet is being deleted")
        } else {
            Self::There
        }
    }
}

/// Follows the DaemonSet for ever. What was seen stays known while the server is away.
pub(super) async fn follow(sets: Api<DaemonSet>, name: String, seen: Sender<Seen>) {
    let waits = ExponentialBuilder::default()
        .with_min_delay(FIRST_WAIT)
        .with_max_delay(LONGEST_WAIT)
        .with_factor(2.0)
        .without_max_times()
        .with_jitter();
    let mut wait = waits.build();
    loop {
        let started = Instant::now();
        match listen(&sets, &name, &seen).await {
            Ok(()) => {}
            Err(kube::Error::Api(status)) if status.code == 403 => tracing::warn!(
                reason = status.message,
                "may not get, list and watch its DaemonSet (--daemonset): an uninstallation would \
                 leave what is enforced, and the CNI plugin"
            ),
            Err(error) => tracing::debug!(%error, "watching the DaemonSet"),
        }
        if started.elapsed() > SHORT {
            wait = waits.build();
        } else {
            sleep(wait.next().unwrap_or(LONGEST_WAIT)).await;
        }
    }
}

/// One watch, to its end.
async fn listen(sets: &Api<DaemonSet>, name: &str, seen: &Sender<Seen>) -> kube::Result<()> {
    let parameters = WatchParams::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(WATCH_SECONDS + fastrand::u32(0..WATCH_SECONDS));
    // Without a version it begins with what holds now.
    let events = sets.watch_metadata(&parameters, "").await?;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.try_next().await? {
        let now = match event {
            WatchEvent::Added(set) | WatchEvent::Modified(set) => Seen::of(&set.metadata),
            WatchEvent::Deleted(_) => Seen::Gone("the DaemonSet is deleted"),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        };
        seen.send_replace(now);
    }
    Ok(())
}
