//! Sets of destination ports, interned in PORTS.

use std::collections::BTreeMap;

use egress_common::abi::{PORTS_FIXED_BITS, PortsData, literal_parts, literal_ports};
use zerocopy::network_endian::{U16, U32};

use crate::policy::Protocol;

/// What a rule allows towards one destination, in canonical form: sets that say the
/// same compare equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortSet {
    /// Disjoint, ascending, non-adjacent ranges of each protocol; no empty list.
    Ranges(BTreeMap<Protocol, Vec<(u16, u16)>>),
    /// Every port of every protocol, ICMP included: a rule without `ports` (S13, S95).
    Everything,
}

impl PortSet {
    /// The empty set.
    pub const fn nothing() -> Self {
        Self::Ranges(BTreeMap::new())
    }

    /// Whether nothing is in the set.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Ranges(ranges) if ranges.is_empty())
    }

    /// Adds `from..=to`.
    pub fn insert(&mut self, protocol: Protocol, from: u16, to: u16) {
        if let Self::Ranges(ranges) = self {
            let list = ranges.entry(protocol).or_default();
            list.push((from, to));
            normalise(list);
        }
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Everything, _) => {}
            (_, Self::Everything) => *self = Self::Everything,
            (Self::Ranges(mine), Self::Ranges(theirs)) => {
                for (protocol, list) in theirs {
                    let merged = mine.entry(*protocol).or_default();
                    merged.extend_from_slice(list);
                    normalise(merged);
                }
            }
        }
    }

    /// Whether a destination port is in the set. Only [`PortSet::Everything`] has ports of
    /// protocols that policies cannot name (S49).
    pub fn contains(&self, protocol: u8, port: u16) -> bool {
        match self {
            Self::Everything => true,
            Self::Ranges(ranges) => Protocol::from_number(protocol)
                .and_then(|p| ranges.get(&p))
                .is_some_and(|list| list.iter().any(|(from, to)| (*from..=*to).contains(&port))),
        }
    }

    /// The entries of PORTS that hold this set under `id`, with their prefix lengths in bits.
    /// Everything and nothing have ids of their own and need no entry.
    pub fn entries(&self, id: u32) -> Vec<(u32, PortsData)> {
        let Self::Ranges(ranges) = self else {
            return Vec::new();
        };
        let mut entries = Vec::new();
        for (protocol, list) in ranges {
            for (from, to) in list {
                for (length, port) in prefixes(*from, *to) {
                    entries.push((
                        PORTS_FIXED_BITS + length,
                        PortsData {
                            ports: U32::new(id),
                            protocol: protocol.number(),
                            port: U16::new(port),
                        },
                    ));
                }
            }
        }
        entries
    }

    /// The id that says itself what this set is: that of a set which one entry would hold.
    pub fn literal(&self) -> Option<u32> {
        let Self::Ranges(ranges) = self else {
            return None;
        };
        let mut lists = ranges.iter();
        let (Some((protocol, list)), None) = (lists.next(), lists.next()) else {
            return None;
        };
        let [(from, to)] = list[..] else {
            return None;
        };
        let [(length, port)] = prefixes(from, to)[..] else {
            return None;
        };
        Some(literal_ports(protocol.number(), length, port))
    }

    /// The set that an id says itself; the reverse of [`PortSet::literal`]. An id that cannot be one of
    /// ours is nothing.
    pub fn from_literal(id: u32) -> Option<Self> {
        let (protocol, length, port) = literal_parts(id)?;
        let mut set = Self::nothing();
        set.insert_entry(
            PORTS_FIXED_BITS + length,
            &PortsData {
                ports: U32::new(id),
                protocol,
                port: U16::new(port),
            },
        );
        Some(set)
    }

    /// Adds what one entry of PORTS holds; the reverse of [`PortSet::entries`]. An entry that
    /// cannot be one of ours adds nothing.
    pub fn insert_entry(&mut self, prefix_bits: u32, data: &PortsData) {
        let free = (PORTS_FIXED_BITS + 16)
            .checked_sub(prefix_bits)
            .filter(|f| *f <= 16);
        if let (Some(free), Some(protocol)) = (free, Protocol::from_number(data.protocol)) {
            let mask = u16::try_from((1_u32 << free) - 1).unwrap_or(u16::MAX);
            let port = data.port.get();
            self.insert(protocol, port & !mask, port | mask);
        }
    }
}

impl FromIterator<(Protocol, u16, u16)> for PortSet {
    /// The set of these ranges `from..=to`.
    fn from_iter<I: IntoIterator<Item = (Protocol, u16, u16)>>(ranges: I) -> Self {
        let mut lists: BTreeMap<Protocol, Vec<(u16, u16)>> = BTreeMap::new();
        for (protocol, from, to) in ranges {
            lists.entry(protocol).or_default().push((from, to));
        }
        lists.values_mut().for_each(normalise);
        Self::Ranges(lists)
    }
}

/// Sorts, and joins what overlaps or touches.
fn normalise(list: &mut Vec<(u16, u16)>) {
    list.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::with_capacity(list.len());
    for (from, to) in list.drain(..) {
        match joined.last_mut() {
            Some((_, end)) if u32::from(from) <= u32::from(*end) + 1 => *end = (*end).max(to),
            _ => joined.push((from, to)),
        }
    }
    *list = joined;
}

/// The fewest aligned prefixes that cover `from..=to`: (prefix length, first port).
fn prefixes(from: u16, to: u16) -> Vec<(u32, u16)> {
    let mut found = Vec::new();
    let (mut next, end) = (u32::from(from), u32::from(to) + 1);
    while next < end {
        let mut size = 1_u32;
        while size < 0x1_0000 && next % (size * 2) == 0 && next + size * 2 <= end {
            size *= 2;
        }
        found.push((
            16 - size.trailing_zeros(),
            u16::try_from(next).unwrap_or(u16::MAX),
        ));
        next += size;
    }
    found
}

impl Protocol {
    /// The protocol of an IP protocol number, when policies can name it (S46).
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use egress_common::abi::PORTS_LITERAL;

    use super::*;

    fn set(ranges: &[(Protocol, u16, u16)]) -> PortSet {
        let mut set = PortSet::nothing();
        for (protocol, from, to) in ranges {
            set.insert(*protocol, *from, *to);
        }
        set
    }

    #[test]
    fn only_the_empty_set_is_nothing() {
        assert!(PortSet::nothing().is_nothing());
        assert!(!PortSet::Everything.is_nothing());
        let mut one = PortSet::nothing();
        one.insert(Protocol::Udp, 0, 0);
        assert!(!one.is_nothing());
    }

    #[test]
    fn sets_that_say_the_same_are_equal() {
        let a = set(&[
            (Protocol::Tcp, 80, 90),
            (Protocol::Tcp, 91, 100),
            (Protocol::Tcp, 85, 95),
        ]);
        assert_eq!(a, set(&[(Protocol::Tcp, 80, 100)]));
        assert_ne!(a, set(&[(Protocol::Udp, 80, 100)]));
    }

    #[test]
    fn sets_of_one_entry_are_their_own_ids() {
        for (from, to) in [(443, 443), (0, 65_535), (8, 15), (0, 0), (65_535, 65_535)] {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                let set = set(&[(protocol, from, to)]);
                let id = set.literal();
                assert!(id > Some(PORTS_LITERAL));
                assert_eq!(id.and_then(PortSet::from_literal), Some(set));
            }
        }
        for others in [
            PortSet::nothing(),
            PortSet::Everything,
            set(&[(Protocol::Tcp, 80, 82)]),
            set(&[(Protocol::Tcp, 80, 80), (Protocol::Udp, 80, 80)]),
        ] {
            assert_eq!(others.literal(), None, "{others:?}");
        }
        assert_eq!(PortSet::from_literal(PORTS_LITERAL - 1), None);
    }

    #[test]
    fn only_everything_has_icmp_s49_s95() {
        let mut all = PortSet::nothing();
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            all.insert(protocol, 0, u16::MAX);
        }
        assert!(!all.contains(1, 0));
        assert!(PortSet::Everything.contains(1, 0));
    }

    #[test]
    fn entries_hold_exactly_the_range_s36() {
        for (from, to) in [
            (0, 65535),
            (1, 65535),
            (80, 80),
            (1023, 1025),
            (0, 0),
            (32768, 65534),
        ] {
            let original = set(&[(Protocol::Tcp, from, to)]);
            let entries = original.entries(7);
            assert!(entries.len() <= 30, "{from}..={to} takes {}", entries.len());
            let mut back = PortSet::nothing();
            for (bits, data) in &entries {
                back.insert_entry(*bits, data);
            }
            assert_eq!(back, original, "{from}..={to}");
        }
    }
}
