//! Where a local pod's traffic can be hooked.
//!
//! A pod names its network namespace by an annotation. [`Discovery`] looks once: which
//! namespace that is now, which interfaces of the agent's namespace its traffic comes out
//! of, and what would pass them. [`Changes`] says when to look again. [`conntrack`] knows
//! the connections that are older than our hooks.
//!
//! * `netns`: from the annotation to a namespace.
//! * `nsid`: the numbers by which the kernel speaks of namespaces.
//! * `links`: interfaces and their peers.
//! * `details`: what namespaces say of themselves.
//! * `netlink`: how the kernel is asked.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use egress_core::object::Name;
use rustix::io::Errno;

use self::details::{Memory, Subject};
pub use self::links::HostInterface;
use self::links::{bypasses, host_interfaces, host_side, links};
pub use self::netlink::Error as NetlinkError;
use self::netlink::Socket;
use self::netns::Namespace;
pub use self::netns::{Error as NamespaceError, NamespaceId};
use self::nsid::Nsid;
pub use self::watch::Changes;

pub mod conntrack;
mod details;
mod links;
mod netlink;
mod netns;
mod nsid;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
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

/// What a look found of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The namespace that the annotation means now; `None` when there is none to enforce,
    /// and [`Found::problem`] says why.
    pub namespace: Option<NamespaceId>,
    /// Where the hooks go, sorted; empty while the namespace has no interface.
    pub interfaces: Vec<HostInterface>,
    /// The namespace's own addresses, neither loopback nor link-local. For a pod whose
    /// object has none.
    pub addresses: BTreeSet<IpAddr>,
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
}

impl Discovery {
    /// Looks for the namespace of every pod: `wanted` is the pods' annotations.
    ///
    /// The answer has every pod of `wanted`. [`Found::namespace`] and
    /// [`Found::interfaces`] are of this moment; the rest may be some looks old where there
    /// are many pods. Blocks for as long as the kernel needs, some milliseconds for 250 pods.
    ///
    /// A namespace that two pods name belongs to the first, by name: one interface can only
    /// be judged as one pod.
    pub fn scan(
        &mut self,
        wanted: &BTreeMap<Name, String>,
    ) -> Result<BTreeMap<Name, Found>, Error> {
        let mut socket = Socket::route().map_err(kernel("a socket"))?;
        let own = Namespace::own().map_err(Error::Own)?;
        let own_nsid = nsid(&mut socket, &own)?.ok_or(Error::Kernel {
            what: "the number of our namespace",
            source: NetlinkError::Malformed,
        })?;

        // Every namespace stays open until the end of this look: if it was deleted meanwhile,
        // its number would be given to another one and that pod's traffic be taken for this one's.
        let mut claims = BTreeMap::new();
        let mut opened = Vec::new();
        for (pod, annotation) in wanted {
            let open = Opened::find(&mut socket, annotation, own.id())?
                .and_then(|opened| claim(&mut claims, pod, opened));
            opened.push((pod, open));
        }
        let host = links(&mut socket, None).map_err(kernel("our links"))?;

        let subjects: Vec<_> = opened
            .iter()
            .filter_map(|(_, open)| open.as_ref().ok())
            .map(|open| open.subject(&host))
            .collect();
        self.memory.refresh(&mut socket, &subjects);
        Ok(opened
            .into_iter()
            .map(|(pod, open)| {
                let found =
                    open.map_or_else(Found::not, |open| open.found(&host, own_nsid, &self.memory));
                (pod.clone(), found)
            })
            .collect())
    }
}

/// A pod's namespace, held open.
struct Opened {
    namespace: Namespace,
    path: PathBuf,
    nsid: Nsid,
}

impl Opened {
    /// The outer error concerns every pod, the inner is this pod's.
    fn find(
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
                namespace,
                path,
                nsid,
            }),
            None => Err(sentence(&NamespaceError::Other(path))),
        })
    }

    fn subject(&self, host: &[links::Link]) -> Subject {
        Subject {
            id: self.namespace.id(),
            nsid: self.nsid,
            hooks: host_side(host, self.nsid)
                .map(|(link, _)| link.index)
                .collect(),
        }
    }

    fn found(&self, host: &[links::Link], own: Nsid, memory: &Memory) -> Found {
        let id = self.namespace.id();
        let (inner, addresses, problem) = match memory.of(id) {
            Some(Ok(details)) => (&details.links[..], details.addresses.clone(), None),
            Some(Err(error)) => (
                &[][..],
                BTreeSet::new(),
                Some(format!(
                    "looking into {}: {}",
                    self.path.display(),
                    sentence(error)
                )),
            ),
            None => (&[][..], BTreeSet::new(), None),
        };
        let (interfaces, mut unhookable) = host_interfaces(host, self.nsid, inner);
        unhookable.extend(bypasses(inner, own));
        unhookable.sort();
        Found {
            namespace: Some(id),
            interfaces,
            addresses,
            problem,
            unhookable,
        }
    }
}

impl Found {
    fn not(problem: String) -> Self {
        Self {
            problem: Some(problem),
            ..Self::default()
        }
    }
}

/// Gives a namespace to the first pod that names it.
fn claim<'a>(
    claims: &mut BTreeMap<NamespaceId, &'a Name>,
    pod: &'a Name,
    opened: Opened,
) -> Result<Opened, String> {
    match claims.entry(opened.namespace.id()) {
        Entry::Vacant(free) => {
            free.insert(pod);
            Ok(opened)
        }
        Entry::Occupied(taken) => {
            let Name { namespace, name } = taken.get();
            Err(format!(
                "network namespace {} is that of pod {namespace}/{name} too, which keeps it",
                opened.path.display()
            ))
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
