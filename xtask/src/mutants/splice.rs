//! Finding a piece of source, however it is broken into lines.

use anyhow::{Result, bail};

/// `text` with `after` where `before` stands. White space does not count, so that a reformatted
/// source is still the same; anything else must stand there exactly once.
pub(super) fn splice(text: &str, before: &str, after: &str) -> Result<String> {
    let solid: Vec<(usize, char)> = text
        .char_indices()
        .filter(|(_, c)| !c.is_whitespace())
        .collect();
    let wanted: Vec<char> = before.chars().filter(|c| !c.is_whitespace()).collect();
    if wanted.is_empty() {
        bail!("nothing to look for");
    }
    let mut places = solid
        .windows(wanted.len())
        .filter(|window| window.iter().map(|(_, c)| c).eq(&wanted));
    let (Some(place), rest) = (places.next(), places.count()) else {
        bail!("the source no longer has {before:?}");
    };
    if rest > 0 {
        bail!("the source has {before:?} {} times", rest + 1);
    }
    let (Some((from, _)), Some((last, c))) = (place.first(), place.last()) else {
        bail!("nothing to look for");
    };
    let (head, tail) = (text.get(..*from), text.get(last + c.len_utf8()..));
    Ok([head.unwrap_or_default(), after, tail.unwrap_or_default()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_does_not_count() -> Result<()> {
        let text = "fn f() {\n    if a\n        && b {\n    }\n}\n";
        let mutated = splice(text, "if a && b {", "if a || b {")?;
        assert_eq!(mutated, "fn f() {\n    if a || b {\n    }\n}\n");
        Ok(())
    }

    #[test]
    fn what_is_not_there_once_is_refused() {
        assert!(splice("a b", "c", "d").is_err());
        assert!(splice("a a", "a", "d").is_err());
        assert!(splice("a", " ", "d").is_err());
    }
}
