//! Taking away from objects what a finding does not need.

use serde_json::Value;

/// Fields at the top, or right below it, without which an object is another one.
const IDENTITY: &[&str] = &["apiVersion", "kind", "metadata", "name", "namespace"];

/// Fields without which an object is none that the API would ever hand out.
const REQUIRED: &[&str] = &[
    "type",
    "clusterIP",
    "containerPort",
    "addresses",
    "address",
    "ip",
    "kubernetes.io/service-name",
];

/// As little of the objects as still `shows` it: whole objects first, then any list entry or
/// field. Nothing more can be taken away from what is returned.
///
/// What shows nothing to begin with is returned as it is.
pub fn shrink(objects: &[Value], shows: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut least = objects.to_vec();
    if !shows(&least) {
        return least;
    }
    loop {
        let smaller = candidates(&least).find(|smaller| shows(smaller));
        match smaller {
            Some(smaller) => least = smaller,
            None => return least,
        }
    }
}

/// The objects with one thing less, the largest things first.
fn candidates(objects: &[Value]) -> impl Iterator<Item = Vec<Value>> {
    let without_object = (0..objects.len()).map(|index| {
        let mut fewer = objects.to_vec();
        fewer.remove(index);
        fewer
    });
    let without_part = objects.iter().enumerate().flat_map(move |(index, object)| {
        parts(object).into_iter().filter_map(move |path| {
            let mut fewer = objects.to_vec();
            remove(fewer.get_mut(index)?, &path)?;
            Some(fewer)
        })
    });
    without_object.chain(without_part)
}

/// A step into a value.
#[derive(Clone, Debug)]
enum Step {
    Field(String),
    Entry(usize),
}

/// The paths of everything within a value, outer before inner.
fn parts(value: &Value) -> Vec<Vec<Step>> {
    let mut found = Vec::new();
    let mut layer: Vec<(Vec<Step>, &Value)> = vec![(Vec::new(), value)];
    while !layer.is_empty() {
        let mut next = Vec::new();
        for (path, value) in layer {
            let inner: Vec<(Step, &Value)> = match value {
                Value::Object(fields) => fields
                    .iter()
                    .map(|(name, value)| (Step::Field(name.clone()), value))
                    .collect(),
                Value::Array(entries) => entries
                    .iter()
                    .enumerate()
                    .map(|(index, value)| (Step::Entry(index), value))
                    .collect(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
            };
            for (step, value) in inner {
                let mut path = path.clone();
                path.push(step);
                next.push((path, value));
            }
        }
        found.extend(next.iter().map(|(path, _)| path.clone()));
        layer = next;
    }
    found
}

/// Removes what is at a path; nothing when it must stay.
fn remove(value: &mut Value, path: &[Step]) -> Option<()> {
    let (last, way) = path.split_last()?;
    let mut value = value;
    for step in way {
        value = match step {
            Step::Field(name) => value.get_mut(name)?,
            Step::Entry(index) => value.get_mut(*index)?,
        };
    }
    match (last, value) {
        (Step::Field(name), Value::Object(fields)) => {
            if way.len() < 2 && IDENTITY.contains(&name.as_str())
                || is_required(name, fields.get(name)?)
            {
                return None;
            }
            fields.remove(name).map(drop)
        }
        (Step::Entry(index), Value::Array(entries)) if *index < entries.len() => {
            entries.remove(*index);
            Some(())
        }
        _ => None,
    }
}

/// Whether the field is required, or has one right within.
fn is_required(name: &str, value: &Value) -> bool {
    REQUIRED.contains(&name)
        || value
            .as_object()
            .is_some_and(|fields| fields.keys().any(|name| REQUIRED.contains(&name.as_str())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_needed_goes_and_names_stay() {
        let objects = [
            json!({"kind": "A", "metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"list": [1, 7, {"name": "b"}]}}),
            json!({"kind": "B", "metadata": {"name": "b"}}),
        ];
        let seven = |objects: &[Value]| {
            objects.iter().any(|object| {
                object
                    .pointer("/spec/list")
                    .is_some_and(|list| list.to_string().contains('7'))
            })
        };
        assert_eq!(
            shrink(&objects, seven),
            [json!({"kind": "A", "metadata": {"name": "a"}, "spec": {"list": [7]}})]
        );
    }

    #[test]
    fn what_shows_nothing_is_left_alone() {
        let objects = [json!({"kind": "A"})];
        assert_eq!(shrink(&objects, |_| false), objects);
    }
}
