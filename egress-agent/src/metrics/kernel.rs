//! What a scrape reads from the kernel.

use egress_common::abi::{Counter, CounterKey};
use egress_common::event::Reason;

use crate::status::MapFill;
use crate::traffic::{Family, Protocol};

/// The kernel's counters, as the datapath reads them.
pub trait Kernel: Send + Sync {
    /// Reads every counter now. All or nothing: with a part missing, totals would go down.
    fn readings(&self) -> Result<Readings, ReadError>;
}

/// The counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// COUNTERS, summed over CPUs.
    pub dropped: Vec<DropCount>,
    /// ALLOWED, summed over CPUs.
    pub allowed: Vec<AllowedCount>,
    /// Records that found the ring buffer full.
    pub events_lost: u64,
    /// Records of new flows that were over the limit or found the ring buffer full.
    pub flow_events_lost: u64,
    /// How full the tables are.
    pub maps: Vec<MapFill>,
}

/// Drops of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCount {
    /// The endpoint.
    pub slot: u16,
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

impl DropCount {
    /// An entry of COUNTERS. `None` when no reason has the number: it is not this version's.
    pub fn new(key: &CounterKey, counter: Counter) -> Option<Self> {
        Some(Self {
            slot: key.slot.get(),
            reason: Reason::from_number(key.reason)?,
            protocol: Protocol::from_number(key.protocol),
            family: Family::from_abi(key.family),
            packets: counter.packets,
            bytes: counter.bytes,
        })
    }
}

/// What one endpoint was allowed to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedCount {
    /// The endpoint.
    pub slot: u16,
    /// The family.
    pub family: Family,
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
