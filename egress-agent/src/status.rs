//! What the agent enforces: the document behind `status -o json`.
//!
//! Other programs read it: fields are added, never renamed or given another meaning.

mod text;
mod warning;

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use text::render;
pub use warning::{Warning, WarningKind, nearly_full, warnings};

/// [`Status::schema`] of this version.
pub const SCHEMA: &str = "egress-agent.dev/status/v1";

/// The whole document. The agent publishes a new one whenever something in it changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: String,
    /// The agent's version.
    pub version: String,
    /// The node whose pods are enforced.
    pub node: String,
    /// Everything seen so far is programmed.
    pub ready: bool,
    /// What is missing until `ready`, for people; empty exactly when `ready`.
    pub waiting_for: Vec<String>,
    /// What could not be read or enforced.
    pub problems: Vec<Problem>,
    /// What works, and deserves a look all the same.
    #[serde(default)]
    pub warnings: Vec<Warning>,
    /// Where objects come from.
    pub sources: Vec<Source>,
    /// Every policy seen.
    pub policies: Vec<Policy>,
    /// Every pod of this node.
    pub pods: Arc<Vec<Pod>>,
    /// Every ruleset in the kernel.
    pub rulesets: Vec<Ruleset>,
    /// How full the kernel tables are.
    pub maps: Vec<MapFill>,
}

impl Status {
    /// The status of an agent that has not looked at anything yet.
    pub fn starting(node: &str) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: node.to_owned(),
            ready: false,
            waiting_for: vec!["the first look at the sources".to_owned()],
            problems: Vec::new(),
            warnings: Vec::new(),
            sources: Vec::new(),
            policies: Vec::new(),
            pods: Arc::default(),
            rulesets: Vec::new(),
            maps: Vec::new(),
        }
    }
}

/// Which part failed; decides the gauge a problem is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// A part of an object cannot be read; what it names is closed.
    Object,
    /// A file cannot be read or parsed; what it had said stays.
    File,
    /// A kind cannot be watched; what is known of it stays.
    Watch,
    /// The kernel does not say what it should: attach failure, full map, refused plan.
    Enforcement,
}

impl ProblemKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Object, Self::File, Self::Watch, Self::Enforcement];

    /// The name in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::File => "file",
            Self::Watch => "watch",
            Self::Enforcement => "enforcement",
        }
    }
}

/// One thing that could not be read or enforced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Which part failed.
    pub kind: ProblemKind,
    /// `KIND NS/NAME`; empty when it is about a file, a kind or the node as a whole.
    pub object: String,
    /// The field, as a path: `spec.egress[0].to[1].ipBlock.cidr`.
    pub field: Option<String>,
    /// The file.
    pub file: Option<String>,
    /// The line in the file, from 1.
    pub line: Option<u32>,
    /// What is wrong and what follows from it.
    pub message: String,
}

/// Where objects come from. The two have no field in common but `error`, which says why the
/// source is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Source {
    /// A manifest file.
    File(FileSource),
    /// A kind that the API server is asked for.
    Watch(WatchSource),
}

/// A kind that the API server is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchSource {
    /// What the API calls the kind: `networkpolicies`.
    pub resource: String,
    /// All objects of the kind were seen once. That stays so whatever happens later.
    pub synced: bool,
    /// When the API server last said something of the kind: an event, a bookmark (one a minute
    /// when nothing happens), the end of a list.
    pub last_event: Option<Timestamp>,
    /// Why nothing is heard now.
    pub error: Option<String>,
}

/// A manifest file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileSource {
    /// The file's path.
    pub path: String,
    /// SHA-256 of the text whose objects count, in hex.
    pub sha256: Option<String>,
    /// Whether that text is what the file says now.
    pub state: SourceState,
    /// Why not.
    pub error: Option<String>,
}

/// How a file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceState {
    /// Its present text counts.
    Read,
    /// Its present text does not parse: the objects it had before stay.
    Kept,
    /// It was never readable: what in it looks like a policy is closed.
    Unreadable,
    /// Somebody has it open for writing: what it said before counts until it is closed.
    BeingWritten,
}

/// How a policy stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// `NetworkPolicy`.
    pub kind: String,
    /// `NS/NAME`.
    pub name: String,
    /// How much of it could be read.
    pub state: PolicyState,
    /// What could not be read.
    pub errors: Vec<String>,
}

/// How much of a policy could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyState {
    /// All of it.
    Enforced,
    /// Parts are closed: they match nothing.
    PartlyUnreadable,
    /// Nothing: what it may select is isolated (S91).
    Unreadable,
}

impl PolicyState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Enforced, Self::PartlyUnreadable, Self::Unreadable];

    /// The name in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::PartlyUnreadable => "partly-unreadable",
            Self::Unreadable => "unreadable",
        }
    }
}

/// How a pod of this node stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// `NS/POD`.
    pub name: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The first interface on the agent's side.
    pub interface: Option<String>,
    /// Every interface on the agent's side.
    pub interfaces: Vec<String>,
    /// What is enforced.
    pub state: PodState,
    /// Why, when the state does not say it all.
    pub message: Option<String>,
    /// The policies that isolate it, `NS/NAME`, sorted.
    pub isolated_by: Vec<String>,
    /// [`Ruleset::id`]; pods with equal rules share one.
    pub ruleset: Option<u32>,
}

/// What is enforced for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodState {
    /// Policies isolate it, and the kernel enforces what they say.
    Isolated,
    /// No policy isolates it (S1).
    NotIsolated,
    /// On the host network, not enforced (S87).
    HostNetwork,
    /// Succeeded or failed: no subject (S62, S88).
    Finished,
    /// Its network namespace or interface is not there yet.
    Waiting,
    /// It has an address, and no interface of the node's is known to be its: not enforced.
    NotFound,
    /// Closed, because something failed; the message says what.
    Denied,
}

impl PodState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Isolated,
        Self::NotIsolated,
        Self::HostNetwork,
        Self::Finished,
        Self::Waiting,
        Self::NotFound,
        Self::Denied,
    ];

    /// The name in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::NotIsolated => "not-isolated",
            Self::HostNetwork => "host-network",
            Self::Finished => "finished",
            Self::Waiting => "waiting",
            Self::NotFound => "not-found",
            Self::Denied => "denied",
        }
    }
}

/// A ruleset in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ruleset {
    /// Its number in the kernel tables.
    pub id: u32,
    /// SHA-256 of what it says, in hex.
    pub sha256: String,
    /// How many endpoints point at it.
    pub pods: usize,
    /// Prefixes of IPv4.
    pub prefixes_v4: usize,
    /// Prefixes of IPv6.
    pub prefixes_v6: usize,
    /// Classes of pods it says something about.
    pub classes: usize,
    /// Service frontends it allows.
    pub frontends: usize,
}

/// How full a kernel table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapFill {
    /// The table's name.
    pub name: String,
    /// Entries in it.
    pub entries: u64,
    /// Entries that fit.
    pub capacity: u64,
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test may panic"
    )]

    use super::*;

    #[test]
    fn the_fields_of_the_contract_are_there() {
        let mut status = Status::starting("node-1");
        Arc::make_mut(&mut status.pods).push(Pod {
            name: "a/web".to_owned(),
            addresses: vec!["10.0.0.9".parse().unwrap()],
            interface: Some("veth1".to_owned()),
            interfaces: vec!["veth1".to_owned()],
            state: PodState::NotIsolated,
            message: None,
            isolated_by: Vec::new(),
            ruleset: None,
        });
        status.policies.push(Policy {
            kind: "NetworkPolicy".to_owned(),
            name: "a/deny".to_owned(),
            state: PolicyState::PartlyUnreadable,
            errors: vec!["spec".to_owned()],
        });
        let json = serde_json::to_value(&status).unwrap();
        for key in [
            "schema", "ready", "problems", "sources", "policies", "pods", "rulesets", "maps",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        let pod = &json["pods"][0];
        for key in [
            "name",
            "addresses",
            "interface",
            "state",
            "isolatedBy",
            "ruleset",
        ] {
            assert!(pod.get(key).is_some(), "{key}");
        }
        assert_eq!(pod["state"], "not-isolated");
        assert_eq!(json["policies"][0]["state"], "partly-unreadable");
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status);
    }

    #[test]
    fn a_source_is_a_file_or_a_kind_by_its_fields() {
        let watch = Source::Watch(WatchSource {
            resource: "pods".to_owned(),
            synced: true,
            last_event: Some(Timestamp::UNIX_EPOCH),
            error: None,
        });
        let json = serde_json::to_value(&watch).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"resource": "pods", "synced": true, "lastEvent": "1970-01-01T00:00:00Z", "error": null})
        );
        assert_eq!(serde_json::from_value::<Source>(json).unwrap(), watch);
        let file = Source::File(FileSource {
            path: "/m/a.yaml".to_owned(),
            sha256: None,
            state: SourceState::Unreadable,
            error: Some("is broken".to_owned()),
        });
        let json = serde_json::to_value(&file).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"path": "/m/a.yaml", "sha256": null, "state": "unreadable", "error": "is broken"})
        );
        assert_eq!(serde_json::from_value::<Source>(json).unwrap(), file);
    }

    #[test]
    fn names_in_metrics_are_the_names_in_json() {
        for state in PodState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for state in PolicyState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for kind in ProblemKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
