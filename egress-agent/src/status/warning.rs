//! What works, and deserves a look all the same.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{PodState, Source, Status};

/// Percent of a table from which on it is nearly full: a plan needs room for the old and the new.
const NEARLY_FULL: u64 = 80;

/// A watch that said nothing for so long is stale: the API server sends bookmarks about every minute,
/// and after 90 s the agent asks anew.
const STALE: SignedDuration = SignedDuration::from_mins(5);

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// `KIND NS/NAME`, or `map NAME` and the like; empty when it is about the node as a whole.
    pub object: String,
    /// What it is, and what follows from it.
    pub message: String,
}

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WarningKind {
    /// A pod of this node is not enforced.
    NotEnforced,
    /// The kernel's tables are not what the agent wrote.
    Drift,
    /// A watch has been silent.
    StaleWatch,
    /// A table is nearly full.
    MapFill,
    /// Somebody else's program is on a pod's hook.
    OtherProgram,
    /// The kernel lacks something, and does it in a way that costs more.
    KernelFeature,
}

/// How full a table is, in percent, when that deserves a warning.
pub fn nearly_full(entries: u64, capacity: u64) -> Option<u64> {
    entries
        .saturating_mul(100)
        .checked_div(capacity)
        .filter(|percent| *percent >= NEARLY_FULL)
}

/// What can be told from a status at a time.
pub fn warnings(status: &Status, now: Timestamp) -> Vec<Warning> {
    let pods = status.pods.iter().filter_map(|pod| {
        let default = match pod.state {
            PodState::Waiting => "its network namespace or interface is not there yet",
            PodState::NotFound => "no interface of this node is known to be its",
            // Those on the host network that a policy selects, the agent tells itself.
            PodState::HostNetwork
            | PodState::Isolated
            | PodState::NotIsolated
            | PodState::Finished
            | PodState::Denied => return None,
        };
        let object = format!("Pod {}", pod.name);
        // Once is enough.
        if status
            .problems
            .iter()
            .any(|problem| problem.object == object)
        {
            return None;
        }
        Some(Warning {
            kind: WarningKind::NotEnforced,
            object,
            message: pod.message.clone().unwrap_or_else(|| default.to_owned()),
        })
    });
    let maps = status.maps.iter().filter_map(|map| {
        let percent = nearly_full(map.entries, map.capacity)?;
        Some(Warning {
            kind: WarningKind::MapFill,
            object: format!("map {}", map.name),
            message: format!(
                "{percent}% full ({} of {}): a change that does not fit is refused, and its pods keep the rules they have",
                map.entries, map.capacity
            ),
        })
    });
    let watches = status.sources.iter().filter_map(|source| {
        let Source::Watch(watch) = source else {
            return None;
        };
        let age = now.duration_since(watch.last_event?);
        (age >= STALE).then(|| Warning {
            kind: WarningKind::StaleWatch,
            object: format!("watch {}", watch.resource),
            message: format!(
                "silent for {} minutes: what was known then is enforced",
                age.as_mins()
            ),
        })
    });
    pods.chain(maps).chain(watches).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;

    use super::super::{MapFill, Pod, Problem, ProblemKind, WatchSource};
    use super::*;

    fn pod(name: &str, state: PodState, isolated_by: &[&str], message: Option<&str>) -> Pod {
        Pod {
            name: name.to_owned(),
            addresses: Vec::new(),
            interface: None,
            interfaces: Vec::new(),
            state,
            message: message.map(str::to_owned),
            isolated_by: isolated_by.iter().map(|name| (*name).to_owned()).collect(),
            ruleset: None,
        }
    }

    #[test]
    fn pods_maps_and_watches_are_warned_of_only_when_there_is_reason_to() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let mut status = Status::starting("node-1");
        status.pods = Arc::new(vec![
            pod("a/fine", PodState::Isolated, &["a/p"], None),
            pod("a/open", PodState::NotIsolated, &[], None),
            pod(
                "a/lost",
                PodState::NotFound,
                &["a/p"],
                Some("no route to it"),
            ),
            pod("a/told", PodState::NotFound, &["a/p"], Some("no link")),
            pod("a/host", PodState::HostNetwork, &[], Some("host network")),
            pod("a/soon", PodState::Waiting, &[], None),
        ]);
        status.problems = vec![Problem {
            kind: ProblemKind::Enforcement,
            object: "Pod a/told".to_owned(),
            field: None,
            file: None,
            line: None,
            message: "no link".to_owned(),
        }];
        let map = |name: &str, entries, capacity| MapFill {
            name: name.to_owned(),
            entries,
            capacity,
        };
        status.maps = vec![
            map("PEERS", 79, 100),
            map("PORTS", 8, 10),
            map("NONE", 0, 0),
        ];
        let watch = |resource: &str, last_event: &str| {
            Source::Watch(WatchSource {
                resource: resource.to_owned(),
                synced: true,
                last_event: last_event.parse().ok(),
                error: None,
            })
        };
        status.sources = vec![
            watch("pods", "2026-11-21T09:58:00Z"),
            watch("nodes", "2026-11-21T09:40:00Z"),
        ];
        let told: Vec<_> = warnings(&status, now)
            .into_iter()
            .map(|warning| (warning.kind, warning.object))
            .collect();
        let expected = [
            (WarningKind::NotEnforced, "Pod a/lost"),
            (WarningKind::NotEnforced, "Pod a/soon"),
            (WarningKind::MapFill, "map PORTS"),
            (WarningKind::StaleWatch, "watch nodes"),
        ];
        assert_eq!(
            told,
            expected.map(|(kind, object)| (kind, object.to_owned()))
        );
    }
}
