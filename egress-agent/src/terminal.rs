//! Text for people: at most `WIDTH` columns, aligned, coloured on a terminal only.

use std::io::IsTerminal;

/// Columns of a line.
pub(crate) const WIDTH: usize = 100;

/// Columns before a table.
const INDENT: usize = 2;

/// Columns between the cells of a table.
const GAP: usize = 2;

/// Columns that further lines are indented more than the first, …
const HANG: usize = 4;

/// … unless they stand below the end of a start of at most so many.
const FAR: usize = 40;

/// Columns that the last cell of a table has at least: half an IPv6 address. It is wrapped,
/// the others are cut.
const LAST: usize = 20;

/// Whether escape codes may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// A terminal reads it.
    Ansi,
    /// A file or a pipe does.
    None,
}

/// How a text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// A heading.
    Heading,
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Wrong, or denied.
    Bad,
}

impl Colour {
    /// Colour where `stream` is a terminal, unless `NO_COLOR` says otherwise
    /// (<https://no-color.org>).
    pub fn of(stream: &impl IsTerminal) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if stream.is_terminal() && !plain {
            Self::Ansi
        } else {
            Self::None
        }
    }

    /// The text in a tone.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Heading => "1",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "1;31",
        };
        match self {
            Self::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::None => text.to_owned(),
        }
    }
}

/// `-` for nothing.
pub(crate) fn dash(cell: String) -> String {
    if cell.is_empty() {
        "-".to_owned()
    } else {
        cell
    }
}

/// A line, without blanks at its end.
pub(crate) fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

/// A heading after an empty line.
pub(crate) fn section(out: &mut String, title: &str) {
    out.push('\n');
    line(out, title);
}

/// Aligned columns; under a row its notes. The last column is wrapped, the others are cut.
pub(crate) fn table<const N: usize>(
    out: &mut String,
    head: [&str; N],
    rows: impl Iterator<Item = ([String; N], Vec<String>)>,
) {
    let rows: Vec<_> = rows
        .map(|(row, notes)| (row.map(single_line), notes))
        .collect();
    if rows.is_empty() {
        line(out, "  none");
        return;
    }
    let mut widths = head.map(columns);
    for (row, _) in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(columns(cell));
        }
    }
    narrow(&mut widths);
    of_row(out, &widths, &head.map(str::to_owned));
    for (row, notes) in rows {
        of_row(out, &widths, &row);
        for note in notes {
            wrapped(out, "    ", &note);
        }
    }
}

/// Takes columns from the widest cells until the last one has room.
fn narrow(widths: &mut [usize]) {
    let Some((_, cells)) = widths.split_last_mut() else {
        return;
    };
    while INDENT + cells.iter().map(|width| width + GAP).sum::<usize>() > WIDTH - LAST {
        match cells.iter_mut().max() {
            Some(widest) if *widest > 1 => *widest -= 1,
            _ => return,
        }
    }
}

fn of_row(out: &mut String, widths: &[usize], row: &[String]) {
    let Some((last, cells)) = row.split_last() else {
        return;
    };
    let mut start = " ".repeat(INDENT);
    for (width, cell) in widths.iter().zip(cells) {
        let cell = cut(cell, *width);
        start.push_str(&cell);
        start.push_str(&" ".repeat(width + GAP - columns(&cell)));
    }
    indented(out, &start, columns(&start), last);
}

fn cut(cell: &str, width: usize) -> String {
    if columns(cell) <= width {
        return cell.to_owned();
    }
    cell.chars()
        .take(width.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// Text from a file may hold line breaks; a cell has none.
fn single_line(text: String) -> String {
    if text.contains(char::is_control) {
        text.replace(char::is_control, " ")
    } else {
        text
    }
}

/// `start`, then the words; further lines are indented as far as `start` reaches, or by four more than
/// itself where that is far. A word that is longer than a line is broken.
pub(crate) fn wrapped(out: &mut String, start: &str, text: &str) {
    if columns(start) <= FAR {
        indented(out, start, columns(start), text);
    } else {
        let words = start.trim_start();
        hanging(
            out,
            columns(start) - columns(words),
            &format!("{words} {text}"),
        );
    }
}

/// Words behind `indent` blanks, on further lines four more.
pub(crate) fn hanging(out: &mut String, indent: usize, text: &str) {
    indented(out, &" ".repeat(indent), indent + HANG, text);
}

/// The same of words that have tones.
pub(crate) fn toned(
    out: &mut String,
    colour: Colour,
    indent: usize,
    spans: &[(Option<Tone>, &str)],
) {
    let texts: Vec<&str> = spans.iter().map(|(_, text)| *text).collect();
    let mut plain = String::new();
    hanging(&mut plain, indent, &texts.join(" "));
    if colour == Colour::None {
        out.push_str(&plain);
        return;
    }
    // Escape codes take no columns, so they come last. Wrapping keeps what is no blank, and its order.
    let mut tones = spans
        .iter()
        .flat_map(|(tone, text)| words(text).flat_map(str::chars).map(|_| *tone));
    for wrapped in plain.lines() {
        let bare = wrapped.trim_start();
        out.push_str(wrapped.strip_suffix(bare).unwrap_or_default());
        let mut run: Option<(Option<Tone>, String)> = None;
        for word in bare.split(' ') {
            let tone = tones.by_ref().take(columns(word)).last().flatten();
            match &mut run {
                Some((same, text)) if *same == tone => {
                    text.push(' ');
                    text.push_str(word);
                }
                _ => {
                    if let Some((tone, text)) = run.replace((tone, word.to_owned())) {
                        out.push_str(&of_run(colour, tone, &text));
                        out.push(' ');
                    }
                }
            }
        }
        if let Some((tone, text)) = run {
            out.push_str(&of_run(colour, tone, &text));
        }
        out.push('\n');
    }
}

fn of_run(colour: Colour, tone: Option<Tone>, text: &str) -> String {
    tone.map_or_else(|| text.to_owned(), |tone| colour.paint(tone, text))
}

/// What is between blanks and escape codes.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
}

fn indented(out: &mut String, start: &str, indent: usize, text: &str) {
    let mut current = start.to_owned();
    let mut empty = true;
    for word in words(text) {
        let mut word: Vec<char> = word.chars().collect();
        if !empty && columns(&current) + 1 + word.len() > WIDTH {
            line(out, &current);
            current = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            current.push(' ');
        }
        while columns(&current) + word.len() > WIDTH {
            let rest = word.split_off((WIDTH - columns(&current).min(WIDTH - 1)).min(word.len()));
            current.extend(word);
            line(out, &current);
            current = " ".repeat(indent);
            word = rest;
        }
        current.extend(word);
        empty = false;
    }
    line(out, &current);
}

/// Every character is taken to be one column wide: names and addresses are ASCII.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_start_is_not_hung_under() {
        let mut out = String::new();
        wrapped(&mut out, "  near ", &"word ".repeat(25));
        let far = "n".repeat(60);
        wrapped(&mut out, &format!("  {far}  "), &"word ".repeat(25));
        assert!(out.lines().all(|line| columns(line) <= WIDTH), "{out}");
        for start in ["       word", &format!("  {far} word"), "      word"] {
            assert!(out.contains(&format!("\n{start}")), "{start:?} in\n{out}");
        }
    }

    #[test]
    fn tones_are_of_words_however_these_are_broken() {
        let long = "x".repeat(150);
        let spans = [
            (Some(Tone::Heading), "TO a\x1b[31m pod"),
            (None, long.as_str()),
            (Some(Tone::Bad), "deny"),
        ];
        let mut plain = String::new();
        toned(&mut plain, Colour::None, 2, &spans);
        assert!(plain.lines().all(|line| columns(line) <= WIDTH), "{plain}");
        let mut coloured = String::new();
        toned(&mut coloured, Colour::Ansi, 2, &spans);
        assert!(
            coloured.starts_with("  \x1b[1mTO a [31m pod\x1b[0m\n      xx"),
            "{coloured:?}"
        );
        assert!(
            coloured.ends_with("x \x1b[1;31mdeny\x1b[0m\n"),
            "{coloured:?}"
        );
        let bare = ["\x1b[1m", "\x1b[1;31m", "\x1b[0m"];
        let bare = bare
            .iter()
            .fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(bare, plain);
    }
}
