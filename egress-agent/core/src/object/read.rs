//! Which kind a value is, and who reads it.

use serde_json::{Map, Value};

use super::field::Field;
use super::{Object, Problem, cluster, pod, service, slice};
use crate::policy;

/// What became of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// An object. What of it could not be read is closed, and in [`Object::problems`].
    Object(Object),
    /// Nothing that policies speak of; worth a note when `NetworkPolicy` is its kind (S96).
    Ignored {
        /// `apiVersion` and kind.
        what: String,
    },
    /// It cannot be told which object this is.
    Unusable(Problem),
}

/// Reads one object, as the API server would hand it out: defaults come first (S96).
///
/// Nothing here fails as a whole if the object can be named: what cannot be read closes.
/// A `NetworkPolicy` closes even without a name.
pub fn read(value: &Value) -> Read {
    let root = Field::root(value);
    match kind(&root).and_then(|kind| by_kind(&root, kind)) {
        Ok(read) => read,
        Err(problem) => Read::Unusable(problem.so("the object is ignored")),
    }
}

/// The objects of a `List`, or of a typed list such as `PodList`, each with the path that
/// leads to it (`items[3].`); any other value is itself, with an empty path.
pub fn expand_list(value: Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    expand(String::new(), value, &mut found);
    found
}

fn expand(path: String, mut value: Value, found: &mut Vec<(String, Value)>) {
    let Some((items, list)) = value.as_object_mut().and_then(take_items) else {
        found.push((path, value));
        return;
    };
    for (index, item) in items.into_iter().enumerate() {
        list.expand(&path, index, item, found);
    }
}

/// What a list says of its items. For whoever has items one at a time; others [`expand_list`].
#[derive(Clone, Debug)]
pub struct ListOf {
    /// `apiVersion` and kind of the items of a typed list.
    template: Option<(Value, Value)>,
}

impl ListOf {
    /// Of a value that is a list by its kind, whatever its items.
    pub fn of(list: &Map<String, Value>) -> Option<Self> {
        let of = list.get("kind")?.as_str()?.strip_suffix("List")?.to_owned();
        let api_version = list.get("apiVersion").cloned().unwrap_or_default();
        let template = (!of.is_empty()).then_some((api_version, Value::String(of)));
        Some(Self { template })
    }

    /// The objects of one item, as [`expand_list`] finds them.
    pub fn item(&self, index: usize, item: Value) -> Vec<(String, Value)> {
        let mut found = Vec::new();
        self.expand("", index, item, &mut found);
        found
    }

    fn expand(&self, path: &str, index: usize, mut item: Value, found: &mut Vec<(String, Value)>) {
        // The items of a typed list carry no kind of their own.
        if let (Some(item), Some((api_version, kind))) = (item.as_object_mut(), &self.template)
            && !item.contains_key("kind")
        {
            item.insert("kind".to_owned(), kind.clone());
            item.insert("apiVersion".to_owned(), api_version.clone());
        }
        expand(format!("{path}items[{index}]."), item, found);
    }
}

fn take_items(list: &mut Map<String, Value>) -> Option<(Vec<Value>, ListOf)> {
    let of = ListOf::of(list)?;
    match list.get_mut("items")? {
        Value::Array(items) => Some((std::mem::take(items), of)),
        // An empty list as some encoders write it.
        Value::Null => Some((Vec::new(), of)),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => None,
    }
}

/// Group and kind, and whether the version is the one known.
struct ApiKind<'v> {
    group: &'v str,
    kind: &'v str,
    version: Result<(), Problem>,
}

fn kind<'v>(root: &Field<'v, '_>) -> Result<ApiKind<'v>, Problem> {
    let kind = root.require("kind")?.string()?;
    let stated = root
        .require("apiVersion")
        .and_then(|field| Ok((field.string()?, field)));
    let (group, version) = match stated {
        Ok((text, field)) => match text.split_once('/').unwrap_or(("", text)) {
            (group, "v1") => (group, Ok(())),
            (group, _) => (group, Err(field.problem(format!("{text:?} is not known")))),
        },
        // Without a group the kind speaks for itself: an object must not go unread for that.
        Err(problem) => (own_group(kind), Err(problem)),
    };
    Ok(ApiKind {
        group,
        kind,
        version,
    })
}

/// The group of a kind that does not say.
fn own_group(kind: &str) -> &'static str {
    match kind {
        "NetworkPolicy" => "networking.k8s.io",
        "EndpointSlice" => "discovery.k8s.io",
        _ => "",
    }
}

fn by_kind(root: &Field<'_, '_>, api: ApiKind<'_>) -> Result<Read, Problem> {
    let ApiKind {
        group,
        kind,
        mut version,
    } = api;
    // Kinds that close as a whole take the version's problem, for the others it is a note.
    let mut take = || std::mem::replace(&mut version, Ok(()));
    let mut object = match (group, kind) {
        ("networking.k8s.io", "NetworkPolicy") => {
            Object::Policy(policy::parse::read(root, take()).into())
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            Object::EndpointSlice(slice::read(root, take())?.into())
        }
        ("", "Namespace") => Object::Namespace(cluster::namespace(root)?.into()),
        ("", "Pod") => Object::Pod(pod::read(root)?.into()),
        ("", "Service") => Object::Service(service::read(root)?.into()),
        ("", "Node") => Object::Node(cluster::node(root)?.into()),
        ("", "List") => return Err(root.require("items")?.problem("is no list")),
        _ => {
            let what = root.text("apiVersion").ok().flatten().unwrap_or_default();
            let what = format!("{what} {kind}").trim_start().to_owned();
            return Ok(Read::Ignored { what });
        }
    };
    if let Err(problem) = version {
        object.problems_mut().push(problem.so("it is read as v1"));
    }
    Ok(Read::Object(object))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests")]
    use serde_json::json;

    use super::*;
    use crate::fixture::object;
    use crate::object::{Key, Kind, Name};

    #[test]
    fn every_kind_is_read_by_group_and_kind() {
        let kinds = [
            ("networking.k8s.io/v1", Kind::NetworkPolicy, "default"),
            ("v1", Kind::Namespace, ""),
            ("v1", Kind::Pod, "default"),
            ("v1", Kind::Service, "default"),
            ("discovery.k8s.io/v1", Kind::EndpointSlice, "default"),
            ("v1", Kind::Node, ""),
        ];
        for (api_version, kind, namespace) in kinds {
            let value =
                json!({"apiVersion": api_version, "kind": kind.name(), "metadata": {"name": "a"}});
            let object = object(&value);
            assert_eq!(
                object.key(),
                Key {
                    kind,
                    name: Name::new(namespace, "a")
                },
                "S96"
            );
            assert_eq!(object.problems(), []);
        }
    }

    #[test]
    fn other_kinds_and_a_network_policy_of_another_group_are_ignored_s96() {
        let ignored = |value: &Value| {
            let Read::Ignored { what } = read(value) else {
                panic!("{value}")
            };
            what
        };
        let calico = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "NetworkPolicy", "metadata": {"name": "a"}});
        assert_eq!(ignored(&calico), "crd.projectcalico.org/v1 NetworkPolicy");
        assert_eq!(
            ignored(&json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service"})),
            "serving.knative.dev/v1 Service"
        );
        assert_eq!(
            ignored(&json!({"apiVersion": "v1", "kind": "Secret"})),
            "v1 Secret"
        );
        assert_eq!(ignored(&json!({"kind": "Kustomization"})), "Kustomization");
    }

    #[test]
    fn what_names_no_object_is_unusable() {
        for value in [
            json!(null),
            json!("text"),
            json!([]),
            json!({}),
            json!({"kind": 1}),
            json!({"kind": null}),
            json!({"apiVersion": "v1", "kind": "Pod"}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": []}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": ""}}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": 5}}),
            json!({"apiVersion": "v1", "kind": "List", "items": "none"}),
        ] {
            assert!(matches!(read(&value), Read::Unusable(_)), "{value}");
        }
    }

    #[test]
    fn an_unknown_version_closes_a_policy_and_is_noted_elsewhere() {
        for api_version in [json!("networking.k8s.io/v9"), json!(null), json!(7)] {
            let value = json!({
                "apiVersion": api_version, "kind": "NetworkPolicy", "metadata": {"name": "a"},
                "spec": {"policyTypes": ["Egress"], "egress": [{}]},
            });
            let Object::Policy(policy) = object(&value) else {
                panic!("{value}")
            };
            assert!(policy.unreadable, "{value}");
        }
        let pod = object(&json!({"kind": "Pod", "metadata": {"name": "a"}}));
        assert_eq!(pod.problems().len(), 1);
        assert_eq!(
            pod.problems().first().map(|p| p.field.as_str()),
            Some("apiVersion")
        );
    }

    #[test]
    fn lists_expand_to_their_items_with_the_way_to_them() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
        let nested = json!({"apiVersion": "v1", "kind": "List", "items": [
            pod.clone(),
            {"apiVersion": "v1", "kind": "List", "items": [7, pod.clone()]},
        ]});
        let paths = |value| {
            expand_list(value)
                .into_iter()
                .map(|(path, _)| path)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            paths(nested),
            ["items[0].", "items[1].items[0].", "items[1].items[1]."]
        );
        assert_eq!(expand_list(pod.clone()), [(String::new(), pod)]);
        assert_eq!(
            paths(json!({"kind": "List", "items": null})),
            Vec::<String>::new()
        );
        assert_eq!(paths(json!({"kind": "AllowList", "spec": 1})), [""]);
    }

    #[test]
    fn items_one_at_a_time_are_those_of_the_list() {
        let list = json!({"apiVersion": "v1", "kind": "PodList", "items": [
            {"metadata": {"name": "a"}},
            {"apiVersion": "v1", "kind": "List", "items": [7, {"kind": "Node"}]},
            null,
        ]});
        let Some(of) = list.as_object().and_then(ListOf::of) else {
            panic!("a list")
        };
        let items = list.get("items").and_then(Value::as_array).into_iter();
        let alone = items.flatten().cloned().enumerate();
        let alone: Vec<_> = alone.flat_map(|(n, item)| of.item(n, item)).collect();
        assert_eq!(alone, expand_list(list));
    }

    #[test]
    fn items_of_a_typed_list_get_its_kind() {
        let list = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicyList", "items": [{"metadata": {"name": "a"}}]});
        let [(path, item)] = &*expand_list(list) else {
            panic!("one item")
        };
        assert_eq!(path, "items[0].");
        assert_eq!(object(item).key().kind, Kind::NetworkPolicy);
        assert_eq!(object(item).problems(), []);
    }
}
