//! Making the kernel say what the objects say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use egress_common::abi::{FLOW_CLOSING, Flow, FlowKey};
use egress_core::compile::{self, Isolation, Subject};
use egress_core::image::{Image, Step};
use egress_core::object::{Name, Pod};
use egress_core::plan::plan;
use egress_core::workload;
use zerocopy::network_endian::U32;

use super::{Agent, Failure, Hook};
use crate::metrics::Stage;
use crate::pods::conntrack::{self, PodFlow};
use crate::pods::{Found, HostInterface};

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
        let wanted = self.wanted();
        let before = std::mem::take(&mut self.found);
        self.found = self.scan(&wanted, &before);
        if self.found != before || !self.datapath.has_pins() {
            self.program(seen);
        }
    }

    /// Looks for the pods' interfaces and programs the kernel.
    pub(super) fn reconcile(&mut self, seen: Instant) {
        let wanted = self.wanted();
        let before = std::mem::take(&mut self.found);
        self.found = self.scan(&wanted, &before);
        self.program(seen);
    }

    /// Fills the pool of spare tries.
    pub(super) fn prepare(&mut self) {
        if let Err(error) = self.datapath.prepare() {
            self.observations.bpf_failed(error.map, error.op);
            tracing::warn!(error = %chain(&error), "no spare tries: the next new ruleset waits for the kernel");
        }
    }

    /// Annotations of the local pods that send through an interface of their own.
    fn wanted(&self) -> BTreeMap<Name, String> {
        self.store
            .pods()
            .filter(|pod| pod.node == self.settings.options.node)
            .filter(|pod| Isolation::of(pod, Vec::new()).is_some())
            .filter_map(|pod| Some((pod.name.clone(), pod.netns.clone()?)))
            .collect()
    }

    fn scan(
        &mut self,
        wanted: &BTreeMap<Name, String>,
        before: &BTreeMap<Name, Found>,
    ) -> BTreeMap<Name, Found> {
        let discovery = &mut self.discovery;
        let mut found = match tokio::task::block_in_place(|| discovery.scan(wanted)) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "looking for interfaces failed; what was known stays");
                return before.clone();
            }
        };
        for (pod, now) in &mut found {
            // A namespace that is there but does not answer keeps the interfaces it had.
            if let Some(known) = before.get(pod)
                && now.problem.is_some()
                && now.namespace.is_some()
                && now.namespace == known.namespace
            {
                now.interfaces.clone_from(&known.interfaces);
                now.addresses.clone_from(&known.addresses);
            }
        }
        found
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
        let fresh = self.attach(&wanted, &mut failures);
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

    /// Every interface of a local pod.
    fn interfaces(&self) -> BTreeMap<u32, Hook> {
        let mut interfaces = BTreeMap::new();
        for (pod, found) in &self.found {
            for interface in &found.interfaces {
                interfaces.insert(
                    interface.index,
                    Hook {
                        interface: interface.clone(),
                        namespace: found.namespace,
                        pod: pod.clone(),
                    },
                );
            }
        }
        interfaces
    }

    /// Attaches what is not attached by this process yet; returns hooks that had no endpoint.
    fn attach(
        &mut self,
        wanted: &BTreeMap<u32, Hook>,
        failures: &mut Vec<Failure>,
    ) -> BTreeSet<u64> {
        let mut fresh = BTreeSet::new();
        for (index, hook) in wanted {
            let known = self.hooks.get(index);
            if known.is_none_or(|known| {
                known.interface != hook.interface || known.namespace != hook.namespace
            }) {
                if let Err(error) = self.datapath.attach(&hook.interface) {
                    self.observations.attach_failed(error.hook, error.op);
                    failures.push(Failure {
                        pod: Some(hook.pod.clone()),
                        message: chain(&error),
                    });
                    continue;
                }
                tracing::info!(pod = %display(&hook.pod), interface = %hook.interface.name, "attached");
            }
            if !self
                .datapath
                .image()
                .endpoints
                .contains_key(&u64::from(*index))
            {
                fresh.insert(u64::from(*index));
            }
            self.hooks.insert(*index, hook.clone());
        }
        fresh
    }

    /// Takes the programs from interfaces that are no local pod's any more.
    fn detach(&mut self, wanted: &BTreeMap<u32, Hook>, failures: &mut Vec<Failure>) {
        let gone: Vec<u32> = self
            .hooks
            .keys()
            .copied()
            .filter(|index| !wanted.contains_key(index))
            .collect();
        for index in gone {
            let Some(hook) = self.hooks.get(&index) else {
                continue;
            };
            match self.datapath.detach(&hook.interface) {
                Ok(()) => {
                    tracing::info!(pod = %display(&hook.pod), interface = %hook.interface.name, "detached");
                    self.hooks.remove(&index);
                }
                Err(error) => failures.push(Failure {
                    pod: None,
                    message: chain(&error),
                }),
            }
        }
        // Links that an earlier agent left on interfaces that no pod has any more.
        match self.datapath.pinned_links() {
            Ok(pinned) => {
                for index in pinned
                    .into_iter()
                    .filter(|index| !wanted.contains_key(index))
                {
                    if let Err(error) = self.datapath.forget_links(index) {
                        failures.push(Failure {
                            pod: None,
                            message: format!("unpinning the links of interface {index}: {error}"),
                        });
                    }
                }
            }
            Err(error) => failures.push(Failure {
                pod: None,
                message: format!("listing pinned links: {error}"),
            }),
        }
    }

    /// Compiles, plans and applies. Endpoints in `open` are written without isolation.
    fn make_so(&mut self, open: &BTreeSet<u64>) -> Result<(), String> {
        let started = Instant::now();
        let locals = self.locals();
        let mut subjects = Vec::new();
        for (index, hook) in &self.hooks {
            let Some(local) = locals.get(&hook.pod) else {
                continue;
            };
            let hook_id = u64::from(*index);
            subjects.push(Subject {
                hook: hook_id,
                addresses: self.addresses(local.pod),
                isolation: if open.contains(&hook_id) {
                    Isolation::None
                } else {
                    local.isolation.clone()
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
        );
        self.pods = locals
            .into_iter()
            .map(|(name, local)| (name, local.isolated_by))
            .collect();
        self.desired = desired;
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
        let before = self.datapath.image().clone();
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
    fn retire(&self, before: &Image, steps: &[Step]) {
        let attribution = self.attribution.borrow().clone();
        for step in steps {
            let Step::CloseSlot { slot } = step else {
                continue;
            };
            if before
                .endpoints
                .values()
                .all(|endpoint| endpoint.slot.get() != *slot)
            {
                continue;
            }
            let taken = self
                .counters
                .retire(attribution.get(slot), || self.datapath.take_counters(*slot));
            if let Err(error) = taken {
                self.observations.bpf_failed(error.map, error.op);
                tracing::warn!(error = %chain(&error), slot, "counters of a pod that is gone");
            }
        }
    }

    /// The node's pods that are enforced.
    fn locals(&self) -> BTreeMap<Name, Local<'_>> {
        let mut locals = BTreeMap::new();
        for pod in self
            .store
            .pods()
            .filter(|pod| pod.node == self.settings.options.node)
        {
            let policies = workload::isolating(&self.store, pod);
            let mut isolated_by: Vec<Name> =
                policies.iter().map(|policy| policy.name.clone()).collect();
            isolated_by.sort_unstable();
            if let Some(isolation) = Isolation::of(pod, policies) {
                let name = pod.name.clone();
                locals.insert(
                    name,
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

    /// A pod's addresses: what its status says, and only without that what its namespace has.
    pub(super) fn addresses(&self, pod: &Pod) -> BTreeSet<IpAddr> {
        if pod.addresses.is_empty()
            && let Some(found) = self.found.get(&pod.name)
        {
            return found.addresses.clone();
        }
        pod.addresses.clone()
    }

    /// Connections that are older than the hooks of these endpoints.
    fn seed(&mut self, fresh: &BTreeSet<u64>, failures: &mut Vec<Failure>) {
        let endpoints: Vec<_> = fresh
            .iter()
            .filter_map(|hook| self.datapath.image().endpoints.get(hook).copied())
            .collect();
        let mut places: BTreeMap<IpAddr, (u16, u8)> = BTreeMap::new();
        for desired in fresh
            .iter()
            .filter_map(|hook| Some((hook, self.desired.endpoints.get(hook)?)))
        {
            let (hook, desired) = desired;
            let Some(endpoint) = self.datapath.image().endpoints.get(hook) else {
                continue;
            };
            for address in &desired.addresses {
                let key = compile::address(*address);
                if let Some(local) = endpoint.local(key.family, &key.bytes) {
                    places.insert(*address, (endpoint.slot.get(), local));
                }
            }
        }
        let older = match conntrack::older_flows(&places.keys().copied().collect()) {
            Ok(older) => older,
            Err(error) => {
                failures.push(Failure {
                    pod: None,
                    message: format!(
                        "asking for connections older than the agent: {}",
                        chain(&error)
                    ),
                });
                return;
            }
        };
        if let Some(note) = &older.note {
            tracing::debug!("{note}");
        }
        let now = U32::new(boot_seconds());
        let entry = |flow: &PodFlow| -> Option<(u16, FlowKey, Flow)> {
            let (slot, local) = places.get(&flow.local)?;
            let value = Flow {
                seen: now,
                flags: U32::new(if flow.closing { FLOW_CLOSING } else { 0 }),
                ..Flow::default()
            };
            Some((*slot, flow.key(*slot, *local), value))
        };
        let mut inbound: BTreeMap<u16, Vec<(FlowKey, Flow)>> = endpoints
            .iter()
            .map(|endpoint| (endpoint.slot.get(), Vec::new()))
            .collect();
        for (slot, key, flow) in older.inbound.iter().filter_map(entry) {
            inbound.entry(slot).or_default().push((key, flow));
        }
        let outbound: Vec<(FlowKey, Flow)> = older
            .outbound_udp
            .iter()
            .filter_map(entry)
            .map(|(_, key, flow)| (key, flow))
            .collect();
        let seeded = inbound
            .iter()
            .try_for_each(|(slot, flows)| self.datapath.seed_inbound(*slot, flows))
            .and_then(|()| self.datapath.seed_outbound(&outbound));
        if let Err(error) = seeded {
            self.observations.bpf_failed(error.map, error.op);
            failures.push(Failure {
                pod: None,
                message: chain(&error),
            });
        }
    }
}

/// Seconds of `CLOCK_MONOTONIC`, which the programs stamp flows with.
fn boot_seconds() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u32::try_from(now.tv_sec).unwrap_or(u32::MAX)
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
