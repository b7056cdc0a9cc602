//! The table of values in `docs/install.md`, from the comments of `values.yaml`.
//!
//! A comment that begins with `# --` describes the key below it, and with it everything that
//! the key holds; lines of `#` below it go on with the sentence. This is what helm-docs reads.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Where the table is.
pub(super) const DOCUMENT: &str = "docs/install.md";

const BEGIN: &str =
    "<!-- The table is written by `cargo xtask render` from deploy/chart/values.yaml. -->\n";
const END: &str = "<!-- End of the table. -->\n";

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// As `--set` takes it.
    pub(super) path: String,
    /// As JSON.
    default: String,
    description: String,
}

/// Every described value, in the order of the file. A value without a description is an error.
pub(super) fn rows(text: &str) -> Result<Vec<Row>> {
    let values = super::yaml(text)?;
    let rows = described(text, &values)?;
    let mut missing = Vec::new();
    undescribed(&values, "", &rows, &mut missing);
    ensure!(
        missing.is_empty(),
        "values.yaml has no description (`# -- …`) of {}",
        missing.join(", ")
    );
    Ok(rows)
}

/// The document with the rows between its marks.
pub(super) fn insert(document: &str, rows: &[Row]) -> Result<String> {
    let (before, rest) = document
        .split_once(BEGIN)
        .with_context(|| format!("{DOCUMENT} has no line {BEGIN:?}"))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("{DOCUMENT} has no line {END:?}"))?;
    let mut table = String::from("\n| value | default | |\n| --- | --- | --- |\n");
    for Row {
        path,
        default,
        description,
    } in rows
    {
        let description = description.replace('|', "\\|");
        writeln!(table, "| `{path}` | `{default}` | {description} |")?;
    }
    Ok(format!("{before}{BEGIN}{table}\n{END}{after}"))
}

/// Reads lines, because a parser of values forgets comments.
fn described(text: &str, values: &Value) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    // Indentation and name of the keys that the line is in.
    let mut keys: Vec<(usize, &str)> = Vec::new();
    let mut description: Option<String> = None;
    for line in text.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if let Some(comment) = content.strip_prefix('#') {
            let comment = comment.trim();
            if let Some(first) = comment.strip_prefix("-- ") {
                description = Some(first.to_owned());
            } else if let Some(sentence) = &mut description {
                sentence.push(' ');
                sentence.push_str(comment);
            }
            continue;
        }
        let key = content.split_once(':').map(|(key, _)| key);
        let Some(key) = key.filter(|key| !key.starts_with('-')) else {
            continue;
        };
        keys.retain(|(outer, _)| *outer < indent);
        keys.push((indent, key));
        if let Some(description) = description.take() {
            let names: Vec<&str> = keys.iter().map(|(_, key)| *key).collect();
            let default = values.pointer(&format!("/{}", names.join("/")));
            rows.push(Row {
                path: names.join("."),
                default: default
                    .with_context(|| format!("values.yaml: {key} is not where it seems to be"))?
                    .to_string(),
                description,
            });
        }
    }
    Ok(rows)
}

/// Paths of what is described neither itself nor by a key around it.
fn undescribed(value: &Value, path: &str, rows: &[Row], missing: &mut Vec<String>) {
    if rows.iter().any(|row| row.path == path) {
        return;
    }
    match value.as_object() {
        Some(map) if !map.is_empty() => {
            for (key, value) in map {
                let dot = if path.is_empty() { "" } else { "." };
                undescribed(value, &format!("{path}{dot}{key}"), rows, missing);
            }
        }
        _ => missing.push(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const VALUES: &str = "\
# No description.

a:
  # -- The first,
  # of two lines.
  b: 1
# -- A list | of maps.
c:
  - d: e
# -- All of it.
f:
  g: true
h: \"\"
";

    fn row(path: &str, default: &str, description: &str) -> Row {
        Row {
            path: path.into(),
            default: default.into(),
            description: description.into(),
        }
    }

    #[test]
    fn a_description_belongs_to_the_key_below_it_and_what_that_holds() -> Result<()> {
        let described = VALUES.replace("h: ", "# -- Text.\nh: ");
        assert_eq!(
            rows(&described)?,
            [
                row("a.b", "1", "The first, of two lines."),
                row("c", "[{\"d\":\"e\"}]", "A list | of maps."),
                row("f", "{\"g\":true}", "All of it."),
                row("h", "\"\"", "Text."),
            ]
        );
        Ok(())
    }

    #[test]
    fn a_value_without_a_description_is_named() {
        let error = rows(VALUES).unwrap_err().to_string();
        assert!(error.ends_with("of h"), "{error}");
    }

    #[test]
    fn the_table_is_replaced_and_the_rest_of_the_document_stays() -> Result<()> {
        let document = format!("before\n{BEGIN}old\n{END}after\n");
        let rows = [row("a", "1", "Either | or.")];
        let once = insert(&document, &rows)?;
        assert_eq!(
            once,
            format!(
                "before\n{BEGIN}\n| value | default | |\n| --- | --- | --- |\n| `a` | `1` | Either \\| or. |\n\n{END}after\n"
            )
        );
        assert_eq!(insert(&once, &rows)?, once);
        assert!(insert("no marks", &rows).is_err());
        Ok(())
    }
}
