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
use egress_common::hook::{self, Question};
use egress_common::packet::Frame as _;
use egress_common::tables::Aligned;

use crate::maps::{Maps, Memory, Use};
use crate::skb::{ETHERNET, Skb};

/// Host side of a pod's interface, ingress: what the pod sends.
///
/// A pass is `TC_ACT_UNSPEC`, which is `TCX_NEXT`: other owners' programs still run.
#[classifier]
fn from_pod(context: TcContext) -> i32 {
    let Some(Memory { scratch, buffer }) = maps::memory(Use::Hook) else {
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
    if let Some(Memory { scratch, buffer }) = maps::memory(Use::Hook) {
        let frame = Skb::new(&context, buffer);
        hook::to_pod(&Maps, frame.hook(), &frame, scratch);
    }
    TC_ACT_UNSPEC
}

/// Bytes of a question.
const QUESTION: usize = size_of::<Question>();

/// Answers `hook::Question`, which is the frame's payload, with `hook::Reply` behind it. Attached
/// nowhere: the agent runs it by `BPF_PROG_TEST_RUN`.
#[classifier]
#[expect(clippy::as_conversions, reason = "14")]
fn ask(context: TcContext) -> i32 {
    if let Some(Memory { scratch, buffer }) = maps::memory(Use::Ask)
        && let Some(question) = Skb::new(&context, buffer).load::<QUESTION>(0)
    {
        let question: Question = zerocopy::transmute!(question.0);
        let reply = Aligned(hook::ask(&Maps, scratch, &question));
        // Without a reply the agent reads zeroes: no endpoint.
        let _failed = context
            .store(ETHERNET as usize + QUESTION, &reply.0, 0)
            .is_err();
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
