//! Label selectors: those that mean something, and those that cannot be compiled.

use serde_json::{Value, json};

use super::draw::Draw;

/// The labels there are: `app=a|b|c`, `tier=` and `tier=x` on pods, `ns`, `team` on
/// namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Pods,
    Namespaces,
}

const NAME: &str = "kubernetes.io/metadata.name";

impl Of {
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Pods => &["app", "app", "app", "tier", "none"],
            Self::Namespaces => &["ns", "ns", "team", NAME, "none"],
        }
    }

    fn values(self) -> &'static [&'static str] {
        match self {
            Self::Pods => &["a", "b", "c", "x", ""],
            Self::Namespaces => &["x", "y", "z", "red", ""],
        }
    }
}

/// Labels that an object may have.
pub(super) fn labels(draw: &mut Draw, of: Of) -> Value {
    let mut labels = serde_json::Map::new();
    match of {
        Of::Pods => {
            if draw.chance(85) {
                labels.insert("app".to_owned(), json!(draw.pick(&["a", "b", "c"])));
            }
            if draw.chance(40) {
                labels.insert("tier".to_owned(), json!(draw.pick(&["", "x"])));
            }
        }
        Of::Namespaces => {
            if draw.chance(85) {
                labels.insert("ns".to_owned(), json!(draw.pick(&["x", "y"])));
            }
            if draw.chance(40) {
                labels.insert("team".to_owned(), json!(draw.pick(&["", "red"])));
            }
            if draw.chance(4) {
                draw.shows(&[25, 96]);
                labels.insert(NAME.to_owned(), json!(draw.pick(&["x", "forged"])));
            }
        }
    }
    Value::Object(labels)
}

/// A selector; now and then one that cannot be compiled, noted as these statements.
pub(super) fn draw(draw: &mut Draw, of: Of, when_uncompilable: &[u8]) -> Value {
    match draw.weighted(&[20, 40, 30, 10, 5]) {
        0 => {
            draw.shows(&[23]);
            draw.pick(&[
                json!({}),
                json!({"matchLabels": {}}),
                json!({"matchLabels": null, "matchExpressions": []}),
            ])
            .clone()
        }
        1 => json!({"matchLabels": match_labels(draw, of)}),
        2 => json!({"matchExpressions": expressions(draw, of)}),
        3 => {
            draw.shows(&[24]);
            json!({"matchLabels": match_labels(draw, of), "matchExpressions": expressions(draw, of)})
        }
        _ => {
            draw.shows(&[79]);
            draw.shows(when_uncompilable);
            uncompilable(draw, of)
        }
    }
}

fn match_labels(draw: &mut Draw, of: Of) -> Value {
    let mut labels = serde_json::Map::new();
    for _ in 0..draw.between(1, 2).min(draw.between(1, 2)) {
        let (key, value) = (*draw.pick(of.keys()), *draw.pick(of.values()));
        if value.is_empty() {
            draw.shows(&[26]);
        }
        if key == NAME {
            draw.shows(&[25]);
        }
        labels.insert(key.to_owned(), json!(value));
    }
    Value::Object(labels)
}

fn expressions(draw: &mut Draw, of: Of) -> Value {
    (0..draw.between(1, 2))
        .map(|_| expression(draw, of))
        .collect()
}

fn expression(draw: &mut Draw, of: Of) -> Value {
    draw.shows(&[24]);
    let key = *draw.pick(of.keys());
    if key == NAME {
        draw.shows(&[25]);
    }
    match draw.below(4) {
        0 => json!({"key": key, "operator": "Exists"}),
        1 => json!({"key": key, "operator": "DoesNotExist", "values": []}),
        which => {
            let values: Vec<&str> = (0..draw.between(1, 3))
                .map(|_| *draw.pick(of.values()))
                .collect();
            let operator = if which == 2 { "In" } else { "NotIn" };
            json!({"key": key, "operator": operator, "values": values})
        }
    }
}

fn uncompilable(draw: &mut Draw, of: Of) -> Value {
    let key = *draw.pick(of.keys());
    let long = "a".repeat(64);
    draw.pick(&[
        json!({"matchLabels": {key: "-a"}}),
        json!({"matchLabels": {key: "a b"}}),
        json!({"matchLabels": {key: long}}),
        json!({"matchLabels": {key: 1}}),
        json!({"matchLabels": {"a/b/c": "a"}}),
        json!({"matchLabels": {"Upper.example/a": "a"}}),
        json!({"matchLabels": "a=b"}),
        json!({"matchLabels": {}, "matchLabel": {}}),
        json!({"matchExpressions": [{"key": key, "operator": "in", "values": ["a"]}]}),
        json!({"matchExpressions": [{"key": key, "operator": "In", "values": []}]}),
        json!({"matchExpressions": [{"key": key, "operator": "NotIn"}]}),
        json!({"matchExpressions": [{"key": key, "operator": "Exists", "values": ["a"]}]}),
        json!({"matchExpressions": [{"key": key, "operator": "DoesNotExist", "values": ["a"]}]}),
        json!({"matchExpressions": [{"key": key, "operator": "NotIn", "values": ["a_"]}]}),
        json!({"matchExpressions": [{"key": key, "values": ["a"]}]}),
        json!({"matchExpressions": [{"operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": key, "operator": "Exists", "value": "a"}]}),
        json!({"matchExpressions": [null]}),
        json!("app=a"),
        json!([]),
    ])
    .clone()
}
