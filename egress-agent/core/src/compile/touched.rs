//! What changed since the last compilation, as far as it decides what selectors and named ports mean
//! at an address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::object::{Kind, Object};
use crate::store::{Event, Store};

/// With more addresses it is as fast to ask all again.
const MANY: usize = 4_096;

/// Addresses at which selectors and named ports may mean another pod, or the same one with other labels
/// or ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Only these.
    Addresses(BTreeSet<IpAddr>),
    /// Nothing is known of what changed.
    Everything,
}

impl Touched {
    /// Before anything changed.
    pub const fn nothing() -> Self {
        Self::Addresses(BTreeSet::new())
    }

    /// Notes what an event touches. To be called before `store` applies it.
    pub fn note(&mut self, store: &Store, event: &Event) {
        let Self::Addresses(touched) = self else {
            return;
        };
        let (kind, name, applied) = match event {
            Event::Applied(object) => {
                let key = object.key();
                (key.kind, key.name, Some(object))
            }
            Event::Deleted(key) => (key.kind, key.name.clone(), None),
        };
        match kind {
            Kind::Pod => {
                let before = store.pod(&name);
                touched.extend(before.into_iter().flat_map(|pod| &pod.addresses));
                if let Some(Object::Pod(pod)) = applied {
                    touched.extend(&pod.addresses);
                }
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
                    *self = Self::Everything;
                    return;
                }
            }
            // What policies ask is compared; the others are not asked.
            Kind::NetworkPolicy | Kind::Service | Kind::EndpointSlice | Kind::Node => {}
        }
        if touched.len() > MANY {
            *self = Self::Everything;
        }
    }
}
