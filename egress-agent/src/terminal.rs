//! Text for people: at most `WIDTH` columns, aligned, coloured on a terminal only.

use std::io::IsTerminal;

/// Columns of a line.
pub(crate) const WIDTH: usize = 100;

/// Columns before a table.
const INDENT: usize = 2;

/// Columns between the cells of a table.
const GAP: usize = 2;

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
    wrapped(out, &start, last);
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

/// `start`, then the words; further lines are indented as far as `start` reaches.
/// A word that is longer than a line is broken.
pub(crate) fn wrapped(out: &mut String, start: &str, text: &str) {
    indented(out, start, columns(start), text);
}

/// The same, with further lines indented by four.
pub(crate) fn hanging(out: &mut String, start: &str, text: &str) {
    indented(out, start, 4, text);
}

fn indented(out: &mut String, start: &str, indent: usize, text: &str) {
    let mut current = start.to_owned();
    let mut empty = true;
    for word in text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|w| !w.is_empty())
    {
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
