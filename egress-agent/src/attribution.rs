//! Which pod an endpoint slot stands for.
//!
//! The kernel knows a pod by [`egress_common::abi::Endpoint::slot`]. The agent task
//! publishes a new map whenever a slot is given out or taken back.

use std::collections::BTreeMap;

/// Endpoint slot → whose it is. Slots are reused only after their counters were
/// [retired](crate::metrics::Counters::retire).
pub type Attribution = BTreeMap<u16, Owner>;

/// The pod behind a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid in the API; empty when not known.
    pub uid: String,
    /// The controlling owner as `KIND/NAME`; of a bare pod `Pod/NAME`.
    pub workload: String,
    /// The interface on the agent's side that the slot stands for; empty when not known.
    pub interface: String,
    /// The policies that isolate the pod, `NS/NAME`, sorted.
    pub isolated_by: Vec<String>,
}

impl Owner {
    /// The owner of a pod's slot; a pod without a controller is its own workload.
    pub fn new(
        namespace: &str,
        pod: &str,
        controller: Option<&str>,
        isolated_by: Vec<String>,
    ) -> Self {
        Self {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            uid: String::new(),
            workload: controller.map_or_else(|| format!("Pod/{pod}"), str::to_owned),
            interface: String::new(),
            isolated_by,
        }
    }

    /// The owner, with the pod's uid.
    #[must_use]
    pub fn with_uid(mut self, uid: &str) -> Self {
        uid.clone_into(&mut self.uid);
        self
    }

    /// The owner, at an interface.
    #[must_use]
    pub fn at(mut self, interface: &str) -> Self {
        interface.clone_into(&mut self.interface);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_pod_is_its_own_workload() {
        assert_eq!(Owner::new("a", "web", None, Vec::new()).workload, "Pod/web");
        assert_eq!(
            Owner::new("a", "web-1", Some("ReplicaSet/web"), Vec::new()).workload,
            "ReplicaSet/web"
        );
    }
}
