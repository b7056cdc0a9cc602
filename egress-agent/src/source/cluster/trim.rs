//! What is large and never read is not built: a pod of 12 KB leaves a value of 2 KB.
//!
//! A shape names what is left out, so that a field somebody begins to read is there. What
//! stands where a shape expects a map and is none is kept as it is: the reader finds the same
//! fault in it.

use std::fmt;

use egress_core::object::Kind;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What is kept of a value. Of a list it speaks of each item.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Everything.
    All,
    /// Not even the field.
    Nothing,
    /// These fields.
    Only(&'static [(&'static str, Self)]),
    /// Every field; of these, what their shape keeps.
    But(&'static [(&'static str, Self)]),
}

use Shape::{All, But, Nothing, Only};

/// Who set which field takes a third of an object, and the last of the annotations holds the
/// object once more.
const METADATA: Shape = But(&[
    ("managedFields", Nothing),
    (
        "annotations",
        But(&[("kubectl.kubernetes.io/last-applied-configuration", Nothing)]),
    ),
]);

/// Of what runs in a container only its ports matter, and whether it is a sidecar.
const CONTAINER: Shape = But(&[
    ("args", Nothing),
    ("command", Nothing),
    ("env", Nothing),
    ("envFrom", Nothing),
    ("image", Nothing),
    ("lifecycle", Nothing),
    ("livenessProbe", Nothing),
    ("readinessProbe", Nothing),
    ("resources", Nothing),
    ("securityContext", Nothing),
    ("startupProbe", Nothing),
    ("volumeMounts", Nothing),
]);

const POD: Shape = But(&[
    ("metadata", METADATA),
    (
        "spec",
        But(&[
            ("affinity", Nothing),
            ("containers", CONTAINER),
            ("ephemeralContainers", Nothing),
            ("initContainers", CONTAINER),
            ("tolerations", Nothing),
            ("topologySpreadConstraints", Nothing),
            ("volumes", Nothing),
        ]),
    ),
    (
        "status",
        But(&[
            ("containerStatuses", Nothing),
            ("ephemeralContainerStatuses", Nothing),
            ("initContainerStatuses", Nothing),
        ]),
    ),
]);

const NODE: Shape = But(&[
    ("metadata", METADATA),
    (
        "status",
        But(&[
            ("allocatable", Nothing),
            ("capacity", Nothing),
            ("conditions", Nothing),
            ("images", Nothing),
            ("volumesAttached", Nothing),
            ("volumesInUse", Nothing),
        ]),
    ),
]);

impl Shape {
    /// What is kept of a kind.
    pub(super) const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Pod => POD,
            Kind::Node => NODE,
            Kind::NetworkPolicy | Kind::Namespace | Kind::Service | Kind::EndpointSlice => {
                But(&[("metadata", METADATA)])
            }
        }
    }

    /// Whose an object is, and nothing else.
    pub(super) const NAME: Self = Only(&[(
        "metadata",
        Only(&[("name", All), ("namespace", All), ("resourceVersion", All)]),
    )]);

    /// Reads a text and keeps what the shape says.
    pub(super) fn parse(self, text: &str) -> Result<Value, serde_json::Error> {
        let mut parser = serde_json::Deserializer::from_str(text);
        let value = self.deserialize(&mut parser)?;
        parser.end()?;
        Ok(value)
    }

    /// What is kept of a field; `None`: nothing.
    fn field(self, name: &str) -> Option<Self> {
        let named = |fields: &[(&str, Self)]| {
            let found = fields.iter().find(|(field, _)| *field == name);
            found.map(|(_, shape)| *shape)
        };
        let shape = match self {
            All => All,
            Nothing => Nothing,
            Only(fields) => named(fields).unwrap_or(Nothing),
            But(fields) => named(fields).unwrap_or(All),
        };
        match shape {
            Nothing => None,
            All | Only(_) | But(_) => Some(shape),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shape {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            kept.push(item);
        }
        Ok(Value::Array(kept))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if let Some(shape) = self.field(&name) {
                let value = fields.next_value_seed(shape)?;
                kept.insert(name, value);
            } else {
                let IgnoredAny = fields.next_value()?;
            }
        }
        Ok(Value::Object(kept))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use egress_core::object::{Read, read};
    use serde_json::json;

    use super::super::resource::{KINDS, Resource};
    use super::*;

    /// An object with every field that is read, and some that are not.
    fn sample(kind: Kind) -> Value {
        let mut value = match kind {
            Kind::NetworkPolicy => json!({"spec": {
                "podSelector": {"matchLabels": {"a": "b"}},
                "policyTypes": ["Egress"],
                "egress": [{
                    "to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"podSelector": {}}],
                    "ports": [{"protocol": "UDP", "port": 53, "endPort": 54}, {"port": "web"}],
                }],
            }, "status": {"conditions": []}}),
            Kind::Namespace => {
                json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
            }
            Kind::Node => json!({"spec": {"podCIDR": "10.0.0.0/24"}, "status": {
                "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n"}],
                "images": [{"names": ["x"], "sizeBytes": 1}], "allocatable": {"cpu": "1"}, "capacity": {"cpu": "1"},
                "conditions": [{"type": "Ready", "status": "True"}], "volumesAttached": [{"name": "v"}], "volumesInUse": ["v"],
            }}),
            Kind::Service => json!({"spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd96::1"],
                "externalIPs": ["192.0.2.7"], "selector": {"app": "web"},
                "ports": [{"name": "web", "protocol": "TCP", "port": 80, "targetPort": "http", "nodePort": 30080}],
                "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Local",
                "publishNotReadyAddresses": true, "sessionAffinity": "None",
            }, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.8", "ipMode": "VIP"}]}, "conditions": []}}),
            Kind::EndpointSlice => json!({
                "addressType": "IPv4",
                "endpoints": [{
                    "addresses": ["10.0.0.1"], "nodeName": "n", "zone": "z", "hints": {"forZones": []},
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "targetRef": {"kind": "Pod", "namespace": "x", "name": "a", "uid": "u"},
                }],
                "ports": [{"name": "web", "protocol": "TCP", "port": 8080, "appProtocol": "http"}],
            }),
            Kind::Pod => json!({"spec": {
                "nodeName": "n", "hostNetwork": false, "volumes": [{"name": "v"}], "affinity": {"podAffinity": {}},
                "tolerations": [{"operator": "Exists"}], "topologySpreadConstraints": [{"maxSkew": 1}],
                "ephemeralContainers": [{"name": "e", "ports": [{"name": "e", "containerPort": 1}]}],
                "containers": [{
                    "name": "c", "image": "i", "env": [{"name": "E", "value": "x"}], "envFrom": [{"prefix": "p"}],
                    "args": ["a"], "command": ["c"], "lifecycle": {"preStop": {}}, "livenessProbe": {"periodSeconds": 1},
                    "readinessProbe": {"periodSeconds": 1}, "startupProbe": {"periodSeconds": 1}, "resources": {"limits": {}},
                    "securityContext": {"privileged": false}, "volumeMounts": [{"name": "v"}],
                    "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"}],
                }],
                "initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [{"name": "mesh", "containerPort": 15001}]}],
            }, "status": {
                "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null}],
                "containerStatuses": [{"name": "c", "restartCount": 1}], "initContainerStatuses": [{"name": "s"}],
                "ephemeralContainerStatuses": [{"name": "e"}],
            }}),
        };
        let resource = Resource::of(kind);
        let object = value.as_object_mut().unwrap();
        object.insert("apiVersion".to_owned(), resource.api_version().into());
        object.insert("kind".to_owned(), kind.name().into());
        let labels = json!({"a": "b", "kubernetes.io/service-name": "web"});
        let metadata = json!({
            "name": "a", "namespace": "x", "resourceVersion": "7", "uid": "u", "generation": 3,
            "creationTimestamp": "2024-05-06T07:08:09Z", "deletionTimestamp": "2024-05-06T07:08:10Z",
            "labels": labels,
            "annotations": {
                "egress-agent.dev/netns": "blue", "kubernetes.io/config.mirror": "m", "kubernetes.io/config.hash": "h",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
            },
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "controller": true, "uid": "v"}],
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        });
        object.insert("metadata".to_owned(), metadata);
        value
    }

    fn trimmed(kind: Kind, value: &Value) -> Value {
        Shape::of(kind).parse(&value.to_string()).unwrap()
    }

    /// The way to every value in a value.
    fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
        found.push(at.to_owned());
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    pointers(item, &format!("{at}/{index}"), found);
                }
            }
            Value::Object(fields) => {
                for (name, field) in fields {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    pointers(field, &format!("{at}/{name}"), found);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn a_trimmed_object_reads_as_the_whole_one_whatever_is_wrong_with_it() {
        let mut compared = 0;
        for kind in KINDS {
            let sample = sample(kind);
            let mut places = Vec::new();
            pointers(&sample, "", &mut places);
            for place in places {
                for odd in [
                    json!(null),
                    json!(true),
                    json!(7),
                    json!(-1.5),
                    json!(""),
                    json!("text"),
                    json!([]),
                    json!([{"a": 1}, "x"]),
                    json!({}),
                    json!({"a": {"b": []}}),
                ] {
                    let mut broken = sample.clone();
                    *broken.pointer_mut(&place).unwrap() = odd.clone();
                    assert_eq!(
                        read(&trimmed(kind, &broken)),
                        read(&broken),
                        "{kind} with {odd} at {place}"
                    );
                    compared += 1;
                }
            }
        }
        assert!(compared > 1_500, "{compared}");
    }

    /// The ways to what a shape leaves out.
    fn left_out(shape: Shape, at: &str, found: &mut Vec<String>) {
        match shape {
            All | Only(_) => {}
            Nothing => found.push(at.to_owned()),
            But(fields) => {
                for (name, shape) in fields {
                    let name = name.replace('/', "~1");
                    left_out(*shape, &format!("{at}/{name}"), found);
                }
            }
        }
    }

    #[test]
    fn samples_have_what_is_left_out_and_nothing_is_wrong_with_them() {
        for kind in KINDS {
            let sample = sample(kind);
            let value = trimmed(kind, &sample);
            let Read::Object(object) = read(&value) else {
                unreachable!("{kind}")
            };
            assert_eq!(object.problems(), [], "{kind}");
            let mut places = Vec::new();
            left_out(Shape::of(kind), "", &mut places);
            for place in places {
                // The first container stands for all.
                let place = place
                    .replace("/containers/", "/containers/0/")
                    .replace("/initContainers/", "/containers/0/");
                assert!(sample.pointer(&place).is_some(), "{kind} {place}");
                assert!(value.pointer(&place).is_none(), "{kind} {place}");
            }
        }
    }
}
