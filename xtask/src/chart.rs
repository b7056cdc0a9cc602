//! The Helm chart, and what is derived from it.
//!
//! * [`install`]: `deploy/install.yaml`, for clusters without helm.
//! * [`values`]: the table of values in `docs/install.md`.
//! * [`privileges`]: the most that the objects may ask for.
//!
//! `cargo xtask render` writes what is derived; `cargo xtask check` fails when it differs.

mod helm;
mod install;
mod privileges;
#[cfg(test)]
mod tests;
mod values;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use self::helm::Helm;
use crate::workspace::Workspace;

/// The chart's folder in the workspace.
const CHART: &str = "deploy/chart";

const NO_HELM: &str = "there is no helm on PATH (`cargo xtask cluster build` builds one)";

/// A file that is derived from the chart, in whole or in part.
struct Derived {
    path: PathBuf,
    text: String,
}

impl Derived {
    fn differs(&self) -> Result<bool> {
        let there = fs::exists(&self.path).context("looking for a derived file")?;
        Ok(!there || read(&self.path)? != self.text)
    }

    fn write(&self) -> Result<()> {
        fs::write(&self.path, &self.text)
            .with_context(|| format!("writing {}", self.path.display()))
    }
}

/// `cargo xtask render`
pub(crate) fn render(workspace: &Workspace) -> Result<ExitCode> {
    let Some(helm) = Helm::find(workspace)? else {
        bail!("{NO_HELM}");
    };
    for file in [table(workspace)?, manifest(workspace, &helm)?] {
        if file.differs()? {
            file.write()?;
            println!("{}", workspace.shown(&file.path));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails when the chart does not fit what surrounds it. Returns why a part could not be
/// checked, if one could not.
pub(crate) fn check(workspace: &Workspace) -> Result<Option<String>> {
    version(workspace)?;
    let mut wrong = privileges::excess(&objects(&read(&workspace.root.join(install::FILE))?)?);
    let helm = Helm::find(workspace)?;
    let mut derived = vec![table(workspace)?];
    if let Some(helm) = &helm {
        helm.lint(&workspace.root.join(CHART))?;
        derived.push(manifest(workspace, helm)?);
    }
    for file in derived {
        if file.differs()? {
            let shown = workspace.shown(&file.path);
            wrong.push(format!("{shown} is not what `cargo xtask render` writes"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(helm.is_none().then(|| {
        format!(
            "{NO_HELM}; {} was not compared with the chart",
            install::FILE
        )
    }))
}

/// Why the chart cannot be rendered here, if it cannot.
pub(crate) fn obstacle(workspace: &Workspace) -> Result<Option<String>> {
    let helm = Helm::find(workspace)?;
    Ok(helm.is_none().then(|| NO_HELM.to_owned()))
}

/// The chart's default image is the agent of this version.
fn version(workspace: &Workspace) -> Result<()> {
    let chart: Value = yaml(&read(&workspace.root.join(CHART).join("Chart.yaml"))?)?;
    let (own, found) = (env!("CARGO_PKG_VERSION"), chart.get("appVersion"));
    ensure!(
        found.and_then(Value::as_str) == Some(own),
        "the appVersion of {CHART}/Chart.yaml is {found:?}, and the workspace's version {own}"
    );
    Ok(())
}

fn table(workspace: &Workspace) -> Result<Derived> {
    let path = workspace.root.join(values::DOCUMENT);
    let rows = values::rows(&read(&workspace.root.join(CHART).join("values.yaml"))?)?;
    let text = values::insert(&read(&path)?, &rows)?;
    Ok(Derived { path, text })
}

fn manifest(workspace: &Workspace, helm: &Helm) -> Result<Derived> {
    Ok(Derived {
        path: workspace.root.join(install::FILE),
        text: install::render(helm, &workspace.root.join(CHART))?,
    })
}

/// Every document of a text that is not empty.
fn objects(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("reading YAML")?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

fn yaml(text: &str) -> Result<Value> {
    serde_saphyr::from_str(text).context("reading YAML")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
