//! Interfaces that carry our programs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use egress_common::abi::{FLOW_CLOSING, Flow, FlowKey};
use egress_core::compile;
use zerocopy::network_endian::U32;

use super::reconcile::chain;
use super::{Agent, Failure, Hook};
use crate::pods::conntrack::{self, PodFlow};

impl Agent {
    /// Every interface of a local pod.
    pub(super) fn interfaces(&self) -> BTreeMap<u32, Hook> {
        let mut interfaces = BTreeMap::new();
        for (pod, found) in &self.found {
            for interface in &found.interfaces {
                interfaces.insert(
                    interface.index,
                    Hook {
                        interface: interface.clone(),
                        place: found.place.clone(),
                        pod: pod.clone(),
                    },
                );
            }
        }
        interfaces
    }

    /// Attaches what is not attached by this process yet; returns hooks that had no endpoint.
    pub(super) fn attach(
        &mut self,
        wanted: &BTreeMap<u32, Hook>,
        failures: &mut Vec<Failure>,
    ) -> BTreeSet<u64> {
        let mut fresh = BTreeSet::new();
        for (index, hook) in wanted {
            let known = self.hooks.get(index);
            let is_other = known.is_none_or(|known| {
                known.interface != hook.interface
                    || known.place != hook.place
                    || known.pod != hook.pod
            });
            if is_other || self.unlinked.contains(index) {
                let awaited = self.is_starting(&hook.pod);
                if let Err(error) = self.datapath.attach(&hook.interface, awaited) {
                    self.observations.attach_failed(error.hook, error.op);
                    failures.push(Failure {
                        pod: Some(hook.pod.name.clone()),
                        message: chain(&error),
                    });
                    continue;
                }
                self.unlinked.remove(index);
                tracing::info!(pod = %hook.pod, interface = %hook.interface.name, "attached");
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

    /// Whether a hook belongs to a pod that is only just being made.
    pub(super) fn is_of_starting(&self, hook: u64) -> bool {
        u32::try_from(hook)
            .ok()
            .and_then(|index| self.hooks.get(&index))
            .is_some_and(|hook| self.is_starting(&hook.pod))
    }

    /// Takes the programs from interfaces that are no local pod's any more.
    pub(super) fn detach(&mut self, wanted: &BTreeMap<u32, Hook>, failures: &mut Vec<Failure>) {
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
                    tracing::info!(pod = %hook.pod, interface = %hook.interface.name, "detached");
                    self.hooks.remove(&index);
                    self.unlinked.remove(&index);
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

    /// Has links put in the place of filters that starting pods are held by. Where that fails, hooks and
    /// endpoints stay, and links are tried for as for any others: failures are told as those are.
    pub(super) fn replace_filters(&mut self) {
        for (interface, error) in self.datapath.replace_filters() {
            tracing::warn!(error = %chain(&error), "a link cannot take over from a filter");
            self.observations.attach_failed(error.hook, error.op);
            self.unlinked.insert(interface.index);
            self.retry = true;
        }
    }

    /// Hooks of pods that have not started: no connection is older.
    pub(super) fn seed_nothing(&mut self, starting: &BTreeSet<u64>) {
        for hook in starting {
            if let Some(endpoint) = self.datapath.image().endpoints.get(hook) {
                let slot = endpoint.slot.get();
                self.datapath.seed_nothing(slot);
            }
        }
    }

    /// Connections that are older than the hooks of these endpoints.
    pub(super) fn seed(&mut self, fresh: &BTreeSet<u64>, failures: &mut Vec<Failure>) {
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
        for (slot, flows) in &inbound {
            self.datapath.seed_inbound(*slot, flows);
        }
        if let Err(error) = self.datapath.seed_outbound(&outbound) {
            failures.push(Failure {
                pod: None,
                message: format!("noting older flows of pods: {}", chain(&error)),
            });
        }
    }
}

/// Seconds of `CLOCK_MONOTONIC`, which the programs stamp flows with.
pub(super) fn boot_seconds() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u32::try_from(now.tv_sec).unwrap_or(u32::MAX)
}
