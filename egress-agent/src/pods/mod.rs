//! Where a local pod's traffic can be hooked.
//!
//! A pod is behind those links of the agent's namespace whose peers are in the pod's.
//! [`Discovery`] looks once: which namespace that is now, which links lead there, and what
//! would pass them. Who says which namespace, the first that knows:
//!
//! 1. An annotation, where annotations count ([`Wanted::annotation`]): a file, a name.
//! 2. A record: what our CNI plugin told when the sandbox was made ([`Records`]).
//! 3. The result that libcni keeps of the pod's network plugins.
//! 4. The kernel's own routes, neighbours and forwarding tables, for the pod's address.
//!
//! The last three name a link. It counts when it is there now, as it was, and is one end of a
//! pair whose other end is in another namespace; the node's own way out never does.
//!
//! [`Changes`] says when to look again. [`conntrack`] knows the connections that are older
//! than our hooks.
//!
//! * `netns`: from the annotation to a namespace.
//! * `record`, `results`, `reach`: from a pod to a link.
//! * `uplink`: which links are the node's own.
//! * `nsid`: the numbers by which the kernel speaks of namespaces.
//! * `links`: interfaces and their peers.
//! * `filters`: who else is on a link.
//! * `details`: what namespaces say of themselves.
//! * `netlink`: how the kernel is asked.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use egress_core::object::{Name, Pod};
use rustix::io::Errno;

pub use self::details::Asking;
use self::details::{Memory, Subject};
pub use self::filters::{Filter, Side, filters};
pub use self::links::HostInterface;
use self::links::{Link, bypasses, host_interfaces, host_side, links};
pub use self::netlink::Error as NetlinkError;
use self::netlink::Socket;
use self::netns::Namespace;
pub use self::netns::{Error as NamespaceError, NamespaceId};
use self::nsid::Nsid;
pub use self::record::{Record, RecordedLink, Records, Way};
use self::results::Results;
pub use self::results::{Attachment as CachedResult, CACHE_DIR};
use self::uplink::Uplinks;
pub use self::watch::Changes;

pub mod conntrack;
mod details;
mod filters;
mod links;
mod netlink;
mod netns;
mod nsid;
mod reach;
mod record;
mod results;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod uplink;
mod watch;

/// Why a look saw nothing at all; what was known before it still counts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent's own namespace cannot be told from others.
    #[error("the agent's own network namespace")]
    Own(#[source] NamespaceError),
    /// There is no room to open namespaces: one file descriptor a pod is needed.
    #[error("no room to look into network namespaces")]
    Exhausted(#[source] NamespaceError),
    /// The kernel does not answer.
    #[error("asking the kernel for {what}")]
    Kernel {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        #[source]
        source: NetlinkError,
    },
}

/// Names of the interfaces in the network namespace of the thread it is called on.
pub fn interfaces() -> Result<Vec<String>, Error> {
    let mut socket = Socket::route().map_err(kernel("a socket"))?;
    let links = links(&mut socket, None).map_err(kernel("our links"))?;
    Ok(links.into_iter().map(|link| link.name).collect())
}

/// One incarnation of a pod: a name may come back, with another uid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodId {
    /// Namespace and name.
    pub name: Name,
    /// The uid by which the runtime knows it ([`Pod::runtime_uid`]); empty where there is none.
    pub uid: String,
}

/// What is known of a pod that is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Names its namespace. Must be `None` where others than the operator write annotations:
    /// a pod that names another's namespace, or none, would get out of its policies.
    pub annotation: Option<String>,
    /// Its addresses as the API has them.
    pub addresses: BTreeSet<IpAddr>,
}

/// Which namespace a pod's interfaces lead to. Tells them from those of another pod that had
/// the same index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// That of an annotation.
    File(NamespaceId),
    /// The one at the other end of a link, by the agent's numbering.
    Behind(i32),
}

/// What a look found of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Where its interfaces lead now; `None` when there is nothing to enforce, and
    /// [`Found::problem`] says why.
    pub place: Option<Place>,
    /// Where the hooks go, sorted; empty while the namespace has no interface.
    pub interfaces: Vec<HostInterface>,
    /// The namespace's own addresses, neither loopback nor link-local, or those that its CNI
    /// plugins gave it. For a pod whose object has none (S58).
    pub addresses: BTreeSet<IpAddr>,
    /// Whether these are what CNI gave to the sandbox that is there now.
    pub given: bool,
    /// What is wrong with the pod's namespace, for a person.
    pub problem: Option<String>,
    /// Interfaces of the pod whose traffic cannot be judged, a sentence each, sorted.
    pub unhookable: Vec<String>,
}

/// Looks for pods from the network namespace of the thread it is called on.
///
/// Needs `CAP_NET_ADMIN`, and to read the namespace files; it enters no namespace.
#[derive(Debug, Default)]
pub struct Discovery {
    memory: Memory,
    records: Records,
    results: Results,
    uplinks: Uplinks,
}

impl Discovery {
    /// One that knows records, and where libcni keeps its results.
    pub fn new(records: Records, cni_cache: &Path) -> Self {
        Self {
            records,
            results: Results::new(cni_cache),
            ..Self::default()
        }
    }

    /// What is written down.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// To write down more.
    pub fn records_mut(&mut self) -> &mut Records {
        &mut self.records
    }

    /// Notes what was told of a pod's interfaces, as far as they are there and can be a pod's.
    /// Says whether there is one.
    pub fn note(
        &mut self,
        pod: &PodId,
        way: Way,
        named: &[(u32, &str)],
        addresses: &BTreeSet<IpAddr>,
        node: &BTreeSet<IpAddr>,
    ) -> Result<bool, Error> {
        let mut socket = Socket::route().map_err(kernel("a socket"))?;
        let host = links(&mut socket, None).map_err(kernel("our links"))?;
        self.uplinks.forget_all_but(&host);
        let mut there = Vec::new();
        for (index, name) in named {
            let link = host
                .iter()
                .find(|link| link.index == *index && link.name == *name);
            if let Some(link) = link
                && link.far_side().is_some()
                && !self.uplinks.is_one(&mut socket, link, node)?
            {
                there.push(RecordedLink::from(link));
            }
        }
        let hookable = !there.is_empty();
        let record = Record {
            namespace: pod.name.namespace.to_string(),
            name: pod.name.name.to_string(),
            uid: pod.uid.clone(),
            way,
            links: there,
            addresses: addresses.clone(),
        };
        if hookable && let Err(error) = self.records.put(record) {
            tracing::warn!(%error, "a pod's interfaces cannot be written down");
        }
        Ok(hookable)
    }

    /// Looks for the namespace of every pod of `wanted`. `node` is the node's own addresses.
    ///
    /// The answer has every pod of `wanted`. [`Found::place`] and [`Found::interfaces`] are of
    /// this moment; the rest may be some looks old where there are many pods. Blocks for as
    /// long as the kernel needs, some milliseconds for 250 pods.
    ///
    /// A namespace that two pods claim belongs to the one with the better word for it, and
    /// among equals to the first by name: one interface can only be judged as one pod.
    pub fn scan(
        &mut self,
        wanted: &BTreeMap<PodId, Wanted>,
        node: &BTreeSet<IpAddr>,
        asking: Asking,
    ) -> Result<BTreeMap<PodId, Found>, Error> {
        let mut socket = Socket::route().map_err(kernel("a socket"))?;
        let own = Namespace::own().map_err(Error::Own)?;
        let own_nsid = nsid(&mut socket, &own)?.ok_or(Error::Kernel {
            what: "the number of our namespace",
            source: NetlinkError::Malformed,
        })?;

        // Every namespace of an annotation stays open until the end of this look: if it was
        // deleted meanwhile, its number would be given to another one and that pod's traffic
        // be taken for this one's.
        let mut located = BTreeMap::new();
        for (pod, wanted) in wanted {
            if let Some(annotation) = &wanted.annotation {
                let place = Located::by_annotation(&mut socket, annotation, own.id())?;
                located.insert(pod, place);
            }
        }
        let host = links(&mut socket, None).map_err(kernel("our links"))?;
        self.uplinks.forget_all_but(&host);
        let is_over = |record: &Record| record.links.iter().all(|link| link.find(&host).is_none());
        if let Err(error) = self.records.forget(is_over) {
            tracing::warn!(%error, "a record of interfaces that are gone cannot be removed");
        }
        let by_plugin = |pod| self.records.of(pod).any(Record::is_of_plugin);
        if wanted
            .iter()
            .any(|(pod, wanted)| wanted.annotation.is_none() && !by_plugin(pod))
            && let Err(error) = self.results.refresh()
        {
            tracing::debug!(%error, "the results that libcni keeps cannot be read");
        }
        for (pod, wanted) in wanted {
            if wanted.annotation.is_none() {
                let place = self.locate(&mut socket, &host, pod, wanted, node)?;
                located.insert(pod, place);
            }
        }
        claim(&mut located);

        let subjects: Vec<_> = located
            .values()
            .filter_map(|located| located.as_ref().ok())
            .map(|located| located.subject(&host))
            .collect();
        self.memory.refresh(&mut socket, &subjects, asking);
        let mut found = BTreeMap::new();
        for (pod, located) in located {
            let found_here = match located {
                Ok(located) => {
                    let mut hookable = Vec::new();
                    for (link, _) in host_side(&host, located.nsid) {
                        if !self.uplinks.is_one(&mut socket, link, node)? {
                            hookable.push(link.clone());
                        }
                    }
                    let found = located.found(&hookable, own_nsid, &self.memory);
                    match wanted.get(pod) {
                        Some(wanted) => self.confirm(pod, wanted, &located, &hookable, found),
                        None => found,
                    }
                }
                Err(problem) => Found::not(problem),
            };
            found.insert(pod.clone(), found_here);
        }
        Ok(found)
    }

    /// From a pod to a link that leads to it, by the first that knows.
    fn locate(
        &mut self,
        socket: &mut Socket,
        host: &[Link],
        pod: &PodId,
        wanted: &Wanted,
        node: &BTreeSet<IpAddr>,
    ) -> Result<Result<Located, String>, Error> {
        for record in self.records.of(pod).filter(|record| record.is_of_plugin()) {
            let links = record.links.iter().filter_map(|link| link.find(host));
            if let Some(located) =
                self.uplinks
                    .first_behind(socket, links, node, Word::Plugin, &record.addresses)?
            {
                return Ok(Ok(located));
            }
        }
        for result in self.results.of(pod) {
            let links = result.find(host);
            if let Some(located) =
                self.uplinks
                    .first_behind(socket, links, node, Word::Result, &result.addresses)?
            {
                return Ok(Ok(located));
            }
        }
        for record in self.records.of(pod) {
            let links = record.links.iter().filter_map(|link| link.find(host));
            if let Some(located) =
                self.uplinks
                    .first_behind(socket, links, node, Word::Seen, &record.addresses)?
            {
                return Ok(Ok(located));
            }
        }
        for address in &wanted.addresses {
            let index = reach::link_to(socket, host, *address)
                .map_err(kernel("the way to a pod's address"))?;
            let links = host.iter().filter(|link| Some(link.index) == index);
            if let Some(located) =
                self.uplinks
                    .first_behind(socket, links, node, Word::Reached, &BTreeSet::new())?
            {
                return Ok(Ok(located));
            }
        }
        Ok(Err(if wanted.addresses.is_empty() {
            "no interface yet: neither a record of the CNI plugin nor libcni's results name one, \
             and the pod has no address to look for"
                .to_owned()
        } else {
            "no interface found: neither a record of the CNI plugin nor libcni's results name one \
             that is there, and no route leads to the pod through an interface of its own"
                .to_owned()
        }))
    }

    /// What the kernel's tables say is only believed when the namespace they lead to has the
    /// address, for on a bridge any pod may answer for another's. Then it is written down: a
    /// neighbour that is not heard of for a while is forgotten by the kernel.
    fn confirm(
        &mut self,
        pod: &PodId,
        wanted: &Wanted,
        located: &Located,
        hookable: &[Link],
        found: Found,
    ) -> Found {
        if located.word != Word::Reached {
            return found;
        }
        if wanted.addresses.is_disjoint(&found.addresses) {
            return Found::not(
                "the interface that a route leads to belongs to a namespace without the pod's address"
                    .to_owned(),
            );
        }
        let record = Record {
            namespace: pod.name.namespace.to_string(),
            name: pod.name.name.to_string(),
            uid: pod.uid.clone(),
            way: Way::Kernel,
            links: hookable.iter().map(RecordedLink::from).collect(),
            addresses: found.addresses.clone(),
        };
        if !pod.uid.is_empty()
            && let Err(error) = self.records.put(record)
        {
            tracing::warn!(%error, "a pod's interfaces cannot be written down");
        }
        found
    }
}

/// How good the word is that a pod is in a namespace, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Annotation,
    Plugin,
    Result,
    Seen,
    Reached,
}

/// The namespace of a pod.
struct Located {
    place: Place,
    nsid: Nsid,
    word: Word,
    /// What to call it.
    called: String,
    /// Addresses that came with the word.
    addresses: BTreeSet<IpAddr>,
    /// Keeps the namespace from going, where there is a file to open.
    _held: Option<Namespace>,
}

impl Located {
    /// The outer error concerns every pod, the inner is this pod's.
    fn by_annotation(
        socket: &mut Socket,
        annotation: &str,
        own: NamespaceId,
    ) -> Result<Result<Self, String>, Error> {
        let (namespace, path) = match Namespace::find(annotation, own) {
            Ok(found) => found,
            // Ours to lack, not the pod's: its namespace may be as it was.
            Err(error) if is_exhaustion(&error) => return Err(Error::Exhausted(error)),
            Err(error) => return Ok(Err(sentence(&error))),
        };
        Ok(match nsid(socket, &namespace)? {
            Some(nsid) => Ok(Self {
                place: Place::File(namespace.id()),
                nsid,
                word: Word::Annotation,
                called: format!("network namespace {}", path.display()),
                addresses: BTreeSet::new(),
                _held: Some(namespace),
            }),
            None => Err(sentence(&NamespaceError::Other(path))),
        })
    }

    fn subject(&self, host: &[Link]) -> Subject {
        Subject {
            id: self.place.clone(),
            nsid: self.nsid,
            hooks: host_side(host, self.nsid)
                .map(|(link, _)| link.index)
                .collect(),
        }
    }

    fn found(&self, host: &[Link], own: Nsid, memory: &Memory) -> Found {
        let (inner, addresses, problem) = match memory.of(&self.place) {
            Some(Ok(details)) => (&details.links[..], details.addresses.clone(), None),
            Some(Err(error)) => (
                &[][..],
                BTreeSet::new(),
                Some(format!(
                    "looking into the {}: {}",
                    self.called,
                    sentence(error)
                )),
            ),
            None => (&[][..], BTreeSet::new(), None),
        };
        let (interfaces, mut unhookable) = host_interfaces(host, self.nsid, inner);
        unhookable.extend(bypasses(inner, own));
        unhookable.sort();
        Found {
            place: Some(self.place.clone()),
            interfaces,
            addresses: if self.addresses.is_empty() {
                addresses
            } else {
                self.addresses.clone()
            },
            given: !self.addresses.is_empty() && self.word <= Word::Result,
            problem,
            unhookable,
        }
    }
}

impl Found {
    /// The addresses of a pod whose object says `said`. The object may be late, and while no API
    /// server answers very late: without any address (S58), or with those of a sandbox before
    /// this one.
    pub fn addresses(&self, said: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        if said.is_empty() || (self.given && said.is_disjoint(&self.addresses)) {
            self.addresses.clone()
        } else {
            said.clone()
        }
    }

    fn not(problem: String) -> Self {
        Self {
            problem: Some(problem),
            ..Self::default()
        }
    }
}

impl PodId {
    /// Of an object.
    pub fn of(pod: &Pod) -> Self {
        Self {
            name: pod.name.clone(),
            uid: pod.runtime_uid.to_string(),
        }
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, uid: _ } = self;
        write!(f, "{}/{}", name.namespace, name.name)
    }
}

/// Leaves every namespace to one pod.
fn claim(located: &mut BTreeMap<&PodId, Result<Located, String>>) {
    let mut claims: BTreeMap<Nsid, (Word, &PodId)> = BTreeMap::new();
    for (pod, located) in located.iter() {
        if let Ok(located) = located {
            match claims.entry(located.nsid) {
                Entry::Vacant(free) => {
                    free.insert((located.word, pod));
                }
                Entry::Occupied(mut taken) if located.word < taken.get().0 => {
                    taken.insert((located.word, pod));
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    for (pod, located) in located.iter_mut() {
        if let Ok(here) = located
            && let Some((_, owner)) = claims.get(&here.nsid)
            && *owner != *pod
        {
            *located = Err(format!(
                "{} is that of pod {owner} too, which keeps it",
                here.called
            ));
        }
    }
}

fn is_exhaustion(error: &NamespaceError) -> bool {
    let NamespaceError::Open { source, .. } = error else {
        return false;
    };
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM]
        .iter()
        .any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
}

fn nsid(socket: &mut Socket, namespace: &Namespace) -> Result<Option<Nsid>, Error> {
    Nsid::of(socket, namespace).map_err(kernel("the number of a namespace"))
}

fn kernel(what: &'static str) -> impl FnOnce(NetlinkError) -> Error {
    move |source| Error::Kernel { what, source }
}

/// An error and its causes, for `status`.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
