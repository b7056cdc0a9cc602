//! What libtest prints, line by line.
//!
//! The lines are stable in practice and the only stable interface there is: libtest's
//! JSON needs a nightly compiler.

/// One line that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// `test result: ok. 3 passed; …`: one of them ends each test program.
    Result { passed: u64, failed: u64 },
    /// `test NAME ... ignored, REASON`
    Ignored {
        name: &'a str,
        reason: Option<&'a str>,
    },
    /// `test NAME ... FAILED`
    Failed { name: &'a str },
}

/// `None` for a line that is none of these, such as a test's own output.
pub(super) fn parse(line: &str) -> Option<Line<'_>> {
    let rest = line.trim_end().strip_prefix("test ")?;
    if let Some(result) = rest.strip_prefix("result: ") {
        let (_, counts) = result.split_once(". ")?;
        return Some(Line::Result {
            passed: count(counts, "passed")?,
            failed: count(counts, "failed")?,
        });
    }
    let (name, outcome) = rest.rsplit_once(" ... ")?;
    match outcome {
        "FAILED" => Some(Line::Failed { name }),
        "ignored" => Some(Line::Ignored { name, reason: None }),
        _ => outcome
            .strip_prefix("ignored, ")
            .map(|reason| Line::Ignored {
                name,
                reason: Some(reason),
            }),
    }
}

/// The number before a word, in `3 passed; 0 failed; …`.
fn count(counts: &str, word: &str) -> Option<u64> {
    counts
        .split(';')
        .filter_map(|part| part.trim().split_once(' '))
        .find(|(_, name)| *name == word)
        .and_then(|(number, _)| number.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_closing_line() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.05s";
        assert_eq!(
            parse(line),
            Some(Line::Result {
                passed: 12,
                failed: 2
            })
        );
    }

    #[test]
    fn an_ignored_test_is_named_with_its_reason() {
        assert_eq!(
            parse("test datapath::loads ... ignored, needs root"),
            Some(Line::Ignored {
                name: "datapath::loads",
                reason: Some("needs root")
            })
        );
        assert_eq!(
            parse("test datapath::loads ... ignored"),
            Some(Line::Ignored {
                name: "datapath::loads",
                reason: None
            })
        );
    }

    #[test]
    fn a_doc_tests_name_may_have_spaces() {
        assert_eq!(
            parse("test src/lib.rs - abi (line 3) ... FAILED"),
            Some(Line::Failed {
                name: "src/lib.rs - abi (line 3)"
            })
        );
    }

    #[test]
    fn other_output_is_passed_over() {
        assert_eq!(parse("test a::b ... ok"), None);
        assert_eq!(parse("running 3 tests"), None);
        assert_eq!(parse("test result of something else"), None);
    }
}
