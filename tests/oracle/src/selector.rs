//! Label selectors (S23–S26), and which of them cannot be compiled (S79, S91).
//!
//! What is invalid: the rules of apimachinery's `NewRequirement`, which the API server's
//! validation and every client's `LabelSelectorAsSelector` share.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::json::{Unreadable, labels, list, only, text, texts};

/// Whether the selector matches these labels. The empty selector matches everything (S23).
///
/// An invalid part makes the whole selector [`Unreadable`], whatever the labels are.
pub(crate) fn selects(selector: &Value, on: &BTreeMap<String, String>) -> Result<bool, Unreadable> {
    let selector = only(selector, &["matchLabels", "matchExpressions"])?;
    let mut matches = true;
    for (key, value) in labels(selector, "matchLabels")? {
        check(is_key(&key) && is_value(&value))?;
        // S26: an empty value is a value; the key must be there.
        matches &= on.get(&key) == Some(&value);
    }
    for expression in list(selector, "matchExpressions")? {
        matches &= expression_selects(expression, on)?;
    }
    // S24: all of them.
    Ok(matches)
}

fn expression_selects(
    expression: &Value,
    on: &BTreeMap<String, String>,
) -> Result<bool, Unreadable> {
    let expression = only(expression, &["key", "operator", "values"])?;
    let key = text(expression, "key")?.ok_or(Unreadable)?;
    let operator = text(expression, "operator")?.ok_or(Unreadable)?;
    let values = texts(expression, "values")?;
    check(is_key(key) && values.iter().all(|value| is_value(value)))?;
    let found = on.get(key).map(String::as_str);
    match operator {
        "In" => {
            check(!values.is_empty())?;
            Ok(found.is_some_and(|value| values.contains(&value)))
        }
        // S24: also when the key is missing.
        "NotIn" => {
            check(!values.is_empty())?;
            Ok(!found.is_some_and(|value| values.contains(&value)))
        }
        "Exists" => {
            check(values.is_empty())?;
            Ok(found.is_some())
        }
        "DoesNotExist" => {
            check(values.is_empty())?;
            Ok(found.is_none())
        }
        _ => Err(Unreadable),
    }
}

fn check(valid: bool) -> Result<(), Unreadable> {
    if valid { Ok(()) } else { Err(Unreadable) }
}

/// A label value: empty, or a name.
fn is_value(text: &str) -> bool {
    text.is_empty() || is_name(text)
}

/// A label key: a name, or `DNS-SUBDOMAIN/name`.
fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        None => is_name(text),
        Some((prefix, name)) => is_subdomain(prefix) && is_name(name),
    }
}

/// Up to 63 of `[-A-Za-z0-9_.]`, a letter or digit at both ends.
fn is_name(text: &str) -> bool {
    text.len() <= 63
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && has_alphanumeric_ends(text)
}

/// Up to 253 of `[-a-z0-9.]`, each label between dots with a letter or digit at both ends.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            label
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
                && has_alphanumeric_ends(label)
        })
}

fn has_alphanumeric_ends(text: &str) -> bool {
    let ends = (text.bytes().next(), text.bytes().next_back());
    matches!(ends, (Some(first), Some(last))
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
}
