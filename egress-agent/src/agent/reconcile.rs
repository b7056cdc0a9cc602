//! Making the kernel say what the objects say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use egress_common::abi::Endpoint;
use egress_core::compile::{self, Isolation, Subject, Touched};
use egress_core::image::Step;
use egress_core::object::{Name, Pod};
use egress_core::plan::plan;
use egress_core::workload::Isolating;
use zerocopy::network_endian::U32;

use super::{Agent, Failure, Sought};
use crate::metrics::Stage;
use crate::pods::{Asking, HostInterface, PodId, Record, Wanted};

/// A local pod and where its traffic passes.
struct Local<'a> {
    pod: &'a Pod,
    isolation: Isolation<'a>,
    isolated_by: Vec<Name>,
}

impl Agent {
    /// Namespaces or interfaces may have changed: looks, and reconciles if they have.
    pub(super) fn look(&mut self) {
        let seen = Instant::now();
        let before = self.found.clone();
        self.scan(Asking::InTurn);
        if self.found != before || !self.datapath.has_pins() {
            self.program(seen);
        }
    }

    /// Looks for the pods' interfaces and programs the kernel. Not before all objects were seen
    /// once: what is missing may only not have come yet, so what is pinned stays as it is.
    pub(super) fn reconcile(&mut self, seen: Instant) {
        if !self.started {
            self.publish();
            return;
        }
        self.scan(Asking::OnlyNew);
        self.program(seen);
    }

    /// Objects changed. Where the pods are is another question only when other pods are looked for: of
    /// their interfaces the kernel tells.
    pub(super) fn objects_changed(&mut self, seen: Instant) {
        if self.sought.as_ref() == Some(&self.wanted()) {
            self.program(seen);
        } else {
            self.reconcile(seen);
        }
    }

    /// Fills the pool of spare tables. Says whether it could.
    pub(super) fn prepare(&mut self) -> bool {
        let datapath = &mut self.datapath;
        match tokio::task::block_in_place(|| datapath.prepare()) {
            Ok(()) => true,
            Err(error) => {
                self.observations.bpf_failed(error.map, error.op);
                tracing::warn!(error = %chain(&error), "no spare tables: the next new ruleset or pod waits for the kernel");
                false
            }
        }
    }

    /// The local pods that send through an interface of their own, and those that our CNI plugin
    /// told of while no object of theirs is known.
    fn wanted(&self) -> Sought {
        let mut wanted: BTreeMap<PodId, Wanted> =
            self.held().map(|pod| (pod, Wanted::default())).collect();
        let locals = self
            .store
            .pods_on(&self.settings.options.node)
            .filter(|pod| Isolation::of(pod, Vec::new()).is_some());
        for pod in locals {
            let annotation = pod.netns.as_ref().filter(|_| self.settings.annotations);
            let annotation = annotation.map(ToString::to_string);
            let addresses = pod.addresses.iter().copied().collect();
            wanted.insert(
                PodId::of(pod),
                Wanted {
                    annotation,
                    addresses,
                },
            );
        }
        Sought {
            pods: wanted,
            node: self.node_addresses(),
        }
    }

    /// Pods with a sandbox on this node whose object is not known: its arrival is still to come,
    /// or it was taken away while the sandbox is still there. Nobody knows what selects them.
    pub(super) fn held(&self) -> impl Iterator<Item = PodId> {
        let records = self.discovery.records().iter();
        records
            .filter(|record| record.is_of_plugin())
            .map(Record::pod)
            .filter(|pod| self.local(pod).is_none())
    }

    /// The node's own addresses, as far as they are known.
    pub(super) fn node_addresses(&self) -> BTreeSet<IpAddr> {
        let node = self.store.node(&self.settings.options.node);
        node.map_or_else(BTreeSet::new, |node| node.addresses.clone())
    }

    /// The object of a pod of this node. Before it is bound to a node the pod has none: the
    /// kubelet may hear of that before us.
    pub(super) fn local(&self, pod: &PodId) -> Option<&Pod> {
        self.store
            .pod(&pod.name)
            .filter(|known| *known.node == *self.settings.options.node && PodId::of(known) == *pod)
    }

    /// A pod that has an address, so it may send, and whose interface is nowhere to be found.
    pub(super) fn is_lost(&self, pod: &Pod) -> bool {
        !self.settings.annotations
            && !pod.terminating
            && !pod.addresses.is_empty()
            && Isolation::of(pod, Vec::new()).is_some()
            && self
                .found
                .get(&PodId::of(pod))
                .is_none_or(|found| found.interfaces.is_empty())
    }

    /// Whether a pod is looked for that routes and neighbours may lead to.
    pub(super) fn searches(&self) -> bool {
        self.store
            .pods_on(&self.settings.options.node)
            .any(|pod| self.is_lost(pod))
    }

    /// Looks for the pods' interfaces.
    fn scan(&mut self, asking: Asking) {
        let sought = self.wanted();
        self.sought = None;
        let discovery = &mut self.discovery;
        let scanned =
            tokio::task::block_in_place(|| discovery.scan(&sought.pods, &sought.node, asking));
        let mut found = match scanned {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "looking for interfaces failed; what was known stays");
                return;
            }
        };
        for (pod, now) in &mut found {
            // A namespace that is there but does not answer keeps the interfaces it had.
            if let Some(known) = self.found.get(pod)
                && now.problem.is_some()
                && now.place.is_some()
                && now.place == known.place
            {
                now.interfaces.clone_from(&known.interfaces);
                now.addresses.clone_from(&known.addresses);
            }
        }
        self.found = found;
        self.sought = Some(sought);
    }

    /// Attaches, compiles, plans and applies; publishes the outcome.
    fn program(&mut self, seen: Instant) {
        self.retry = false;
        let failures = tokio::task::block_in_place(|| self.program_kernel(seen));
        // Once, not at every attempt.
        for failure in failures
            .iter()
            .filter(|failure| !self.failures.contains(failure))
        {
            tracing::warn!(
                pod = failure.pod.as_ref().map(tracing::field::display),
                "{}",
                failure.message
            );
        }
        if failures.is_empty() && !self.failures.is_empty() {
            tracing::info!("what had failed is done");
        }
        self.retry |= !failures.is_empty();
        self.failures = failures;
        self.answer_plugins();
        self.publish();
    }

    fn program_kernel(&mut self, seen: Instant) -> Vec<Failure> {
        let mut failures = Vec::new();
        if let Err(error) = self.datapath.restore_pins() {
            failures.push(Failure {
                pod: None,
                message: format!(
                    "the BPF file system is gone, and enforcement would end with this agent: {}",
                    chain(&error)
                ),
            });
        }
        let wanted = self.interfaces();
        // What has not started has nothing that is older, and is never open.
        let (starting, fresh): (BTreeSet<u64>, BTreeSet<u64>) = self
            .attach(&wanted, &mut failures)
            .into_iter()
            .partition(|hook| self.is_of_starting(*hook));
        // First as they were without policies: the hooks note what is opened towards the pods
        // while the kernel's table is asked for what is older.
        if !fresh.is_empty() {
            match self.make_so(&fresh) {
                Ok(()) => self.seed(&fresh, &mut failures),
                Err(message) => failures.push(Failure { pod: None, message }),
            }
        }
        match self.make_so(&BTreeSet::new()) {
            Ok(()) => {
                self.observations.programmed(Stage::Total, seen.elapsed());
                self.seed_nothing(&starting);
                for _ in &fresh {
                    self.observations.pod_enforced(seen.elapsed());
                }
            }
            Err(message) => failures.push(Failure { pod: None, message }),
        }
        self.detach(&wanted, &mut failures);
        if failures.is_empty()
            && let Err(errors) = self.datapath.retire_others()
        {
            failures.extend(errors.iter().map(|error| Failure {
                pod: None,
                message: format!(
                    "taking over from an agent of another ABI version: {}",
                    chain(error)
                ),
            }));
        }
        failures
    }

    /// Compiles, plans and applies. Endpoints in `open` are written without isolation.
    fn make_so(&mut self, open: &BTreeSet<u64>) -> Result<(), String> {
        let started = Instant::now();
        let locals = self.locals();
        let mut subjects = Vec::new();
        for (index, hook) in &self.hooks {
            let hook_id = u64::from(*index);
            let (addresses, isolation) = if let Some(local) = locals.get(&hook.pod) {
                (self.addresses(local.pod), local.isolation.clone())
            } else if let Some(found) = self.found.get(&hook.pod) {
                // Unknown means closed.
                (found.addresses.clone(), Isolation::Closed)
            } else {
                continue;
            };
            subjects.push(Subject {
                hook: hook_id,
                addresses,
                isolation: if open.contains(&hook_id) {
                    Isolation::None
                } else {
                    isolation
                },
            });
        }
        let interfaces = self.interfaces();
        subjects.retain(|subject| {
            u32::try_from(subject.hook).is_ok_and(|index| interfaces.contains_key(&index))
        });
        let desired = compile::compile(
            &self.store,
            &subjects,
            &self.settings.options,
            &self.desired,
            &self.touched,
        );
        self.pods = locals
            .into_iter()
            .map(|(pod, local)| (pod.name, local.isolated_by))
            .collect();
        self.desired = desired;
        self.touched = Touched::nothing();
        self.datapath.image_mut().recognise(&self.desired.rulesets);
        self.switch_events();
        let planned = plan(self.datapath.image(), &self.desired, self.datapath.limits());
        self.observations
            .programmed(Stage::Compile, started.elapsed());

        for refusal in planned.refused.iter().filter(|r| !self.refused.contains(r)) {
            tracing::error!(
                map = refusal.map,
                need = refusal.need,
                capacity = refusal.capacity,
                "{refusal}"
            );
            self.observations.bpf_failed(refusal.map, "full");
        }
        self.observations.refused(planned.refused.len());
        self.refused = planned.refused;
        if planned.steps.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        tracing::debug!(steps = planned.steps.len(), "applying");
        let before = self.datapath.image().endpoints.clone();
        let result = self.datapath.apply(&planned.steps);
        self.observations
            .programmed(Stage::Apply, started.elapsed());
        self.retire(&before, &planned.steps);
        result.map_err(|error| {
            self.observations
                .bpf_failed(error.source.map, error.source.op);
            chain(&error)
        })
    }

    /// The rate of events is a word in CONFIG, written with the next change of it.
    fn switch_events(&mut self) {
        let mut config = self.datapath.image().config;
        let wanted = U32::new(self.settings.events_per_second);
        if config.events_per_second != wanted {
            config.events_per_second = wanted;
            if let Err(error) = self.datapath.apply(&[Step::SetConfig(config)]) {
                tracing::warn!(error = %chain(&error), "setting the rate of drop records");
            }
        }
    }

    /// Takes over the counters of endpoints that are gone, before their slots are given out again.
    fn retire(&self, before: &BTreeMap<u64, Endpoint>, steps: &[Step]) {
        let attribution = self.attribution.borrow().clone();
        for step in steps {
            let Step::CloseSlot { slot } = step else {
                continue;
            };
            if before.values().all(|endpoint| endpoint.slot.get() != *slot) {
                continue;
            }
            let taken = self
                .counters
                .retire(attribution.get(slot), || self.datapath.take_drops(*slot));
            if let Err(error) = taken {
                self.observations.bpf_failed(error.map, error.op);
                tracing::warn!(error = %chain(&error), slot, "counters of a pod that is gone");
            }
        }
    }

    /// The node's pods that are enforced.
    fn locals(&self) -> BTreeMap<PodId, Local<'_>> {
        let mut locals = BTreeMap::new();
        let isolating = Isolating::of(&self.store);
        for pod in self.store.pods_on(&self.settings.options.node) {
            let policies = isolating.policies(&self.store, pod);
            let mut isolated_by: Vec<Name> =
                policies.iter().map(|policy| policy.name.clone()).collect();
            isolated_by.sort_unstable();
            if let Some(isolation) = Isolation::of(pod, policies) {
                locals.insert(
                    PodId::of(pod),
                    Local {
                        pod,
                        isolation,
                        isolated_by,
                    },
                );
            }
        }
        locals
    }

    /// A pod's addresses, as far as its object and its sandbox tell.
    pub(super) fn addresses(&self, pod: &Pod) -> BTreeSet<IpAddr> {
        let said = pod.addresses.iter().copied().collect();
        match self.found.get(&PodId::of(pod)) {
            Some(found) => found.addresses(&said),
            None => said,
        }
    }
}

/// `NS/NAME`.
pub(super) fn display(name: &Name) -> String {
    format!("{}/{}", name.namespace, name.name)
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Interfaces by name, for people.
pub(super) fn names(interfaces: &[HostInterface]) -> Vec<String> {
    interfaces
        .iter()
        .map(|interface| interface.name.clone())
        .collect()
}
