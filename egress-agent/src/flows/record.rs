//! A line of the flow log.

use egress_common::event::{Action, Reason, Record};
use serde::{Deserialize, Serialize};

use crate::answer::Verdict;
use crate::attribution::Attribution;
use crate::drops::{Clocks, DropRecord};

/// [`FlowRecord::schema`] of this version.
pub const SCHEMA: &str = "egress-agent.dev/flow/v1";

/// A new flow, or equal ones of one interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRecord {
    /// [`SCHEMA`].
    pub schema: String,
    /// The node.
    pub node: String,
    /// Whether it passed.
    pub verdict: Verdict,
    /// One flow in so many is logged.
    pub sample: u32,
    /// Everything else, as in a drop; `count` is flows of an allowed one, packets of a denied one.
    #[serde(flatten)]
    pub flow: DropRecord,
}

impl FlowRecord {
    /// The line of a record.
    pub(super) fn new(
        record: &Record,
        clocks: Clocks,
        owners: &Attribution,
        node: &str,
        sample: u32,
    ) -> Self {
        let passes = Reason::from_number(record.reason)
            .is_some_and(|reason| reason.action() == Action::Pass);
        Self {
            schema: SCHEMA.to_owned(),
            node: node.to_owned(),
            verdict: passes.into(),
            sample,
            flow: DropRecord::new(record, clocks, owners),
        }
    }
}
