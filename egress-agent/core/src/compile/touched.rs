//! What changed since the last compilation.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::object::{Kind, Name, Object};
use crate::service::{self, Frontend};
use crate::store::{Event, Store};
use crate::workload;

/// With more addresses it is as fast to ask all again.
const MANY: usize = 4_096;

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Where selectors and named ports may mean another pod, or the same one with other labels or
    /// ports.
    pub addresses: Addresses,
    /// The pods of this node that a policy isolates, or did, that is another one.
    pub isolated: BTreeSet<Name>,
    /// What is behind Services may be something else.
    pub services: bool,
    /// A pod of this node is another one, or a node is.
    pub node: bool,
}

/// Some addresses of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// These.
    Only(BTreeSet<IpAddr>),
    /// Any may be one of them.
    #[default]
    All,
}

impl Touched {
    /// Before anything changed.
    pub const fn nothing() -> Self {
        Self {
            addresses: Addresses::Only(BTreeSet::new()),
            isolated: BTreeSet::new(),
            services: false,
            node: false,
        }
    }

    /// When nothing is known of what changed.
    pub const fn everything() -> Self {
        Self {
            addresses: Addresses::All,
            isolated: BTreeSet::new(),
            services: true,
            node: true,
        }
    }

    /// Notes what an event touches on this node. To be called before `store` applies it.
    pub fn note(&mut self, store: &Store, event: &Event, node: &str) {
        let (kind, name, applied) = match event {
            Event::Applied(object) => {
                let key = object.key();
                (key.kind, key.name, Some(object))
            }
            Event::Deleted(key) => (key.kind, key.name.clone(), None),
        };
        match kind {
            Kind::Pod => {
                let now = match applied {
                    Some(Object::Pod(pod)) => Some(&**pod),
                    Some(
                        Object::Policy(_)
                        | Object::Namespace(_)
                        | Object::Service(_)
                        | Object::EndpointSlice(_)
                        | Object::Node(_),
                    )
                    | None => None,
                };
                let before = store.pod(&name);
                for pod in before.into_iter().chain(now) {
                    self.addresses.add(&pod.addresses);
                    self.node |= &*pod.node == node;
                }
                let comes_or_goes = before.is_some() != now.is_some();
                self.services = self.services
                    || service::selects(store, &name.namespace)
                    || (comes_or_goes && service::names(store, &name));
            }
            Kind::Namespace => {
                let now = match applied {
                    Some(Object::Namespace(namespace)) => Some(namespace),
                    Some(
                        Object::Policy(_)
                        | Object::Pod(_)
                        | Object::Service(_)
                        | Object::EndpointSlice(_)
                        | Object::Node(_),
                    )
                    | None => None,
                };
                if store.namespace(&name.name) != now.map(Arc::as_ref) {
                    self.addresses = Addresses::All;
                }
            }
            Kind::NetworkPolicy => {
                let now = match applied {
                    Some(Object::Policy(policy)) => Some(&**policy),
                    Some(
                        Object::Pod(_)
                        | Object::Namespace(_)
                        | Object::Service(_)
                        | Object::EndpointSlice(_)
                        | Object::Node(_),
                    )
                    | None => None,
                };
                for policy in store.policy(&name).into_iter().chain(now) {
                    let pods = store.pods_on(node);
                    let isolated = pods.filter(|pod| workload::is_isolated_by(policy, pod));
                    self.isolated.extend(isolated.map(|pod| pod.name.clone()));
                }
            }
            Kind::Node => self.node = true,
            Kind::Service | Kind::EndpointSlice => self.services = true,
        }
    }
}

impl Addresses {
    /// Whether the address of a backend may be one of them.
    pub(super) fn any_behind(&self, frontend: &Frontend) -> bool {
        let mut backends = frontend.backends.iter();
        match self {
            Self::Only(addresses) => backends.any(|backend| addresses.contains(&backend.address)),
            Self::All => true,
        }
    }

    fn add(&mut self, more: &[IpAddr]) {
        let Self::Only(addresses) = self else {
            return;
        };
        addresses.extend(more);
        if addresses.len() > MANY {
            *self = Self::All;
        }
    }
}
