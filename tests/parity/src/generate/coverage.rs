//! Which statements were met, and how often.

use std::collections::BTreeMap;
use std::fmt;

/// The statements that one new connection can show; each must be drawn.
///
/// Left out are those about the future, about existing connections, about packets, about the
/// other direction, and about other programs (S8, S9, S17, S18, S27, S35, S50–S58, S61, S67,
/// S71, S74, S77, S83, S97).
pub const STATEMENTS: &[u8] = &[
    1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30,
    31, 32, 33, 34, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 59, 60, 62, 63, 64, 65,
    66, 68, 69, 70, 72, 73, 75, 76, 78, 79, 80, 81, 82, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 94,
    95, 96,
];

/// How often each statement was drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<u8, u64>);

impl Coverage {
    pub(super) fn note(&mut self, statements: &[u8]) {
        for statement in statements {
            *self.0.entry(*statement).or_default() += 1;
        }
    }

    /// Adds what another case has met.
    pub fn add(&mut self, other: &Self) {
        for (statement, count) in &other.0 {
            *self.0.entry(*statement).or_default() += count;
        }
    }

    /// The statements of [`STATEMENTS`] that were never met.
    #[must_use]
    pub fn missing(&self) -> Vec<u8> {
        STATEMENTS
            .iter()
            .copied()
            .filter(|statement| !self.0.contains_key(statement))
            .collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (statement, count)) in self.0.iter().enumerate() {
            let separator = match index {
                0 => "",
                _ if index % 10 == 0 => "\n",
                _ => "  ",
            };
            write!(f, "{separator}S{statement:<2} {count:>7}")?;
        }
        Ok(())
    }
}
