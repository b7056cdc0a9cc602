//! A Markdown page, cut into what can be checked.

use std::fs;
use std::path::{Path, PathBuf};

/// One page.
pub(crate) struct Page {
    /// Its path below the root of the repository.
    pub(crate) name: String,
    /// The whole of it.
    pub(crate) text: String,
    /// Its code, in order.
    pub(crate) parts: Vec<Part>,
}

/// A piece of code in a page; numbers are of lines, from 1.
pub(crate) enum Part {
    /// A line of a fenced block to be typed (`sh`, `console`); one that goes on behind `\` is one.
    Line { text: String, number: usize },
    /// Between backticks.
    Span { text: String, number: usize },
}

/// Below `docs/`, but for those who change the agent: they speak of other programs' flags too.
const FOR_DEVELOPERS: [&str; 2] = ["docs/performance.md", "docs/semantics.md"];

/// The pages that users read.
pub(crate) fn all() -> Vec<Page> {
    let root = root();
    let mut files = vec![
        root.join("README.md"),
        root.join("CHANGELOG.md"),
        root.join("SECURITY.md"),
        root.join("deploy/README.md"),
    ];
    collect(&root.join("docs"), &mut files);
    files
        .into_iter()
        .filter(|file| file.exists())
        .map(|file| {
            let name = file.strip_prefix(&root).unwrap().display().to_string();
            Page::new(name, fs::read_to_string(&file).unwrap())
        })
        .filter(|page| !FOR_DEVELOPERS.contains(&page.name.as_str()))
        .collect()
}

/// One of them.
pub(crate) fn of(name: &str) -> Page {
    all().into_iter().find(|page| page.name == name).unwrap()
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
}

impl Page {
    fn new(name: String, text: String) -> Self {
        let parts = parts(&text, Inside::Prose);
        Self { name, text, parts }
    }

    /// A page that is code alone.
    pub(crate) fn of_code(name: &str, text: &str) -> Self {
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            parts: parts(text, Inside::Commands),
        }
    }
}

/// Where in a page a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Prose,
    Commands,
    /// A fenced block of another language: output, objects.
    Other,
}

fn parts(text: &str, mut inside: Inside) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut begun: Option<(String, usize)> = None;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if let Some(language) = line.trim_start().strip_prefix("```") {
            inside = match (inside, language) {
                (Inside::Prose, "sh" | "console") => Inside::Commands,
                (Inside::Prose, _) => Inside::Other,
                (Inside::Commands | Inside::Other, _) => Inside::Prose,
            };
            continue;
        }
        if inside == Inside::Other {
            continue;
        }
        if inside == Inside::Prose {
            let spans = line.split('`').skip(1).step_by(2);
            parts.extend(spans.map(|text| Part::Span {
                text: text.to_owned(),
                number,
            }));
            continue;
        }
        let (mut whole, number) = begun.take().unwrap_or((String::new(), number));
        if let Some(line) = line.strip_suffix('\\') {
            whole.push_str(line);
            begun = Some((whole, number));
        } else {
            whole.push_str(line);
            parts.push(Part::Line {
                text: whole,
                number,
            });
        }
    }
    parts
}

#[test]
fn code_is_told_from_prose() {
    let text = "Say `a b`, or:\n\n```sh\nc \\\n  d\n```\n\n`e`\n```text\nf\n```\n";
    let found: Vec<(String, usize)> = parts(text, Inside::Prose)
        .into_iter()
        .map(|part| match part {
            Part::Line { text, number } | Part::Span { text, number } => (text, number),
        })
        .collect();
    let wanted = [("a b", 1), ("c   d", 4), ("e", 8)];
    assert_eq!(
        found,
        wanted.map(|(text, number)| (text.to_owned(), number))
    );
}
