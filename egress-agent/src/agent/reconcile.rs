//! Making the kernel say what the objects say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use egress_core::compile::{self, Isolation, Subject, Touched};
use egress_core::image::Step;
use egress_core::object::{Name, Pod};
use egress_core::store::Store;
use egress_core::workload::{self, Isolating};
use zerocopy::network_endian::U32;

use super::{Agent, Failure, Sought};
use crate::metrics::Stage;
use crate::pods::{Asking, HostInterface, PodId, Record, Wanted};

/// Of so many pods it is faster to go through all policies each time than to put them in order.
const FEW: usize = 8;

/// A local pod and where its traffic passes.
struct Local<'a> {
    pod: &'a Pod,
    isolation: Isolation<'a>,
    isolated_by: Vec<Name>,
}

/// What a change may have done to the links of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    /// Nothing.
    AsTheyWere,
    /// Others may be there.
    Any,
}

impl Agent {
    /// Namespaces or interfaces may have changed: looks, and reconciles if they have.
    pub(super) fn look(&mut self) {
        let seen = Instant::now();
        if self.scan(Asking::InTurn) || !self.datapath.has_pins() {
            self.program(seen, Links::Any);
        }
    }

    /// Looks for the pods' interfaces and programs the kernel. Not before all objects were seen
    /// once: what is missing may only not have come yet, so what is pinned stays as it is.
    pub(super) fn reconcile(&mut self, seen: Instant) {
        if !self.started {
            self.publish();
            return;
        }
        let _changed: bool = self.scan(Asking::OnlyNew);
        self.program(seen, Links::Any);
    }

    /// Objects changed. Where the pods are is another question only when other pods are looked for: of
    /// their interfaces the kernel tells. What pods of other nodes are does not even change what is
    /// wanted of this node's.
    pub(super) fn objects_changed(&mut self, seen: Instant) {
        let elsewhere = self.failures.is_empty() && self.sought.is_some() && !self.touched.node;
        if elsewhere && self.follow(seen) {
            self.publish_soon();
        } else if elsewhere {
            self.program(seen, Links::AsTheyWere);
        } else if self.sought.as_ref() == Some(&self.wanted()) {
            self.program(seen, Links::Any);
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

    /// Looks for the pods' interfaces. Says whether anything is other than at the last look.
    fn scan(&mut self, asking: Asking) -> bool {
        let sought = self.wanted();
        self.sought = None;
        let discovery = &mut self.discovery;
        let scanned =
            tokio::task::block_in_place(|| discovery.scan(&sought.pods, &sought.node, asking));
        let mut found = match scanned {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "looking for interfaces failed; what was known stays");
                return false;
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
        self.sought = Some(sought);
        let changed = self.found != found;
        self.found = found;
        changed
    }

    /// Attaches, compiles, plans and applies; publishes the outcome.
    fn program(&mut self, seen: Instant, links: Links) {
        self.retry = false;
        let failures = tokio::task::block_in_place(|| match links {
            Links::Any => self.program_kernel(seen, links),
            Links::AsTheyWere => self.program_tables(seen, links).err().into_iter().collect(),
        });
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
        self.searching = self.searches();
        self.answer_plugins();
        self.publish();
    }

    fn program_kernel(&mut self, seen: Instant, links: Links) -> Vec<Failure> {
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
            match self.make_so(links, &fresh) {
                Ok(()) => self.seed(&fresh, &mut failures),
                Err(message) => failures.push(Failure { pod: None, message }),
            }
        }
        match self.program_tables(seen, links) {
            Ok(()) => {
                self.seed_nothing(&starting);
                for _ in &fresh {
                    self.observations.pod_enforced(seen.elapsed());
                }
            }
            Err(failure) => failures.push(failure),
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

    /// Makes the tables say what the objects say.
    fn program_tables(&mut self, seen: Instant, links: Links) -> Result<(), Failure> {
        match self.make_so(links, &BTreeSet::new()) {
            Ok(()) => {
                self.observations.programmed(Stage::Total, seen.elapsed());
                Ok(())
            }
            Err(message) => Err(Failure { pod: None, message }),
        }
    }

    /// Follows a change that leads to nothing but other classes of addresses. False when there is more
    /// to it, or it did not work.
    fn follow(&mut self, seen: Instant) -> bool {
        let started = Instant::now();
        if !self.desired.follow(&self.store, &self.touched) {
            return false;
        }
        self.touched = Touched::nothing();
        let carried_out = self.carry_out(started).is_ok();
        if carried_out {
            self.observations.programmed(Stage::Total, seen.elapsed());
        }
        carried_out
    }

    /// Compiles, plans and applies. Endpoints in `open` are written without isolation.
    fn make_so(&mut self, links: Links, open: &BTreeSet<u64>) -> Result<(), String> {
        let started = Instant::now();
        // Where links and pods are as they were, policies say otherwise only of those they isolate.
        let stands = links == Links::AsTheyWere && self.desired.stands(&self.touched);
        let asked = stands.then_some(&self.touched.isolated);
        let locals = locals(&self.store, &self.settings.options.node, asked);
        let mut subjects = Vec::new();
        let there = self.found.values().flat_map(|found| &found.interfaces);
        let there: BTreeSet<u32> = there.map(|interface| interface.index).collect();
        let hooks = self.hooks.iter();
        for (index, hook) in hooks.filter(|(index, _)| there.contains(index)) {
            let hook_id = u64::from(*index);
            if asked.is_some_and(|asked| !asked.contains(&hook.pod.name)) {
                subjects.push(Subject {
                    hook: hook_id,
                    addresses: BTreeSet::new(),
                    isolation: Isolation::AsBefore,
                });
                continue;
            }
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
        self.desired = compile::compile(
            &self.store,
            &subjects,
            &self.settings.options,
            std::mem::take(&mut self.desired),
            &self.touched,
        );
        self.touched = Touched::nothing();
        if !stands {
            self.pods.clear();
        }
        let isolated_by = locals.into_iter();
        self.pods
            .extend(isolated_by.map(|(pod, local)| (pod.name, local.isolated_by)));
        self.switch_events();
        self.carry_out(started)
    }

    /// Plans and applies.
    fn carry_out(&mut self, started: Instant) -> Result<(), String> {
        let homes = self.homes.take();
        let planned = self.datapath.plan(&self.desired, homes.as_ref());
        let planned = planned.map_err(|error| {
            self.observations
                .bpf_failed(error.source.map, error.source.op);
            chain(&error)
        })?;
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
            self.homes = planned.homes;
            return Ok(());
        }
        let started = Instant::now();
        tracing::debug!(steps = planned.steps.len(), "applying");
        let left = self.slots_left(&planned.steps);
        let result = self.datapath.apply(&planned.steps);
        self.observations
            .programmed(Stage::Apply, started.elapsed());
        self.retire(&left);
        result.map_err(|error| {
            self.observations
                .bpf_failed(error.source.map, error.source.op);
            chain(&error)
        })?;
        self.homes = planned.homes;
        Ok(())
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

    /// The slots of endpoints that some steps take away.
    fn slots_left(&self, steps: &[Step]) -> Vec<u16> {
        let closed = steps.iter().filter_map(|step| {
            let Step::CloseSlot { slot } = step else {
                return None;
            };
            Some(*slot)
        });
        let endpoints = &self.datapath.image().endpoints;
        let is_used = |slot: &u16| endpoints.values().any(|used| used.slot.get() == *slot);
        closed.filter(is_used).collect()
    }

    /// Takes over the counters of endpoints that are gone, before their slots are given out again.
    fn retire(&self, slots: &[u16]) {
        let attribution = self.attribution.borrow().clone();
        for slot in slots {
            let taken = self
                .counters
                .retire(attribution.get(slot), || self.datapath.take_drops(*slot));
            if let Err(error) = taken {
                self.observations.bpf_failed(error.map, error.op);
                tracing::warn!(error = %chain(&error), slot, "counters of a pod that is gone");
            }
        }
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

/// A node's pods that are enforced; of these, where not all are asked for.
fn locals<'a>(
    store: &'a Store,
    node: &str,
    asked: Option<&BTreeSet<Name>>,
) -> BTreeMap<PodId, Local<'a>> {
    let mut locals = BTreeMap::new();
    let all = asked.is_none_or(|asked| asked.len() > FEW);
    let isolating = all.then(|| Isolating::of(store));
    let pods = store.pods_on(node);
    for pod in pods.filter(|pod| asked.is_none_or(|asked| asked.contains(&pod.name))) {
        let policies = match &isolating {
            Some(isolating) => isolating.policies(store, pod),
            None => workload::isolating(store, pod),
        };
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
