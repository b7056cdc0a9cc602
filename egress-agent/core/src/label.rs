//! Labels and selectors (S23–S26, S82, S91).
//!
//! Source: apimachinery `LabelSelectorAsSelector` and `labels.NewRequirement`: a selector
//! with one bad key, operator or value does not compile at all. Nothing is repaired,
//! because a repaired selector selects other pods than its author meant.

use std::collections::BTreeSet;
use std::fmt;

use crate::object::Labels;

/// A label selector that compiled. Two selectors that say the same compare equal.
/// The empty selector matches everything (S23).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    requirements: BTreeSet<Requirement>,
}

/// One term; all terms must hold (S24).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Requirement {
    /// The key is there with one of the values; `matchLabels` is this with one value (S26).
    In(String, BTreeSet<String>),
    /// The key is missing, or has another value (S24).
    NotIn(String, BTreeSet<String>),
    /// The key is there.
    Exists(String),
    /// The key is missing (S24).
    DoesNotExist(String),
}

/// Why a selector does not compile (S79, S82).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSelector {
    /// Neither `name` nor `prefix/name` of allowed characters and length.
    #[error("{0:?} is not a label key")]
    Key(String),
    /// Characters or length a label value cannot have (S91).
    #[error("{0:?} is not a label value")]
    Value(String),
    /// None of In, `NotIn`, Exists, `DoesNotExist`.
    #[error("{0:?} is not an operator")]
    Operator(String),
    /// In or `NotIn` with nothing to compare with.
    #[error("{0} needs values")]
    NoValues(&'static str),
    /// Exists or `DoesNotExist` with something to compare with.
    #[error("{0} takes no values")]
    Values(&'static str),
}

impl Selector {
    /// Adds one of `matchLabels`.
    pub fn require_label(&mut self, key: &str, value: &str) -> Result<(), BadSelector> {
        self.require(key, "In", &[value])
    }

    /// Adds one of `matchExpressions`.
    pub fn require(
        &mut self,
        key: &str,
        operator: &str,
        values: &[&str],
    ) -> Result<(), BadSelector> {
        if !is_key(key) {
            return Err(BadSelector::Key(key.to_owned()));
        }
        let key = key.to_owned();
        self.requirements.insert(match operator {
            "In" => Requirement::In(key, some_values("In", values)?),
            "NotIn" => Requirement::NotIn(key, some_values("NotIn", values)?),
            "Exists" => {
                no_values("Exists", values)?;
                Requirement::Exists(key)
            }
            "DoesNotExist" => {
                no_values("DoesNotExist", values)?;
                Requirement::DoesNotExist(key)
            }
            other => return Err(BadSelector::Operator(other.to_owned())),
        });
        Ok(())
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|term| term.holds(labels))
    }

    /// Whether it is the empty selector.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// A key and values of which all selected labels have one, if there is such a term.
    pub fn needed(&self) -> Option<(&str, &BTreeSet<String>)> {
        self.requirements.iter().find_map(|term| match term {
            Requirement::In(key, values) => Some((key.as_str(), values)),
            Requirement::NotIn(..) | Requirement::Exists(_) | Requirement::DoesNotExist(_) => None,
        })
    }

    /// The terms that labels do not meet; none when they are selected.
    #[must_use]
    pub fn unmet(&self, labels: &Labels) -> Self {
        let unmet = self.requirements.iter().filter(|term| !term.holds(labels));
        Self {
            requirements: unmet.cloned().collect(),
        }
    }

    /// Of some labels those that it speaks of.
    pub fn named<'l>(&self, labels: &'l Labels) -> impl Iterator<Item = (&'l str, &'l str)> {
        let keys: BTreeSet<String> = self
            .requirements
            .iter()
            .map(|term| term.key().to_owned())
            .collect();
        labels
            .iter()
            .filter(move |(key, _)| keys.contains(*key))
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }

    fn key(&self) -> &str {
        match self {
            Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Exists(key)
            | Self::DoesNotExist(key) => key,
        }
    }
}

/// As `kubectl --selector` takes it: `app=web,tier in (a,b),!old`; nothing for the empty selector.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, term) in self.requirements.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            write!(f, "{term}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<String>| -> String {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            values.join(",")
        };
        match self {
            Self::In(key, values) if values.len() == 1 => write!(f, "{key}={}", list(values)),
            Self::In(key, values) => write!(f, "{key} in ({})", list(values)),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", list(values)),
            Self::Exists(key) => f.write_str(key),
            Self::DoesNotExist(key) => write!(f, "!{key}"),
        }
    }
}

fn some_values(operator: &'static str, values: &[&str]) -> Result<BTreeSet<String>, BadSelector> {
    if values.is_empty() {
        return Err(BadSelector::NoValues(operator));
    }
    match values.iter().find(|value| !is_value(value)) {
        Some(bad) => Err(BadSelector::Value((*bad).to_owned())),
        None => Ok(values.iter().map(|value| (*value).to_owned()).collect()),
    }
}

fn no_values(operator: &'static str, values: &[&str]) -> Result<(), BadSelector> {
    if values.is_empty() {
        Ok(())
    } else {
        Err(BadSelector::Values(operator))
    }
}

/// A qualified name: `[prefix/]name`, the prefix a DNS-1123 subdomain.
fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name(name),
        None => is_name(key),
    }
}

/// At most 63 characters; the empty value is one.
fn is_value(value: &str) -> bool {
    value.is_empty() || is_name(value)
}

/// 1–63 of `[A-Za-z0-9._-]`, the first and the last alphanumeric.
fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && ends_are_alphanumeric(text)
}

/// At most 253 characters of dot-separated `[a-z0-9-]` labels with alphanumeric ends.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && ends_are_alphanumeric(label)
        })
}

/// False for the empty text.
fn ends_are_alphanumeric(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().next_back()];
    ends.into_iter()
        .all(|end| end.is_some_and(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn selector(terms: &[(&str, &str, &[&str])]) -> Selector {
        let mut selector = Selector::default();
        for (key, operator, values) in terms {
            selector.require(key, operator, values).unwrap();
        }
        selector
    }

    #[test]
    fn the_empty_selector_matches_everything_s23() {
        assert!(Selector::default().matches(&Labels::new()));
        assert!(Selector::default().matches(&labels(&[("a", "b")])));
    }

    #[test]
    fn all_terms_must_hold_s24() {
        let both = selector(&[("app", "In", &["web", "api"]), ("tier", "Exists", &[])]);
        assert!(both.matches(&labels(&[("app", "web"), ("tier", "")])));
        assert!(!both.matches(&labels(&[("app", "web")])));
        assert!(!both.matches(&labels(&[("app", "db"), ("tier", "")])));
    }

    #[test]
    fn notin_and_doesnotexist_match_what_lacks_the_key_s24() {
        let not_in = selector(&[("app", "NotIn", &["web"])]);
        assert!(not_in.matches(&Labels::new()));
        assert!(not_in.matches(&labels(&[("app", "db")])));
        assert!(!not_in.matches(&labels(&[("app", "web")])));
        let missing = selector(&[("app", "DoesNotExist", &[])]);
        assert!(missing.matches(&Labels::new()));
        assert!(!missing.matches(&labels(&[("app", "")])));
    }

    #[test]
    fn a_selector_reads_as_kubectl_takes_it_and_says_what_labels_lack() {
        let terms: [(&str, &str, &[&str]); 4] = [
            ("app", "In", &["web"]),
            ("env", "NotIn", &["dev", "test"]),
            ("old", "DoesNotExist", &[]),
            ("tier", "Exists", &[]),
        ];
        let all = selector(&terms);
        assert_eq!(all.to_string(), "app=web,env notin (dev,test),tier,!old");
        let pod = labels(&[("app", "db"), ("env", "dev"), ("other", "")]);
        assert_eq!(
            all.unmet(&pod).to_string(),
            "app=web,env notin (dev,test),tier"
        );
        let named: Vec<_> = all.named(&pod).collect();
        assert_eq!(named, [("app", "db"), ("env", "dev")]);
        assert!(Selector::default().is_everything() && !all.is_everything());
    }

    #[test]
    fn an_empty_value_does_not_match_a_missing_key_s26() {
        let mut empty = Selector::default();
        empty.require_label("k", "").unwrap();
        assert!(!empty.matches(&Labels::new()));
        assert!(empty.matches(&labels(&[("k", "")])));
    }

    #[test]
    fn selectors_that_say_the_same_are_equal() {
        let mut short = Selector::default();
        short.require_label("b", "1").unwrap();
        short.require_label("a", "1").unwrap();
        assert_eq!(
            short,
            selector(&[
                ("a", "In", &["1", "1"]),
                ("b", "In", &["1"]),
                ("a", "In", &["1"])
            ])
        );
    }

    #[test]
    fn what_apimachinery_refuses_does_not_compile_s79_s91() {
        let long = "x".repeat(64);
        let cases: &[(&str, &str, &[&str])] = &[
            ("", "Exists", &[]),
            ("a/b/c", "Exists", &[]),
            ("/b", "Exists", &[]),
            ("a/", "Exists", &[]),
            ("Upper.case/b", "Exists", &[]),
            ("a..b/c", "Exists", &[]),
            ("-a", "Exists", &[]),
            ("a ", "Exists", &[]),
            (&long, "Exists", &[]),
            ("a", "in", &["b"]),
            ("a", "Gt", &["1"]),
            ("a", "", &[]),
            ("a", "In", &[]),
            ("a", "NotIn", &[]),
            ("a", "Exists", &["b"]),
            ("a", "DoesNotExist", &[""]),
            ("a", "In", &["ok", "not ok"]),
            ("a", "NotIn", &["-"]),
            ("a", "In", &[&long]),
            ("a", "In", &["ü"]),
        ];
        for (key, operator, values) in cases {
            let bad = Selector::default().require(key, operator, values);
            assert!(bad.is_err(), "{key:?} {operator:?} {values:?} compiled");
        }
    }

    #[test]
    fn what_apimachinery_accepts_compiles() {
        for key in [
            "a",
            "A_b.c-d",
            "kubernetes.io/metadata.name",
            "x.y-z.1/Name",
            &"x".repeat(63),
        ] {
            assert!(
                Selector::default().require(key, "Exists", &[]).is_ok(),
                "{key:?}"
            );
        }
        for value in ["", "1", "A_b.c-d", &"x".repeat(63)] {
            assert!(
                Selector::default().require_label("k", value).is_ok(),
                "{value:?}"
            );
        }
    }
}
