//! One object as the API server sends it, read.

use egress_core::object::{Problem, Read, read};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::resource::Resource;
use super::trim::Shape;

/// An object, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// `metadata.resourceVersion`: what happens after it can be asked for. Empty when it is
    /// not there.
    pub(super) version: String,
    /// What it says.
    pub(super) read: Read,
}

impl Item {
    /// Reads an object of a kind. Nothing fails: what cannot be read closes.
    pub(super) fn read(resource: Resource, text: &RawValue) -> Self {
        let (mut value, undecodable) = match Shape::of(resource.kind).parse(text.get()) {
            Ok(value) => (value, None),
            Err(error) => (name_only(text), Some(error)),
        };
        // The items of a list carry neither; what they are is known from where they are served.
        if let Some(object) = value.as_object_mut() {
            object
                .entry("kind")
                .or_insert_with(|| resource.kind.name().into());
            object
                .entry("apiVersion")
                .or_insert_with(|| resource.api_version().into());
        }
        let version = value
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let read = match read(&value) {
            Read::Object(object) if object.key().kind != resource.kind => {
                stray(object.key().kind.name())
            }
            Read::Ignored { what } => stray(&what),
            fine @ (Read::Object(_) | Read::Unusable(_)) => fine,
        };
        if let Some(error) = undecodable {
            tracing::warn!(resource = resource.plural, %error, "an object cannot be decoded; what it may concern is closed");
        }
        Self { version, read }
    }
}

/// Of a text that cannot be decoded: whose it is, and nothing else that any kind could open with.
fn name_only(text: &RawValue) -> Value {
    let mut metadata = Shape::NAME
        .parse(text.get())
        .ok()
        .and_then(|mut value| value.get_mut("metadata").map(Value::take))
        .unwrap_or_default();
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.insert("labels".to_owned(), Value::Bool(false));
    }
    json!({"metadata": metadata, "spec": false, "status": false, "endpoints": false})
}

fn stray(what: &str) -> Read {
    let message = format!("{what:?} is another kind than asked for; the object is ignored");
    Read::Unusable(Problem::new("kind", message))
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]
mod tests {
    use egress_core::object::{Kind, Name, Object};
    use egress_core::policy::Egress;

    use super::super::resource::KINDS;
    use super::*;

    fn item(kind: Kind, text: &str) -> Item {
        let raw = RawValue::from_string(text.to_owned()).unwrap();
        Item::read(Resource::of(kind), &raw)
    }

    fn object(kind: Kind, text: &str) -> Object {
        let read = item(kind, text).read;
        let Read::Object(object) = read else {
            panic!("{read:?}")
        };
        object
    }

    #[test]
    fn an_item_of_a_list_needs_no_kind_of_its_own() {
        for kind in KINDS {
            let item = item(
                kind,
                r#"{"metadata": {"name": "a", "namespace": "x", "resourceVersion": "7"}}"#,
            );
            let Read::Object(object) = item.read else {
                panic!("{kind}")
            };
            assert_eq!((object.key().kind, item.version.as_str()), (kind, "7"));
            assert_eq!(object.problems(), []);
        }
    }

    #[test]
    fn an_object_that_cannot_be_decoded_closes() {
        // Valid JSON that no number holds, where something is read.
        let text = |rest: &str| {
            format!(r#"{{"metadata": {{"name": "a", "namespace": "x"}}, {rest}: 1e999}}"#)
        };
        let Object::Policy(policy) = object(Kind::NetworkPolicy, &text(r#""spec""#)) else {
            panic!()
        };
        assert_eq!(policy.name, Name::new("x", "a"));
        assert!(policy.unreadable);
        assert_eq!(policy.egress, Egress::Isolated(Vec::new()));
        let Object::Pod(pod) = object(
            Kind::Pod,
            &text(r#""spec": {"nodeName": "n"}, "status": {"podIP": "10.0.0.1"}, "apiVersion""#),
        ) else {
            panic!()
        };
        assert!(pod.unreadable);
        let Object::Service(service) = object(Kind::Service, &text(r#""spec""#)) else {
            panic!()
        };
        assert!(service.unreadable);
        let Object::EndpointSlice(slice) = object(Kind::EndpointSlice, &text(r#""ports""#)) else {
            panic!()
        };
        assert!(slice.unreadable);
        let Object::Namespace(namespace) = object(Kind::Namespace, &text(r#""kind""#)) else {
            panic!()
        };
        assert_eq!(namespace.labels, None, "no selector matches");
    }

    #[test]
    fn what_is_no_object_of_the_kind_is_reported_and_nothing_else() {
        for text in [
            "7",
            "null",
            "[]",
            "{}",
            r#"{"metadata": {"name": ""}}"#,
            r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}"#,
            r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}}"#,
        ] {
            let read = item(Kind::Pod, text).read;
            assert!(matches!(read, Read::Unusable(_)), "{text}: {read:?}");
        }
    }
}
