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
    let Some((items, template)) = value.as_object_mut().and_then(take_items) else {
        found.push((path, value));
        return;
    };
    for (index, mut item) in items.into_iter().enumerate() {
        // The items of a typed list carry no kind of their own.
        if let (Some(item), Some((api_version, kind))) = (item.as_object_mut(), &template)
            && !item.contains_key("kind")
        {
            item.insert("kind".to_owned(), kind.clone());
            item.insert("apiVersion".to_owned(), api_version.clone());
        }
        expand(format!("{path}items[{index}]."), item, found);
    }
}

/// `apiVersion` and kind of the items of a typed list.
type Template = Option<(Value, Value)>;

fn take_items(list: &mut Map<String, Value>) -> Option<(Vec<Value>, Template)> {
    let of = list.get("kind")?.as_str()?.strip_suffix("List")?.to_owned();
    let api_version = list.get("apiVersion").cloned().unwrap_or_default();
    let template = (!of.is_empty()).then_some((api_version, Value::String(of)));
    match list.get_mut("items")? {
        Value::Array(items) => Some((std::mem::take(items), template)),
        // An empty list as some encoders write it.
        Value::Null => Some((Vec::new(), template)),
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
    let Some(api_version) = root.get("apiVersion")? else {
        let group = own_group(kind);
        return Ok(ApiKind {
            group,
            kind,
            version: Err(Problem::new("apiVersion", "is missing")),
        });
    };
    let text = api_version.string()?;
    let (group, version) = text.split_once('/').unwrap_or(("", text));
    let version = match version {
        "v1" => Ok(()),
        other => Err(api_version.problem(format!("version {other:?} is not known"))),
    };
    Ok(ApiKind {
        group,
        kind,
        version,
    })
}

/// The group a kind belongs to that does not say.
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
        version,
    } = api;
    let object = match (group, kind) {
        // The only kind that denies: it closes where the others are refused.
        ("networking.k8s.io", "NetworkPolicy") => {
            return Ok(Read::Object(Object::Policy(policy::parse::read(
                root, version,
            ))));
        }
        ("", "Namespace") => Object::Namespace(cluster::namespace(root)?),
        ("", "Pod") => Object::Pod(Box::new(pod::read(root)?)),
        ("", "Service") => Object::Service(Box::new(service::read(root)?)),
        ("discovery.k8s.io", "EndpointSlice") => Object::EndpointSlice(slice::read(root, version)?),
        ("", "Node") => Object::Node(cluster::node(root)?),
        ("", "List") => return Err(root.require("items")?.problem("is no list")),
        ("", other) => {
            return Ok(Read::Ignored {
                what: other.to_owned(),
            });
        }
        (group, other) => {
            return Ok(Read::Ignored {
                what: format!("{group} {other}"),
            });
        }
    };
    Ok(Read::Object(object))
}
