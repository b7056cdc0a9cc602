//! The kernel's modules: which are needed, and in which order they load.
//!
//! Packages do not carry `modules.dep`, which `depmod` makes when a kernel is installed. Each
//! module names the ones it needs itself, in its `.modinfo` section.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// What the harness and the agent use. A kernel that has one of them built in has no such
/// file.
const WANTED: [&str; 7] = [
    // Pods' interfaces.
    "veth",
    // Frames of any shape, in `kernel`.
    "tun",
    // Attaching without TCX.
    "sch_ingress",
    "cls_bpf",
    // Other owners' filters, in `neighbours`.
    "cls_u32",
    "act_mirred",
    // The connections that are older than the hooks.
    "nf_conntrack_netlink",
];

/// A module's file name and content, uncompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) file: String,
    pub(super) content: Vec<u8>,
}

/// Each behind those it depends on.
pub(super) fn in_order(root: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    collect(root, &mut files)?;
    if files.is_empty() {
        bail!("there are no modules below {}", root.display());
    }
    order(&WANTED, |name| {
        files.get(name).map(|path| read(path)).transpose()
    })
}

/// Depth first, so that dependencies come out first. `read` is `None` for what is built in.
fn order(
    wanted: &[&str],
    mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>>,
) -> Result<Vec<Module>> {
    enum Todo {
        Visit(String),
        Emit(Module),
    }
    let mut todo: Vec<Todo> = wanted
        .iter()
        .rev()
        .map(|name| Todo::Visit((*name).to_owned()))
        .collect();
    let mut seen = Vec::new();
    let mut ordered = Vec::new();
    while let Some(next) = todo.pop() {
        match next {
            Todo::Emit(module) => ordered.push(module),
            Todo::Visit(name) if seen.contains(&name) => {}
            Todo::Visit(name) => {
                let content = read(&name)?;
                seen.push(name.clone());
                let Some(content) = content else { continue };
                let needed = depends(&content);
                todo.push(Todo::Emit(Module {
                    file: format!("{name}.ko"),
                    content,
                }));
                todo.extend(needed.into_iter().map(Todo::Visit));
            }
        }
    }
    Ok(ordered)
}

/// The `depends=a,b` of the `.modinfo` section, whose strings end in zero bytes.
fn depends(module: &[u8]) -> Vec<String> {
    module
        .split(|byte| *byte == 0)
        .find_map(|text| text.strip_prefix(b"depends="))
        .map(String::from_utf8_lossy)
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(module_name)
        .collect()
}

/// Files may be written with dashes, the kernel's own names never are.
fn module_name(name: &str) -> String {
    name.replace('-', "_")
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = entry.file_name().to_str()
            && let Some((name, "" | ".xz")) = name.split_once(".ko")
        {
            files.insert(module_name(name), path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz")
            .args(["--decompress", "--stdout"])
            .arg(path)
            .output()
            .context("starting xz (package xz-utils)")?;
        if !output.status.success() {
            bail!(
                "xz of {}: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(output.stdout)
    } else {
        fs::read(path).with_context(|| format!("reading {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &str) -> Vec<u8> {
        format!("\x7fELF\0license=GPL\0depends={depends}\0retpoline=Y\0").into_bytes()
    }

    #[test]
    fn a_module_comes_behind_what_it_depends_on_and_once() -> Result<()> {
        let modules = BTreeMap::from([
            ("a", module("c,b-x")),
            ("b_x", module("c")),
            ("c", module("")),
        ]);
        let ordered = order(&["a", "built_in", "c"], |name| {
            Ok(modules.get(name).cloned())
        })?;
        let names: Vec<&str> = ordered.iter().map(|module| module.file.as_str()).collect();
        assert_eq!(names, ["c.ko", "b_x.ko", "a.ko"]);
        Ok(())
    }

    #[test]
    fn a_module_without_the_line_depends_on_nothing() {
        assert!(depends(b"\x7fELF\0license=GPL\0").is_empty());
        assert!(depends(&module("")).is_empty());
    }
}
