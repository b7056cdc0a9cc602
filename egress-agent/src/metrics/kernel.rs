//! What a scrape reads from the kernel.

use std::collections::BTreeMap;

use egress_common::event::Reason;

use crate::status::MapFill;
use crate::traffic::{Family, Protocol};

/// The kernel's counters, as the datapath reads them.
pub trait Kernel: Send + Sync {
    /// Reads the node's counters and those of these endpoints now. All or nothing: with a part missing,
    /// totals would go down.
    fn readings(&self, slots: &[u16]) -> Result<Readings, ReadError>;
}

/// The counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// DROP_TOTALS, summed over CPUs.
    pub dropped: Vec<DropCount>,
    /// ALLOWED, summed over CPUs: packets.
    pub allowed: BTreeMap<Family, u64>,
    /// DROPPED, summed over CPUs: by endpoint.
    pub by_slot: BTreeMap<u16, SlotDrops>,
    /// Records that found the ring buffer full.
    pub events_lost: u64,
    /// Records of new flows that were over the limit or found the ring buffer full.
    pub flow_events_lost: u64,
    /// How full the tables are.
    pub maps: Vec<MapFill>,
}

/// Dropped packets of one endpoint, by reason; without those for which none was dropped.
pub type SlotDrops = BTreeMap<Reason, u64>;

/// Drops of the node, since the tables were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCount {
    /// Why.
    pub reason: Reason,
    /// The folded protocol.
    pub protocol: Protocol,
    /// `None` for a frame that is neither IPv4 nor IPv6.
    pub family: Option<Family>,
    /// Packets; a GSO frame counts as its segments.
    pub packets: u64,
    /// Bytes of the IP packets.
    pub bytes: u64,
}

/// A table could not be read.
#[derive(Debug, thiserror::Error)]
#[error("map {map}: {op}")]
pub struct ReadError {
    /// The table's name.
    pub map: String,
    /// The operation, a label value: `lookup`, `iterate`.
    pub op: &'static str,
    /// What the kernel said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}
