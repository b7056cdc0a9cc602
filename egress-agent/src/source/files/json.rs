//! JSON to documents. The same rules as for YAML: a key twice in one object is an error.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::yaml::{Document, Error};

/// Every value of `text` that is not null; values may follow each other.
pub(super) fn parse(text: &str) -> Result<Vec<Document>, Error> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Unique>();
    let mut documents = Vec::new();
    let mut newlines = NewLines {
        text,
        at: 0,
        line: 1,
    };
    for index in 0.. {
        let begin = stream.byte_offset();
        let Some(value) = stream.next() else { break };
        let Unique(value) = value.map_err(|error| Error {
            line: Some(error.line()),
            message: error.to_string(),
        })?;
        if !value.is_null() {
            let line = newlines.line_of_next_value(begin);
            documents.push(Document {
                index,
                value,
                line,
                item_lines: Vec::new(),
            });
        }
    }
    Ok(documents)
}

/// A list whose items are still text: as values they would take several times as much.
pub(super) struct List<'t> {
    /// All of it but the items.
    pub(super) rest: Map<String, Value>,
    /// The items.
    pub(super) items: Vec<&'t RawValue>,
}

/// The one value of a text, if that is a list. What does not parse is none.
pub(super) fn list(text: &str) -> Option<List<'_>> {
    serde_json::from_str(text).ok()
}

/// The value of an item, if it parses.
pub(super) fn item(text: &RawValue) -> Option<Value> {
    let item = serde_json::from_str(text.get());
    item.ok().map(|Unique(value)| value)
}

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of items")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<List<'de>, A::Error> {
        let (mut rest, mut items) = (Map::new(), None);
        while let Some(key) = access.next_key::<String>()? {
            let twice = if key == "items" {
                items.replace(access.next_value()?).is_some()
            } else {
                let Unique(value) = access.next_value()?;
                // Of most objects the kind comes early, and the rest need not be looked at.
                if key == "kind" && !value.as_str().is_some_and(|kind| kind.ends_with("List")) {
                    return Err(de::Error::custom("no list"));
                }
                rest.insert(key, value).is_some()
            };
            if twice {
                return Err(de::Error::custom("a key appears twice"));
            }
        }
        let items = items.ok_or_else(|| de::Error::missing_field("items"))?;
        Ok(List { rest, items })
    }
}

/// Counts lines, forwards only.
struct NewLines<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl NewLines<'_> {
    /// The line of the first character at or behind `offset` that is no space.
    fn line_of_next_value(&mut self, offset: usize) -> usize {
        let bytes = self.text.as_bytes();
        let space = bytes
            .iter()
            .skip(offset)
            .take_while(|b| b.is_ascii_whitespace())
            .count();
        let to = offset + space;
        self.line += bytes
            .iter()
            .take(to)
            .skip(self.at)
            .filter(|b| **b == b'\n')
            .count();
        self.at = to;
        self.line
    }
}

/// A value in which no object has a key twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Unique(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format!(
                    "the key {key:?} appears twice in one object"
                )));
            }
            let Unique(value) = access.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_may_follow_each_other_and_know_their_lines() {
        let documents = parse("{\"a\":1}\n\n{\"b\":\n2} null\n{\"c\":3}\n").unwrap();
        let found: Vec<_> = documents
            .iter()
            .map(|d| (d.index, d.line, d.value.clone()))
            .collect();
        assert_eq!(
            found,
            [
                (0, 1, json!({"a": 1})),
                (1, 3, json!({"b": 2})),
                (3, 5, json!({"c": 3}))
            ]
        );
    }

    #[test]
    fn a_key_twice_in_one_object_is_an_error_with_its_line() {
        let error = parse("{\"a\": {\"x\": 1,\n\"x\": 2}}").unwrap_err();
        assert_eq!(error.line, Some(2));
        assert!(error.message.contains("\"x\""), "{error}");
    }

    #[test]
    fn a_list_is_cut_into_its_items_and_other_texts_are_not() {
        let text = r#" {"items": [{"a": 1}, 7], "kind": "PodList"} "#;
        let List { rest, items } = list(text).unwrap();
        assert_eq!(Value::Object(rest), json!({"kind": "PodList"}));
        let items: Vec<_> = items.into_iter().map(|text| item(text).unwrap()).collect();
        assert_eq!(items, [json!({"a": 1}), json!(7)]);
        for other in [
            "{}",
            "[]",
            r#"{"items": null}"#,
            r#"{"items": {}}"#,
            r#"{"items": [}"#,
            r#"{"items": [], "items": []}"#,
            r#"{"items": [], "kind": "List", "kind": "List"}"#,
            r#"{"kind": "Pod", "items": []}"#,
            r#"{"items": []} {}"#,
        ] {
            assert!(list(other).is_none(), "{other}");
        }
        let twice = list(r#"{"items": [{"a": 1, "a": 2}]}"#).unwrap();
        assert_eq!(item(twice.items[0]), None);
    }

    #[test]
    fn nesting_without_end_is_an_error() {
        assert!(parse(&"[".repeat(1_000_000)).is_err());
    }
}
