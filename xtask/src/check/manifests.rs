//! Every member inherits the workspace's lints: a strict lint that no crate inherits
//! checks nothing.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// One line for each member whose manifest lacks `[lints] workspace = true`.
pub(super) fn without_lints(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata
        .get("packages")
        .and_then(Value::as_array)
        .context("cargo metadata has no packages")?;
    let mut found = Vec::new();
    for package in packages {
        let manifest = package
            .get("manifest_path")
            .and_then(Value::as_str)
            .context("a package has no manifest_path")?;
        let text = fs::read_to_string(manifest).with_context(|| format!("reading {manifest}"))?;
        if !inherits_lints(&text) {
            found.push(format!(
                "{manifest}: no `[lints]` table with `workspace = true`"
            ));
        }
    }
    Ok(found)
}

/// Reads the one form this workspace uses, rather than all of TOML.
fn inherits_lints(manifest: &str) -> bool {
    manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "[lints]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .any(|line| line == "workspace = true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lints_table_must_say_workspace() {
        assert!(inherits_lints(
            "[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n"
        ));
        assert!(!inherits_lints("[package]\nname = \"x\"\n"));
        assert!(!inherits_lints("[lints.rust]\nunsafe_code = \"deny\"\n"));
    }

    #[test]
    fn another_tables_workspace_line_does_not_count() {
        assert!(!inherits_lints(
            "[lints]\n[dependencies.anyhow]\nworkspace = true\n"
        ));
    }
}
