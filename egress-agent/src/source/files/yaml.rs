//! Text to documents: YAML as Kubernetes reads it, and JSON.
//!
//! * A key that appears twice in one mapping is an error: which of the two counts would be
//!   a guess.
//! * Aliases and merge keys (`<<`) work, within [`ALIAS_BUDGET`].
//! * A NUL or another control character is an error: the scanner takes NUL for the end of
//!   the text, so what follows it would silently not count.
//!
//! The parser's events are turned into values directly; nothing remembers where a field
//! stood. The rare text that has a problem is read a second time (see `lines`).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::{Map, Value};

use super::{json, scalar};

/// How deep a document may nest, aliases followed. Kubernetes' own objects stay below 20;
/// dropping and comparing values recurses.
const DEPTH: usize = 128;

/// What all aliases of a text together may expand to: 32 MiB, with a node counted as
/// 64 bytes and a string's bytes added. Without aliases a value is no larger than a small
/// multiple of its text; with them nine lines can make a billion nodes.
const ALIAS_BUDGET: usize = 32 << 20;

/// Weight of a node beside its string, against [`ALIAS_BUDGET`].
const NODE_WEIGHT: usize = 64;

/// One document of a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// Its place in the text, from 0, empty documents counted.
    pub(super) index: usize,
    /// What it says, never null.
    pub(super) value: Value,
    /// The line it begins on, from 1.
    pub(super) line: usize,
    /// The lines its `items` begin on; empty when there are none or it is JSON.
    pub(super) item_lines: Vec<usize>,
}

/// Why a text does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub(super) struct Error {
    /// Where, from 1.
    pub(super) line: Option<usize>,
    /// What.
    pub(super) message: String,
}

/// How far a text parsed.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The documents before the error, all of them when there is none.
    pub(super) documents: Vec<Document>,
    /// The error.
    pub(super) error: Option<Error>,
    /// Of the document the error is in: the fields of its root that are certainly whole.
    pub(super) settled: Map<String, Value>,
}

/// Every document of `text` that is not empty.
pub(super) fn parse(text: &str) -> Result<Vec<Document>, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // As kubectl does: what looks like JSON is tried as JSON first, where tabs indent and
    // strings have surrogate pairs. A YAML flow mapping also begins with a brace.
    if text.trim_start().starts_with('{')
        && let Ok(documents) = json::parse(text)
    {
        return Ok(documents);
    }
    let Outcome {
        documents,
        error,
        settled: _,
    } = parse_yaml(text);
    error.map_or(Ok(documents), Err)
}

/// Parses as far as it goes.
pub(super) fn parse_yaml(text: &str) -> Outcome {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    let error = run(text, &mut builder).err();
    let settled = if error.is_some() {
        builder.settled()
    } else {
        Map::new()
    };
    Outcome {
        documents: builder.documents,
        error,
        settled,
    }
}

fn run(text: &str, builder: &mut Builder) -> Result<(), Error> {
    reject_control_characters(text)?;
    // The scanner asserts; a text that makes it panic must not end the agent.
    let parsed = catch_unwind(AssertUnwindSafe(|| {
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| Error::from(&error))?;
            builder.on(event, span)?;
        }
        Ok(())
    }));
    parsed.unwrap_or_else(|_| {
        Err(Error {
            line: None,
            message: "the YAML parser failed".to_owned(),
        })
    })
}

fn reject_control_characters(text: &str) -> Result<(), Error> {
    let control = |b: u8| (b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r')) || b == 0x7f;
    let Some(at) = text.bytes().position(control) else {
        return Ok(());
    };
    let line = 1 + text.bytes().take(at).filter(|b| *b == b'\n').count();
    Err(Error {
        line: Some(line),
        message: "a control character; nothing after it can be trusted".to_owned(),
    })
}

impl From<&ScanError> for Error {
    fn from(error: &ScanError) -> Self {
        Self::at(*error.marker(), error.info())
    }
}

impl Error {
    fn at(marker: Marker, message: impl Into<String>) -> Self {
        Self {
            line: Some(marker.line()),
            message: message.into(),
        }
    }
}

/// Values under construction.
#[derive(Default)]
struct Builder {
    documents: Vec<Document>,
    /// Documents begun, empty ones counted.
    begun: usize,
    stack: Vec<Frame>,
    anchors: BTreeMap<usize, Node>,
    expanded: usize,
    line: usize,
    item_lines: Vec<usize>,
    /// The root mapping's field that was completed last: whether it is whole is known only
    /// when the next one begins.
    root_last: Option<String>,
}

/// A finished value, with what an alias to it costs.
#[derive(Clone, Debug)]
struct Node {
    value: Value,
    weight: usize,
    height: usize,
}

/// An unfinished collection.
struct Frame {
    kind: FrameKind,
    anchor: usize,
    weight: usize,
    height: usize,
}

enum FrameKind {
    Sequence(Vec<Value>),
    Mapping {
        map: Map<String, Value>,
        key: Option<Key>,
        merged: Vec<Map<String, Value>>,
    },
}

enum Key {
    Field(String),
    Merge,
}

impl Builder {
    fn on(&mut self, event: Event<'_>, span: Span) -> Result<(), Error> {
        let at = span.start;
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.begun += 1;
                self.anchors.clear(); // an anchor is of its document
                self.stack.clear();
                self.item_lines.clear();
                self.root_last = None;
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.stack.is_empty() {
                    self.line = at.line();
                }
                if self.awaits_key() {
                    return self.key(text.into_owned(), style, anchor, at);
                }
                let value = resolve(&text, style, tag.as_deref(), at)?;
                let node = Node {
                    value,
                    weight: NODE_WEIGHT + text.len(),
                    height: 0,
                };
                self.remember(anchor, &node);
                self.attach(node, at)
            }
            Event::Alias(id) => self.alias(id, at),
            Event::SequenceStart(anchor, tag) => {
                check_collection_tag(tag.as_deref(), "seq", at)?;
                self.open(FrameKind::Sequence(Vec::new()), anchor, at)
            }
            Event::MappingStart(anchor, tag) => {
                check_collection_tag(tag.as_deref(), "map", at)?;
                self.open(
                    FrameKind::Mapping {
                        map: Map::new(),
                        key: None,
                        merged: Vec::new(),
                    },
                    anchor,
                    at,
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(at),
        }
    }

    /// The next node is a key.
    fn awaits_key(&self) -> bool {
        matches!(
            self.stack.last(),
            Some(Frame {
                kind: FrameKind::Mapping { key: None, .. },
                ..
            })
        )
    }

    fn key(
        &mut self,
        text: String,
        style: ScalarStyle,
        anchor: usize,
        at: Marker,
    ) -> Result<(), Error> {
        if anchor != 0 {
            let weight = NODE_WEIGHT + text.len();
            self.remember(
                anchor,
                &Node {
                    value: Value::String(text.clone()),
                    weight,
                    height: 0,
                },
            );
        }
        let Some(Frame {
            kind: FrameKind::Mapping { map, key, .. },
            ..
        }) = self.stack.last_mut()
        else {
            return Ok(());
        };
        if style == ScalarStyle::Plain && text == "<<" {
            *key = Some(Key::Merge);
            return Ok(());
        }
        if map.contains_key(&text) {
            return Err(Error::at(
                at,
                format!("the key {text:?} appears twice in one mapping"),
            ));
        }
        *key = Some(Key::Field(text));
        Ok(())
    }

    fn alias(&mut self, id: usize, at: Marker) -> Result<(), Error> {
        let Some(node) = self.anchors.get(&id) else {
            // Its own ancestor, or another document's.
            return Err(Error::at(
                at,
                "an alias to an anchor that is not complete here",
            ));
        };
        self.expanded = self.expanded.saturating_add(node.weight);
        if self.expanded > ALIAS_BUDGET {
            return Err(Error::at(at, "the aliases expand to more than 32 MiB"));
        }
        if self.stack.len() + node.height > DEPTH {
            return Err(too_deep(at));
        }
        let node = node.clone();
        if self.awaits_key() {
            let Value::String(text) = node.value else {
                return Err(Error::at(at, "a key that is not a string"));
            };
            return self.key(text, ScalarStyle::DoubleQuoted, 0, at);
        }
        self.attach(node, at)
    }

    fn open(&mut self, kind: FrameKind, anchor: usize, at: Marker) -> Result<(), Error> {
        if self.awaits_key() {
            return Err(Error::at(at, "a key that is not a scalar"));
        }
        match self.stack.as_slice() {
            [] => self.line = at.line(),
            [
                root,
                Frame {
                    kind: FrameKind::Sequence(_),
                    ..
                },
            ] if root.pending("items") => {
                self.item_lines.push(at.line());
            }
            _ => {}
        }
        if self.stack.len() >= DEPTH {
            return Err(too_deep(at));
        }
        self.stack.push(Frame {
            kind,
            anchor,
            weight: NODE_WEIGHT,
            height: 0,
        });
        Ok(())
    }

    fn close(&mut self, at: Marker) -> Result<(), Error> {
        let Some(Frame {
            kind,
            anchor,
            weight,
            height,
        }) = self.stack.pop()
        else {
            return Ok(());
        };
        let value = match kind {
            FrameKind::Sequence(items) => Value::Array(items),
            FrameKind::Mapping {
                mut map,
                key: _,
                merged,
            } => {
                // What stands in the mapping itself wins, then the first merged one.
                for (key, value) in merged.into_iter().flatten() {
                    map.entry(key).or_insert(value);
                }
                Value::Object(map)
            }
        };
        let node = Node {
            value,
            weight,
            height,
        };
        self.remember(anchor, &node);
        self.attach(node, at)
    }

    fn remember(&mut self, anchor: usize, node: &Node) {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
    }

    /// Puts a finished value where it belongs.
    fn attach(&mut self, node: Node, at: Marker) -> Result<(), Error> {
        let Node {
            value,
            weight,
            height,
        } = node;
        let at_root = self.stack.len() == 1;
        let Some(frame) = self.stack.last_mut() else {
            if !value.is_null() {
                let item_lines = std::mem::take(&mut self.item_lines);
                let index = self.begun.saturating_sub(1);
                self.documents.push(Document {
                    index,
                    value,
                    line: self.line,
                    item_lines,
                });
            }
            return Ok(());
        };
        frame.weight = frame.weight.saturating_add(weight);
        frame.height = frame.height.max(height + 1);
        match &mut frame.kind {
            FrameKind::Sequence(items) => items.push(value),
            FrameKind::Mapping { map, key, merged } => match (key.take(), value) {
                (Some(Key::Field(key)), value) => {
                    if at_root {
                        self.root_last = Some(key.clone());
                    }
                    map.insert(key, value);
                }
                (Some(Key::Merge), Value::Object(from)) => merged.push(from),
                (Some(Key::Merge), Value::Array(all)) => {
                    for from in all {
                        let Value::Object(from) = from else {
                            return Err(not_mergeable(at));
                        };
                        merged.push(from);
                    }
                }
                (Some(Key::Merge), _) => return Err(not_mergeable(at)),
                // awaits_key() sends a node here only after its key.
                (None, _) => return Err(Error::at(at, "a value without a key")),
            },
        }
        Ok(())
    }

    /// The root's fields that nothing after the error can still change. A wrong indentation
    /// ends every open mapping before it is reported, so the last field may be cut short.
    fn settled(&mut self) -> Map<String, Value> {
        let Some(Frame {
            kind: FrameKind::Mapping { map, key, .. },
            ..
        }) = self.stack.first_mut()
        else {
            return Map::new();
        };
        let mut settled = std::mem::take(map);
        if let (None, Some(last)) = (key, &self.root_last) {
            settled.remove(last);
        }
        settled
    }
}

impl Frame {
    /// It is a mapping whose field `name` is being read.
    fn pending(&self, name: &str) -> bool {
        matches!(&self.kind, FrameKind::Mapping { key: Some(Key::Field(key)), .. } if key == name)
    }
}

fn too_deep(at: Marker) -> Error {
    Error::at(at, format!("nested deeper than {DEPTH}"))
}

fn not_mergeable(at: Marker) -> Error {
    Error::at(at, "the value of a merge key is not a mapping")
}

fn check_collection_tag(tag: Option<&Tag>, expected: &str, at: Marker) -> Result<(), Error> {
    match tag {
        Some(tag)
            if !(non_specific(tag) || tag.is_yaml_core_schema() && tag.suffix == expected) =>
        {
            Err(unknown_tag(tag, at))
        }
        _ => Ok(()),
    }
}

/// The tag `!`: "do not guess".
fn non_specific(tag: &Tag) -> bool {
    tag.handle.is_empty() && tag.suffix == "!" || tag.handle == "!" && tag.suffix.is_empty()
}

fn unknown_tag(tag: &Tag, at: Marker) -> Error {
    Error::at(at, format!("the tag {tag} has no meaning here"))
}

fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Marker) -> Result<Value, Error> {
    let Some(tag) = tag else {
        return Ok(match style {
            ScalarStyle::Plain => scalar::plain(text),
            ScalarStyle::SingleQuoted
            | ScalarStyle::DoubleQuoted
            | ScalarStyle::Literal
            | ScalarStyle::Folded => Value::String(text.to_owned()),
        });
    };
    if non_specific(tag) {
        return Ok(Value::String(text.to_owned()));
    }
    if !tag.is_yaml_core_schema() {
        return Err(unknown_tag(tag, at));
    }
    let as_plain = scalar::plain(text);
    let fits = match tag.suffix.as_str() {
        "str" => return Ok(Value::String(text.to_owned())),
        "int" => as_plain.is_i64() || as_plain.is_u64(),
        "float" => as_plain.is_number(),
        "bool" => as_plain.is_boolean(),
        "null" => as_plain.is_null(),
        _ => return Err(unknown_tag(tag, at)),
    };
    if fits {
        Ok(as_plain)
    } else {
        Err(Error::at(at, format!("{text:?} is no {tag}")))
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

    fn one(text: &str) -> Value {
        let documents = parse(text).unwrap();
        assert_eq!(documents.len(), 1, "{text}");
        documents[0].value.clone()
    }

    fn error(text: &str) -> (Option<usize>, String) {
        let Error { line, message } = parse(text).unwrap_err();
        (line, message)
    }

    #[test]
    fn quoted_scalars_are_strings_and_plain_ones_are_resolved() {
        assert_eq!(
            one(
                "a: 80\nb: '80'\nc: \"80\"\nd: null\ne: ~\nf:\ng: true\nh: 10.0.0.0/8\ni: |\n  80\n"
            ),
            json!({"a": 80, "b": "80", "c": "80", "d": null, "e": null, "f": null, "g": true, "h": "10.0.0.0/8", "i": "80\n"})
        );
    }

    #[test]
    fn documents_know_their_lines_and_empty_ones_are_skipped() {
        let documents =
            parse("# c\n---\n---\na: 1\n---\n# only a comment\n---\n\nb: 2\n...\n").unwrap();
        let found: Vec<_> = documents
            .iter()
            .map(|d| (d.index, d.line, d.value.clone()))
            .collect();
        assert_eq!(found, [(1, 4, json!({"a": 1})), (3, 9, json!({"b": 2}))]);
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("# nothing\n").unwrap(), []);
        assert_eq!(parse("---\n").unwrap(), []);
    }

    #[test]
    fn items_know_their_lines() {
        let documents = parse("kind: List\nitems:\n- a: 1\n  other: [{}]\n- b: 1\n").unwrap();
        assert_eq!(documents[0].item_lines, [3, 5]);
    }

    #[test]
    fn a_key_twice_in_one_mapping_is_an_error_with_its_line() {
        let (line, message) = error("a: 1\nb:\n  c: 1\n  c: 2\n");
        assert_eq!(line, Some(4));
        assert!(message.contains("\"c\""), "{message}");
        assert_eq!(
            one("a: {c: 1}\nb: {c: 2}\n"),
            json!({"a": {"c": 1}, "b": {"c": 2}})
        );
        assert!(parse(r#"{"a": 1, "a": 2}"#).is_err());
    }

    #[test]
    fn aliases_and_merge_keys_expand() {
        assert_eq!(
            one("a: &x {k: 1}\nb: *x\n"),
            json!({"a": {"k": 1}, "b": {"k": 1}})
        );
        assert_eq!(
            one("a: &x {k: 1, l: 1}\nb:\n  k: 2\n  <<: *x\n"),
            json!({"a": {"k": 1, "l": 1}, "b": {"k": 2, "l": 1}})
        );
        assert_eq!(
            one("a: &n name\nb: {*n : 1}\n"),
            json!({"a": "name", "b": {"name": 1}})
        );
        assert_eq!(one("'<<': 1"), json!({"<<": 1}));
        assert!(parse("b: {<<: 1}").is_err());
    }

    #[test]
    fn an_anchor_is_of_its_document_and_no_ancestor_of_its_alias() {
        assert!(parse("a: &x 1\n---\nb: *x\n").is_err());
        assert!(parse("a: &x [*x]\n").is_err());
        assert!(parse("a: *nowhere\n").is_err());
    }

    #[test]
    fn an_alias_bomb_is_an_error_and_quick() {
        use std::fmt::Write as _;
        let mut wide = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..30 {
            let alias = format!("*a{}", i - 1);
            writeln!(wide, "a{i}: &a{i} [{}]", [alias.as_str(); 9].join(",")).unwrap();
        }
        assert!(error(&wide).1.contains("32 MiB"));

        let mut deep = "a0: &a0 [x]\n".to_owned();
        for i in 1..500 {
            writeln!(deep, "a{i}: &a{i} [*a{}]", i - 1).unwrap();
        }
        assert!(error(&deep).1.contains("deeper"));

        let long = format!(
            "a: &a {}\nb: [{}]",
            "x".repeat(1 << 20),
            vec!["*a"; 100].join(",")
        );
        assert!(error(&long).1.contains("32 MiB"));
    }

    #[test]
    fn nesting_without_end_is_an_error() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"{a: ".repeat(100_000)).is_err());
        let block = (0..1_000).fold(String::new(), |text, depth| {
            text + &" ".repeat(depth) + "a:\n"
        });
        assert!(error(&block).1.contains("deeper"));
        assert!(
            parse(&format!(
                "{{\"a\":{}{}}}",
                "[".repeat(100_000),
                "]".repeat(100_000)
            ))
            .is_err()
        );
    }

    #[test]
    fn line_ends_and_byte_order_marks_do_not_matter() {
        assert_eq!(one("\u{feff}a: 1\r\nb: x\r\n"), json!({"a": 1, "b": "x"}));
        assert_eq!(error("a: 1\r\nb: 1\r\nb: 2\r\n").0, Some(3));
        assert_eq!(one("\u{feff}{\"a\": 1}"), json!({"a": 1}));
    }

    #[test]
    fn nothing_hides_behind_a_nul() {
        assert_eq!(error("a: 1\n---\n\0\n---\nb: 1\n").0, Some(3));
        assert!(parse("a: \x1b").is_err());
    }

    #[test]
    fn json_may_use_tabs_and_surrogate_pairs_and_yaml_may_use_braces() {
        assert_eq!(one("{\n\t\"a\":\t[1,\n\t2]\n}"), json!({"a": [1, 2]}));
        assert_eq!(one(r#"{"a": "\ud83d\ude00"}"#), json!({"a": "😀"}));
        assert_eq!(one("{a: 1}\n"), json!({"a": 1}));
        assert_eq!(parse("{a: 1}\n---\nb: 1\n").unwrap().len(), 2);
    }

    #[test]
    fn tags_of_the_core_schema_count_and_others_are_errors() {
        assert_eq!(
            one("a: !!str 80\nb: !!int '80'\nc: ! 80\nd: !!map {}\ne: !!float 1.5"),
            json!({"a": "80", "b": 80, "c": "80", "d": {}, "e": 1.5})
        );
        for text in [
            "a: !mine 1",
            "a: !!int x",
            "a: !!set {b}",
            "a: !!binary aGk=",
            "a: !mine {}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_the_text_of_scalars() {
        assert_eq!(one("80: x\ntrue: y\n"), json!({"80": "x", "true": "y"}));
        assert!(parse("? [a]\n: b\n").is_err());
        assert!(parse("{{a: 1}: b}").is_err());
    }

    #[test]
    fn of_a_broken_document_only_what_is_certainly_whole_is_settled() {
        let settled = |text| Value::Object(parse_yaml(text).settled);
        let whole =
            "kind: NetworkPolicy\nmetadata:\n  name: a\n  namespace: b\nspec:\n  x: 1\n  x: 2\n";
        assert_eq!(
            settled(whole),
            json!({"kind": "NetworkPolicy", "metadata": {"name": "a", "namespace": "b"}})
        );
        // The wrong indentation ends `metadata` before `namespace` is seen.
        let cut = "kind: NetworkPolicy\nmetadata:\n    name: a\n  namespace: b\nspec: {}\n";
        assert_eq!(settled(cut), json!({"kind": "NetworkPolicy"}));
        assert_eq!(settled("- a\n- b: [\n"), json!({}));
    }
}
