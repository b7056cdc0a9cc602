//! Reading decoded JSON as the Kubernetes API does: null is absent, lists and objects that
//! are absent are empty. What has the wrong type, or a name nobody knows, is [`Unreadable`].

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Part of an object could not be read. Whoever holds the enclosing unit must close it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

pub(crate) type Fields = Map<String, Value>;

/// An object of which every field is known: an unknown field may be one that narrows (S80).
pub(crate) fn only<'a>(value: &'a Value, known: &[&str]) -> Result<&'a Fields, Unreadable> {
    let fields = value.as_object().ok_or(Unreadable)?;
    if fields.keys().all(|name| known.contains(&name.as_str())) {
        Ok(fields)
    } else {
        Err(Unreadable)
    }
}

/// A field; null is absent.
pub(crate) fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

/// A list; absent is empty (S81).
pub(crate) fn list<'a>(fields: &'a Fields, name: &str) -> Result<&'a [Value], Unreadable> {
    match field(fields, name) {
        None => Ok(&[]),
        Some(value) => value.as_array().map(Vec::as_slice).ok_or(Unreadable),
    }
}

/// A text.
pub(crate) fn text<'a>(fields: &'a Fields, name: &str) -> Result<Option<&'a str>, Unreadable> {
    match field(fields, name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or(Unreadable),
    }
}

/// Yes or no.
pub(crate) fn flag(fields: &Fields, name: &str) -> Result<Option<bool>, Unreadable> {
    match field(fields, name) {
        None => Ok(None),
        Some(value) => value.as_bool().map(Some).ok_or(Unreadable),
    }
}

/// A list of texts.
pub(crate) fn texts<'a>(fields: &'a Fields, name: &str) -> Result<Vec<&'a str>, Unreadable> {
    list(fields, name)?
        .iter()
        .map(|value| value.as_str().ok_or(Unreadable))
        .collect()
}

/// A map from text to text, as labels are.
pub(crate) fn labels(fields: &Fields, name: &str) -> Result<BTreeMap<String, String>, Unreadable> {
    let Some(value) = field(fields, name) else {
        return Ok(BTreeMap::new());
    };
    value
        .as_object()
        .ok_or(Unreadable)?
        .iter()
        .map(|(key, value)| Ok((key.clone(), value.as_str().ok_or(Unreadable)?.to_owned())))
        .collect()
}

/// An object below an object, any fields; absent is empty.
pub(crate) fn below(fields: &Fields, name: &str) -> Result<Fields, Unreadable> {
    match field(fields, name) {
        None => Ok(Fields::new()),
        Some(value) => value.as_object().cloned().ok_or(Unreadable),
    }
}

/// A port number, 1 to 65535.
pub(crate) fn port_number(value: &Value) -> Option<u16> {
    let number = u16::try_from(value.as_u64()?).ok()?;
    (number != 0).then_some(number)
}
