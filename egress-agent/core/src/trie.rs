//! What a ruleset says of addresses by prefix, for RULESET_CIDRS.
//!
//! Each prefix holds the union over every block that covers it, minus the blocks whose
//! `except` covers it (S10, S30), so the longest prefix of an address *is* the verdict;
//! prefix length is never a precedence between rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::Block;
use crate::ports::PortSet;

/// The prefixes of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trie {
    sets: Vec<PortSet>,
    v4: Vec<Entry>,
    v6: Vec<Entry>,
}

/// One prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The network's bits, left-aligned in both families, the rest zero.
    bits: u128,
    /// Prefix length in bits.
    length: u8,
    /// Index of [`Trie::sets`].
    set: u32,
}

/// A network, with its bits left-aligned.
type Prefix = (u128, u8);

impl Trie {
    /// The trie of these blocks, by what they allow. An IPv4 block never covers an IPv6 address nor
    /// the reverse (S31).
    pub fn build<'a, B>(groups: impl IntoIterator<Item = (&'a PortSet, B)>) -> Self
    where
        B: IntoIterator<Item = &'a Block>,
    {
        let mut inputs: BTreeMap<&PortSet, u32> = BTreeMap::new();
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for (ports, blocks) in groups {
            if ports.is_nothing() {
                continue;
            }
            let next = u32::try_from(inputs.len()).unwrap_or(u32::MAX);
            let input = *inputs.entry(ports).or_insert(next);
            for block in blocks {
                let changes = match block.net {
                    IpNet::V4(_) => &mut v4,
                    IpNet::V6(_) => &mut v6,
                };
                if let Some(holes) = holes(block) {
                    changes.push((prefix(&block.net), input, 1));
                    changes.extend(holes.iter().map(|hole| (prefix(hole), input, -1)));
                }
            }
        }
        let mut by_index: Vec<(u32, &PortSet)> = inputs.into_iter().map(|(s, i)| (i, s)).collect();
        by_index.sort_unstable_by_key(|(index, _)| *index);
        let inputs: Vec<&PortSet> = by_index.into_iter().map(|(_, set)| set).collect();
        let mut unions = Unions {
            inputs: &inputs,
            known: BTreeMap::new(),
            interned: BTreeMap::new(),
            sets: Vec::new(),
        };
        let v4 = flatten(v4, &mut unions);
        let v6 = flatten(v6, &mut unions);
        Self {
            sets: unions.sets,
            v4,
            v6,
        }
    }

    /// The sets that entries refer to.
    pub fn sets(&self) -> &[PortSet] {
        &self.sets
    }

    /// IPv4 entries in key order: address, prefix length, index of the set.
    pub fn v4(&self) -> impl ExactSizeIterator<Item = ([u8; 4], u8, u32)> + '_ {
        self.v4.iter().map(|entry| {
            let [a, b, c, d, ..] = entry.bits.to_be_bytes();
            ([a, b, c, d], entry.length, entry.set)
        })
    }

    /// IPv6 entries in key order: address, prefix length, index of the set.
    pub fn v6(&self) -> impl ExactSizeIterator<Item = ([u8; 16], u8, u32)> + '_ {
        self.v6
            .iter()
            .map(|entry| (entry.bits.to_be_bytes(), entry.length, entry.set))
    }

    /// Index of the set of the longest prefix that covers an address.
    pub fn lookup(&self, address: IpAddr) -> Option<u32> {
        self.find(address).map(|entry| entry.set)
    }

    /// The longest prefix that covers an address.
    pub fn covering(&self, address: IpAddr) -> Option<IpNet> {
        let entry = self.find(address)?;
        let bytes = entry.bits.to_be_bytes();
        let network = match address {
            IpAddr::V4(_) => {
                let [a, b, c, d, ..] = bytes;
                IpAddr::from([a, b, c, d])
            }
            IpAddr::V6(_) => IpAddr::from(bytes),
        };
        IpNet::new(network, entry.length).ok()
    }

    fn find(&self, address: IpAddr) -> Option<&Entry> {
        let (entries, bits, longest) = match address {
            IpAddr::V4(v4) => (&self.v4, u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (&self.v6, v6.to_bits(), 128),
        };
        if entries.is_empty() {
            return None;
        }
        (0..=longest).rev().find_map(|length| {
            let key = (mask(bits, length), length);
            let at = entries
                .binary_search_by_key(&key, |e| (e.bits, e.length))
                .ok()?;
            entries.get(at)
        })
    }
}

/// The holes of a block that matter: inside it, none inside another. `None` when an `except`
/// covers the whole block (S93).
fn holes(block: &Block) -> Option<Vec<IpNet>> {
    if block
        .except
        .iter()
        .any(|except| except.contains(&block.net))
    {
        return None;
    }
    let inside: BTreeSet<IpNet> = block
        .except
        .iter()
        .copied()
        .filter(|e| block.net.contains(e))
        .collect();
    let mut kept: Vec<IpNet> = Vec::new();
    for except in inside {
        // In order, a wider network precedes what it contains.
        if kept.last().is_none_or(|last| !last.contains(&except)) {
            kept.push(except);
        }
    }
    Some(kept)
}

fn prefix(net: &IpNet) -> Prefix {
    match net {
        IpNet::V4(v4) => (u128::from(v4.network().to_bits()) << 96, v4.prefix_len()),
        IpNet::V6(v6) => (v6.network().to_bits(), v6.prefix_len()),
    }
}

const fn mask(bits: u128, length: u8) -> u128 {
    match length {
        0 => 0,
        length => bits & (u128::MAX << (128 - length)),
    }
}

/// Unions of input sets, interned.
struct Unions<'a> {
    inputs: &'a [&'a PortSet],
    known: BTreeMap<Vec<u32>, u32>,
    interned: BTreeMap<PortSet, u32>,
    sets: Vec<PortSet>,
}

impl Unions<'_> {
    /// The set of the inputs whose count is above zero.
    fn of(&mut self, counts: &BTreeMap<u32, i64>) -> u32 {
        let active: Vec<u32> = counts
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(i, _)| *i)
            .collect();
        if let Some(known) = self.known.get(&active) {
            return *known;
        }
        let mut union = PortSet::nothing();
        for input in active
            .iter()
            .filter_map(|i| self.inputs.get(usize::try_from(*i).ok()?))
        {
            union.extend(input);
        }
        let next = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        let index = *self.interned.entry(union.clone()).or_insert(next);
        if index == next {
            self.sets.push(union);
        }
        self.known.insert(active, index);
        index
    }
}

/// Networks nest or are disjoint, so in key order the ones that cover a network are a stack.
fn flatten(mut changes: Vec<(Prefix, u32, i64)>, unions: &mut Unions<'_>) -> Vec<Entry> {
    struct Open {
        prefix: Prefix,
        set: u32,
        changes: Vec<(u32, i64)>,
    }
    if changes.is_empty() {
        return Vec::new();
    }
    changes.sort_unstable();
    let mut counts: BTreeMap<u32, i64> = BTreeMap::new();
    let nothing = unions.of(&counts);
    let mut stack: Vec<Open> = Vec::new();
    let mut entries: Vec<Entry> = Vec::new();
    for group in changes.chunk_by(|a, b| a.0 == b.0) {
        let Some((prefix, ..)) = group.first().copied() else {
            continue;
        };
        let (bits, length) = prefix;
        while let Some(top) = stack.pop_if(|top| mask(bits, top.prefix.1) != top.prefix.0) {
            for (input, change) in top.changes {
                *counts.entry(input).or_default() -= change;
            }
        }
        let outside = stack.last().map_or(nothing, |top| top.set);
        let own: Vec<(u32, i64)> = group
            .iter()
            .map(|(_, input, change)| (*input, *change))
            .collect();
        for (input, change) in &own {
            *counts.entry(*input).or_default() += change;
        }
        let set = unions.of(&counts);
        if set != outside {
            entries.push(Entry { bits, length, set });
        }
        stack.push(Open {
            prefix,
            set,
            changes: own,
        });
    }
    entries
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "test input is well formed")]
mod tests {
    use super::*;
    use crate::policy::Protocol;

    fn block(net: &str, except: &[&str]) -> Block {
        Block {
            net: net.parse().unwrap(),
            except: except.iter().map(|e| e.parse().unwrap()).collect(),
        }
    }

    fn port(number: u16) -> PortSet {
        let mut set = PortSet::nothing();
        set.insert(Protocol::Tcp, number, number);
        set
    }

    /// By the words of S10, S29–S31, without a trie.
    fn covered(block: &Block, address: IpAddr) -> bool {
        block.net.contains(&address) && !block.except.iter().any(|e| e.contains(&address))
    }

    fn allows(trie: &Trie, address: IpAddr, number: u16) -> bool {
        trie.lookup(address)
            .and_then(|set| trie.sets().get(usize::try_from(set).unwrap()))
            .is_some_and(|set| set.contains(6, number))
    }

    #[test]
    fn the_prefix_that_says_the_verdict_is_the_longest_one() {
        let blocks = [
            block("10.0.0.0/8", &[]),
            block("10.1.0.0/16", &[]),
            block("fd00::/8", &[]),
        ];
        let groups = [(port(80), &blocks[..1]), (port(81), &blocks[1..])];
        let trie = Trie::build(groups.iter().map(|(set, blocks)| (set, *blocks)));
        for (address, prefix) in [
            ("10.2.3.4", Some("10.0.0.0/8")),
            ("10.1.2.3", Some("10.1.0.0/16")),
            ("fd12::1", Some("fd00::/8")),
            ("11.0.0.1", None),
        ] {
            let prefix = prefix.map(|prefix| prefix.parse().unwrap());
            assert_eq!(trie.covering(address.parse().unwrap()), prefix, "{address}");
        }
    }

    #[test]
    fn except_is_a_hole_in_its_own_block_only_s30() {
        let wide = block("10.0.0.0/8", &["10.1.0.0/16"]);
        let narrow = block("10.1.2.0/24", &[]);
        let trie = Trie::build([(&port(80), [&wide]), (&port(443), [&narrow])]);
        let at = |a: &str, p| allows(&trie, a.parse().unwrap(), p);
        assert!(at("10.0.0.1", 80) && !at("10.1.0.1", 80) && !at("10.1.2.3", 80));
        assert!(at("10.1.2.3", 443) && !at("10.0.0.1", 443));
    }

    #[test]
    fn an_except_wider_than_its_block_leaves_nothing_s93() {
        let trie = Trie::build([(&port(80), [&block("10.1.0.0/16", &["10.0.0.0/8"])])]);
        assert!(!allows(&trie, "10.1.0.1".parse().unwrap(), 80));
    }

    #[test]
    fn families_do_not_mix_s31() {
        let trie = Trie::build([(&port(80), [&block("::/0", &[])])]);
        assert!(!allows(&trie, "10.0.0.1".parse().unwrap(), 80));
        assert!(allows(&trie, "::ffff:10.0.0.1".parse().unwrap(), 80));
    }

    #[test]
    fn random_nests_agree_with_the_words_of_s10_and_s30() {
        let seed = 0x5eed_u64;
        let mut state = seed;
        let mut next = move || {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let (mut allowed, mut denied) = (0, 0);
        for round in 0..400 {
            // A small space (10.0.0.0/26) makes every kind of nesting likely.
            let mut net = || -> IpNet {
                let length = 26 + u8::try_from(next() % 7).unwrap();
                let host = u32::try_from(next() % 64).unwrap();
                let net: IpNet = format!("10.0.0.{host}/{length}").parse().unwrap();
                net.trunc()
            };
            let blocks: Vec<(Block, PortSet)> = (0..8_u16)
                .map(|i| {
                    let except = (0..i % 4).map(|_| net()).collect();
                    (Block { net: net(), except }, port(80 + i % 3))
                })
                .collect();
            let trie = Trie::build(blocks.iter().map(|(b, p)| (p, [b])));
            for host in 0..64 {
                let address: IpAddr = format!("10.0.0.{host}").parse().unwrap();
                for number in 80..83 {
                    let want = blocks
                        .iter()
                        .any(|(b, p)| covered(b, address) && p.contains(6, number));
                    let got = allows(&trie, address, number);
                    assert_eq!(
                        got, want,
                        "seed {seed:#x} round {round} {address}:{number} {blocks:?}"
                    );
                    if want { allowed += 1 } else { denied += 1 }
                }
            }
        }
        assert!(
            allowed > 1_000 && denied > 1_000,
            "{allowed} allowed, {denied} denied"
        );
    }
}
