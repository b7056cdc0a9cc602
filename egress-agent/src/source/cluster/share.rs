//! Equal parts of pods are kept once: replicas have the same labels and the same ports, which
//! are most of what is kept of a pod.

use std::collections::BTreeSet;
use std::sync::Arc;

use egress_core::object::{Labels, NamedPorts, Object};

/// Parts that pods share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    labels: Pool<Labels>,
    ports: Pool<NamedPorts>,
}

/// Values, each once.
#[derive(Debug)]
struct Pool<T> {
    values: BTreeSet<Arc<T>>,
    /// Looking for values that nobody has any more is worth the while from here on.
    sweep_at: usize,
}

/// So few values are not worth a look.
const FEW: usize = 64;

impl Shared {
    /// Replaces what an object has in common with another one.
    pub(super) fn share(&mut self, object: &mut Object) {
        if let Object::Pod(pod) = object {
            self.labels.share(&mut pod.labels);
            self.ports.share(&mut pod.ports);
        }
    }
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self {
            values: BTreeSet::new(),
            sweep_at: FEW,
        }
    }
}

impl<T: Ord> Pool<T> {
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
    use egress_core::object::{Read, read};
    use serde_json::json;

    use super::*;

    fn labels(shared: &mut Shared, value: usize) -> Arc<Labels> {
        let read = read(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"n": value.to_string()}}}),
        );
        let Read::Object(mut object) = read else {
            panic!("{read:?}")
        };
        shared.share(&mut object);
        let Object::Pod(pod) = object else {
            panic!("{object:?}")
        };
        pod.labels
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
