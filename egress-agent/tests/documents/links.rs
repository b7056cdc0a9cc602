//! Links between pages.

use std::fs;

use crate::page::{self, Page};

/// A line for each relative link that leads nowhere.
pub(crate) fn broken(page: &Page) -> Vec<String> {
    let folder = page::root().join(&page.name);
    let folder = folder.parent().unwrap();
    let mut broken = Vec::new();
    for link in links(&page.text) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (path, heading) = link.split_once('#').unwrap_or((link, ""));
        let target = if path.is_empty() {
            page::root().join(&page.name)
        } else {
            folder.join(path)
        };
        if !target.exists() {
            broken.push(format!("{}: {link} is not there", page.name));
        } else if !heading.is_empty()
            && !has_heading(&fs::read_to_string(&target).unwrap(), heading)
        {
            broken.push(format!("{}: {link} has no such heading", page.name));
        }
    }
    broken
}

/// What stands in `](…)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
}

/// Headings are addressed as GitHub does: lower case, blanks to dashes, no punctuation.
fn has_heading(text: &str, wanted: &str) -> bool {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .any(|line| anchor(line.trim_start_matches('#').trim()) == wanted)
}

fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn headings_are_addressed_as_on_the_web() {
    assert_eq!(anchor("My pod cannot reach…"), "my-pod-cannot-reach");
    assert_eq!(anchor("`egress_ready` is 0"), "egress_ready-is-0");
}
