//! Objects for tests.

#![expect(clippy::panic, reason = "tests")]

use std::sync::Arc;

use serde_json::{Value, json};

use crate::object::{Name, Object, Pod, Read, Service, read};
use crate::policy::Policy;
use crate::store::{Changed, Event, Store};

/// The object a value is.
#[track_caller]
pub(crate) fn object(value: &Value) -> Object {
    match read(value) {
        Read::Object(object) => object,
        Read::Ignored { what } => panic!("{value}: ignored {what}"),
        Read::Unusable(problem) => panic!("{value}: {problem}"),
    }
}

#[track_caller]
pub(crate) fn pod(value: &Value) -> Pod {
    let Object::Pod(pod) = object(value) else {
        panic!("no pod: {value}")
    };
    Arc::unwrap_or_clone(pod)
}

#[track_caller]
pub(crate) fn service(value: &Value) -> Service {
    let Object::Service(service) = object(value) else {
        panic!("no Service: {value}")
    };
    Arc::unwrap_or_clone(service)
}

#[track_caller]
pub(crate) fn policy(value: &Value) -> Policy {
    let Object::Policy(policy) = object(value) else {
        panic!("no policy: {value}")
    };
    Arc::unwrap_or_clone(policy)
}

/// A store of these objects.
#[track_caller]
pub(crate) fn store<'v>(values: impl IntoIterator<Item = &'v Value>) -> Store {
    let mut store = Store::default();
    for value in values {
        let (Changed::Yes | Changed::No) = store.apply(Event::Applied(object(value)));
    }
    store
}

/// `NS/NAME`.
pub(crate) fn name(text: &str) -> Name {
    let (namespace, name) = parts(text);
    Name::new(namespace, name)
}

fn parts(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or(("", text))
}

pub(crate) fn namespace_value(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

pub(crate) fn policy_value(at: &str, spec: &Value) -> Value {
    let (namespace, name) = parts(at);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    })
}

/// A running pod.
pub(crate) fn pod_value(at: &str, addresses: &[&str], labels: &Value) -> Value {
    let (namespace, name) = parts(at);
    let addresses: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": "node-1"},
        "status": {"phase": "Running", "podIPs": addresses},
    })
}

pub(crate) fn service_value(at: &str, spec: &Value) -> Value {
    let (namespace, name) = parts(at);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// A slice of a Service, called like it.
pub(crate) fn slice_value(service: &str, endpoints: &Value, ports: &Value) -> Value {
    let (namespace, name) = parts(service);
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace, "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name},
        },
        "endpoints": endpoints, "ports": ports,
    })
}

/// The value with another one at a JSON pointer, whose parent must be there.
#[track_caller]
pub(crate) fn with(mut value: Value, pointer: &str, new: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
    match value.pointer_mut(parent) {
        Some(Value::Object(fields)) => fields.insert(key.to_owned(), new),
        other => panic!("{pointer}: {other:?}"),
    };
    value
}
