//! What a text says that does not parse, when nothing better is known of its file.
//!
//! The documents that parse on their own are used. Of the others one thing matters: whether
//! they hold a policy, for an unknown policy closes. It isolates its namespace, or every
//! namespace when its own cannot be told, and allows nothing.

use egress_core::object::{Name, Object, Problem};
use egress_core::policy::{self, Subject, SubjectNamespace};
use serde_json::{Map, Value};

use super::yaml::{self, Document};

/// A part of a text between two document markers.
pub(super) struct Part<'a> {
    /// Its text.
    pub(super) text: &'a str,
    /// How many lines stand before it.
    pub(super) lines_before: usize,
    /// What it says.
    pub(super) content: Content,
}

/// What a part of a text says.
pub(super) enum Content {
    /// It parses on its own.
    Documents(Vec<Document>),
    /// It does not, and seems to hold a policy.
    Closed(Object),
    /// It does not, and nothing in it speaks of a policy.
    Unknown,
}

/// Takes apart a text that does not parse as a whole. `file` names policies that do not say
/// their name.
pub(super) fn salvage<'a>(file: &str, text: &'a str) -> Vec<Part<'a>> {
    split(text)
        .into_iter()
        .enumerate()
        .map(|(index, (lines_before, text))| Part {
            text,
            lines_before,
            content: content(file, index, text),
        })
        .collect()
}

/// The parts of a text, each with the number of lines before it. A marker begins its part.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut begin, mut begin_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        // "---" at the beginning of a line is a marker wherever it stands, in strings too.
        if at > begin
            && line
                .strip_prefix("---")
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
        {
            parts.push((begin_line, text.get(begin..at).unwrap_or_default()));
            (begin, begin_line) = (at, number);
        }
        at += line.len();
    }
    parts.push((begin_line, text.get(begin..).unwrap_or_default()));
    parts
}

fn content(file: &str, index: usize, text: &str) -> Content {
    // Bytes that are no UTF-8 were replaced: the text is not what somebody wrote.
    if !text.contains(char::REPLACEMENT_CHARACTER)
        && let Ok(documents) = yaml::parse(text)
    {
        return Content::Documents(documents);
    }
    let yaml::Outcome { settled, error, .. } = yaml::parse_yaml(text);
    let Some(signs) = signs_of_policy(text, &settled) else {
        return Content::Unknown;
    };
    let why = error.map_or_else(|| "not UTF-8".to_owned(), |error| error.message);
    let own = match signs {
        Signs::One => namespace_and_name(&settled),
        Signs::Several => None,
    };
    let stand_in = format!("{file}#{}", index + 1);
    let (namespace, name, scope, whom) = match own {
        Some((namespace, name)) => {
            let whom = format!("every pod of the namespace {namespace}");
            (
                namespace,
                name.unwrap_or(stand_in),
                SubjectNamespace::Own,
                whom,
            )
        }
        None => (
            String::new(),
            stand_in,
            SubjectNamespace::Unknown,
            "every pod".to_owned(),
        ),
    };
    let problem = Problem::new(
        "",
        format!("does not parse ({why}); {whom} is isolated and may send nothing"),
    );
    let policy = policy::unreadable(
        Name::new(namespace, name),
        Subject::every_pod(scope),
        vec![problem],
    );
    Content::Closed(Object::Policy(policy.into()))
}

/// How many policies a broken text seems to hold.
enum Signs {
    One,
    /// More, or it cannot be told.
    Several,
}

/// Looks for a policy in a text that does not parse. `settled` is what is known of its root.
fn signs_of_policy(text: &str, settled: &Map<String, Value>) -> Option<Signs> {
    let root_kind = settled.get("kind").and_then(Value::as_str);
    // A field at the very left is the root's; deeper ones count when the text is a list, or
    // in braces, or too broken to know. (A ConfigMap may quote a policy.)
    let only_root = root_kind.is_some_and(|kind| !kind.ends_with("List"));
    let kinds = values_of(text, "kind", only_root);
    let policies = kinds
        .iter()
        .filter(|kind| matches!(**kind, "NetworkPolicy" | "NetworkPolicyList"))
        .count();
    let groups = values_of(text, "apiVersion", only_root);
    let foreign = !groups.is_empty()
        && groups
            .iter()
            .all(|version| version.contains('/') && !version.starts_with("networking.k8s.io/"));
    match policies {
        _ if foreign => None,
        0 if kinds.is_empty() => {
            let hints = ["networking.k8s.io", "podSelector", "policyTypes"];
            hints
                .iter()
                .any(|hint| text.contains(hint))
                .then_some(Signs::Several)
        }
        0 => None,
        1 if root_kind == Some("NetworkPolicy") => Some(Signs::One),
        _ => Some(Signs::Several),
    }
}

/// The values that follow `key:` anywhere in the text, or only at the beginning of a line.
fn values_of<'a>(text: &'a str, key: &str, only_root: bool) -> Vec<&'a str> {
    let quote = |c: char| matches!(c, '"' | '\'');
    let mut found = Vec::new();
    for (at, _) in text.match_indices(key) {
        let (before, rest) = (
            text.get(..at).unwrap_or_default(),
            text.get(at + key.len()..).unwrap_or_default(),
        );
        let before = before.strip_suffix(quote).unwrap_or(before);
        let begins = if only_root && !text.trim_start().starts_with('{') {
            before.is_empty() || before.ends_with(['\n', '\u{feff}']) || before.ends_with("--- ")
        } else {
            before.is_empty()
                || !before
                    .ends_with(|c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
        };
        let Some(rest) = rest
            .strip_prefix(quote)
            .unwrap_or(rest)
            .trim_start_matches([' ', '\t'])
            .strip_prefix(':')
        else {
            continue;
        };
        if begins {
            let value = rest.trim_start().trim_start_matches(quote);
            let end = value.find(|c: char| {
                c.is_whitespace() || quote(c) || matches!(c, ',' | '}' | ']' | '#')
            });
            found.push(value.get(..end.unwrap_or(value.len())).unwrap_or_default());
        }
    }
    found
}

/// The namespace of a policy whose `metadata` is whole, and its name if it has one.
fn namespace_and_name(settled: &Map<String, Value>) -> Option<(String, Option<String>)> {
    let metadata = settled.get("metadata")?.as_object()?;
    let namespace = match metadata.get("namespace") {
        None | Some(Value::Null) => "default", // S96
        Some(value) => match value.as_str()? {
            "" => "default",
            text => text,
        },
    };
    let name = metadata
        .get("name")
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty());
    Some((namespace.to_owned(), name.map(str::to_owned)))
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    /// Of each part: "documents N", "closed NAMESPACE NAME", or "unknown".
    fn salvaged(text: &str) -> Vec<String> {
        let describe = |part: Part<'_>| match part.content {
            Content::Documents(documents) => format!("documents {}", documents.len()),
            Content::Closed(Object::Policy(policy)) => {
                assert!(policy.unreadable);
                assert_eq!(policy.subject, Subject::every_pod(policy.subject.namespace));
                let namespace = match policy.subject.namespace {
                    SubjectNamespace::Own => &*policy.name.namespace,
                    SubjectNamespace::Unknown => "*",
                };
                format!("closed {namespace} {}", policy.name.name)
            }
            Content::Closed(other) => panic!("{other:?}"),
            Content::Unknown => "unknown".to_owned(),
        };
        salvage("f.yaml", text).into_iter().map(describe).collect()
    }

    const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";

    #[test]
    fn documents_that_parse_are_used_and_lines_are_counted() {
        let text = "kind: Pod\n---\na: [\n---\nkind: Service\n";
        assert_eq!(salvaged(text), ["documents 1", "unknown", "documents 1"]);
        let lines: Vec<_> = salvage("f", text)
            .iter()
            .map(|part| part.lines_before)
            .collect();
        assert_eq!(lines, [0, 1, 3]);
    }

    #[test]
    fn a_broken_policy_closes_the_namespace_it_names() {
        let text = format!("{POLICY}metadata:\n  name: p\n  namespace: shop\nspec:\n  egress: [\n");
        assert_eq!(salvaged(&text), ["closed shop p"]);
        let text = format!("{POLICY}metadata:\n  name: p\nspec:\n  egress: [\n");
        assert_eq!(salvaged(&text), ["closed default p"]);
        let text = format!("{POLICY}metadata:\n  namespace: shop\nspec:\n  a: 1\n  a: 2\n");
        assert_eq!(salvaged(&text), ["closed shop f.yaml#1"]);
    }

    #[test]
    fn a_broken_policy_whose_namespace_is_not_certain_closes_every_namespace() {
        for text in [
            format!("{POLICY}metadata:\n    name: p\n  namespace: shop\nspec: {{}}\n"),
            format!("{POLICY}metadata: {{name: p, namespace: shop"),
            format!("{POLICY}metadata:\n  namespace: [shop]\nspec: ["),
            format!("{POLICY}metadata:\n  namespace: a\nspec: {{}}\n{POLICY}metadata:\n  namespace: b\n"),
            "apiVersion: v1\nkind: List\nitems:\n- kind: NetworkPolicy\n  metadata: {namespace: a}\n  spec: [\n".to_owned(),
            "{\"kind\": \"NetworkPolicy\", \"metadata\": {\"namespace\": \"a\"".to_owned(),
            "kind: NetworkPolicyList\nitems:\n- [".to_owned(),
            "metadata: {}\nspec:\n\tpodSelector: {}\n".to_owned(),
            "apiVersion: networking.k8s.io/v1\nmetadata: [\n".to_owned(),
        ] {
            assert_eq!(salvaged(&text), ["closed * f.yaml#1"], "{text}");
        }
    }

    #[test]
    fn what_is_broken_but_no_policy_does_not_close() {
        for text in [
            "kind: Pod\nmetadata: [",
            "garbage: [",
            "\u{1}\u{2}",
            "kind: ConfigMap\ndata:\n  x: |\n    kind: NetworkPolicy\n  y: [",
            "kind: Ingress\napiVersion: networking.k8s.io/v1\nspec: [",
            "apiVersion: crd.projectcalico.org/v1\nkind: NetworkPolicy\nspec: [",
            "kind: NetworkPolicyThing\nspec: [",
        ] {
            assert_eq!(salvaged(text), ["unknown"], "{text}");
        }
    }

    #[test]
    fn replaced_bytes_make_a_part_unusable() {
        let text = format!(
            "kind: Pod\nmetadata: {{name: \u{fffd}}}\n---\n{POLICY}metadata: {{namespace: a}}\nspec: \u{fffd}\n---\nkind: Pod\n"
        );
        assert_eq!(
            salvaged(&text),
            ["unknown", "closed * f.yaml#2", "documents 1"]
        );
    }
}
