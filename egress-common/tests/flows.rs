//! The tables of flows: what is put in is found or gone, never another's.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test may panic"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use egress_common::abi::{FLOW_CLOSING, FLOW_SEED_BYTES, Flow, FlowKey, INBOUND_SETS};
use egress_common::flows::{FlowSet, Place, WAYS_V4, WAYS_V6, find_in_two, put_in_two};

const SEED: [u8; FLOW_SEED_BYTES] = *b"nobody outside knows this secret";

fn key(is_v4: bool, number: u16) -> FlowKey {
    let mut remote = [0; 16];
    let [high, low] = number.to_be_bytes();
    remote[..4].copy_from_slice(&[192, 0, high, low]);
    if !is_v4 {
        remote[14..].copy_from_slice(&number.to_be_bytes());
    }
    let local = if is_v4 { 0 } else { 4 };
    FlowKey::new(3.into(), (local, 6), (number, 443), &remote)
}

fn place(is_v4: bool, number: u16) -> Place {
    Place::of(key(is_v4, number), &SEED)
}

fn flow(generation: u32, seen: u32, flags: u32) -> Flow {
    Flow {
        generation: generation.into(),
        epoch: (generation ^ 0xffff).into(),
        seen: seen.into(),
        flags: flags.into(),
    }
}

fn ways(is_v4: bool) -> u16 {
    u16::try_from(if is_v4 { WAYS_V4 } else { WAYS_V6 }).unwrap()
}

#[test]
fn what_was_put_in_is_found_as_it_was() {
    for is_v4 in [true, false] {
        let set = FlowSet::default();
        for number in 0..ways(is_v4) {
            let number32 = u32::from(number);
            set.put(
                &place(is_v4, number),
                &flow(number32, number32 << 10, number32 & 1),
            );
        }
        assert_eq!(set.count(is_v4), usize::from(ways(is_v4)));
        let mut keys = Vec::new();
        set.for_each(is_v4, &SEED, |key, flow| {
            keys.push((*key, flow.generation.get()));
        });
        keys.sort_unstable();
        let mut expected: Vec<_> = (0..ways(is_v4))
            .map(|number| (key(is_v4, number), u32::from(number)))
            .collect();
        expected.sort_unstable();
        assert_eq!(keys, expected);
        for number in 0..ways(is_v4) {
            let number32 = u32::from(number);
            let known = set.find(&place(is_v4, number)).unwrap();
            assert_eq!(known.flow, flow(number32, number32 << 10, number32 & 1));
            known.touch(77, FLOW_CLOSING);
            let again = set.find(&place(is_v4, number)).unwrap();
            assert_eq!(again.flow, flow(number32, 77, FLOW_CLOSING));
        }
        assert!(set.find(&place(is_v4, 999)).is_none());
        set.clear();
        assert_eq!(set.count(is_v4), 0);
    }
}

#[test]
fn a_flow_is_written_over_itself() {
    for is_v4 in [true, false] {
        let set = FlowSet::default();
        for generation in 0..20 {
            set.put(&place(is_v4, 1), &flow(generation, generation, 0));
            assert_eq!(set.count(is_v4), 1);
            let known = set.find(&place(is_v4, 1)).unwrap();
            assert_eq!(known.flow.generation.get(), generation);
        }
    }
}

#[test]
fn a_full_set_gives_up_a_closed_flow_and_then_what_was_idle_longest() {
    for is_v4 in [true, false] {
        let set = FlowSet::default();
        for number in 0..ways(is_v4) {
            let flags = if number == 2 { FLOW_CLOSING } else { 0 };
            set.put(
                &place(is_v4, number),
                &flow(1, 100 + u32::from(number), flags),
            );
        }
        let gone = |set: &FlowSet| -> Vec<u16> {
            (0..ways(is_v4))
                .filter(|number| set.find(&place(is_v4, *number)).is_none())
                .collect()
        };
        set.put(&place(is_v4, 50), &flow(1, 200, 0));
        assert_eq!(gone(&set), [2]);
        set.put(&place(is_v4, 51), &flow(1, 200, 0));
        assert_eq!(gone(&set), [0, 2]);
        // Noted just now, which makes the other one the stalest.
        set.find(&place(is_v4, 1)).unwrap().touch(200, 0);
        set.put(&place(is_v4, 52), &flow(1, 201, 0));
        assert_eq!(gone(&set), [0, 2, 3]);
    }
}

#[test]
fn flows_to_one_peer_are_told_apart() {
    for is_v4 in [true, false] {
        let place = |port| {
            let (local, mut remote) = (if is_v4 { 0 } else { 4 }, [0; 16]);
            remote[..4].copy_from_slice(&[192, 0, 2, 1]);
            Place::of(
                FlowKey::new(3.into(), (local, 6), (port, 443), &remote),
                &SEED,
            )
        };
        let set = FlowSet::default();
        for port in 1..=ways(is_v4) {
            set.put(&place(port), &flow(port.into(), 9, 0));
        }
        for port in 1..=ways(is_v4) {
            let known = set.find(&place(port)).unwrap();
            assert_eq!(known.flow.generation.get(), u32::from(port));
        }
    }
}

#[test]
fn a_closed_flow_stays_for_its_last_packets() {
    const CLOSED: u32 = 100;
    for is_v4 in [true, false] {
        for (idle, goes) in [(4, 1), (5, 0)] {
            let set = FlowSet::default();
            set.put(&place(is_v4, 0), &flow(1, CLOSED, FLOW_CLOSING));
            for number in 1..ways(is_v4) {
                let seen = if number == 1 { 50 } else { 60 };
                set.put(&place(is_v4, number), &flow(1, seen, 0));
            }
            set.put(&place(is_v4, 99), &flow(1, CLOSED + idle, 0));
            let gone = (0..ways(is_v4)).filter(|n| set.find(&place(is_v4, *n)).is_none());
            assert_eq!(gone.collect::<Vec<_>>(), [goes], "idle for {idle} s");
        }
    }
}

#[test]
fn keys_that_differ_in_one_bit_are_different_flows() {
    for is_v4 in [true, false] {
        let first = key(is_v4, 7).words();
        let relevant = if is_v4 { 12 } else { 24 };
        let set = FlowSet::default();
        set.put(&place(is_v4, 7), &flow(1, 1, 0));
        for bit in 0..relevant * 8 {
            let mut bytes: [u8; 24] = zerocopy::transmute!(first);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let other: FlowKey = zerocopy::transmute!(bytes);
            if other.is_v4() == is_v4 {
                assert!(set.find(&Place::of(other, &SEED)).is_none(), "bit {bit}");
            }
        }
    }
}

#[test]
fn places_are_spread_over_their_family_s_part_of_the_table() {
    for (is_v4, part) in [(true, 0..100), (false, 100..300)] {
        let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
        for number in 0..20_000 {
            *seen.entry(place(is_v4, number).index(300)).or_default() += 1;
        }
        assert!(seen.keys().all(|index| part.contains(index)));
        assert_eq!(seen.len(), part.len());
        let fair = 20_000 / u32::try_from(part.len()).unwrap();
        assert!(seen.values().all(|count| *count < 2 * fair));
    }
}

/// Threads write flows of which each has a verdict of its own over each other: a verdict is found with
/// its own key, or not at all.
#[test]
fn a_verdict_is_never_found_with_another_flow_s_key() {
    let set = FlowSet::default();
    let verdict = |number: u16| u32::from(number).wrapping_mul(0x9e37_79b9);
    let (done, found, missed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for start in 0..3_u16 {
            let (set, done) = (&set, &done);
            scope.spawn(move || {
                let mut number = start;
                while !done.load(Ordering::Relaxed) {
                    number = number.wrapping_mul(25_173).wrapping_add(13_849);
                    let chosen = number % 64;
                    set.put(&place(true, chosen), &flow(verdict(chosen), 5, 0));
                }
            });
        }
        for round in 0..400_000_u32 {
            let number = u16::try_from(round % 64).unwrap();
            if let Some(known) = set.find(&place(true, number)) {
                assert_eq!(
                    known.flow.generation.get(),
                    verdict(number),
                    "flow {number}"
                );
                found.fetch_add(1, Ordering::Relaxed);
            } else {
                missed.fetch_add(1, Ordering::Relaxed);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let (found, missed) = (found.into_inner(), missed.into_inner());
    assert!(found > 100 && missed > 100, "{found} {missed}");
}

/// Of so many connections to a pod, how many are found in its table after all were noted.
fn kept(is_v4: bool, connections: u16) -> usize {
    let sets: Vec<FlowSet> = (0..INBOUND_SETS).map(|_| FlowSet::default()).collect();
    let set = |place: &Place| sets.get(usize::try_from(place.index(INBOUND_SETS)).unwrap());
    for number in 0..connections {
        put_in_two(
            &place(is_v4, number),
            &flow(u32::from(number), 1_000, 0),
            set,
        );
    }
    (0..connections)
        .filter(|&number| {
            find_in_two(&place(is_v4, number), set)
                .is_some_and(|known| known.flow.generation.get() == u32::from(number))
        })
        .count()
}

#[test]
fn of_a_pod_s_connections_hardly_any_is_forgotten_up_to_half_of_what_its_table_holds() {
    for is_v4 in [true, false] {
        assert_eq!(kept(is_v4, 1_000), 1_000);
        let kept = kept(is_v4, 2_000);
        assert!(kept >= 1_990, "{kept}");
    }
}

#[test]
fn a_flow_of_the_second_set_is_found_and_kept_up_like_one_of_the_first() {
    for is_v4 in [true, false] {
        let sets: Vec<FlowSet> = (0..12).map(|_| FlowSet::default()).collect();
        let set = |place: &Place| sets.get(usize::try_from(place.index(12)).unwrap());
        let second = (0..u16::MAX)
            .map(|number| place(is_v4, number))
            .find(|place| {
                put_in_two(place, &flow(1, 1_000, 0), set);
                set(place).is_some_and(|first| first.find(place).is_none())
            })
            .unwrap();
        find_in_two(&second, set)
            .unwrap()
            .touch(1_100, FLOW_CLOSING);
        let known = find_in_two(&second, set).unwrap();
        assert_eq!(known.flow, flow(1, 1_100, FLOW_CLOSING));
        put_in_two(&second, &flow(2, 1_101, 0), set);
        assert_eq!(find_in_two(&second, set).unwrap().flow, flow(2, 1_101, 0));
    }
}
