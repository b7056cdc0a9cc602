//! Equal parts of objects are kept once: replicas have the same labels, ports and owner, and thousands
//! of objects name the same namespaces and nodes. It is most of what is kept of a pod.

use std::collections::BTreeSet;
use std::sync::Arc;

use egress_core::object::{Labels, NamedPorts, Object};

/// Parts that objects share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    labels: Pool<Labels>,
    ports: Pool<NamedPorts>,
    texts: Pool<str>,
}

/// Values, each once.
#[derive(Debug)]
struct Pool<T: ?Sized> {
    values: BTreeSet<Arc<T>>,
    /// Looking for values that nobody has any more is worth the while from here on.
    sweep_at: usize,
}

/// So few values are not worth a look.
const FEW: usize = 64;

impl Shared {
    /// Replaces what an object has in common with another one.
    pub(super) fn share(&mut self, object: &mut Object) {
        match object {
            Object::Pod(pod) => {
                let pod = Arc::make_mut(pod);
                self.labels.share(&mut pod.labels);
                self.ports.share(&mut pod.ports);
                let texts = [&mut pod.name.namespace, &mut pod.node];
                for text in texts.into_iter().chain(&mut pod.owner) {
                    self.texts.share(text);
                }
            }
            Object::EndpointSlice(slice) => {
                let slice = Arc::make_mut(slice);
                self.texts.share(&mut slice.name.namespace);
                for endpoint in &mut slice.endpoints {
                    let pod = endpoint.pod.as_mut().map(|pod| &mut pod.namespace);
                    for text in endpoint.node.iter_mut().chain(pod) {
                        self.texts.share(text);
                    }
                }
            }
            // There are few of them, or they have little in common.
            Object::Policy(_) | Object::Namespace(_) | Object::Service(_) | Object::Node(_) => {}
        }
    }
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self {
            values: BTreeSet::new(),
            sweep_at: FEW,
        }
    }
}

impl<T: Ord + ?Sized> Pool<T> {
    fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.values.get(value) {
            *value = Arc::clone(known);
            return;
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            // Each value is looked at twice on average, however many there are.
            self.sweep_at = FEW.max(2 * self.values.len());
        }
        self.values.insert(Arc::clone(value));
    }
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a panic is how a test fails")]
mod tests {
    use egress_core::object::{Pod, Read, read};
    use serde_json::json;

    use super::*;

    fn pod(shared: &mut Shared, value: usize) -> Arc<Pod> {
        let read = read(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "x", "labels": {"n": value.to_string()}},
            "spec": {"nodeName": "node"},
        }));
        let Read::Object(mut object) = read else {
            panic!("{read:?}")
        };
        shared.share(&mut object);
        let Object::Pod(pod) = object else {
            panic!("{object:?}")
        };
        pod
    }

    fn labels(shared: &mut Shared, value: usize) -> Arc<Labels> {
        Arc::clone(&pod(shared, value).labels)
    }

    #[test]
    fn namespaces_and_nodes_are_one_whatever_the_rest() {
        let mut shared = Shared::default();
        let (a, b) = (pod(&mut shared, 1), pod(&mut shared, 2));
        assert!(Arc::ptr_eq(&a.name.namespace, &b.name.namespace));
        assert!(Arc::ptr_eq(&a.node, &b.node));
        assert_ne!(a.labels, b.labels);
    }

    #[test]
    fn equal_labels_are_one_and_others_are_not() {
        let mut shared = Shared::default();
        let (a, b, c) = (
            labels(&mut shared, 1),
            labels(&mut shared, 1),
            labels(&mut shared, 2),
        );
        assert!(Arc::ptr_eq(&a, &b));
        assert_ne!(a, c);
    }

    #[test]
    fn what_nobody_has_any_more_is_given_up() {
        let mut shared = Shared::default();
        let kept = labels(&mut shared, 0);
        for value in 1..10_000 {
            drop(labels(&mut shared, value));
        }
        assert!(shared.labels.values.len() <= 2 * FEW);
        assert!(Arc::ptr_eq(&kept, &labels(&mut shared, 0)));
    }
}
