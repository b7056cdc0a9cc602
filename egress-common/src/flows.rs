//! A table of flows: a plain array of sets, which every packet reads and writes without a call.
//!
//! A kernel's hash table costs two calls for a look-up and a dozen for an insertion, which also walks
//! lists that other packets have put out of the cache. Here the key's hash names a set, and in it the
//! way where the flow is at home; a flow is in its set or nowhere, and a new one takes the place of the
//! one that is missed least. A flow that is at home takes a single cache line.
//!
//! No lock: CPUs, and the agent, may read and write a set at once. What they must not do is read the
//! verdict of one flow beside the key of another. So each way holds a check of its key and its verdict
//! together, in one word, and a way whose parts are of different writers is nobody's flow (R. Hyatt
//! and T. Mann, "A lock-less transposition table implementation for parallel search", 2002). No order
//! of reads and writes is relied on. What goes with a lost race is an entry, which costs another
//! decision as an eviction does.
//!
//! The hash is keyed by [`Config::seed`], so that nobody outside can choose flows that meet in a set.
//!
//! [`Config::seed`]: crate::abi::Config::seed

mod way;
mod word;

use zerocopy::transmute;

use crate::abi::{Flow, FlowKey};
use way::{V4, V6, Way};
use word::Word;

/// IPv4 flows that a set holds.
pub const WAYS_V4: usize = 8;
/// IPv6 flows that a set holds.
pub const WAYS_V6: usize = 4;

/// The hash of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHash(u64);

impl FlowHash {
    /// Of a key, under the secret of this node.
    #[inline(always)]
    pub fn of(key: &FlowKey, seed: &[u8; 16]) -> Self {
        let [head, high, low] = key.words();
        let [first, second]: [u64; 2] = transmute!(*seed);
        let mut hash = (head ^ first).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
        hash = (hash ^ high).wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^= hash >> 32;
        hash = (hash ^ low ^ second).wrapping_mul(0xa076_1d64_78bd_642f);
        Self(hash ^ (hash >> 29))
    }

    /// The check of a key with this hash and a verdict. One key's checks are different for different
    /// verdicts, and none is that of an empty way.
    #[inline(always)]
    const fn check(self, verdict: u64) -> u64 {
        (self.0 ^ verdict).wrapping_mul(0x8ebc_6af0_9c88_c6e3)
    }

    /// A number below `count`.
    #[inline(always)]
    const fn spread(self, count: u32) -> u32 {
        #[expect(
            clippy::as_conversions,
            clippy::cast_possible_truncation,
            reason = "the quotient is less than `count`"
        )]
        let number = (((self.0 >> 32) * count as u64) >> 32) as u32;
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
        let home = self.0 as usize & (ways - 1);
        home
    }
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
    pub fn of(key: FlowKey, seed: &[u8; 16]) -> Self {
        Self {
            hash: FlowHash::of(&key, seed),
            key,
        }
    }

    /// The key.
    pub const fn key(&self) -> &FlowKey {
        &self.key
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

    /// Empties the set.
    pub fn clear(&self) {
        self.ways.iter().for_each(Way::clear);
    }

    /// Visits the flows that it holds, if it is of IPv4 or else of IPv6.
    pub fn for_each(&self, is_v4: bool, seed: &[u8; 16], visit: impl FnMut(&FlowKey, &Flow)) {
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

/// The ways from a flow's home on. Of each the verifier knows the same, that it is one of them, and
/// goes on once for all.
#[inline(always)]
fn from_home<'a, W, const N: usize>(
    ways: &'a [W; N],
    place: &Place,
) -> impl Iterator<Item = &'a W> {
    const { assert!(N.is_power_of_two()) };
    let home = place.hash.home(N);
    (0..N).filter_map(move |step| ways.get((home + step) & (N - 1)))
}

fn for_each<W: Way>(ways: &[W], seed: &[u8; 16], mut visit: impl FnMut(&FlowKey, &Flow)) {
    for way in ways.iter().filter(|way| !way.is_free()) {
        let place = Place::of(way.key(), seed);
        let verdict = way.verdict();
        if way.check() == place.hash.check(verdict) {
            visit(&place.key, &way.known(verdict).flow);
        }
    }
}
