//! What the plugin tells the agent, and what it is answered.

use std::collections::BTreeSet;
use std::net::IpAddr;

use egress_core::object::Name;
use serde::{Deserialize, Serialize};

use crate::pods::PodId;

/// A sandbox's interface, which the plugins before ours have made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attachment {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, as the runtime knows it.
    pub uid: String,
    /// Its sandbox.
    pub container_id: String,
    /// The interface in the sandbox.
    pub interface: String,
    /// Every interface outside that leads into the sandbox.
    pub host_interfaces: Vec<HostLink>,
    /// The addresses it was given; the API has them only later (S58).
    pub addresses: BTreeSet<IpAddr>,
}

/// An interface of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostLink {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// It is so.
    Done,
    /// Not now: the same request may be granted later. Until then the pod may send nothing.
    TryAgain {
        /// A sentence for a person.
        why: String,
    },
    /// Not this way.
    Impossible {
        /// A sentence for a person.
        why: String,
    },
}

impl Attachment {
    /// Whose it is.
    pub fn pod(&self) -> PodId {
        PodId {
            name: Name::new(self.namespace.as_str(), self.name.as_str()),
            uid: self.uid.clone(),
        }
    }
}

impl Outcome {
    /// Not now.
    pub fn try_again(why: impl Into<String>) -> Self {
        Self::TryAgain { why: why.into() }
    }

    /// Not this way.
    pub fn impossible(why: impl Into<String>) -> Self {
        Self::Impossible { why: why.into() }
    }
}
