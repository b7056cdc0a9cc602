//! Which crates may reach which, over normal dependencies.
//!
//! A procedural macro runs in the compiler: it may be reached, what it uses in turn is
//! not linked and does not count. Neither do build and dev dependencies.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// What egress-core must stay free of: I/O, clocks, threads, and everything that brings
/// them. A trailing `*` stands for any ending.
const IMPURE: &[&str] = &[
    "async-*",
    "aya*",
    "axum*",
    "chrono",
    "clap*",
    "crossbeam*",
    "egress-agent",
    "futures*",
    "getrandom",
    "hyper*",
    "inotify*",
    "kube",
    "kube-*",
    "mio",
    "nix",
    "parking_lot*",
    "rand*",
    "rayon*",
    "reqwest",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "tokio*",
    "tower*",
    "tracing*",
];

/// The boundaries of this workspace.
pub(super) const RULES: &[Rule] = &[
    Rule {
        from: "egress-core",
        limit: Limit::Never(IMPURE),
        because: "it has no I/O, no clock and no threads",
    },
    Rule {
        from: "egress-oracle",
        limit: Limit::Never(&["egress-*"]),
        because: "a second opinion must not share code with the first",
    },
    Rule {
        from: "egress-common",
        limit: Limit::Only(&["zerocopy", "zerocopy-derive"]),
        because: "it is compiled for the kernel too",
    },
];

/// One boundary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    from: &'static str,
    limit: Limit,
    because: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Limit {
    /// None of these may be reached.
    Never(&'static [&'static str]),
    /// Nothing but these may be reached.
    Only(&'static [&'static str]),
}

impl Rule {
    /// One line for each crate that is reached and must not be, with the way to it.
    pub(super) fn broken(&self, metadata: &Value) -> Result<Vec<String>> {
        let graph = Graph::parse(metadata)?;
        let reached = graph
            .reached(self.from)
            .with_context(|| format!("the workspace has no crate {}", self.from))?;
        Ok(reached
            .into_iter()
            .filter(|(name, _)| !self.limit.admits(name))
            .map(|(name, way)| {
                format!(
                    "{} must not reach {name}, because {}: {}",
                    self.from,
                    self.because,
                    way.join(" -> ")
                )
            })
            .collect())
    }
}

impl Limit {
    fn admits(self, name: &str) -> bool {
        match self {
            Self::Never(banned) => !banned.iter().any(|pattern| matches(pattern, name)),
            Self::Only(allowed) => allowed.contains(&name),
        }
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// The resolved packages, by cargo's package id.
struct Graph<'a> {
    names: BTreeMap<&'a str, &'a str>,
    macros: BTreeSet<&'a str>,
    normal: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Graph<'a> {
    fn parse(metadata: &'a Value) -> Result<Self> {
        let mut names = BTreeMap::new();
        let mut macros = BTreeSet::new();
        for package in list(metadata, "packages")? {
            let id = text(package, "id")?;
            names.insert(id, text(package, "name")?);
            if list(package, "targets")?.iter().any(is_macro) {
                macros.insert(id);
            }
        }
        let resolve = metadata
            .get("resolve")
            .context("cargo metadata has no resolve")?;
        let mut normal = BTreeMap::new();
        for node in list(resolve, "nodes")? {
            let mut targets = Vec::new();
            for dependency in list(node, "deps")? {
                if list(dependency, "dep_kinds")?.iter().any(is_normal) {
                    targets.push(text(dependency, "pkg")?);
                }
            }
            normal.insert(text(node, "id")?, targets);
        }
        Ok(Self {
            names,
            macros,
            normal,
        })
    }

    /// Every crate reached, with the names on a shortest way; `None` if `from` is not there.
    fn reached(&self, from: &str) -> Option<BTreeMap<&'a str, Vec<&'a str>>> {
        let (start, name) = self.names.iter().find(|(_, name)| **name == from)?;
        let mut seen = BTreeSet::from([*start]);
        let mut found = BTreeMap::new();
        let mut frontier = vec![(*start, vec![*name])];
        while !frontier.is_empty() {
            let mut next = Vec::new();
            for (id, way) in frontier {
                for target in self.normal.get(id).into_iter().flatten() {
                    let Some(name) = self.names.get(target) else {
                        continue;
                    };
                    if !seen.insert(*target) {
                        continue;
                    }
                    let mut way = way.clone();
                    way.push(*name);
                    found.entry(*name).or_insert_with(|| way.clone());
                    if !self.macros.contains(target) {
                        next.push((*target, way));
                    }
                }
            }
            frontier = next;
        }
        Some(found)
    }
}

fn is_macro(target: &Value) -> bool {
    target
        .get("kind")
        .and_then(Value::as_array)
        .is_some_and(|kinds| kinds.iter().any(|kind| kind == "proc-macro"))
}

/// Cargo writes a normal dependency's kind as null.
fn is_normal(kind: &Value) -> bool {
    kind.get("kind").is_some_and(Value::is_null)
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value
        .get(key)
        .and_then(Value::as_array)
        .with_context(|| format!("cargo metadata: no list {key}"))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value
        .get(key)
        .and_then(Value::as_str)
        .with_context(|| format!("cargo metadata: no text {key}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A package, and what it depends on: name and cargo's kind, `None` for a normal one.
    type Package<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);

    fn metadata(packages: &[Package<'_>]) -> Value {
        let list: Vec<Value> = packages
            .iter()
            .map(|(name, _)| {
                let kind = if name.ends_with("-derive") { "proc-macro" } else { "lib" };
                json!({ "id": format!("id of {name}"), "name": name, "targets": [{ "kind": [kind] }] })
            })
            .collect();
        let nodes: Vec<Value> = packages
            .iter()
            .map(|(name, dependencies)| {
                let deps: Vec<Value> = dependencies
                    .iter()
                    .map(|(to, kind)| {
                        json!({ "pkg": format!("id of {to}"), "dep_kinds": [{ "kind": kind }] })
                    })
                    .collect();
                json!({ "id": format!("id of {name}"), "deps": deps })
            })
            .collect();
        json!({ "packages": list, "resolve": { "nodes": nodes } })
    }

    fn rule(from: &str) -> Result<Rule> {
        RULES
            .iter()
            .copied()
            .find(|rule| rule.from == from)
            .with_context(|| format!("no rule for {from}"))
    }

    #[test]
    fn core_must_not_reach_the_runtime_however_far_away() -> Result<()> {
        let metadata = metadata(&[
            ("egress-core", &[("store", None)]),
            ("store", &[("tokio-util", None)]),
            ("tokio-util", &[]),
        ]);
        assert_eq!(
            rule("egress-core")?.broken(&metadata)?,
            [
                "egress-core must not reach tokio-util, because it has no I/O, no clock and no threads: \
              egress-core -> store -> tokio-util"
            ]
        );
        Ok(())
    }

    #[test]
    fn dev_and_build_dependencies_are_not_linked_and_do_not_count() -> Result<()> {
        let metadata = metadata(&[
            (
                "egress-core",
                &[("tokio", Some("dev")), ("aya-build", Some("build"))],
            ),
            ("tokio", &[]),
            ("aya-build", &[]),
        ]);
        assert!(rule("egress-core")?.broken(&metadata)?.is_empty());
        Ok(())
    }

    #[test]
    fn a_dependency_that_is_both_dev_and_normal_counts() -> Result<()> {
        let mut metadata = metadata(&[("egress-core", &[("tokio", Some("dev"))]), ("tokio", &[])]);
        let kinds = metadata
            .pointer_mut("/resolve/nodes/0/deps/0/dep_kinds")
            .and_then(Value::as_array_mut)
            .context("the fake has changed")?;
        kinds.push(json!({ "kind": null }));
        assert_eq!(rule("egress-core")?.broken(&metadata)?.len(), 1);
        Ok(())
    }

    #[test]
    fn the_oracle_must_not_reach_core_nor_common() -> Result<()> {
        let metadata = metadata(&[
            ("egress-oracle", &[("ipnet", None), ("egress-core", None)]),
            ("ipnet", &[]),
            ("egress-core", &[("egress-common", None)]),
            ("egress-common", &[]),
        ]);
        assert_eq!(rule("egress-oracle")?.broken(&metadata)?.len(), 2);
        Ok(())
    }

    #[test]
    fn common_reaches_nothing_but_zerocopy() -> Result<()> {
        let fine = metadata(&[
            ("egress-common", &[("zerocopy", None)]),
            ("zerocopy", &[("zerocopy-derive", None)]),
            // Runs in the compiler, so what it uses is nobody's concern.
            ("zerocopy-derive", &[("syn", None)]),
            ("syn", &[]),
        ]);
        assert!(rule("egress-common")?.broken(&fine)?.is_empty());
        let broken = metadata(&[("egress-common", &[("bitflags", None)]), ("bitflags", &[])]);
        assert_eq!(rule("egress-common")?.broken(&broken)?.len(), 1);
        Ok(())
    }

    #[test]
    fn a_rule_about_a_crate_that_is_gone_is_an_error() -> Result<()> {
        assert!(rule("egress-core")?.broken(&metadata(&[])).is_err());
        Ok(())
    }

    #[test]
    fn a_star_stands_for_any_ending_and_nothing_else_does() {
        assert!(matches("kube-*", "kube-client"));
        assert!(!matches("kube-*", "kubelet-api"));
        assert!(!matches("kube", "kube-client"));
    }
}
