//! The verdict on a question, without a kernel: the objects are compiled into an [`Image`] and
//! [`egress_common::decide`] answers over it, as it does in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use egress_common::abi::{ENDPOINT_ISOLATED, Endpoint, RULESET_DENY};
use egress_common::decide::decide;
use egress_common::event::{Action, Reason};

use crate::compile::{self, Desired, EndpointRules, Isolation, Options, Subject, Touched};
use crate::explain::{self, Explainer, Explanation};
use crate::image::Image;
use crate::object::{Name, Pod};
use crate::plan::{self, Limits, plan};
use crate::policy::Policy;
use crate::service;
use crate::store::Store;
use crate::workload::{self, SubjectKind};

/// Protocol numbers of ICMP: IPv4, IPv6.
const ICMP: (u8, u8) = (1, 58);

/// Where a question goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An address.
    Address(IpAddr),
    /// All addresses of a pod.
    Pod(Name),
    /// All cluster addresses of a Service, or all endpoints of a headless one.
    Service(Name),
    /// What a DNS name stands for, as somebody has resolved it.
    Host(String, BTreeSet<IpAddr>),
}

/// The protocol of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A protocol with ports, and the destination port.
    Port(crate::policy::Protocol, u16),
    /// An ICMP or `ICMPv6` echo.
    Icmp,
}

impl Transport {
    /// IP protocol number and destination port, 0 where there is none, as the tables want them.
    pub const fn number(self, address: IpAddr) -> (u8, u16) {
        match (self, address) {
            (Self::Port(protocol, port), _) => (protocol.number(), port),
            (Self::Icmp, IpAddr::V4(_)) => (ICMP.0, 0),
            (Self::Icmp, IpAddr::V6(_)) => (ICMP.1, 0),
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether a new connection passes.
    pub allow: bool,
    /// Why, as a name: one of [`Reason::name`], `host-network` (S87) or `finished` (S88).
    pub reason: &'static str,
    /// The policies that isolate the pod, `NS/NAME` in order; empty when none does.
    pub isolated_by: Vec<Name>,
    /// Those of them that on their own would allow this.
    pub allowed_by: Vec<Name>,
    /// The verdict on each address, where they differ.
    pub addresses: Vec<(IpAddr, bool)>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The pod that asks is not known.
    #[error("there is no pod {}/{}", .0.namespace, .0.name)]
    NoPod(Name),
    /// The Service that is asked about is not known.
    #[error("there is no service {}/{}", .0.namespace, .0.name)]
    NoService(Name),
    /// Nothing is known that packets could be sent to.
    #[error("{0} has no address")]
    NoAddress(String),
}

/// Answers questions about one set of objects. What was compiled for a node is kept.
#[derive(Debug)]
pub struct Checker<'a> {
    store: &'a Store,
    options: Options,
    nodes: BTreeMap<String, Compiled<'a>>,
}

/// The tables of one node: every pod of it, under all its policies and under each alone.
#[derive(Debug)]
struct Compiled<'a> {
    image: Image,
    desired: Desired,
    pods: BTreeMap<&'a Name, Hooks<'a>>,
}

/// What stands for a pod in [`Desired::endpoints`].
#[derive(Debug)]
struct Hooks<'a> {
    /// Under all its policies.
    own: u64,
    /// Under each policy that isolates it, alone.
    alone: Vec<(&'a Policy, u64)>,
}

impl<'a> Checker<'a> {
    /// A checker. `options.node` is ignored: each pod is judged on its own node.
    pub const fn new(store: &'a Store, options: Options) -> Self {
        Self {
            store,
            options,
            nodes: BTreeMap::new(),
        }
    }

    /// Answers one question.
    pub fn check(
        &mut self,
        from: &Name,
        to: &Destination,
        transport: Transport,
    ) -> Result<Answer, Error> {
        let pod = self.pod(from)?;
        let answers = self.judge(pod, to, transport)?;
        Ok(one(pod, answers))
    }

    /// Answers one question with the steps that lead to the answer.
    pub fn explain(
        &mut self,
        from: &Name,
        to: &Destination,
        transport: Transport,
    ) -> Result<(Answer, Explanation), Error> {
        let pod = self.pod(from)?;
        let answers = self.judge(pod, to, transport)?;
        let explainer = Explainer::new(self.store, &self.options, pod);
        let destinations = answers
            .iter()
            .map(|(address, answer)| explain::Destination {
                address: *address,
                allow: answer.allow,
                reason: answer.reason,
                owner: explain::owner(self.store, *address),
                way: explainer.way(*address, transport),
            })
            .collect();
        let explanation = Explanation {
            sender: explain::sender(self.store, pod),
            destinations,
        };
        Ok((one(pod, answers), explanation))
    }

    fn pod(&self, name: &Name) -> Result<&'a Pod, Error> {
        self.store
            .pod(name)
            .ok_or_else(|| Error::NoPod(name.clone()))
    }

    /// The verdict on each address; none for a pod that is not enforced.
    fn judge(
        &mut self,
        pod: &'a Pod,
        to: &Destination,
        transport: Transport,
    ) -> Result<Vec<(IpAddr, Answer)>, Error> {
        let addresses = self.addresses(to)?;
        match workload::subject(pod) {
            SubjectKind::HostNetwork | SubjectKind::Finished => return Ok(Vec::new()),
            SubjectKind::Enforced | SubjectKind::Unreadable => {}
        }
        let compiled = self
            .nodes
            .entry(pod.node.to_string())
            .or_insert_with(|| Compiled::of(self.store, &self.options, &pod.node));
        Ok(addresses
            .into_iter()
            .map(|address| (address, compiled.judge(pod, address, transport)))
            .collect())
    }

    /// What a destination stands for.
    pub fn addresses(&self, to: &Destination) -> Result<BTreeSet<IpAddr>, Error> {
        let (name, addresses) = match to {
            Destination::Address(address) => return Ok(BTreeSet::from([*address])),
            Destination::Host(name, addresses) => (name.clone(), addresses.clone()),
            Destination::Pod(name) => {
                let pod = self
                    .store
                    .pod(name)
                    .ok_or_else(|| Error::NoPod(name.clone()))?;
                (name.to_string(), pod.addresses.iter().copied().collect())
            }
            Destination::Service(name) => {
                let found = self
                    .store
                    .service(name)
                    .ok_or_else(|| Error::NoService(name.clone()))?;
                let addresses = if found.headless {
                    service::backends_of_headless(self.store, found).unwrap_or_default()
                } else {
                    found.cluster_ips.clone()
                };
                (name.to_string(), addresses)
            }
        };
        if addresses.is_empty() {
            return Err(Error::NoAddress(name));
        }
        Ok(addresses)
    }
}

/// One answer out of those on each address. Where they differ, it is the first that denies.
fn one(pod: &Pod, mut answers: Vec<(IpAddr, Answer)>) -> Answer {
    let verdicts: Vec<(IpAddr, bool)> = answers
        .iter()
        .map(|(address, answer)| (*address, answer.allow))
        .collect();
    let differ =
        verdicts.iter().any(|(_, allow)| *allow) && verdicts.iter().any(|(_, allow)| !allow);
    let place = answers.iter().position(|(_, a)| !a.allow).unwrap_or(0);
    if answers.is_empty() {
        return Answer {
            allow: true,
            reason: match workload::subject(pod) {
                SubjectKind::Finished => "finished",
                SubjectKind::HostNetwork | SubjectKind::Enforced | SubjectKind::Unreadable => {
                    "host-network"
                }
            },
            isolated_by: Vec::new(),
            allowed_by: Vec::new(),
            addresses: Vec::new(),
        };
    }
    let (_, mut answer) = answers.swap_remove(place);
    if differ {
        answer.addresses = verdicts;
    }
    answer
}

impl<'a> Compiled<'a> {
    fn of(store: &'a Store, options: &Options, node: &str) -> Self {
        let mut subjects = Vec::new();
        let mut pods = BTreeMap::new();
        let mut hook = 0;
        for pod in store.pods().filter(|p| *p.node == *node) {
            let policies = workload::isolating(store, pod);
            let Some(isolation) = Isolation::of(pod, policies.clone()) else {
                continue;
            };
            let mut subject = |isolation| {
                hook += 1;
                subjects.push(Subject {
                    hook,
                    addresses: pod.addresses.iter().copied().collect(),
                    isolation,
                });
                hook
            };
            let own = subject(isolation);
            let alone = policies
                .into_iter()
                .map(|policy| (policy, subject(Isolation::Policies(vec![policy]))))
                .collect();
            pods.insert(&pod.name, Hooks { own, alone });
        }
        let options = Options {
            node: node.to_owned(),
            ..options.clone()
        };
        let desired = compile::compile(
            store,
            &subjects,
            &options,
            Desired::default(),
            &Touched::everything(),
        );
        // Endpoints are given to `decide` by value: there may be more than a node has slots.
        let mut rules = desired.clone();
        rules.endpoints.clear();
        let mut image = Image::default();
        for step in plan(&image.clone(), &rules, &Limits::UNLIMITED, None).steps {
            image.apply(&step);
        }
        Self {
            image,
            desired,
            pods,
        }
    }

    fn judge(&self, pod: &Pod, address: IpAddr, transport: Transport) -> Answer {
        let (own, alone) = self
            .pods
            .get(&pod.name)
            .map_or((0, [].as_slice()), |hooks| {
                (hooks.own, hooks.alone.as_slice())
            });
        let reason = self.decide(own, address, transport);
        let allow = reason.action() == Action::Pass;
        let mut isolated_by: Vec<Name> = alone
            .iter()
            .map(|(policy, _)| policy.name.clone())
            .collect();
        isolated_by.sort_unstable();
        let mut allowed_by: Vec<Name> = alone
            .iter()
            .filter(|(_, hook)| self.decide(*hook, address, transport) == Reason::Allowed)
            .map(|(policy, _)| policy.name.clone())
            .collect();
        allowed_by.sort_unstable();
        Answer {
            allow,
            reason: reason.name(),
            isolated_by,
            allowed_by,
            addresses: Vec::new(),
        }
    }

    fn decide(&self, hook: u64, address: IpAddr, transport: Transport) -> Reason {
        let Some(desired) = self.desired.endpoints.get(&hook) else {
            return Reason::NotIsolated;
        };
        let ruleset = match desired.rules {
            EndpointRules::Open => return Reason::NotIsolated,
            EndpointRules::Closed => RULESET_DENY,
            EndpointRules::Ruleset(key) => self.image.slot_of(&key).unwrap_or(RULESET_DENY),
        };
        let endpoint: Endpoint = plan::endpoint(desired, ruleset, 0, 0);
        debug_assert!(endpoint.flags.get() & ENDPOINT_ISOLATED != 0);
        let (protocol, port) = transport.number(address);
        decide(
            &self.image,
            &endpoint,
            &compile::address(address),
            protocol,
            port,
        )
    }
}
