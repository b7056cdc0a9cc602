//! The status for people: problems first, at most `WIDTH` columns.

use super::{
    MapFill, Pod, Policy, Problem, Ruleset, Source, SourceState, Status, Warning, WatchSource,
};
use crate::terminal::{Colour, Tone, dash, hanging, line, section, table, wrapped};

/// The whole status.
pub fn render(status: &Status, colour: Colour) -> String {
    let Status {
        schema: _,
        version,
        node,
        ready,
        waiting_for,
        problems,
        warnings,
        sources,
        policies,
        pods,
        rulesets,
        maps,
    } = status;
    let mut out = String::new();
    let state = if *ready {
        colour.paint(Tone::Good, "ready")
    } else {
        colour.paint(Tone::Warning, "not ready")
    };
    line(
        &mut out,
        &format!("egress-agent {version} on node {node}: {state}"),
    );
    for reason in waiting_for {
        wrapped(&mut out, "  waiting for ", reason);
    }
    if !problems.is_empty() {
        section(
            &mut out,
            &colour.paint(Tone::Bad, &format!("PROBLEMS ({})", problems.len())),
        );
        for problem in problems {
            of_problem(&mut out, problem);
        }
    }
    if !warnings.is_empty() {
        let title = format!("WARNINGS ({})", warnings.len());
        section(&mut out, &colour.paint(Tone::Warning, &title));
        for Warning {
            kind: _,
            object,
            message,
        } in warnings
        {
            if object.is_empty() {
                wrapped(&mut out, "  ", message);
            } else {
                wrapped(&mut out, "  ", object);
                wrapped(&mut out, "    ", message);
            }
        }
    }
    let bold = |name: &str, count: usize| colour.paint(Tone::Heading, &format!("{name} ({count})"));
    section(&mut out, &bold("PODS", pods.len()));
    of_pods(&mut out, pods);
    section(&mut out, &bold("POLICIES", policies.len()));
    of_policies(&mut out, policies);
    section(&mut out, &bold("SOURCES", sources.len()));
    of_sources(&mut out, sources);
    section(&mut out, &bold("RULESETS", rulesets.len()));
    of_rulesets(&mut out, rulesets);
    section(&mut out, &bold("MAPS", maps.len()));
    of_maps(&mut out, maps);
    out
}

fn of_problem(out: &mut String, problem: &Problem) {
    let Problem {
        kind: _,
        object,
        field,
        file,
        line: number,
        message,
    } = problem;
    let place = match (file, number) {
        (Some(file), Some(number)) => format!("{file}:{number}"),
        (Some(file), None) => file.clone(),
        (None, _) => String::new(),
    };
    let what: Vec<&str> = [
        object.as_str(),
        field.as_deref().unwrap_or(""),
        place.as_str(),
    ]
    .into_iter()
    .filter(|part| !part.is_empty())
    .collect();
    if what.is_empty() {
        // Of a kind that is not heard of: the message names it.
        wrapped(out, "  ", message);
        return;
    }
    hanging(out, 2, &what.join(" "));
    wrapped(out, "    ", message);
}

fn of_pods(out: &mut String, pods: &[Pod]) {
    let rows = pods.iter().map(|pod| {
        let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
        let row = [
            pod.name.clone(),
            pod.state.name().to_owned(),
            dash(pod.interfaces.join(",")),
            dash(pod.ruleset.map(|r| r.to_string()).unwrap_or_default()),
            dash(addresses.join(" ")),
        ];
        let mut notes = Vec::new();
        if !pod.isolated_by.is_empty() {
            notes.push(format!("isolated by {}", pod.isolated_by.join(", ")));
        }
        notes.extend(pod.message.clone());
        (row, notes)
    });
    table(
        out,
        ["NAME", "STATE", "INTERFACE", "RULESET", "ADDRESSES"],
        rows,
    );
}

fn of_policies(out: &mut String, policies: &[Policy]) {
    let rows = policies.iter().map(|policy| {
        let row = [
            policy.name.clone(),
            policy.kind.clone(),
            policy.state.name().to_owned(),
        ];
        (row, policy.errors.clone())
    });
    table(out, ["NAME", "KIND", "STATE"], rows);
}

fn of_sources(out: &mut String, sources: &[Source]) {
    // An agent has files or watches, never both.
    let watches: Vec<&WatchSource> = sources
        .iter()
        .filter_map(|source| match source {
            Source::Watch(watch) => Some(watch),
            Source::File(_) => None,
        })
        .collect();
    if watches.is_empty() {
        of_files(out, sources);
    } else {
        of_watches(out, &watches);
    }
}

fn of_watches(out: &mut String, watches: &[&WatchSource]) {
    let rows = watches.iter().map(|watch| {
        let WatchSource {
            resource,
            synced,
            last_event,
            error,
        } = watch;
        let row = [
            if *synced { "yes" } else { "no" }.to_owned(),
            // Whole seconds, for people.
            dash(last_event.map(|at| format!("{at:.0}")).unwrap_or_default()),
            resource.clone(),
        ];
        (row, error.clone().into_iter().collect())
    });
    table(out, ["SYNCED", "LAST EVENT", "RESOURCE"], rows);
}

fn of_files(out: &mut String, sources: &[Source]) {
    let files = sources.iter().filter_map(|source| match source {
        Source::File(file) => Some(file),
        Source::Watch(_) => None,
    });
    let rows = files.map(|source| {
        let state = match source.state {
            SourceState::Read => "read",
            SourceState::Kept => "kept",
            SourceState::Unreadable => "unreadable",
            SourceState::BeingWritten => "being written",
        };
        // Twelve digits tell versions of one file apart.
        let digest = source
            .sha256
            .as_deref()
            .map(|d| d.chars().take(12).collect())
            .unwrap_or_default();
        let row = [state.to_owned(), dash(digest), source.path.clone()];
        (row, source.error.clone().into_iter().collect())
    });
    table(out, ["STATE", "SHA256", "PATH"], rows);
}

fn of_rulesets(out: &mut String, rulesets: &[Ruleset]) {
    let rows = rulesets.iter().map(|ruleset| {
        let row = [
            ruleset.id.to_string(),
            ruleset.pods.to_string(),
            ruleset.prefixes_v4.to_string(),
            ruleset.prefixes_v6.to_string(),
            ruleset.classes.to_string(),
            ruleset.frontends.to_string(),
            ruleset.sha256.chars().take(12).collect(),
        ];
        (row, Vec::new())
    });
    table(
        out,
        [
            "ID",
            "PODS",
            "IPV4",
            "IPV6",
            "CLASSES",
            "FRONTENDS",
            "SHA256",
        ],
        rows,
    );
}

fn of_maps(out: &mut String, maps: &[MapFill]) {
    let rows = maps.iter().map(|map| {
        let percent = map.entries.saturating_mul(100).checked_div(map.capacity);
        let row = [
            map.name.clone(),
            map.entries.to_string(),
            map.capacity.to_string(),
            percent.map_or_else(|| "-".to_owned(), |p| format!("{p}%")),
        ];
        (row, Vec::new())
    });
    table(out, ["NAME", "ENTRIES", "CAPACITY", "FULL"], rows);
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test may panic"
    )]

    use std::sync::Arc;

    use super::super::{FileSource, PodState, PolicyState, ProblemKind};
    use super::*;
    use crate::terminal::{WIDTH, columns};

    fn file(path: &str) -> Source {
        Source::File(FileSource {
            path: path.to_owned(),
            sha256: Some("0123456789abcdef".repeat(4)),
            state: SourceState::Read,
            error: None,
        })
    }

    fn status() -> Status {
        let mut status = Status::starting("node-1");
        status.version = "1.2.3".to_owned();
        status.problems.push(Problem {
            kind: ProblemKind::Object,
            object: "NetworkPolicy shop/db".to_owned(),
            field: Some("spec.egress[0].to[1].ipBlock.cidr".to_owned()),
            file: Some("/etc/policies/db.yaml".to_owned()),
            line: Some(12),
            message: "\"10.0.0.0/33\" is not a network; the peer matches nothing".to_owned(),
        });
        Arc::make_mut(&mut status.pods).push(Pod {
            name: "shop/web-0".to_owned(),
            addresses: vec!["10.0.0.9".parse().unwrap(), "fd00::9".parse().unwrap()],
            interface: Some("veth1".to_owned()),
            interfaces: vec!["veth1".to_owned()],
            state: PodState::Isolated,
            message: None,
            isolated_by: vec!["shop/db".to_owned(), "shop/dns".to_owned()],
            ruleset: Some(3),
        });
        status.policies.push(Policy {
            kind: "NetworkPolicy".to_owned(),
            name: "shop/db".to_owned(),
            state: PolicyState::PartlyUnreadable,
            errors: vec!["spec.egress[0].to[1].ipBlock.cidr: not a network".to_owned()],
        });
        status.sources.push(file("/etc/policies/db.yaml"));
        status.maps.push(MapFill {
            name: "PEERS".to_owned(),
            entries: 5,
            capacity: 1_000,
        });
        status
    }

    #[test]
    fn problems_come_first_and_columns_are_aligned() {
        assert_eq!(
            render(&status(), Colour::None),
            "\
egress-agent 1.2.3 on node node-1: not ready
  waiting for the first look at the sources

PROBLEMS (1)
  NetworkPolicy shop/db spec.egress[0].to[1].ipBlock.cidr /etc/policies/db.yaml:12
    \"10.0.0.0/33\" is not a network; the peer matches nothing

PODS (1)
  NAME        STATE     INTERFACE  RULESET  ADDRESSES
  shop/web-0  isolated  veth1      3        10.0.0.9 fd00::9
    isolated by shop/db, shop/dns

POLICIES (1)
  NAME     KIND           STATE
  shop/db  NetworkPolicy  partly-unreadable
    spec.egress[0].to[1].ipBlock.cidr: not a network

SOURCES (1)
  STATE  SHA256        PATH
  read   0123456789ab  /etc/policies/db.yaml

RULESETS (0)
  none

MAPS (1)
  NAME   ENTRIES  CAPACITY  FULL
  PEERS  5        1000      0%
"
        );
    }

    #[test]
    fn kinds_of_a_cluster_say_when_they_were_last_heard_of_and_why_not() {
        let mut status = status();
        let watch = |resource: &str, synced, error: Option<&str>| {
            Source::Watch(WatchSource {
                resource: resource.to_owned(),
                synced,
                last_event: synced.then(|| "2026-11-21T09:00:00.123456Z".parse().unwrap()),
                error: error.map(str::to_owned),
            })
        };
        status.sources = vec![
            watch("networkpolicies", true, None),
            watch("pods", false, Some("forbidden")),
        ];
        let text = render(&status, Colour::None);
        assert!(
            text.contains(
                "\
SOURCES (2)
  SYNCED  LAST EVENT            RESOURCE
  yes     2026-11-21T09:00:00Z  networkpolicies
  no      -                     pods
    forbidden
"
            ),
            "{text}"
        );
    }

    #[test]
    fn no_line_is_longer_than_the_width_whatever_the_names() {
        let mut status = status();
        let long = "x".repeat(253);
        status.problems[0].message = format!("{long} {}", "word ".repeat(60));
        let pods = Arc::make_mut(&mut status.pods);
        pods[0].name = format!("{long}/{long}");
        pods[0].interfaces = vec![long.clone(); 3];
        pods[0].isolated_by = vec![long.clone(); 3];
        status.policies[0].name.clone_from(&long);
        status.policies[0].kind.clone_from(&long);
        status.sources[0] = file(&format!("/{long}"));
        let text = render(&status, Colour::None);
        for line in text.lines() {
            assert!(columns(line) <= WIDTH, "{} columns: {line}", columns(line));
        }
        // What is wrapped is not lost.
        assert!(
            text.replace(['\n', ' '], "")
                .contains(&format!("read0123456789ab/{long}"))
        );
    }

    #[test]
    fn escape_codes_are_for_terminals_and_never_from_names() {
        let mut status = status();
        Arc::make_mut(&mut status.pods)[0].name = "a/\x1b[31mweb".to_owned();
        status.problems[0].message = "bad \x1b[31m text".to_owned();
        assert!(!render(&status, Colour::None).contains('\x1b'));
        assert!(render(&status, Colour::Ansi).contains("\x1b[1;31mPROBLEMS (1)\x1b[0m"));
    }

    #[test]
    fn a_ready_agent_without_problems_has_no_such_section() {
        let mut status = status();
        status.ready = true;
        status.waiting_for.clear();
        status.problems.clear();
        let text = render(&status, Colour::None);
        assert!(
            text.starts_with("egress-agent 1.2.3 on node node-1: ready\n\nPODS (1)\n"),
            "{text}"
        );
    }
}
