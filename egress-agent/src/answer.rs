//! What `check` and `explain` say.
//!
//! The JSON is a contract, documented in `docs/explain.md`: `verdict`, `reason`, `isolatedBy`,
//! `allowedBy` are always there, `addresses` only where a query stood for several addresses whose
//! verdicts differ. Fields are added, never renamed. `check --batch` writes no steps.

mod live;
mod steps;
mod text;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use live::{Endpoint, FlowEntry, Live, Lookup, PortsEntry};
pub use steps::{
    Backend, Destination, EntryStep, PartStep, PolicyEffect, PolicySteps, RuleSteps, Selected,
    Sender, SenderState, ServiceSteps, Steps, Way,
};
pub use text::render;

/// [`Answer::schema`] of this version, and what it says when there are steps.
pub const SCHEMA: &str = "egress-agent.dev/explain/v1";

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The packet passes.
    Allow,
    /// The packet is dropped.
    Deny,
}

impl Verdict {
    /// The word in JSON and in text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl From<bool> for Verdict {
    fn from(allow: bool) -> Self {
        if allow { Self::Allow } else { Self::Deny }
    }
}

/// The verdict of a query, and what led to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// [`SCHEMA`]; absent where there are no steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Allow only when every address the query stands for is allowed.
    pub verdict: Verdict,
    /// [`egress_common::event::Reason::name`], or why the pod is no subject.
    pub reason: String,
    /// The policies that isolate the pod, `NS/NAME`, sorted; empty when none does.
    pub isolated_by: Vec<String>,
    /// The policies whose rules allow it, `NS/NAME`, sorted; empty when none isolates the pod.
    pub allowed_by: Vec<String>,
    /// Each address's verdict, where they differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<AddressAnswer>,
    /// How the verdict was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Steps>,
    /// Only from `explain`: what the kernel's tables say, an entry an interface of the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub live: Vec<Live>,
    /// Only from `explain`: where the kernel tables differ from what the objects ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
}

/// The verdict of one address of a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressAnswer {
    /// The address.
    pub address: IpAddr,
    /// Its verdict.
    pub verdict: Verdict,
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
    fn the_json_is_the_contract() {
        let mut answer = Answer {
            schema: None,
            verdict: Verdict::Deny,
            reason: "no-rule".to_owned(),
            isolated_by: vec!["a/deny".to_owned()],
            allowed_by: Vec::new(),
            addresses: Vec::new(),
            steps: None,
            live: Vec::new(),
            drift: Vec::new(),
        };
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"verdict":"deny","reason":"no-rule","isolatedBy":["a/deny"],"allowedBy":[]}"#
        );
        answer.addresses.push(AddressAnswer {
            address: [10, 0, 0, 1].into(),
            verdict: Verdict::Allow,
        });
        assert_eq!(
            serde_json::to_value(&answer).unwrap()["addresses"],
            serde_json::json!([{"address": "10.0.0.1", "verdict": "allow"}])
        );
    }
}
