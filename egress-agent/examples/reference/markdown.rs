//! The little Markdown that both references need.

/// The line under a title that says where a page comes from.
pub(super) const GENERATED: &str = "<!-- Written by `cargo xtask docs`; edits are overwritten, and `cargo xtask check` finds them. -->\n";

/// A table; cells may hold anything but a line break.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(header.iter().map(ToString::to_string).collect());
    text.push_str(&line(header.iter().map(|_| "---".to_owned()).collect()));
    for row in rows {
        text.push_str(&line(
            row.iter().map(|cell| cell.replace('|', "\\|")).collect(),
        ));
    }
    text
}

/// As code.
pub(super) fn code(text: &str) -> String {
    format!("`{text}`")
}

/// Paragraphs on one line, as a table's cell wants them; Markdown's own signs stay text.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('*', "\\*").replace('<', "\\<")
}
