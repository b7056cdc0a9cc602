//! One flow in its set.

use zerocopy::network_endian::U32;
use zerocopy::transmute;

use super::Known;
use super::word::Word;
use crate::abi::{FLOW_CLOSING, Flow, FlowKey};

/// The state is the upper half of a word: [`Flow::seen`] in 31 bits, which is 68 years, and one bit
/// above for [`FLOW_CLOSING`].
const SEEN: u64 = 0x7fff_ffff << 32;
const CLOSING: u64 = 1 << 63;

/// A closing flow still gets its last packets: so many seconds it is not preferred for eviction.
const LINGER: u64 = 4;

/// The state of a flow, beside 32 bits of zero.
#[inline(always)]
#[expect(clippy::as_conversions, reason = "u64::from is not const")]
pub(super) const fn state(seen: u32, flags: u32) -> u64 {
    let closing = if flags & FLOW_CLOSING == 0 {
        0
    } else {
        CLOSING
    };
    closing | (seen as u64) << 32 & SEEN
}

/// [`Way::fitness`] from here on: no live flow is forgotten.
pub(super) const NOT_MISSED: u64 = 1 << 32;

/// A way of a set: a family's words of key, verdict, check and state.
pub(super) trait Way {
    /// Whether it has a key.
    fn has(&self, key: &FlowKey) -> bool;
    /// Whether it has none.
    fn is_free(&self) -> bool;
    /// Generation and epoch.
    fn verdict(&self) -> u64;
    /// [`FlowHash::check`](super::FlowHash::check).
    fn check(&self) -> u64;
    /// The key that it has.
    fn key(&self) -> FlowKey;
    /// The word whose upper half is the state, and its lower half.
    fn state(&self) -> (&Word, u64);
    /// Writes all of it.
    fn write(&self, key: &FlowKey, verdict: u64, check: u64, state: u64);
    /// The flow that it has.
    #[inline(always)]
    fn known(&self, verdict: u64) -> Known<'_> {
        let [generation, epoch]: [U32; 2] = transmute!(verdict);
        let (word, beside) = self.state();
        let state = word.load();
        Known {
            flow: Flow {
                generation,
                epoch,
                seen: U32::new(seen(state)),
                flags: U32::new(if state & CLOSING == 0 {
                    0
                } else {
                    FLOW_CLOSING
                }),
            },
            word,
            beside,
        }
    }

    /// How well a flow would be put here: what it is in already before what is free, before a closed
    /// connection, before what was not seen for the longest time.
    #[inline(always)]
    fn fitness(&self, key: &FlowKey, now: u32) -> u64 {
        if self.has(key) {
            return u64::MAX;
        }
        if self.is_free() {
            return u64::MAX - 1;
        }
        let state = self.state().0.load();
        let idle = u64::from(now.saturating_sub(seen(state)));
        if state & CLOSING != 0 && idle > LINGER {
            idle | NOT_MISSED
        } else {
            idle
        }
    }
}

#[inline(always)]
#[expect(clippy::as_conversions, reason = "31 bits")]
const fn seen(state: u64) -> u32 {
    ((state & SEEN) >> 32) as u32
}

/// IPv4: the key's first word; the remote address beside the state; verdict; check.
pub(super) type V4 = [Word; 4];

/// IPv6: the key's three words, the verdict; the check, the state, two unused.
pub(super) type V6 = [V4; 2];

/// The remote address, of which IPv4 has four bytes, between the half of a word where the key has it
/// and the lower half.
#[inline(always)]
const fn address(word: u64) -> u64 {
    if cfg!(target_endian = "little") {
        word
    } else {
        word.rotate_right(32)
    }
}

impl Way for V4 {
    #[inline(always)]
    fn has(&self, key: &FlowKey) -> bool {
        let ([head, second, _, _], [first, high, _]) = (self, key.words());
        head.load() == first && second.load() & !(SEEN | CLOSING) == address(high)
    }

    #[inline(always)]
    fn is_free(&self) -> bool {
        let [head, ..] = self;
        head.load() == 0
    }

    #[inline(always)]
    fn verdict(&self) -> u64 {
        let [_, _, verdict, _] = self;
        verdict.load()
    }

    #[inline(always)]
    fn check(&self) -> u64 {
        let [.., check] = self;
        check.load()
    }

    fn key(&self) -> FlowKey {
        let [head, second, ..] = self;
        transmute!([head.load(), address(second.load() & !(SEEN | CLOSING)), 0])
    }

    #[inline(always)]
    fn state(&self) -> (&Word, u64) {
        let [_, second, ..] = self;
        (second, second.load() & !(SEEN | CLOSING))
    }

    #[inline(always)]
    fn write(&self, key: &FlowKey, verdict: u64, check: u64, state: u64) {
        let [first, high, _] = key.words();
        for (word, value) in self
            .iter()
            .zip([first, address(high) | state, verdict, check])
        {
            word.store(value);
        }
    }
}

impl Way for V6 {
    #[inline(always)]
    fn has(&self, key: &FlowKey) -> bool {
        let ([[a, b, c, _], _], [head, high, low]) = (self, key.words());
        a.load() == head && b.load() == high && c.load() == low
    }

    #[inline(always)]
    fn is_free(&self) -> bool {
        let [first, _] = self;
        first.is_free()
    }

    #[inline(always)]
    fn verdict(&self) -> u64 {
        let [[_, _, _, verdict], _] = self;
        verdict.load()
    }

    #[inline(always)]
    fn check(&self) -> u64 {
        let [_, [check, ..]] = self;
        check.load()
    }

    fn key(&self) -> FlowKey {
        let [[head, high, low, _], _] = self;
        transmute!([head.load(), high.load(), low.load()])
    }

    #[inline(always)]
    fn state(&self) -> (&Word, u64) {
        let [_, [_, state, ..]] = self;
        (state, 0)
    }

    #[inline(always)]
    fn write(&self, key: &FlowKey, verdict: u64, check: u64, state: u64) {
        let [first, second] = self;
        let [head, high, low] = key.words();
        for (word, value) in first.iter().zip([head, high, low, verdict]) {
            word.store(value);
        }
        for (word, value) in second.iter().zip([check, state]) {
            word.store(value);
        }
    }
}
