//! On which line a field stands.
//!
//! Wanted only for fields that have a problem, so the text is read again then, rather than
//! every field's line remembered always.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser};

/// Where to look: the document's place in the text (`Document::index`) and the field, as a
/// path: `spec.egress[0].to[1].ipBlock.cidr`.
pub(super) type Wanted<'a> = (usize, &'a str);

/// The line of each wanted field, or of the nearest field above it that the text has;
/// `None` when the text does not reach its document.
pub(super) fn find(text: &str, wanted: &[Wanted<'_>]) -> Vec<Option<usize>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut search = Search {
        found: vec![None; wanted.len()],
        stack: Vec::new(),
    };
    let mut begun = 0_usize;
    let mut parser = Parser::new_from_str(text);
    // A text that does not parse to its end is searched up to there.
    while let Some(Ok((event, span))) = parser.next_event() {
        if let Event::DocumentStart(_) = event {
            let here = wanted
                .iter()
                .enumerate()
                .filter(|(_, (document, _))| *document == begun)
                .map(|(id, (_, path))| Want { id, rest: path })
                .collect();
            begun += 1;
            search.stack.clear();
            search.stack.push(Frame::Value(here));
        } else {
            search.on(&event, span.start.line());
        }
    }
    search.found
}

/// A wanted field below some node.
#[derive(Clone, Copy)]
struct Want<'a> {
    id: usize,
    /// The path from that node on.
    rest: &'a str,
}

/// What the next event belongs to.
enum Frame<'a> {
    /// The one value that is to come, of the document or of a key.
    Value(Vec<Want<'a>>),
    /// A mapping: the next scalar is a key.
    Mapping(Vec<Want<'a>>),
    /// A sequence: who is wanted, by index, and the index of the next item.
    Sequence(BTreeMap<usize, Vec<Want<'a>>>, usize),
    /// A key that is a collection: of no interest.
    Skip,
}

struct Search<'a> {
    found: Vec<Option<usize>>,
    stack: Vec<Frame<'a>>,
}

impl<'a> Search<'a> {
    fn on(&mut self, event: &Event<'_>, line: usize) {
        match event {
            Event::Scalar(text, ..) => {
                if let Some(Frame::Mapping(wants)) = self.stack.last() {
                    let below: Vec<_> = wants.iter().filter_map(|want| want.field(text)).collect();
                    self.hit(&below, line);
                    self.stack.push(Frame::Value(below));
                } else {
                    self.begin(line);
                }
            }
            Event::Alias(_) => {
                if let Some(Frame::Mapping(_)) = self.stack.last() {
                    self.stack.push(Frame::Value(Vec::new()));
                } else {
                    self.begin(line);
                }
            }
            Event::MappingStart(..) => {
                let frame = self.begin(line).map_or(Frame::Skip, Frame::Mapping);
                self.stack.push(frame);
            }
            Event::SequenceStart(..) => {
                let frame = self.begin(line).map_or(Frame::Skip, |wants| {
                    let mut by_index = BTreeMap::<usize, Vec<Want<'a>>>::new();
                    for (index, want) in wants.iter().filter_map(Want::item) {
                        by_index.entry(index).or_default().push(want);
                    }
                    Frame::Sequence(by_index, 0)
                });
                self.stack.push(frame);
            }
            Event::MappingEnd | Event::SequenceEnd => {
                // A collection as a key leaves its mapping waiting for the value.
                if let Some(Frame::Skip) = self.stack.pop()
                    && let Some(Frame::Mapping(_)) = self.stack.last()
                {
                    self.stack.push(Frame::Value(Vec::new()));
                }
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
    }

    /// A value begins; who is wanted in it. `None`: it is a key.
    fn begin(&mut self, line: usize) -> Option<Vec<Want<'a>>> {
        match self.stack.last_mut()? {
            Frame::Value(_) => {
                let Some(Frame::Value(wants)) = self.stack.pop() else {
                    return None;
                };
                // A field's line is its key's; only a document has none yet.
                for want in &wants {
                    let found = self.found.get_mut(want.id)?;
                    if found.is_none() {
                        *found = Some(line);
                    }
                }
                Some(wants)
            }
            Frame::Sequence(by_index, next) => {
                let wants = by_index.remove(next).unwrap_or_default();
                *next += 1;
                self.hit(&wants, line);
                Some(wants)
            }
            Frame::Mapping(_) | Frame::Skip => None,
        }
    }

    fn hit(&mut self, wants: &[Want<'_>], line: usize) {
        for want in wants {
            if let Some(found) = self.found.get_mut(want.id) {
                *found = Some(line);
            }
        }
    }
}

impl Want<'_> {
    /// It goes on below the field `key`. Keys may contain dots, so the path is matched
    /// against keys that exist, never split.
    fn field(&self, key: &str) -> Option<Self> {
        let rest = self
            .rest
            .strip_prefix('.')
            .unwrap_or(self.rest)
            .strip_prefix(key)?;
        (rest.is_empty() || rest.starts_with(['.', '['])).then_some(Self { id: self.id, rest })
    }

    /// It goes on below an item.
    fn item(&self) -> Option<(usize, Self)> {
        let (index, rest) = self.rest.strip_prefix('[')?.split_once(']')?;
        Some((index.parse().ok()?, Self { id: self.id, rest }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
kind: Namespace
---
metadata:
  labels:
    app.kubernetes.io/name: x
spec:
  egress:
  - to:
    - podSelector: {}
    - ipBlock:
        cidr: bad
    ports:
    - {port: 80,
       protocol: x}
  - to: [{ipBlock: {cidr: 1}},
      {ipBlock: {cidr: 2}}]
";

    #[test]
    fn a_field_is_found_on_its_own_line() {
        let paths = [
            ("spec.egress[0].to[1].ipBlock.cidr", 11),
            ("spec.egress[0].to[1]", 10),
            ("spec.egress[0].ports[0].protocol", 14),
            ("spec.egress[1].to[1].ipBlock.cidr", 16),
            ("spec.egress", 7),
            ("metadata.labels.app.kubernetes.io/name", 5),
            ("", 3),
        ];
        let wanted: Vec<_> = paths.iter().map(|(path, _)| (1, *path)).collect();
        let expected: Vec<_> = paths.iter().map(|(_, line)| Some(*line)).collect();
        assert_eq!(find(TEXT, &wanted), expected);
    }

    #[test]
    fn a_field_that_is_missing_is_found_where_it_should_be() {
        let wanted = [
            (1, "spec.podSelector"),
            (1, "metadata.name"),
            (1, "spec.egress[7].to"),
            (0, "spec"),
            (2, "spec"),
        ];
        assert_eq!(
            find(TEXT, &wanted),
            [Some(6), Some(3), Some(7), Some(1), None]
        );
    }

    #[test]
    fn a_field_whose_name_begins_like_another_is_not_mistaken_for_it() {
        assert_eq!(find("spec: 1\nspecial: 2\n", &[(0, "special")]), [Some(2)]);
    }

    #[test]
    fn collections_as_keys_and_aliases_do_not_confuse_the_search() {
        assert_eq!(
            find(
                "? [a, {b: c}]\n: d\ne: &x {f: 1}\n*x : 2\ng: 1\n",
                &[(0, "g")]
            ),
            [Some(5)]
        );
        assert_eq!(find("a: &x {f: 1}\nb: *x\n", &[(0, "b.f")]), [Some(2)]);
    }
}
