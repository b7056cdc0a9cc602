//! `metadata` of an object, with the API's defaults (S96).

use super::field::Field;
use super::{Labels, Name, Problem};

/// The namespace of a namespaced object that names none (S96).
const DEFAULT_NAMESPACE: &str = "default";

/// `metadata.name`. An empty name is none.
pub(crate) fn name(root: &Field<'_, '_>) -> Result<String, Problem> {
    let metadata = root.require("metadata")?;
    let name = metadata.require("name")?;
    match name.string()? {
        "" => Err(name.problem("is empty")),
        text => Ok(text.to_owned()),
    }
}

/// `metadata.namespace`, `default` when absent or empty (S96).
pub(crate) fn namespace(root: &Field<'_, '_>) -> Result<String, Problem> {
    let Some(metadata) = root.get("metadata")? else {
        return Ok(DEFAULT_NAMESPACE.to_owned());
    };
    let text = metadata.text("namespace")?.filter(|text| !text.is_empty());
    Ok(text.unwrap_or(DEFAULT_NAMESPACE).to_owned())
}

/// Namespace and name of a namespaced object.
pub(super) fn full_name(root: &Field<'_, '_>) -> Result<Name, Problem> {
    Ok(Name::new(namespace(root)?, name(root)?))
}

/// `metadata.labels`.
pub(super) fn labels(root: &Field<'_, '_>) -> Result<Labels, Problem> {
    let Some(metadata) = root.get("metadata")? else {
        return Ok(Labels::new());
    };
    Ok(metadata
        .get("labels")?
        .map(|labels| labels.labels())
        .transpose()?
        .unwrap_or_default())
}

/// One of `metadata.labels`, whatever the others are.
pub(super) fn label(root: &Field<'_, '_>, key: &str) -> Result<Option<String>, Problem> {
    text_of(root, "labels", key)
}

/// One of `metadata.annotations`, whatever the others are.
pub(super) fn annotation(root: &Field<'_, '_>, key: &str) -> Result<Option<String>, Problem> {
    text_of(root, "annotations", key)
}

fn text_of(root: &Field<'_, '_>, map: &str, key: &str) -> Result<Option<String>, Problem> {
    let Some(metadata) = root.get("metadata")? else {
        return Ok(None);
    };
    let Some(map) = metadata.get(map)? else {
        return Ok(None);
    };
    Ok(map.text(key)?.map(str::to_owned))
}
