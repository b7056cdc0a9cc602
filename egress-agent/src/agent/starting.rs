//! Pods whose sandbox was just made: the CNI plugin waits until they are isolated.
//!
//! A pod that is known is answered for as soon as the kernel says what the policies say. One
//! whose object has not been seen is held closed until it is, and for [`HOLD`] at most; then the
//! plugin is told to try again, and the kubelet makes a new sandbox. It is never open meanwhile
//! (S56).

use std::time::Instant;

use egress_common::abi::ENDPOINT_ISOLATED;
use egress_core::compile::EndpointRules;
use egress_core::workload::{self, SubjectKind};
use tokio::sync::oneshot;

use super::reconcile::chain;
use super::{Agent, HOLD};
use crate::cni::message::{Attachment, Outcome};
use crate::pods::{PodId, Way};

/// A plugin that waits.
#[derive(Debug)]
pub(super) struct Starting {
    pod: PodId,
    /// It has interfaces that can be hooked.
    hookable: bool,
    since: Instant,
    reply: oneshot::Sender<Outcome>,
}

impl Agent {
    /// A sandbox was made: notes where it is, and answers when it is enforced.
    pub(super) fn enforce(&mut self, attachment: &Attachment, reply: oneshot::Sender<Outcome>) {
        let since = Instant::now();
        let pod = attachment.pod();
        tracing::debug!(%pod, container = attachment.container_id, "a sandbox was made");
        let names: Vec<(u32, &str)> = attachment
            .host_interfaces
            .iter()
            .map(|link| (link.index, link.name.as_str()))
            .collect();
        let way = Way::Plugin {
            container_id: attachment.container_id.clone(),
            interface: attachment.interface.clone(),
        };
        let node = self.node_addresses();
        let discovery = &mut self.discovery;
        let noted = tokio::task::block_in_place(|| {
            discovery.note(&pod, way, &names, &attachment.addresses, &node)
        });
        let hookable = match noted {
            Ok(hookable) => hookable,
            Err(error) => {
                let why = format!("looking for the pod's interfaces: {}", chain(&error));
                drop(reply.send(Outcome::TryAgain { why }));
                return;
            }
        };
        self.starting.push(Starting {
            pod,
            hookable,
            since,
            reply,
        });
        // Before everything was seen once nothing may follow from what is missing; the plugin is
        // refused then, and the pod does not start.
        if self.started {
            self.reconcile(since);
        }
    }

    /// Whether a sandbox would be enforced. That some pod is not is no reason to keep all others
    /// from starting.
    pub(super) fn serves(&self) -> Outcome {
        if self.started {
            Outcome::Done
        } else {
            Outcome::try_again(format!("not seen yet: {}", self.unseen.join(", ")))
        }
    }

    /// Whether a sandbox is enforced as it was when it was made.
    pub(super) fn inspect(&self, attachment: &Attachment) -> Outcome {
        let pod = attachment.pod();
        let Some(object) = self.local(&pod) else {
            return Outcome::try_again(format!("the object of pod {pod} is not known"));
        };
        if workload::subject(object) != SubjectKind::Enforced {
            return Outcome::Done;
        }
        for link in &attachment.host_interfaces {
            let carries = self
                .hooks
                .get(&link.index)
                .filter(|hook| hook.pod == pod)
                .is_some_and(|hook| self.datapath.is_attached(&hook.interface));
            if !carries {
                return Outcome::impossible(format!(
                    "interface {} of pod {pod} does not carry the agent's programs",
                    link.name
                ));
            }
        }
        self.standing(&pod, !attachment.host_interfaces.is_empty())
    }

    /// Whether a hook's pod has just been made: nothing can be older than its hooks, and nothing
    /// may pass before it is isolated.
    pub(super) fn is_starting(&self, pod: &PodId) -> bool {
        self.starting.iter().any(|starting| starting.pod == *pod) || self.local(pod).is_none()
    }

    /// Answers the plugins whose pods are enforced, and those that have waited long enough.
    pub(super) fn answer_plugins(&mut self) {
        let waiting = std::mem::take(&mut self.starting);
        for starting in waiting {
            match self.standing(&starting.pod, starting.hookable) {
                Outcome::TryAgain { .. } if starting.since.elapsed() < HOLD => {
                    self.starting.push(starting);
                }
                outcome @ (Outcome::Done
                | Outcome::TryAgain { .. }
                | Outcome::Impossible { .. }) => {
                    match &outcome {
                        Outcome::Done => self.observations.pod_enforced(starting.since.elapsed()),
                        Outcome::TryAgain { why } | Outcome::Impossible { why } => {
                            tracing::warn!(pod = %starting.pod, why, "a pod may not start yet");
                        }
                    }
                    // A plugin that was killed meanwhile is called again.
                    drop(starting.reply.send(outcome));
                }
            }
        }
    }

    /// When the next plugin has waited long enough.
    pub(super) fn next_answer(&self) -> Option<tokio::time::Instant> {
        let first = self.starting.iter().map(|starting| starting.since).min()?;
        Some(tokio::time::Instant::from_std(first + HOLD))
    }

    /// How far a pod is.
    fn standing(&self, pod: &PodId, hookable: bool) -> Outcome {
        if !self.started {
            return self.serves();
        }
        let Some(object) = self.local(pod) else {
            return Outcome::try_again(format!(
                "pod {pod} with uid {} has not been seen in the API yet; it may send nothing",
                pod.uid
            ));
        };
        if workload::subject(object) != SubjectKind::Enforced
            && workload::subject(object) != SubjectKind::Unreadable
        {
            return Outcome::Done;
        }
        if !hookable {
            return if self.pods.get(&pod.name).is_none_or(Vec::is_empty) && !object.unreadable {
                Outcome::Done
            } else {
                Outcome::impossible(format!(
                    "policies isolate pod {pod}, and no interface of the node leads to it alone: \
                     its network cannot be enforced"
                ))
            };
        }
        if let Some(failure) = self
            .failures
            .iter()
            .find(|failure| failure.pod.as_ref().is_none_or(|of| *of == pod.name))
        {
            return Outcome::try_again(failure.message.clone());
        }
        let hooks: Vec<u64> = self
            .hooks
            .iter()
            .filter(|(_, hook)| hook.pod == *pod)
            .map(|(index, _)| u64::from(*index))
            .collect();
        let stands = |hook: &u64| {
            let endpoint = self.datapath.image().endpoints.get(hook);
            let wanted = self.desired.endpoints.get(hook);
            match (endpoint, wanted.map(|wanted| wanted.rules)) {
                (Some(_), Some(EndpointRules::Open)) => true,
                (Some(endpoint), Some(EndpointRules::Closed | EndpointRules::Ruleset(_))) => {
                    endpoint.flags.get() & ENDPOINT_ISOLATED != 0
                }
                (None, _) | (_, None) => false,
            }
        };
        if !hooks.is_empty() && hooks.iter().all(stands) {
            Outcome::Done
        } else {
            Outcome::try_again(format!("the interface of pod {pod} is not hooked yet"))
        }
    }
}
