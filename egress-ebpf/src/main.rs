//! The kernel programs: entry points of `egress_common`'s hooks. No policy of their own.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "helpers and map pointers")]
#![expect(
    clippy::needless_pass_by_value,
    reason = "how the classifier macro hands over the context"
)]

mod clock;
mod maps;
mod report;
mod skb;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use egress_common::event::Action;
use egress_common::hook;

use crate::maps::{Maps, Memory};
use crate::skb::Skb;

/// Host side of a pod's interface, ingress: what the pod sends.
///
/// A pass is `TC_ACT_UNSPEC`, which is `TCX_NEXT`: other owners' programs still run.
#[classifier]
fn from_pod(context: TcContext) -> i32 {
    let Some(Memory { scratch, buffer }) = maps::memory() else {
        return TC_ACT_SHOT;
    };
    let frame = Skb::new(&context, buffer);
    let outcome = hook::from_pod(&Maps, frame.hook(), &frame, scratch);
    report::count(&frame, &outcome);
    #[cfg(feature = "log")]
    report::log(&context, &outcome);
    match outcome.reason.action() {
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
    }
}

/// Host side of a pod's interface, egress: what is sent to the pod. Drops nothing.
#[classifier]
fn to_pod(context: TcContext) -> i32 {
    if let Some(Memory { scratch, buffer }) = maps::memory() {
        let frame = Skb::new(&context, buffer);
        hook::to_pod(&Maps, frame.hook(), &frame, scratch);
    }
    TC_ACT_UNSPEC
}

/// Does nothing: what every other program's cost is measured against.
#[classifier]
fn empty(_context: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
