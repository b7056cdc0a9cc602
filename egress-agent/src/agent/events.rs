//! Records of drops and of new flows, from the kernel's ring to those who read them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use egress_common::event::{Reason, Record};
use tokio::sync::watch;
use zerocopy::FromBytes as _;

use crate::attribution::Attribution;
use crate::drops::{Clocks, DropLog, DropRecord};
use crate::flows::FlowLog;

/// How often the ring is emptied. Being woken for each record costs the sender more than a
/// microsecond; in this time the ring holds 290,000 records a second, far above what the kernel
/// programs let an endpoint send.
const FETCH: Duration = Duration::from_millis(50);

/// The kernel's ring and its readers.
pub(super) struct Events {
    /// None where the kernel has none for us.
    ring: Option<RingBuf<MapData>>,
    attribution: watch::Receiver<Arc<Attribution>>,
    drops: Arc<DropLog>,
    flows: Option<FlowLog>,
}

impl Events {
    pub(super) const fn new(
        ring: Option<RingBuf<MapData>>,
        attribution: watch::Receiver<Arc<Attribution>>,
        drops: Arc<DropLog>,
        flows: Option<FlowLog>,
    ) -> Self {
        Self {
            ring,
            attribution,
            drops,
            flows,
        }
    }

    /// Forwards records for ever. [`Self::finish`] is for what comes after the last look.
    pub(super) async fn forward(&mut self) -> Infallible {
        loop {
            tokio::time::sleep(FETCH).await;
            self.fetch();
        }
    }

    /// Forwards what the ring still holds, and lets the readers write what they keep.
    pub(super) fn finish(mut self) {
        self.fetch();
    }

    /// Empties the ring.
    fn fetch(&mut self) {
        let Some(ring) = &mut self.ring else {
            return;
        };
        let mut batch = Vec::new();
        let clocks = Clocks::now();
        {
            let owners = self.attribution.borrow();
            while let Some(item) = ring.next() {
                match Record::read_from_bytes(&item) {
                    Ok(record) => {
                        if let Some(flows) = &mut self.flows {
                            flows.take(&record, clocks, &owners);
                        }
                        if record.reason != Reason::Allowed.number() {
                            batch.push(DropRecord::new(&record, clocks, &owners));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, bytes = item.len(), "a drop record of another layout");
                    }
                }
            }
        }
        let now = Instant::now();
        if !batch.is_empty() {
            self.drops.push(batch, now);
        }
        self.drops.advance(now);
        if let Some(flows) = &mut self.flows {
            flows.advance(now);
        }
    }
}
