//! PRESENT: which addresses the programs need to look up in PEERS and FRONTENDS.
//!
//! A bit is set before an address enters its table and cleared after the last address that shares it
//! has left, so that one that is not set is always the truth.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{Array, MapData, MapError};
use egress_common::abi::{PRESENT_FRONTENDS, PRESENT_PEERS, present_bit};
use egress_core::image::Image;

use super::error::{SetupError, TableError};
use super::tables::{failed, take, values};

/// The bits, and how many addresses set each.
pub(super) struct Present {
    map: Array<MapData, [u8; 8]>,
    words: Vec<u64>,
    counts: BTreeMap<(u32, u32), u32>,
}

impl Present {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, SetupError> {
        let map = take(ebpf, "PRESENT")?;
        let words = words(&map).map_err(|source| SetupError::Map {
            map: "PRESENT",
            source,
        })?;
        Ok(Self {
            words,
            map,
            counts: BTreeMap::new(),
        })
    }

    /// Says what the tables say, whatever an earlier agent left.
    pub(super) fn follow(&mut self, image: &Image) -> Result<(), TableError> {
        self.counts.clear();
        let peers = image.peers.keys().map(|key| (PRESENT_PEERS, &key.bytes));
        let frontends = image.frontends.keys();
        let frontends = frontends.map(|key| (PRESENT_FRONTENDS, &key.address));
        let mut wanted = vec![0_u64; self.words.len()];
        for (table, address) in peers.chain(frontends) {
            let (word, bit) = place(table, address);
            *self.counts.entry((word, bit)).or_default() += 1;
            if let Some(bits) = index(word).and_then(|at| wanted.get_mut(at)) {
                *bits |= 1 << bit;
            }
        }
        for (word, bits) in (0..).zip(wanted) {
            self.write(word, bits)?;
        }
        Ok(())
    }

    /// An address is about to enter a table.
    pub(super) fn add(&mut self, table: u32, address: &[u8; 16]) -> Result<(), TableError> {
        let (word, bit) = place(table, address);
        self.write(word, self.bits(word) | 1 << bit)?;
        *self.counts.entry((word, bit)).or_default() += 1;
        Ok(())
    }

    /// An address has left a table.
    pub(super) fn remove(&mut self, table: u32, address: &[u8; 16]) -> Result<(), TableError> {
        let (word, bit) = place(table, address);
        if let Some(count) = self.counts.get_mut(&(word, bit)) {
            *count = count.saturating_sub(1);
            if *count > 0 {
                return Ok(());
            }
            self.counts.remove(&(word, bit));
        }
        self.write(word, self.bits(word) & !(1 << bit))
    }

    /// Whether the kernel has what was written.
    pub(super) fn is_as_written(&self) -> Result<bool, TableError> {
        let words = words(&self.map).map_err(|e| failed("PRESENT", "iterate", e))?;
        Ok(words == self.words)
    }

    fn bits(&self, word: u32) -> u64 {
        let bits = index(word).and_then(|at| self.words.get(at));
        bits.copied().unwrap_or_default()
    }

    fn write(&mut self, word: u32, bits: u64) -> Result<(), TableError> {
        if self.bits(word) == bits {
            return Ok(());
        }
        self.map
            .set(word, bits.to_ne_bytes(), 0)
            .map_err(|e| failed("PRESENT", "update", e))?;
        if let Some(mine) = index(word).and_then(|at| self.words.get_mut(at)) {
            *mine = bits;
        }
        Ok(())
    }
}

fn words(map: &Array<MapData, [u8; 8]>) -> Result<Vec<u64>, MapError> {
    let words = values(map)?.into_iter().map(u64::from_ne_bytes);
    Ok(words.collect())
}

fn place(table: u32, address: &[u8; 16]) -> (u32, u32) {
    let (word, bit) = present_bit(address);
    (table + word, bit)
}

fn index(word: u32) -> Option<usize> {
    usize::try_from(word).ok()
}
