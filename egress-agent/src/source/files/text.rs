//! A file's text to objects.

use std::borrow::Cow;
use std::path::Path;

use egress_core::object::{ListOf, Object, Problem, Read, expand_list, read};
use serde_json::Value;

use super::SourceProblem;
use super::json;
use super::lines;
use super::salvage::{Content, salvage};
use super::yaml::{self, Document, Error};
use crate::source::share::Shared;

/// Problems reported of one file. A file of a million bad networks is one mistake made a
/// million times; all of them close, these are shown.
const REPORTED: usize = 1_000;

/// What a text says.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    /// Its objects.
    pub(super) objects: Vec<Held>,
    /// What of them could not be read.
    pub(super) problems: Vec<SourceProblem>,
}

/// An object and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The object.
    pub(super) object: Object,
    /// The line it begins on, from 1.
    pub(super) line: usize,
}

/// What a text says that parses. What objects have in common with others is shared as soon as they are
/// read: given up only later, it would leave holes between them.
pub(super) fn whole(path: &Path, bytes: &[u8], shared: &mut Shared) -> Result<Contents, Error> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.split(|b| *b == b'\n').count();
        Error {
            line: Some(line),
            message: "not UTF-8".to_owned(),
        }
    })?;
    if let Some(contents) = listed(path, text, shared) {
        return Ok(contents.cut(path));
    }
    let documents = yaml::parse(text)?;
    let mut contents = Contents::default();
    contents.add(path, text, 0, documents, shared);
    Ok(contents.cut(path))
}

/// What can be used of a text that does not parse, and what must close because of it.
pub(super) fn parts(path: &Path, bytes: &[u8], shared: &mut Shared) -> Contents {
    let text: Cow<'_, str> = String::from_utf8_lossy(bytes);
    let mut contents = Contents::default();
    for part in salvage(
        &path.file_name().unwrap_or_default().to_string_lossy(),
        &text,
    ) {
        match part.content {
            Content::Documents(documents) => {
                contents.add(path, part.text, part.lines_before, documents, shared);
            }
            Content::Closed(object) => {
                let marker = part
                    .text
                    .lines()
                    .next()
                    .is_some_and(|first| first.trim_end() == "---");
                let line = part.lines_before + if marker { 2 } else { 1 };
                let label = label_of(&object);
                for problem in object.problems() {
                    contents.problems.push(SourceProblem::in_file(
                        path,
                        Some(line),
                        &label,
                        problem,
                    ));
                }
                contents.objects.push(Held { object, line });
            }
            Content::Unknown => {}
        }
    }
    contents.cut(path)
}

/// `KIND NS/NAME`.
pub(super) fn label_of(object: &Object) -> String {
    let key = object.key();
    format!("{} {}", key.kind, key.name)
}

/// A problem whose line is still to be found.
struct Pending {
    document: usize,
    field: String,
    object: String,
    problem: Problem,
}

/// A text that is being read: its objects, and problems whose lines are found at the end.
struct Reading<'s> {
    shared: &'s mut Shared,
    objects: Vec<Held>,
    pending: Vec<Pending>,
}

impl<'s> Reading<'s> {
    fn new(shared: &'s mut Shared) -> Self {
        Self {
            shared,
            objects: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// Reads a value of a document, which begins on `line`; `prefix` leads to it.
    fn read(&mut self, document: usize, prefix: &str, value: &Value, line: usize) {
        let mut report = |object: &str, problem: &Problem| {
            if self.pending.len() <= REPORTED {
                let field = format!("{prefix}{}", problem.field);
                self.pending.push(Pending {
                    document,
                    field,
                    object: object.to_owned(),
                    problem: problem.clone(),
                });
            }
        };
        match read(value) {
            Read::Object(mut object) => {
                self.shared.share(&mut object);
                if !object.problems().is_empty() {
                    let label = label_of(&object);
                    object
                        .problems()
                        .iter()
                        .for_each(|problem| report(&label, problem));
                }
                self.objects.push(Held { object, line });
            }
            // Of everything else in a folder of manifests there is nothing to say.
            Read::Ignored { what } if what.ends_with("NetworkPolicy") => {
                let problem = Problem::new(
                    "kind",
                    format!("{what} is not enforced; the object is ignored"),
                );
                report(&label_of_value(value), &problem);
            }
            Read::Ignored { .. } => {}
            Read::Unusable(problem) => report(&label_of_value(value), &problem),
        }
    }
}

/// What a text says that is one list in JSON, of which one item at a time is a value. `None`: it is
/// none, or does not parse as one.
fn listed(path: &Path, text: &str, shared: &mut Shared) -> Option<Contents> {
    let json = text.strip_prefix('\u{feff}').unwrap_or(text);
    let json::List { rest, items } = json::list(json)?;
    let list = ListOf::of(&rest)?;
    let before = json.bytes().take_while(u8::is_ascii_whitespace);
    let line = 1 + before.filter(|byte| *byte == b'\n').count();
    let mut reading = Reading::new(shared);
    for (index, item) in items.into_iter().enumerate() {
        for (prefix, value) in list.item(index, json::item(item)?) {
            reading.read(0, &prefix, &value, line);
        }
    }
    let mut contents = Contents::default();
    contents.take(path, text, 0, reading);
    Some(contents)
}

impl Contents {
    fn add(
        &mut self,
        path: &Path,
        text: &str,
        lines_before: usize,
        documents: Vec<Document>,
        shared: &mut Shared,
    ) {
        let mut reading = Reading::new(shared);
        for Document {
            index,
            value,
            line,
            item_lines,
        } in documents
        {
            for (prefix, value) in expand_list(value) {
                let line = item_of(&prefix)
                    .and_then(|item| item_lines.get(item))
                    .copied()
                    .unwrap_or(line);
                reading.read(index, &prefix, &value, lines_before + line);
            }
        }
        self.take(path, text, lines_before, reading);
    }

    /// Takes over what was read of `text`.
    fn take(&mut self, path: &Path, text: &str, lines_before: usize, reading: Reading<'_>) {
        let Reading {
            shared: _,
            objects,
            pending,
        } = reading;
        self.objects.extend(objects);
        if pending.is_empty() {
            return;
        }
        let wanted: Vec<_> = pending
            .iter()
            .map(|p| (p.document, p.field.trim_end_matches('.')))
            .collect();
        let found = lines::find(text, &wanted);
        for (
            Pending {
                object, problem, ..
            },
            line,
        ) in pending.iter().zip(found)
        {
            let line = line.map(|line| lines_before + line);
            self.problems
                .push(SourceProblem::in_file(path, line, object, problem));
        }
    }

    fn cut(mut self, path: &Path) -> Self {
        if self.problems.len() > REPORTED {
            self.problems.truncate(REPORTED);
            let problem = Problem::new(
                "",
                format!(
                    "there are more than {REPORTED} problems in this file; the others are not shown"
                ),
            );
            self.problems
                .push(SourceProblem::in_file(path, None, "", &problem));
        }
        self
    }
}

/// The index in `items[3].`, the path of a list's item.
fn item_of(prefix: &str) -> Option<usize> {
    prefix
        .strip_prefix("items[")?
        .split_once(']')?
        .0
        .parse()
        .ok()
}

/// `KIND NS/NAME`, as far as a value says.
fn label_of_value(value: &Value) -> String {
    let text = |pointer| {
        value
            .pointer(pointer)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let name = match (text("/metadata/namespace"), text("/metadata/name")) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.to_owned(),
        (_, None) => String::new(),
    };
    format!("{} {name}", text("/kind").unwrap_or_default())
        .trim()
        .to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn whole(path: &Path, bytes: &[u8]) -> Result<Contents, Error> {
        super::whole(path, bytes, &mut Shared::default())
    }

    fn parts(path: &Path, bytes: &[u8]) -> Contents {
        super::parts(path, bytes, &mut Shared::default())
    }

    fn problems(contents: &Contents) -> Vec<String> {
        contents.problems.iter().map(ToString::to_string).collect()
    }

    fn objects(contents: &Contents) -> Vec<(String, usize)> {
        contents
            .objects
            .iter()
            .map(|held| (label_of(&held.object), held.line))
            .collect()
    }

    const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";

    #[test]
    fn objects_of_documents_and_lists_know_their_lines() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: List\nitems:\n\
                    - apiVersion: v1\n  kind: Namespace\n  metadata: {name: n}\n\
                    - apiVersion: v1\n  kind: Pod\n  metadata: {name: b, namespace: n}\n---\n\
                    apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: c}\n";
        let contents = whole(Path::new("f.yaml"), text.as_bytes()).unwrap();
        let expected = [
            ("Pod default/a", 1),
            ("Namespace n", 8),
            ("Pod n/b", 11),
            ("Pod default/c", 18),
        ];
        assert_eq!(
            objects(&contents),
            expected.map(|(label, line)| (label.to_owned(), line))
        );
        assert_eq!(problems(&contents), [""; 0]);
    }

    #[test]
    fn a_list_in_json_says_the_same_item_by_item_as_whole() {
        let items = r#"[
            {"metadata": {"name": "a", "namespace": "x"}},
            {"metadata": {"name": "b"}, "spec": {"policyTypes": ["Egress"], "egress": [{"to": 7}]}},
            {"apiVersion": "v1", "kind": "List", "items": [7, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}]}
        ]"#;
        let list = format!(
            "\n{{\"items\": {items}, \"kind\": \"NetworkPolicyList\", \"apiVersion\": \"networking.k8s.io/v1\"}}"
        );
        let one = listed(Path::new("f.json"), &list, &mut Shared::default()).unwrap();
        let mut whole = Contents::default();
        let documents = yaml::parse(&list).unwrap();
        let mut shared = Shared::default();
        whole.add(Path::new("f.json"), &list, 0, documents, &mut shared);
        assert_eq!(objects(&one).len(), 3);
        assert_eq!(objects(&one), objects(&whole));
        assert_eq!(problems(&one).len(), 2);
        assert_eq!(problems(&one), problems(&whole));
        // What follows, or is no list, is read another way.
        for other in [format!("{list} {{}}"), list.replace("PolicyList", "Policy")] {
            assert!(listed(Path::new("f.json"), &other, &mut Shared::default()).is_none());
        }
    }

    #[test]
    fn a_problem_names_file_line_object_and_field() {
        let text = format!(
            "apiVersion: v1\nkind: List\nitems:\n- {}\n  metadata: {{name: p, namespace: n}}\n  spec:\n    egress:\n    - to:\n      - ipBlock:\n          cidr: bad\n",
            POLICY.trim_end().replace('\n', "\n  ")
        );
        let contents = whole(Path::new("f.yaml"), text.as_bytes()).unwrap();
        let [problem] = contents.problems.as_slice() else {
            unreachable!("{:?}", contents.problems)
        };
        assert_eq!(
            (problem.line, problem.object.as_str()),
            (Some(11), "NetworkPolicy n/p")
        );
        assert_eq!(problem.field, "spec.egress[0].to[0].ipBlock.cidr");
    }

    #[test]
    fn what_is_no_object_is_reported_and_what_is_none_of_ours_is_not() {
        let text = "just text\n---\nkind: Deployment\napiVersion: apps/v1\n---\n\
                    kind: NetworkPolicy\napiVersion: projectcalico.org/v3\nmetadata: {name: p}\n---\n\
                    kind: Pod\napiVersion: v1\nmetadata: {}\n";
        let contents = whole(Path::new("f.yaml"), text.as_bytes()).unwrap();
        assert_eq!(objects(&contents), []);
        let lines: Vec<_> = contents.problems.iter().map(|p| p.line).collect();
        assert_eq!(
            lines,
            [Some(1), Some(6), Some(12)],
            "{:?}",
            problems(&contents)
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_an_error_with_their_line() {
        let error = whole(Path::new("f.yaml"), b"a: 1\nb: \xff\n").unwrap_err();
        assert_eq!(error.line, Some(2));
    }

    #[test]
    fn parts_that_parse_are_used_and_a_broken_policy_closes() {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\n---\n{POLICY}metadata: {{namespace: n}}\nspec:\n  x: [\n---\nkind: Pod\napiVersion: v1\nmetadata: {{name: b}}\nspec: 3\n"
        );
        let contents = parts(Path::new("/m/f.yaml"), text.as_bytes());
        let labels: Vec<_> = objects(&contents);
        let expected = [
            ("Pod default/a", 1),
            ("NetworkPolicy n/f.yaml#2", 5),
            ("Pod default/b", 11),
        ];
        assert_eq!(
            labels,
            expected.map(|(label, line)| (label.to_owned(), line))
        );
    }

    #[test]
    fn a_million_mistakes_are_reported_once_in_a_while() {
        let blocks = "    - ipBlock: {cidr: bad}\n".repeat(3_000);
        let text = format!("{POLICY}metadata: {{name: p}}\nspec:\n  egress:\n  - to:\n{blocks}");
        let contents = whole(Path::new("f.yaml"), text.as_bytes()).unwrap();
        assert_eq!(contents.problems.len(), REPORTED + 1);
        assert_eq!(contents.problems.get(999).unwrap().line, Some(1_006));
    }
}
