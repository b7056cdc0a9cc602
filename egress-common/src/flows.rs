//! A table of flows: a plain array of sets, which every packet reads and writes without a call.
//!
//! A kernel's hash table costs two calls for a look-up and a dozen for an insertion, which also walks
//! lists that other packets have put out of the cache. Here the key's hash names a set, and in it the
//! way where the flow is at home; a flow is in its set or nowhere, and a new one takes the place of the
//! one that is missed least. A flow that is at home takes a single cache line.
//!
//! An outbound flow that was forgotten is judged again. An inbound one is missed: the pod's answers are
//! then judged as if it had begun (S52). So it may be in a second set where its first is full, and that is
//! looked at only then ([`find_in_two`], [`put_in_two`]): of 1,000 connections to a pod none is forgotten, of
//! 2,000 none over IPv4 and one in 400 over IPv6.
//!
//! # Without a lock
//!
//! CPUs, and the agent, may read and write a set at once, in any order: only each word of 64 bits is read
//! and written whole. A way may then have its words of different writers, and so may what is read of it.
//! None of it may let a packet pass that no policy allows (S53, S54, S55):
//!
//! * The verdict of a flow is one word, generation and epoch, and the check is the hash of the key plus
//!   that word (after R. Hyatt and T. Mann, "A lock-less transposition table implementation for parallel
//!   search", 2002). So what [`FlowSet::find`] takes for a flow has all of these: the words of the key; a
//!   verdict that somebody wrote; a check that somebody wrote, which is that of this key and this verdict.
//!   The check was then written for this key with this verdict: the flow was judged so, by the tables of
//!   that generation and epoch. Or it was written for another key, and the two have the same hash but for
//!   the difference of the verdicts.
//! * For two keys the chance of that is 2^-32 at most, whichever they are and whatever the difference,
//!   over the secret [`Config::seed`]: NH is almost universal with regard to differences (J. Black,
//!   S. Halevi, H. Krawczyk, T. Krovetz, P. Rogaway, "UMAC: Fast and Secure Message Authentication", 1999).
//!   Keys, and mixtures of them, are what a pod or its peers choose; the secret they do not learn:
//!   nothing that they see depends on it, but that a full set forgets. And it takes a race on one way besides.
//! * Whether the verdict still counts is seen by the reader from the endpoint and the epoch of its own
//!   packet, as if the entry were whole. An entry that is written late, by a packet that was judged by
//!   older tables, says so itself.
//! * An inbound flow has no verdict to be mistaken for: by the same argument its key was put here whole,
//!   that is, opened towards the pod (S52).
//! * Time and flags are beside the check. Those of another flow in the same way can make a flow end early,
//!   which closes; or an ended one linger as long as the other's, or another copy of its own, does, which
//!   is one more packet of a connection that was allowed, while its verdict counts.
//!
//! What goes with a lost race is an entry. That costs another decision, as an eviction does.
//!
//! [`Config::seed`]: crate::abi::Config::seed

#[cfg(test)]
mod tests;
mod way;
mod word;

use zerocopy::transmute;

use crate::abi::{FLOW_SEED_BYTES, Flow, FlowKey};
use way::{V4, V6, Way};
use word::Word;

/// IPv4 flows that a set holds.
pub const WAYS_V4: usize = 8;
/// IPv6 flows that a set holds.
pub const WAYS_V6: usize = 4;

/// The hash of a key: NH twice, the second time under the secret's words from the third on, so that the
/// two are as good as independent (a Toeplitz matrix of words).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHash {
    /// Says where the flow is; mixed, for the low bits of a product are weak.
    place: u64,
    /// Goes into the check.
    key: u64,
}

impl FlowHash {
    /// Of a key, under the secret of this node.
    #[inline(always)]
    pub fn of(key: &FlowKey, seed: &[u8; FLOW_SEED_BYTES]) -> Self {
        let [a, b, c, d, e, f]: [u32; 6] = transmute!(*key);
        let [k0, k1, k2, k3, k4, k5, k6, k7]: [u32; 8] = transmute!(*seed);
        let mut place = product((a, k0), (b, k1)).wrapping_add(product((c, k2), (d, k3)));
        let mut check = product((a, k2), (b, k3)).wrapping_add(product((c, k4), (d, k5)));
        if !key.is_v4() {
            place = place.wrapping_add(product((e, k4), (f, k5)));
            check = check.wrapping_add(product((e, k6), (f, k7)));
        }
        place = (place ^ (place >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            place: place ^ (place >> 29),
            key: check,
        }
    }

    /// The check of a key with this hash and a verdict.
    #[inline(always)]
    const fn check(self, verdict: u64) -> u64 {
        self.key.wrapping_add(verdict)
    }

    /// The hash of the same key in its second set: its place is as good as independent of the first.
    #[inline(always)]
    const fn second(self) -> Self {
        let place = (self.key ^ (self.key >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            place: place ^ (place >> 29),
            key: self.key,
        }
    }

    /// A number below `count`.
    #[inline(always)]
    const fn spread(self, count: u32) -> u32 {
        #[expect(clippy::as_conversions, reason = "the quotient is less than `count`")]
        let number = (((self.place >> 32) * count as u64) >> 32) as u32;
        number
    }

    /// The way of so many, a power of two, where the flow is at home.
    #[inline(always)]
    const fn home(self, ways: usize) -> usize {
        #[expect(
            clippy::as_conversions,
            clippy::cast_possible_truncation,
            reason = "the low bits are meant"
        )]
        let home = self.place as usize & (ways - 1);
        home
    }
}

/// What NH adds up: the product of two words, each with one of the secret's added to it.
#[inline(always)]
fn product((x, k): (u32, u32), (y, l): (u32, u32)) -> u64 {
    u64::from(x.wrapping_add(k)).wrapping_mul(u64::from(y.wrapping_add(l)))
}

/// Where a table has a flow.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    key: FlowKey,
    hash: FlowHash,
}

impl Place {
    /// Of a key, under the secret of this node.
    #[inline(always)]
    pub fn of(key: FlowKey, seed: &[u8; FLOW_SEED_BYTES]) -> Self {
        Self {
            hash: FlowHash::of(&key, seed),
            key,
        }
    }

    /// The key.
    pub const fn key(&self) -> &FlowKey {
        &self.key
    }

    /// Where the flow is when it is not in its first set.
    #[inline(always)]
    const fn second(&self) -> Self {
        Self {
            key: self.key,
            hash: self.hash.second(),
        }
    }

    /// Index of the set, in a table of so many: a third for IPv4, the rest for IPv6, whose sets hold
    /// half as many flows.
    #[inline(always)]
    pub const fn index(&self, sets: u32) -> u32 {
        let v4 = sets / 3;
        if self.key.is_v4() {
            self.hash.spread(v4)
        } else {
            v4 + self.hash.spread(sets - v4)
        }
    }
}

/// A flow in its set.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// What the table says of it.
    pub flow: Flow,
    /// The word that has the state, and what else is in it.
    word: &'a Word,
    beside: u64,
}

impl Known<'_> {
    /// Notes a packet: the time and the flags, in place.
    #[inline(always)]
    pub fn touch(&self, seen: u32, flags: u32) {
        self.word.store(self.beside | way::state(seen, flags));
    }
}

/// The flows of one family that meet at a hash, from the start of a cache line. All zeroes are an
/// empty set.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct FlowSet {
    ways: [V4; WAYS_V4],
}

const _: () = assert!(size_of::<FlowSet>() == 256 && WAYS_V4 == 2 * WAYS_V6);

impl FlowSet {
    /// The flow of a place.
    #[inline(always)]
    pub fn find(&self, place: &Place) -> Option<Known<'_>> {
        if place.key.is_v4() {
            find(&self.ways, place)
        } else {
            find(self.v6()?, place)
        }
    }

    /// Writes a flow: over what the set says of it, or to a free way, or over the flow that is missed
    /// least at the time that the new one was seen.
    #[inline(always)]
    pub fn put(&self, place: &Place, flow: &Flow) {
        if place.key.is_v4() {
            put(&self.ways, place, flow);
        } else if let Some(ways) = self.v6() {
            put(ways, place, flow);
        }
    }

    /// Whether no way is free. A set that is full stays so, until it is cleared.
    #[inline(always)]
    fn is_full(&self, is_v4: bool) -> bool {
        if is_v4 {
            is_full(&self.ways)
        } else {
            self.v6().is_none_or(is_full)
        }
    }

    /// Whether a flow can be put here without forgetting one that may be live.
    #[inline(always)]
    fn has_room(&self, place: &Place, now: u32) -> bool {
        if place.key.is_v4() {
            has_room(&self.ways, place, now)
        } else {
            self.v6().is_some_and(|ways| has_room(ways, place, now))
        }
    }

    /// Empties the set.
    pub fn clear(&self) {
        for word in self.ways.iter().flatten() {
            word.store(0);
        }
    }

    /// Visits the flows that it holds, if it is of IPv4 or else of IPv6.
    pub fn for_each(
        &self,
        is_v4: bool,
        seed: &[u8; FLOW_SEED_BYTES],
        visit: impl FnMut(&FlowKey, &Flow),
    ) {
        if is_v4 {
            for_each(&self.ways, seed, visit);
        } else if let Some(ways) = self.v6() {
            for_each(ways, seed, visit);
        }
    }

    /// How many flows it holds, if it is of IPv4 or else of IPv6.
    pub fn count(&self, is_v4: bool) -> usize {
        if is_v4 {
            self.ways.iter().filter(|way| !way.is_free()).count()
        } else {
            let ways = self.v6().into_iter().flatten();
            ways.filter(|way| !way.is_free()).count()
        }
    }

    #[inline(always)]
    fn v6(&self) -> Option<&[V6; WAYS_V6]> {
        self.ways.as_chunks().0.first_chunk()
    }
}

#[inline(always)]
fn find<'a, W: Way, const N: usize>(ways: &'a [W; N], place: &Place) -> Option<Known<'a>> {
    let way = from_home(ways, place).find(|way| way.has(&place.key))?;
    let verdict = way.verdict();
    (way.check() == place.hash.check(verdict)).then(|| way.known(verdict))
}

#[inline(always)]
fn put<W: Way, const N: usize>(ways: &[W; N], place: &Place, flow: &Flow) {
    let now = flow.seen.get();
    let mut ways = from_home(ways, place);
    let Some(mut best) = ways.next() else {
        return;
    };
    let mut most = best.fitness(&place.key, now);
    for way in ways {
        let fitness = way.fitness(&place.key, now);
        if fitness > most {
            (best, most) = (way, fitness);
        }
    }
    let verdict: u64 = transmute!([flow.generation, flow.epoch]);
    let state = way::state(now, flow.flags.get());
    best.write(&place.key, verdict, place.hash.check(verdict), state);
}

/// A flow of a table where each may be in two sets; `set` is the table's set of a place.
#[inline(always)]
pub fn find_in_two<'a>(
    place: &Place,
    set: impl Fn(&Place) -> Option<&'a FlowSet>,
) -> Option<Known<'a>> {
    let first = set(place)?;
    if let Some(known) = first.find(place) {
        return Some(known);
    }
    if !first.is_full(place.key.is_v4()) {
        return None;
    }
    let place = place.second();
    set(&place)?.find(&place)
}

/// Writes a flow to a table where each may be in two sets.
///
/// Both have it when room came to be in the first: the older copy is found when the newer is forgotten,
/// and ends when it would have without that.
#[inline(always)]
pub fn put_in_two<'a>(place: &Place, flow: &Flow, set: impl Fn(&Place) -> Option<&'a FlowSet>) {
    let Some(first) = set(place) else {
        return;
    };
    if first.has_room(place, flow.seen.get()) {
        first.put(place, flow);
        return;
    }
    let place = place.second();
    if let Some(second) = set(&place) {
        second.put(&place, flow);
    }
}

#[inline(always)]
fn is_full<W: Way, const N: usize>(ways: &[W; N]) -> bool {
    !ways.iter().any(Way::is_free)
}

#[inline(always)]
fn has_room<W: Way, const N: usize>(ways: &[W; N], place: &Place, now: u32) -> bool {
    ways.iter()
        .any(|way| way.fitness(&place.key, now) >= way::NOT_MISSED)
}

/// The ways by their distance from a flow's home: first those in the same cache line, then those in the
/// line that processors fetch along with it. Of each the verifier knows the same, that it is one of
/// them, and goes on once for all.
#[inline(always)]
fn from_home<'a, W, const N: usize>(
    ways: &'a [W; N],
    place: &Place,
) -> impl Iterator<Item = &'a W> {
    const { assert!(N.is_power_of_two()) };
    let home = place.hash.home(N);
    (0..N).filter_map(move |step| ways.get((home ^ step) & (N - 1)))
}

fn for_each<W: Way>(
    ways: &[W],
    seed: &[u8; FLOW_SEED_BYTES],
    mut visit: impl FnMut(&FlowKey, &Flow),
) {
    for way in ways.iter().filter(|way| !way.is_free()) {
        let place = Place::of(way.key(), seed);
        let verdict = way.verdict();
        if way.check() == place.hash.check(verdict) {
            visit(&place.key, &way.known(verdict).flow);
        }
    }
}
