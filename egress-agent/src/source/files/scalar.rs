//! What an unquoted YAML scalar means.
//!
//! Kubernetes reads manifests with go-yaml and hands JSON to the API, so a file means here
//! what it means there: `80` and `0x50` are numbers, `"80"` is a string, `010` is octal,
//! `1_000` is a number. The one exception: `yes`, `no`, `on` and `off` stay strings, as in
//! YAML 1.2; as a label value that is what their author meant, and as a boolean the field
//! is unreadable and therefore closed.

use serde_json::{Number, Value};

/// A plain (unquoted, untagged) scalar.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    }
}

/// A number, if the text is one.
pub(super) fn number(text: &str) -> Option<Number> {
    let first = *text.as_bytes().first()?;
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return None; // nearly every scalar: names, addresses come later
    }
    if text.contains('_') {
        let without = text.replace('_', "");
        return integer(&without).or_else(|| float(&without));
    }
    integer(text).or_else(|| float(text))
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, digits.get(2..)?),
        Some("0o" | "0O") => (8, digits.get(2..)?),
        Some("0b" | "0B") => (2, digits.get(2..)?),
        Some(two) if two.starts_with('0') => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    // from_str_radix takes a sign of its own: "+-1" is no number.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        Some(Number::from(0_i64.checked_sub_unsigned(magnitude)?))
    } else {
        Some(Number::from(magnitude))
    }
}

/// A finite float. An integral one is an integer, as it is after Go's way through JSON.
fn float(text: &str) -> Option<Number> {
    // Rust also reads "inf" and "nan"; JSON has neither.
    if !text
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'))
    {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        // Display of an integral float below 2^53 is its plain decimal digits.
        return format!("{value}").parse::<i64>().ok().map(Number::from);
    }
    Number::from_f64(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_what_kubernetes_reads() {
        for (text, value) in [
            ("80", json!(80)),
            ("+80", json!(80)),
            ("-1", json!(-1)),
            ("0", json!(0)),
            ("010", json!(8)),
            ("0o10", json!(8)),
            ("0x50", json!(80)),
            ("0b11", json!(3)),
            ("1_000", json!(1000)),
            ("80.0", json!(80)),
            ("8e1", json!(80)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("18446744073709551615", json!(u64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
        ] {
            assert_eq!(plain(text), value, "{text}");
        }
    }

    #[test]
    fn what_only_resembles_a_number_is_a_string() {
        for text in [
            "10.0.0.0/8",
            "10.0.0.1",
            "::1",
            "1.2.3",
            "0x",
            "0xg",
            "-",
            "+",
            ".",
            "..",
            "--1",
            "+-1",
            "1e",
            "e1",
            ".inf",
            "-.inf",
            ".nan",
            "inf",
            "nan",
            "08",
            "80/TCP",
            "0x+1",
            "2024-01-01",
            "١",
        ] {
            let expected = if text == "08" { json!(8) } else { json!(text) };
            assert_eq!(plain(text), expected, "{text}");
        }
    }

    #[test]
    fn yes_and_no_are_strings_and_null_is_null() {
        for text in ["yes", "no", "on", "off", "Y", "n", "tRUE", "nULL"] {
            assert_eq!(plain(text), json!(text));
        }
        for text in ["", "~", "null", "Null", "NULL"] {
            assert_eq!(plain(text), Value::Null);
        }
        assert_eq!(plain("true"), json!(true));
        assert_eq!(plain("False"), json!(false));
    }
}
