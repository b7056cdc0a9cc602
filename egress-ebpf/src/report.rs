//! Counters and events.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::bpf_ringbuf_query;
#[cfg(feature = "log")]
use aya_ebpf::programs::TcContext;
use egress_common::abi::{EVENTS_LOST_BUDGET, EVENTS_LOST_FULL, Endpoint};
use egress_common::event::Record;
use egress_common::hook::Outcome;
use egress_common::packet::Frame as _;
use egress_common::tables::State as _;

use crate::clock;
use crate::maps::{
    Budgets, EVENT_BUDGET, EVENTS, EVENTS_LOST, FLOW_BUDGET, FLOW_EVENTS_LOST, Maps, count_drop,
    count_pass,
};
use crate::skb::Skb;

/// The reader is woken when another 32 KiB wait for it: a wake-up costs ten times the event
/// (1,450 ns), so below that the reader looks by its own timer.
const WAKEUP_BYTES: u64 = 32 << 10;
/// What one record takes of the ring buffer, with the kernel's header.
const RECORD_BYTES: u64 = 64 + 8;

/// Records of new flows that one endpoint may send a second, set by the loader; 0, and the verifier drops
/// the code: the section is frozen before the programs are loaded.
#[unsafe(no_mangle)]
static FLOW_EVENTS: Global<u32> = Global::new(0);

/// Counts the frame, and tells of a drop and, where that is asked for, of a new flow.
#[inline(always)]
pub(crate) fn count(frame: &Skb, outcome: &Outcome<'_>) {
    if let Some(index) = outcome.allowed() {
        count_pass(
            index,
            segments(frame, outcome),
            u64::from(outcome.packet.length),
        );
        if FLOW_EVENTS.load() > 0
            && outcome.opens()
            && let Some(endpoint) = outcome.endpoint
        {
            tell_flow(frame, outcome, endpoint);
        }
    } else if let (Some(kind), Some(endpoint)) = (outcome.dropped(), outcome.endpoint) {
        count_drop(
            endpoint.slot.get().into(),
            kind,
            segments(frame, outcome),
            u64::from(outcome.packet.length),
        );
        tell(frame, outcome, endpoint);
    }
}

/// Every verdict, for debugging the datapath; see the feature.
#[cfg(feature = "log")]
#[inline(always)]
pub(crate) fn log(context: &TcContext, outcome: &Outcome<'_>) {
    aya_log_ebpf::debug!(
        context,
        "reason {} family {} protocol {} ports {} {}",
        outcome.reason.number(),
        outcome.packet.family,
        outcome.packet.protocol,
        outcome.packet.source_port,
        outcome.packet.destination_port
    );
}

#[inline(always)]
fn segments(frame: &Skb, outcome: &Outcome<'_>) -> u64 {
    frame.segments(
        outcome
            .packet
            .length
            .saturating_sub(outcome.packet.transport_at),
    )
}

/// Sends the record of a drop, unless the endpoint has sent its share of this second.
#[inline(always)]
fn tell(frame: &Skb, outcome: &Outcome<'_>, endpoint: &Endpoint) {
    let limit = Maps.config().events_per_second.get();
    if limit == 0 {
        return;
    }
    if !within_budget(&EVENT_BUDGET, endpoint, limit) {
        lose(&EVENTS_LOST, EVENTS_LOST_BUDGET);
        return;
    }
    if !send(frame, outcome, endpoint) {
        lose(&EVENTS_LOST, EVENTS_LOST_FULL);
    }
}

/// Sends the record of a new flow, unless the endpoint has sent its share of this second.
#[inline(always)]
fn tell_flow(frame: &Skb, outcome: &Outcome<'_>, endpoint: &Endpoint) {
    let sent =
        within_budget(&FLOW_BUDGET, endpoint, FLOW_EVENTS.load()) && send(frame, outcome, endpoint);
    if !sent {
        lose(&FLOW_EVENTS_LOST, 0);
    }
}

/// False when the ring buffer is full.
#[inline(always)]
fn send(frame: &Skb, outcome: &Outcome<'_>, endpoint: &Endpoint) -> bool {
    let Some(mut entry) = EVENTS.reserve(0) else {
        return false;
    };
    let record = outcome.record(
        endpoint,
        frame.ifindex(),
        frame.ethertype(),
        clock::nanoseconds(),
    );
    entry.write(record);
    entry.submit(wakeup());
    true
}

#[inline(always)]
fn within_budget(budgets: &Budgets, endpoint: &Endpoint, limit: u32) -> bool {
    let Some(budget) = budgets.get_ptr_mut(u32::from(endpoint.slot.get())) else {
        return false;
    };
    // SAFETY: the pointer is a map value. CPUs race for it; what they can lose is a few counts, and
    // a few more events than the budget are sent.
    let budget = unsafe { &mut *budget };
    let now = clock::seconds();
    if budget.second != now {
        budget.second = now;
        budget.sent = 0;
    }
    if budget.sent >= limit {
        return false;
    }
    budget.sent += 1;
    true
}

#[inline(always)]
fn lose<const N: usize>(counts: &PerCpuArray<u64, N>, index: u32) {
    if let Some(lost) = counts.get_ptr_mut(index) {
        // SAFETY: the pointer is this CPU's value.
        unsafe { *lost += 1 };
    }
}

/// Wakes the reader each time that another [`WAKEUP_BYTES`] wait.
#[inline(always)]
fn wakeup() -> u64 {
    const { assert!(size_of::<Record>() == 64) };
    // SAFETY: EVENTS is a ring buffer; the query reads its positions only.
    let waiting = unsafe {
        bpf_ringbuf_query(
            core::ptr::from_ref(&EVENTS).cast_mut().cast(),
            u64::from(BPF_RB_AVAIL_DATA),
        )
    };
    if waiting >= WAKEUP_BYTES && waiting % WAKEUP_BYTES < RECORD_BYTES {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}
