//! Ways whose words are of different writers, and where flows are at home.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a failing test may panic"
)]

extern crate std;

use std::collections::BTreeSet;
use std::vec::Vec;

use super::way::V4;
use super::{FlowSet, Place, WAYS_V4, WAYS_V6};
use crate::abi::{FLOW_SEED_BYTES, Flow, FlowKey};

const SEED: [u8; FLOW_SEED_BYTES] = *b"nobody outside knows this secret";

fn key(is_v4: bool, port: u16, remote: [u8; 16]) -> FlowKey {
    let local = if is_v4 { 0 } else { 4 };
    FlowKey::new(3.into(), (local, 6), (port, 443), &remote)
}

fn remote(is_v4: bool, last: u8) -> [u8; 16] {
    let mut address = [0; 16];
    address[0] = 0x20;
    address[if is_v4 { 3 } else { 15 }] = last;
    address
}

fn flow(generation: u32) -> Flow {
    Flow {
        generation: generation.into(),
        epoch: 5.into(),
        seen: 9.into(),
        flags: 0.into(),
    }
}

/// The words of a set in which one flow is, at home in the same way whatever its key.
fn words(place: &Place, flow: &Flow) -> [u64; 8] {
    let set = FlowSet::default();
    set.put(place, flow);
    let mut words = [0; 8];
    let used = set.ways.iter().flatten().map(super::Word::load);
    let used = used.skip_while(|word| *word == 0);
    for (place, word) in words.iter_mut().zip(used) {
        *place = word;
    }
    words
}

/// A set whose every way has these words.
fn filled(words: &[u64; 8], is_v4: bool) -> FlowSet {
    let set = FlowSet::default();
    let length = if is_v4 { 4 } else { 8 };
    let targets = set.ways.iter().flat_map(V4::as_slice);
    for (word, value) in targets.zip(words[..length].iter().cycle()) {
        word.store(*value);
    }
    set
}

/// S53, S54: whichever words of two writers a way has, it is the flow of one of them, with the verdict
/// that was written for it, or no flow.
#[test]
fn a_way_of_two_writers_has_no_verdict_but_a_flow_s_own() {
    for is_v4 in [true, false] {
        let keys = [
            key(is_v4, 1000, remote(is_v4, 1)),
            key(is_v4, 2000, remote(is_v4, 2)),
            // Mixtures that nobody wrote.
            key(is_v4, 1000, remote(is_v4, 2)),
            key(is_v4, 2000, remote(is_v4, 1)),
        ];
        let places = keys.map(|key| Place::of(key, &SEED));
        // The second writer's verdict is another one, or the same.
        for verdicts in [[7, 8], [7, 7]] {
            let one = words(&places[0], &flow(verdicts[0]));
            let other = words(&places[1], &flow(verdicts[1]));
            for mixture in 0..1_u32 << 8 {
                let mut mixed = one;
                for (index, word) in mixed.iter_mut().enumerate() {
                    if mixture >> index & 1 == 1 {
                        *word = other[index];
                    }
                }
                let set = filled(&mixed, is_v4);
                for (place, verdict) in places.iter().zip([Some(7), Some(verdicts[1]), None, None])
                {
                    let found = set.find(place).map(|known| known.flow.generation.get());
                    assert!(
                        found.is_none() || found == verdict,
                        "{place:?} {verdicts:?} {mixture:#b}: {found:?}"
                    );
                }
            }
        }
    }
}

/// A hash that is keyed by exclusive or and mixed by a product and shifts alone is not enough: flipping
/// the top bit of a word flips, whatever the secret, one bit of the product, and another pair of bits in
/// the next word takes it back. A peer has both words.
#[test]
fn no_difference_of_two_keys_meets_in_one_hash_whatever_the_secret() {
    let base = key(false, 1000, remote(false, 1)).words();
    let met = (0..64_u32)
        .flat_map(|first| (0..64_u32).map(move |second| (first, second)))
        .filter(|(first, second)| {
            let mut words = base;
            words[1] ^= 1 << first;
            words[2] ^= 1 << second | 1 << (second ^ 32);
            let other: FlowKey = zerocopy::transmute!(words);
            let [one, other] = [zerocopy::transmute!(base), other].map(|key| Place::of(key, &SEED));
            one.hash.key == other.hash.key || one.hash.place == other.hash.place
        })
        .count();
    assert_eq!(met, 0);
}

/// The same of the check alone, whose low half is the weaker one: secrets are tried, not keys.
#[test]
fn two_keys_have_one_check_with_one_secret_in_four_billion_at_most() {
    let one = key(false, 1000, remote(false, 1));
    let other = key(false, 1000, remote(false, 2));
    let mut differences: Vec<u64> = (0..10_000_u64)
        .map(|round| {
            let mut seed = SEED;
            for (index, bytes) in (0..).zip(seed.chunks_exact_mut(8)) {
                let mixed = (round * 4 + index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                bytes.copy_from_slice(&(mixed ^ mixed >> 31).to_le_bytes());
            }
            let [one, other] = [one, other].map(|key| Place::of(key, &seed).hash.key);
            one.wrapping_sub(other)
        })
        .collect();
    differences.sort_unstable();
    differences.dedup();
    assert!(differences.len() > 9_990, "{}", differences.len());
}

/// Keys that differ in one part alone, as those of a pod's connections do, are at home everywhere: in each
/// of the sets, in each of its ways.
#[test]
fn flows_that_differ_in_one_part_are_at_home_in_every_set_and_way_alike() {
    const KEYS: u16 = 16_384;
    /// 32 sets of 8 ways and 64 of 4.
    const SETS: u32 = 96;
    const HOMES: usize = 256;
    const MANY: u32 = 3 * 16_384;
    const SECRETS: [[u8; FLOW_SEED_BYTES]; 3] = [
        SEED,
        *b"another that is as good as it is",
        *b"0123456789abcdefFEDCBA9876543210",
    ];
    let parts: [fn(bool, u16) -> FlowKey; 4] = [
        |is_v4, local_port| key(is_v4, local_port, remote(is_v4, 1)),
        |is_v4, remote_port| {
            let local = if is_v4 { 0 } else { 4 };
            let ports = (4_000, remote_port);
            FlowKey::new(3.into(), (local, 6), ports, &remote(is_v4, 1))
        },
        |is_v4, host| {
            let mut address = remote(is_v4, 0);
            let last = if is_v4 { 2..4 } else { 14..16 };
            address[last].copy_from_slice(&host.to_be_bytes());
            key(is_v4, 4_000, address)
        },
        |is_v4, network| {
            let mut address = remote(is_v4, 1);
            address[1..3].copy_from_slice(&network.to_be_bytes());
            key(is_v4, 4_000, address)
        },
    ];
    // Some 64 in each, give or take 8 if it were by chance.
    let check = |many: Vec<Place>| {
        let mut homes = [0_u32; HOMES];
        for place in &many {
            let ways = if place.key.is_v4() { WAYS_V4 } else { WAYS_V6 };
            let first = if place.key.is_v4() { 0 } else { SETS / 3 };
            let set = usize::try_from(place.index(SETS) - first).unwrap();
            homes[set * ways + place.hash.home(ways)] += 1;
        }
        assert!(
            homes.iter().all(|count| (8..=120).contains(count)),
            "{homes:?}"
        );
        // Of 16,384 sets 63 in a hundred have one of as many keys by chance, of 32,768 sets 39.
        let met: BTreeSet<u32> = many.iter().map(|place| place.index(MANY)).collect();
        let at_least = if many[0].key.is_v4() { 10_000 } else { 12_500 };
        assert!(met.len() >= at_least, "{}", met.len());
    };
    for secret in SECRETS {
        for part in parts {
            for is_v4 in [true, false] {
                let places = || (0..KEYS).map(|number| Place::of(part(is_v4, number), &secret));
                check(places().collect());
                check(places().map(|place| place.second()).collect());
            }
        }
    }
}
