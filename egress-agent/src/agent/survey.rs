//! What deserves a look: Services that are denied for one of their endpoints, what the kernel lacks,
//! drift, and who else is on the hooks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use egress_common::abi::{Address, FrontendKey};
use egress_core::compile::{EndpointRules, Mixed};
use egress_core::image;
use egress_core::object::Name;
use egress_core::ruleset::RulesetKey;
use egress_core::workload::{self, SubjectKind};

use super::Agent;
use super::reconcile::{chain, display};
use crate::datapath::{Technique, is_own_filter};
use crate::pods::{HostInterface, Side, filters};
use crate::status::{Warning, WarningKind, nearly_full};

/// Pods, and addresses of a Service, that a sentence names.
const NAMED: usize = 3;

impl Agent {
    /// Services that are denied because their endpoints differ (S84): object and sentence.
    pub(super) fn mixed(&self) -> Vec<(String, String)> {
        let mut places: BTreeMap<(&Name, BTreeSet<String>), Vec<String>> = BTreeMap::new();
        for (key, Mixed { service, rulesets }) in &self.desired.mixed {
            let noticed = self.pods_of(rulesets);
            places
                .entry((service, noticed))
                .or_default()
                .push(place(key));
        }
        places
            .into_iter()
            .map(|((service, pods), mut places)| {
                // A port may be there for two protocols.
                places.sort();
                places.dedup();
                let pods: Vec<String> = pods.into_iter().collect();
                let message = format!(
                    "{} is denied to {}: some of its endpoints are allowed and some are not; `egress-agent explain` says which",
                    some(&places),
                    some(&pods)
                );
                (format!("Service {}", display(service)), message)
            })
            .collect()
    }

    /// The pods of this node under these rulesets.
    fn pods_of(&self, rulesets: &BTreeSet<RulesetKey>) -> BTreeSet<String> {
        let under = self.desired.endpoints.iter().filter(|(_, endpoint)| {
            matches!(&endpoint.rules, EndpointRules::Ruleset(key) if rulesets.contains(key))
        });
        under
            .filter_map(|(hook, _)| {
                let hook = self.hooks.get(&u32::try_from(*hook).ok()?)?;
                Some(hook.pod.to_string())
            })
            .collect()
    }

    /// What needs no look at the kernel.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        [self.unheld(), self.full_tries(), self.kernel_features()].concat()
    }

    /// Pods on the host network that policies select in vain (S87).
    fn unheld(&self) -> Vec<Warning> {
        self.store
            .pods_on(&self.settings.options.node)
            .filter(|pod| workload::subject(pod) == SubjectKind::HostNetwork)
            .filter_map(|pod| {
                let policies = workload::isolating(&self.store, pod);
                let names: Vec<String> = policies.iter().map(|p| display(&p.name)).collect();
                (!names.is_empty()).then(|| Warning {
                    kind: WarningKind::NotEnforced,
                    object: format!("Pod {}", display(&pod.name)),
                    message: format!(
                        "it is on the host network, where policies do not hold: {} would isolate it",
                        some(&names)
                    ),
                })
            })
            .collect()
    }

    /// Rulesets whose prefixes nearly fill their table.
    fn full_tries(&self) -> Vec<Warning> {
        let capacity = number(self.datapath.limits().trie);
        let rulesets = self.datapath.image().rulesets.iter();
        rulesets
            .filter_map(|(slot, placed)| {
                let trie = &placed.ruleset.as_ref()?.trie;
                let prefixes = number(trie.v4().len().max(trie.v6().len()));
                let percent = nearly_full(prefixes, capacity)?;
                Some(Warning {
                    kind: WarningKind::MapFill,
                    object: format!("ruleset {slot}"),
                    message: format!(
                        "{percent}% of the prefixes that fit ({prefixes} of {capacity}, --max-prefixes): with more, its pods keep the rules they have"
                    ),
                })
            })
            .collect()
    }

    /// What this kernel lacks, and what that costs.
    fn kernel_features(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut lacks = |message: &str| {
            warnings.push(Warning {
                kind: WarningKind::KernelFeature,
                object: String::new(),
                message: message.to_owned(),
            });
        };
        if self.datapath.technique() == Technique::Clsact {
            lacks(
                "this kernel has no TCX (6.6): hooks are clsact filters, whose order others can change and which `tc filter del` removes",
            );
        }
        if !self.datapath.coarse_clock() {
            lacks(
                "this kernel has no coarse clock for programs (5.11): a packet costs about 25 ns more",
            );
        }
        warnings
    }

    /// What is looked for only when somebody asks: it reads every table back, and asks for each hook.
    pub(super) fn survey(&self) -> Vec<Warning> {
        let drift = match self.datapath.drift() {
            Ok(drift) => drift,
            Err(error) => vec![format!("the tables cannot be compared: {}", chain(&error))],
        };
        let drift = drift.into_iter().map(|message| Warning {
            kind: WarningKind::Drift,
            object: String::new(),
            message,
        });
        let hooks = self.hooks.iter().flat_map(|(index, hook)| {
            self.others(*index, &hook.interface)
                .into_iter()
                .map(|message| Warning {
                    kind: WarningKind::OtherProgram,
                    object: format!("Pod {}", hook.pod),
                    message,
                })
        });
        drift.chain(hooks).collect()
    }

    /// Who else is on the hooks of an interface, a sentence for each side.
    fn others(&self, index: u32, interface: &HostInterface) -> Vec<String> {
        let mut found: BTreeMap<Side, Vec<String>> = BTreeMap::new();
        match self.datapath.others(index) {
            Ok(programs) => {
                for (side, programs) in programs {
                    found
                        .entry(side)
                        .or_default()
                        .push(format!("{programs} other TCX program(s)"));
                }
            }
            // The interface went meanwhile, or the kernel does not say.
            Err(error) => tracing::debug!(%error, interface = interface.name, "TCX programs"),
        }
        match filters(index) {
            Ok(filters) => {
                for filter in filters {
                    if !is_own_filter(filter.priority, filter.handle) {
                        found
                            .entry(filter.side)
                            .or_default()
                            .push(format!("a {filter}"));
                    }
                }
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), interface = interface.name, "filters");
            }
        }
        found
            .into_iter()
            .map(|(side, mut others)| {
                others.dedup();
                format!(
                    "beside the {} hook of {}: {}; what passes here may still be dropped or redirected there (`bpftool net` and `tc filter` list them)",
                    side.name(),
                    interface.name,
                    some(&others)
                )
            })
            .collect()
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn place(key: &FrontendKey) -> String {
    let address = image::ip(&Address {
        family: key.family,
        reserved: [0; 3],
        bytes: key.address,
    });
    SocketAddr::new(address, key.port.get()).to_string()
}

/// The first of a list, and how many more there are.
fn some(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    match names.len().saturating_sub(NAMED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_its_first_names_and_a_number() {
        let names: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        assert_eq!(some(&names), "a, b, c and 2 more");
        assert_eq!(some(names.get(..2).unwrap_or_default()), "a, b");
    }
}
