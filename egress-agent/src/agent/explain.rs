//! The verdict of the running agent: what the objects ask for, what the kernel's tables say, and where
//! the two differ.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use egress_common::abi::{ENDPOINT_ISOLATED, FLOW_CLOSING};
use egress_common::event::{Action, Reason};
use egress_common::hook::{
    FOUND_CIDR_PORTS, FOUND_CLASS, FOUND_CLASS_PORTS, FOUND_ENDPOINT, FOUND_FRONTEND, Question,
    Reply,
};
use egress_core::check::{Checker, Transport};
use egress_core::compile;
use egress_core::object::Name;
use egress_core::ports::PortSet;
use zerocopy::network_endian::{U16, U64};

use super::Agent;
use super::hooks::boot_seconds;
use super::reconcile::chain;
use crate::answer::{Answer, Endpoint, FlowEntry, Live, Lookup, PortsEntry, Verdict};
use crate::datapath::TableError;
use crate::evaluate::{self, Target};
use crate::query::Subject;

/// Open flows that are told of.
const FLOWS: usize = 16;

/// Ranges of a port set that are written out.
const RANGES: usize = 8;

impl Agent {
    /// What a pod may send, by the objects and by the kernel's tables; where both speak, the tables'
    /// verdict is the answer, for it is what happens.
    pub(super) fn explain(&mut self, from: &Subject, to: &Target) -> Result<Answer, String> {
        let mut checker = Checker::new(&self.store, self.settings.options.clone());
        let addresses = checker
            .addresses(&to.place)
            .map_err(|error| error.to_string())?;
        let mut answer =
            evaluate::explain(&mut checker, from, to).map_err(|error| error.to_string())?;
        let says = |error: TableError| chain(&error);
        answer.drift = self.datapath.drift().map_err(says)?;
        let hooks: Vec<(u32, String)> = self
            .hooks
            .iter()
            .filter(|(_, hook)| hook.pod.name == from.0)
            .map(|(index, hook)| (*index, hook.interface.name.clone()))
            .collect();
        for (index, interface) in hooks {
            let live = self
                .live(index, interface, &addresses, to.transport)
                .map_err(says)?;
            answer.live.push(live);
        }
        self.compare(&from.0, &mut answer);
        Ok(answer)
    }

    /// What the tables say at one hook.
    fn live(
        &mut self,
        index: u32,
        interface: String,
        addresses: &BTreeSet<IpAddr>,
        transport: Transport,
    ) -> Result<Live, TableError> {
        let mut endpoint = None;
        let mut lookups = Vec::new();
        for address in addresses {
            let (protocol, port) = transport.number(*address);
            let question = Question {
                hook: U64::new(u64::from(index)),
                destination: compile::address(*address),
                protocol,
                reserved: 0,
                port: U16::new(port),
            };
            let reply = self.datapath.ask(&question)?;
            let found = |bit| reply.found & bit != 0;
            endpoint = found(FOUND_ENDPOINT).then(|| Endpoint {
                slot: reply.slot.get(),
                generation: reply.generation.get(),
                isolated: reply.flags.get() & ENDPOINT_ISOLATED != 0,
                ruleset: reply.ruleset.get(),
            });
            lookups.push(self.lookup(*address, &reply));
        }
        if let Some(endpoint) = &endpoint {
            self.add_flows(endpoint, transport, &mut lookups)?;
        }
        Ok(Live {
            interface,
            endpoint,
            lookups,
        })
    }

    fn lookup(&self, address: IpAddr, reply: &Reply) -> Lookup {
        let reason = Reason::from_number(reply.reason);
        let found = |bit| reply.found & bit != 0;
        let ports = |bit, id: u32| found(bit).then(|| self.ports(id));
        // The kernel tells the value of the longest prefix and not which prefix it was.
        let prefix = found(FOUND_CIDR_PORTS)
            .then(|| {
                let placed = self.datapath.image().rulesets.get(&reply.ruleset.get())?;
                placed.ruleset.as_ref()?.trie.covering(address)
            })
            .flatten();
        Lookup {
            address,
            verdict: Verdict::from(reason.is_some_and(|r| r.action() == Action::Pass)),
            reason: reason.map_or_else(
                || format!("reason-{}", reply.reason),
                |reason| reason.name().to_owned(),
            ),
            frontend: found(FOUND_FRONTEND).then(|| reply.frontend.get()),
            class: found(FOUND_CLASS).then(|| reply.class.get()),
            class_ports: ports(FOUND_CLASS_PORTS, reply.class_ports.get()),
            prefix: prefix.map(|net| net.to_string()),
            prefix_ports: ports(FOUND_CIDR_PORTS, reply.cidr_ports.get()),
            flows: Vec::new(),
            more_flows: 0,
        }
    }

    fn ports(&self, id: u32) -> PortsEntry {
        let ports = match self.datapath.image().port_set(id).as_deref() {
            Some(set) if set.is_nothing() => "nothing".to_owned(),
            Some(PortSet::Everything) => "everything".to_owned(),
            Some(PortSet::Ranges(ranges)) => words(ranges),
            None => "an id that the agent has not given out".to_owned(),
        };
        PortsEntry { id, ports }
    }

    /// The flows that the pod has open to the addresses.
    fn add_flows(
        &self,
        endpoint: &Endpoint,
        transport: Transport,
        lookups: &mut [Lookup],
    ) -> Result<(), TableError> {
        let epoch = self.datapath.image().config.epoch;
        let now = boot_seconds();
        let mut by_remote: BTreeMap<[u8; 16], (u8, u16, &mut Lookup)> = lookups
            .iter_mut()
            .map(|lookup| {
                let (protocol, port) = transport.number(lookup.address);
                let remote = compile::address(lookup.address).bytes;
                (remote, (protocol, port, lookup))
            })
            .collect();
        self.datapath.for_each_flow(|key, flow| {
            if key.slot.get() != endpoint.slot {
                return;
            }
            let Some((protocol, port, lookup)) = by_remote.get_mut(&key.remote) else {
                return;
            };
            if (key.protocol, key.remote_port.get()) != (*protocol, *port) {
                return;
            }
            if lookup.flows.len() < FLOWS {
                lookup.flows.push(FlowEntry {
                    local_port: key.local_port.get(),
                    idle_seconds: now.saturating_sub(flow.seen.get()),
                    current: flow.generation.get() == endpoint.generation && flow.epoch == epoch,
                    closing: flow.flags.get() & FLOW_CLOSING != 0,
                });
            } else {
                lookup.more_flows = lookup.more_flows.saturating_add(1);
            }
        })
    }

    /// Takes the tables' verdict, and notes where it is not the objects'.
    fn compare(&self, pod: &Name, answer: &mut Answer) {
        let here = self
            .store
            .pod(pod)
            .is_some_and(|pod| *pod.node == *self.settings.options.node);
        let steps = answer.steps.as_ref();
        let asked: BTreeMap<IpAddr, Verdict> = steps
            .into_iter()
            .flat_map(|steps| &steps.destinations)
            .map(|destination| (destination.address, destination.verdict))
            .collect();
        // A pod that is not enforced has no hook and no verdict on an address.
        if !here || asked.is_empty() {
            return;
        }
        if answer.live.is_empty() {
            answer.drift.push(format!(
                "{pod} has no interface with the agent's programs: nothing it sends is held back"
            ));
            return;
        }
        let mut decisive: Option<&Lookup> = None;
        for live in &answer.live {
            for lookup in &live.lookups {
                let wanted = asked.get(&lookup.address);
                if wanted.is_some_and(|wanted| *wanted != lookup.verdict) {
                    answer.drift.push(format!(
                        "{}: the objects say {}, the tables of {} say {} ({})",
                        lookup.address,
                        wanted.map_or("nothing", |verdict| verdict.name()),
                        live.interface,
                        lookup.verdict.name(),
                        lookup.reason
                    ));
                }
                if decisive.is_none_or(|known| known.verdict < lookup.verdict) {
                    decisive = Some(lookup);
                }
            }
        }
        if let Some(lookup) = decisive
            && lookup.verdict != answer.verdict
        {
            answer.verdict = lookup.verdict;
            answer.reason.clone_from(&lookup.reason);
        }
    }
}

/// `TCP 80, 443, 8000-8080; UDP 53`
fn words(ranges: &BTreeMap<egress_core::policy::Protocol, Vec<(u16, u16)>>) -> String {
    let parts: Vec<String> = ranges
        .iter()
        .map(|(protocol, list)| {
            let mut numbers: Vec<String> = list
                .iter()
                .take(RANGES)
                .map(|(from, to)| {
                    if from == to {
                        from.to_string()
                    } else {
                        format!("{from}-{to}")
                    }
                })
                .collect();
            if list.len() > RANGES {
                numbers.push("…".to_owned());
            }
            format!("{protocol} {}", numbers.join(", "))
        })
        .collect();
    parts.join("; ")
}
