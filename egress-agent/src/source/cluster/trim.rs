//! Only what is read of an object is ever built: a pod of 10 KB leaves a value of 1 KB.
//!
//! A shape says which fields are kept; it must name every field that
//! [`egress_core::object::read()`] looks at. What stands where a shape expects a map and is
//! none is kept as it is, so that the reader finds the same fault in it.

use std::fmt;

use egress_core::object::Kind;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What is kept of a value. Of a list it speaks of each item.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Everything.
    All,
    /// These fields.
    Only(&'static [(&'static str, Self)]),
    /// Every field; of these, what their shape keeps.
    But(&'static [(&'static str, Self)]),
}

use Shape::{All, But, Only};

/// `metadata` of an object whose labels nobody reads.
const METADATA: &[(&str, Shape)] = &[("name", All), ("namespace", All), ("resourceVersion", All)];

const LABELLED: &[(&str, Shape)] = &[
    ("name", All),
    ("namespace", All),
    ("resourceVersion", All),
    ("labels", All),
];

const POD_METADATA: &[(&str, Shape)] = &[
    ("name", All),
    ("namespace", All),
    ("resourceVersion", All),
    ("uid", All),
    ("creationTimestamp", All),
    ("deletionTimestamp", All),
    ("labels", All),
    ("annotations", Only(&[("egress-agent.dev/netns", All)])),
    (
        "ownerReferences",
        Only(&[("controller", All), ("kind", All), ("name", All)]),
    ),
];

const SLICE_METADATA: &[(&str, Shape)] = &[
    ("name", All),
    ("namespace", All),
    ("resourceVersion", All),
    ("labels", Only(&[("kubernetes.io/service-name", All)])),
];

/// What is read of a container.
const CONTAINER: Shape = Only(&[("ports", All), ("restartPolicy", All)]);

impl Shape {
    /// What is read of a kind.
    pub(super) const fn of(kind: Kind) -> Self {
        match kind {
            // Also what is unknown in a policy counts: a newer field may narrow it.
            Kind::NetworkPolicy => But(&[("metadata", Only(METADATA)), ("status", Only(&[]))]),
            Kind::Namespace => Only(&[
                ("apiVersion", All),
                ("kind", All),
                ("metadata", Only(LABELLED)),
            ]),
            Kind::Pod => Only(&[
                ("apiVersion", All),
                ("kind", All),
                ("metadata", Only(POD_METADATA)),
                (
                    "spec",
                    Only(&[
                        ("nodeName", All),
                        ("hostNetwork", All),
                        ("containers", CONTAINER),
                        ("initContainers", CONTAINER),
                    ]),
                ),
                (
                    "status",
                    Only(&[
                        ("phase", All),
                        ("podIP", All),
                        ("podIPs", All),
                        ("conditions", Only(&[("type", All), ("status", All)])),
                    ]),
                ),
            ]),
            Kind::Service => Only(&[
                ("apiVersion", All),
                ("kind", All),
                ("metadata", Only(METADATA)),
                ("spec", All),
                ("status", Only(&[("loadBalancer", All)])),
            ]),
            Kind::EndpointSlice => Only(&[
                ("apiVersion", All),
                ("kind", All),
                ("metadata", Only(SLICE_METADATA)),
                ("addressType", All),
                ("ports", All),
                (
                    "endpoints",
                    Only(&[
                        ("addresses", All),
                        ("conditions", All),
                        ("nodeName", All),
                        (
                            "targetRef",
                            Only(&[("kind", All), ("name", All), ("namespace", All)]),
                        ),
                    ]),
                ),
            ]),
            Kind::Node => Only(&[
                ("apiVersion", All),
                ("kind", All),
                ("metadata", Only(LABELLED)),
                ("status", Only(&[("addresses", All)])),
            ]),
        }
    }

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
        match self {
            All => Some(All),
            Only(fields) => named(fields),
            But(fields) => Some(named(fields).unwrap_or(All)),
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
                "images": [{"names": ["x"], "sizeBytes": 1}],
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
                "nodeName": "n", "hostNetwork": false, "volumes": [{"name": "v"}],
                "containers": [{"name": "c", "image": "i", "env": [{"name": "E", "value": "x"}],
                    "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"}]}],
                "initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [{"name": "mesh", "containerPort": 15001}]}],
            }, "status": {
                "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null}],
                "containerStatuses": [{"name": "c", "restartCount": 1}],
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
            "labels": labels, "annotations": {"egress-agent.dev/netns": "blue", "other": "x"},
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

    #[test]
    fn samples_are_whole_and_what_nobody_reads_is_gone() {
        for kind in KINDS {
            let value = trimmed(kind, &sample(kind));
            let Read::Object(object) = read(&value) else {
                unreachable!("{kind}")
            };
            assert_eq!(object.problems(), [], "{kind}");
            let text = value.to_string();
            for waste in [
                "managedFields",
                "generation",
                "other",
                "env",
                "volumes",
                "containerStatuses",
                "images",
                "finalizers",
                "lastProbeTime",
                "hints",
            ] {
                assert!(!text.contains(waste), "{kind}: {waste}");
            }
            assert!(text.contains("resourceVersion"), "{kind}");
        }
    }
}
