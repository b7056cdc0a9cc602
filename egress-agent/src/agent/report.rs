//! What the agent publishes of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use egress_common::abi::{ENDPOINT_ISOLATED, Endpoint, RULESET_DENY};
use egress_core::compile::EndpointRules;
use egress_core::object::{Phase, Pod as CorePod, Problem as CoreProblem};
use egress_core::workload;

use super::reconcile::{display, names};
use super::{Agent, PATIENCE, REST, UNHURRIED};
use crate::attribution::{Attribution, Owner};
use crate::pods::PodId;
use crate::status::{
    Pod, PodState, Policy, PolicyState, Problem, ProblemKind, Ruleset, SCHEMA, Status,
};

impl Agent {
    /// Publishes what nobody waits for: with what follows within a moment.
    pub(super) fn publish_soon(&mut self) {
        let span = (self.publishing * REST).clamp(UNHURRIED, PATIENCE);
        let due = tokio::time::Instant::now() + span;
        self.publication.get_or_insert(due);
    }

    /// Publishes status and attribution, if they changed.
    pub(super) fn publish(&mut self) {
        let attribution = self.attribute();
        self.attribution.send_if_modified(|last| {
            let changed = **last != attribution;
            if changed {
                *last = Arc::new(attribution);
            }
            changed
        });
        self.publish_status(self.local_pods(), self.policies());
    }

    /// Publishes what [`Self::publish_soon`] put off. What it is put off for changes nothing of this node's
    /// pods, unless something of them was or is missing.
    pub(super) fn publish_put_off(&mut self) {
        let begun = Instant::now();
        let last = Arc::clone(&self.status.borrow());
        if last.ready && self.refused.is_empty() {
            debug_assert_eq!(*last.pods, *self.local_pods());
            debug_assert_eq!(**self.attribution.borrow(), self.attribute());
            self.publish_status(Arc::clone(&last.pods), self.policies());
        } else {
            self.publish();
        }
        self.publishing = begun.elapsed();
    }

    fn publish_status(&mut self, pods: Arc<Vec<Pod>>, policies: Vec<Policy>) {
        self.publication = None;
        let status = self.report(pods, policies);
        self.status.send_if_modified(|last| {
            let changed = **last != status;
            if changed {
                if last.ready != status.ready {
                    told(&status);
                }
                *last = Arc::new(status);
            }
            changed
        });
    }

    fn attribute(&self) -> Attribution {
        let mut attribution = Attribution::new();
        for (index, hook) in &self.hooks {
            let Some(endpoint) = self.datapath.image().endpoints.get(&u64::from(*index)) else {
                continue;
            };
            let pod = self.store.pod(&hook.pod.name);
            let workload = pod.map(workload::workload_name);
            // A new pod of that name may be known while the old one's hook is still there.
            let uid = pod
                .filter(|pod| PodId::of(pod) == hook.pod)
                .map(|pod| &*pod.uid);
            let isolated_by = self
                .pods
                .get(&hook.pod.name)
                .into_iter()
                .flatten()
                .map(display)
                .collect();
            attribution.insert(
                endpoint.slot.get(),
                Owner::new(
                    &hook.pod.name.namespace,
                    &hook.pod.name.name,
                    workload.as_deref(),
                    isolated_by,
                )
                .with_uid(uid.unwrap_or(&hook.pod.uid))
                .at(&hook.interface.name),
            );
        }
        attribution
    }

    fn local_pods(&self) -> Arc<Vec<Pod>> {
        let mut endpoints: BTreeMap<&PodId, Vec<(u32, &Endpoint)>> = BTreeMap::new();
        for (index, hook) in &self.hooks {
            if let Some(endpoint) = self.datapath.image().endpoints.get(&u64::from(*index)) {
                let of_pod = endpoints.entry(&hook.pod).or_default();
                of_pod.push((*index, endpoint));
            }
        }
        let pods = self.store.pods_on(&self.settings.options.node);
        let pods = pods.map(|pod| {
            let id = PodId::of(pod);
            let endpoints = endpoints.get(&id).map_or(&[][..], Vec::as_slice);
            self.pod(pod, &id, endpoints)
        });
        Arc::new(pods.collect())
    }

    fn report(&self, pods: Arc<Vec<Pod>>, policies: Vec<Policy>) -> Status {
        let mut waiting_for = self.unseen.clone();
        waiting_for.extend(self.failures.iter().map(|failure| failure.message.clone()));
        waiting_for.extend(self.refused.iter().map(ToString::to_string));
        waiting_for.extend(
            pods.iter()
                .filter(|pod| pod.state == PodState::NotFound)
                .map(|pod| format!("the interface of pod {}", pod.name)),
        );
        Status {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.settings.options.node.clone(),
            ready: waiting_for.is_empty(),
            waiting_for,
            problems: self.problems(&pods),
            warnings: self.warnings(),
            sources: self.sources.clone(),
            policies,
            pods,
            rulesets: self.rulesets(),
            maps: self.datapath.fills(),
        }
    }

    fn pod(&self, pod: &CorePod, id: &PodId, endpoints: &[(u32, &Endpoint)]) -> Pod {
        let found = self.found.get(id);
        let interfaces = found.map_or_else(Vec::new, |found| names(&found.interfaces));
        let failure = self
            .failures
            .iter()
            .find(|failure| failure.pod.as_ref() == Some(&pod.name));
        let isolated_by: Vec<String> = self
            .pods
            .get(&pod.name)
            .into_iter()
            .flatten()
            .map(display)
            .collect();
        let closed = endpoints.iter().any(|(index, endpoint)| {
            let wanted = self
                .desired
                .endpoints
                .get(&u64::from(*index))
                .map(|e| e.rules);
            endpoint.flags.get() & ENDPOINT_ISOLATED != 0
                && endpoint.ruleset.get() == RULESET_DENY
                && (matches!(wanted, Some(EndpointRules::Ruleset(_))) || pod.unreadable)
        });
        let (state, message) = if pod.phase == Phase::Finished {
            (PodState::Finished, None)
        } else if pod.host_network {
            (
                PodState::HostNetwork,
                Some("host network, not enforced".to_owned()),
            )
        } else if let Some(failure) = failure {
            (PodState::Denied, Some(failure.message.clone()))
        } else if endpoints.is_empty() {
            let why = found
                .and_then(|found| found.problem.clone())
                .unwrap_or_else(|| "its network namespace has no interface yet".to_owned());
            let why = if self.settings.annotations && pod.netns.is_none() {
                format!("no annotation egress-agent.dev/netns; {why}")
            } else {
                why
            };
            let state = if self.is_lost(pod) {
                PodState::NotFound
            } else {
                PodState::Waiting
            };
            (state, Some(why))
        } else if closed {
            let why = if pod.unreadable {
                "the pod cannot be read".to_owned()
            } else {
                self.refused
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; ")
            };
            (PodState::Denied, Some(why))
        } else if isolated_by.is_empty() {
            (PodState::NotIsolated, None)
        } else {
            (PodState::Isolated, None)
        };
        Pod {
            name: display(&pod.name),
            addresses: self.addresses(pod).into_iter().collect(),
            interface: interfaces.first().cloned(),
            interfaces,
            state,
            message,
            isolated_by,
            ruleset: endpoints
                .first()
                .map(|(_, e)| e.ruleset.get())
                .filter(|id| *id != RULESET_DENY),
        }
    }

    fn policies(&self) -> Vec<Policy> {
        let policies = self.store.policies().map(|policy| Policy {
            kind: "NetworkPolicy".to_owned(),
            name: display(&policy.name),
            state: if policy.unreadable {
                PolicyState::Unreadable
            } else if policy.problems.is_empty() {
                PolicyState::Enforced
            } else {
                PolicyState::PartlyUnreadable
            },
            errors: policy.problems.iter().map(sentence).collect(),
        });
        policies.collect()
    }

    fn problems(&self, pods: &[Pod]) -> Vec<Problem> {
        let enforcement = |object: String, message: String| Problem {
            kind: ProblemKind::Enforcement,
            object,
            field: None,
            file: None,
            line: None,
            message,
        };
        let mut problems: Vec<Problem> = self.source_problems.iter().map(Problem::from).collect();
        for failure in &self.failures {
            let object = failure
                .pod
                .as_ref()
                .map_or_else(String::new, |pod| format!("Pod {}", display(pod)));
            problems.push(enforcement(object, failure.message.clone()));
        }
        problems.extend(
            self.refused
                .iter()
                .map(|refusal| enforcement(String::new(), refusal.to_string())),
        );
        let unenforced: BTreeSet<&str> = pods
            .iter()
            .filter(|pod| matches!(pod.state, PodState::Waiting | PodState::NotFound))
            .map(|pod| pod.name.as_str())
            .collect();
        for (pod, found) in &self.found {
            let object = || format!("Pod {pod}");
            let known = self.local(pod);
            let annotated =
                self.settings.annotations && known.is_some_and(|pod| pod.netns.is_some());
            if let Some(problem) = &found.problem
                && (annotated || known.is_some_and(|pod| self.is_lost(pod)))
            {
                let follows = if unenforced.contains(&display(&pod.name).as_str()) {
                    ": the pod is not enforced"
                } else {
                    ""
                };
                let field =
                    annotated.then(|| "metadata.annotations[egress-agent.dev/netns]".to_owned());
                problems.push(Problem {
                    field,
                    ..enforcement(object(), problem.clone() + follows)
                });
            }
            if known.is_none() && found.place.is_some() {
                problems.push(enforcement(
                    object(),
                    format!(
                        "a sandbox of uid {} is here and its object is not known: it may send nothing",
                        pod.uid
                    ),
                ));
            }
            problems.extend(
                found
                    .unhookable
                    .iter()
                    .map(|what| enforcement(object(), what.clone())),
            );
        }
        for pod in pods.iter().filter(|pod| pod.state == PodState::Denied) {
            if let Some(message) = &pod.message {
                problems.push(enforcement(format!("Pod {}", pod.name), message.clone()));
            }
        }
        problems.extend(self.mixed().into_iter().map(|(o, m)| enforcement(o, m)));
        problems.sort();
        problems.dedup();
        problems
    }

    fn rulesets(&self) -> Vec<Ruleset> {
        let image = self.datapath.image();
        let mut users: BTreeMap<u32, usize> = BTreeMap::new();
        for endpoint in image.endpoints.values() {
            *users.entry(endpoint.ruleset.get()).or_default() += 1;
        }
        let count = |slots: &mut dyn Iterator<Item = &u32>| {
            let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
            slots.for_each(|slot| *counts.entry(*slot).or_default() += 1);
            counts
        };
        let classes = count(&mut image.classes.values().flat_map(BTreeMap::keys));
        let frontends = count(&mut image.frontend_rulesets.values().flatten());
        let of = |counts: &BTreeMap<u32, usize>, slot: &u32| counts.get(slot).copied().unwrap_or(0);
        image
            .rulesets
            .iter()
            .map(|(slot, placed)| {
                let trie = placed.ruleset.as_ref().map(|ruleset| &ruleset.trie);
                Ruleset {
                    id: *slot,
                    sha256: placed.key.to_string(),
                    pods: of(&users, slot),
                    prefixes_v4: trie.map_or(0, |trie| trie.v4().len()),
                    prefixes_v6: trie.map_or(0, |trie| trie.v6().len()),
                    classes: of(&classes, slot),
                    frontends: of(&frontends, slot),
                }
            })
            .collect()
    }
}

/// Readiness came or went: the one line of the log that says whether all is well.
fn told(status: &Status) {
    if status.ready {
        tracing::info!(
            pods = status.pods.len(),
            policies = status.policies.len(),
            problems = status.problems.len(),
            "ready"
        );
    } else {
        tracing::warn!(waiting_for = status.waiting_for.join("; "), "not ready");
    }
}

fn sentence(problem: &CoreProblem) -> String {
    format!("{}: {}", problem.field, problem.message)
}
