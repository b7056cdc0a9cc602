//! Reads label selectors.

use crate::label::{BadSelector, Selector};
use crate::object::Problem;
use crate::object::field::Field;

/// One thing that cannot be read makes the whole selector uncompilable (S82, S91).
pub(super) fn read(field: &Field<'_, '_>) -> Result<Selector, Problem> {
    field.only(&["matchLabels", "matchExpressions"])?;
    let mut selector = Selector::default();
    if let Some(labels) = field.get("matchLabels")? {
        for (key, value) in labels.entries()? {
            let added = selector.require_label(key, value.string()?);
            added.map_err(|bad| refused(&value, &bad))?;
        }
    }
    if let Some(expressions) = field.get("matchExpressions")? {
        for expression in expressions.items()? {
            expression.only(&["key", "operator", "values"])?;
            let key = expression.require("key")?.string()?;
            let operator = expression.require("operator")?.string()?;
            let list = expression.get("values")?;
            let values = match &list {
                Some(list) => list
                    .items()?
                    .map(|value| value.string())
                    .collect::<Result<Vec<_>, _>>()?,
                None => Vec::new(),
            };
            let added = selector.require(key, operator, &values);
            added.map_err(|bad| refused(&expression, &bad))?;
        }
    }
    Ok(selector)
}

fn refused(field: &Field<'_, '_>, bad: &BadSelector) -> Problem {
    field.problem(bad.to_string())
}
