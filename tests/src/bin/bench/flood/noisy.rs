//! What is beside the quiet pod: a pod that floods, or a thread that only computes as long.
//!
//! An XDP program in the pod's namespace is given copies of a frame ([`kernel::run_live`]), writes a port
//! into each, and redirects it to the pod's own interface. From there on the frames go as the pod's do:
//! through the veth to the node's end, whose NAPI poll makes a packet of each and hands it to the hook.
//! What they do not go through is the pod's own sockets, stack and queue, which one processor cannot make
//! a million datagrams a second with. The node's end takes such frames with GRO on, which it is for this
//! pod alone.
//!
//! A call costs some 25 ms of waiting for grace periods, so that many threads take turns: one call
//! begins every [`EVERY`]. All are on one processor, and so is the poll.

use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use aya_obj::generated::bpf_prog_type;
use egress_tests::harness::{NetNs, Pod, World};
use rustix::time::{ClockId, clock_gettime};

use super::super::assembly::{Assembly, op};
use super::super::kernel;
use super::on;

/// Where the noisy pod may not send: 256 ports from here on, so that each drop is another record.
pub(super) const FORBIDDEN: u16 = 0x0900;

/// When a call begins, and how many frames it sends: a million a second.
const EVERY: Duration = Duration::from_millis(5);
const COPIES: u32 = 5_000;

/// Enough that one of them is free whenever a call is due.
const CALLERS: usize = 32;

/// Frames that the kernel makes at a time: few enough for one poll (64) and for the veth's ring (256).
const BATCH: u32 = 32;

/// What goes on beside the quiet pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Beside {
    Nothing,
    /// A thread that has the processor for this part of the time.
    Computing(f64),
    Flood,
}

/// What the other processor did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    /// Frames sent.
    pub(super) frames: u64,
    /// Part of the time that the processor was at it, the handling of the frames included.
    pub(super) share: f64,
}

/// The pod that floods.
pub(super) struct Noisy<'a> {
    pod: &'a NetNs,
    program: OwnedFd,
    frame: Vec<u8>,
    cpu: usize,
}

impl<'a> Noisy<'a> {
    /// A pod of `world` that sends copies of `frame`, on processor `cpu`.
    pub(super) fn new(world: &World, pod: &'a Pod, frame: Vec<u8>, cpu: usize) -> Result<Self> {
        world
            .host
            .run(|| kernel::turn_gro_on(&pod.host_interface))
            .context("letting the node's end of a veth take frames that XDP sends")?;
        let interface = pod
            .ns
            .run(|| kernel::interface_index("eth0"))
            .context("the pod's interface")?;
        let code = instructions(i32::try_from(interface)?);
        Ok(Self {
            pod: &pod.ns,
            program: kernel::load(bpf_prog_type::BPF_PROG_TYPE_XDP, &code)?,
            frame,
            cpu,
        })
    }

    /// Does `task` while something goes on beside it.
    pub(super) fn during<T>(
        &self,
        beside: Beside,
        task: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Done)> {
        let turns = Turns::new();
        let stop = AtomicBool::new(false);
        let frames = AtomicU64::new(0);
        let (threads, share) = match beside {
            Beside::Nothing => (0, 0.0),
            Beside::Computing(share) => (1, share),
            Beside::Flood => (CALLERS, 0.0),
        };
        thread::scope(|scope| {
            let work = || -> Result<Duration> {
                while !stop.load(Ordering::Relaxed) {
                    turns.wait();
                    if beside == Beside::Flood {
                        kernel::run_live(&self.program, &self.frame, COPIES, BATCH)?;
                        frames.fetch_add(COPIES.into(), Ordering::Relaxed);
                    } else {
                        compute(EVERY.mul_f64(share));
                    }
                }
                Ok(processor_time())
            };
            let others: Vec<_> = (0..threads)
                .map(|_| scope.spawn(move || self.pod.run(|| on(self.cpu, work))))
                .collect();
            let done = task();
            stop.store(true, Ordering::Relaxed);
            let mut busy = Duration::ZERO;
            for other in others {
                busy += other
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("a noisy thread panicked")))?;
            }
            let frames = frames.load(Ordering::Relaxed);
            let share = busy.as_secs_f64() / turns.start.elapsed().as_secs_f64();
            Ok((done?, Done { frames, share }))
        })
    }
}

/// Moments at a steady pace, each for one of several threads.
struct Turns {
    start: Instant,
    next: AtomicU32,
}

impl Turns {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            next: AtomicU32::new(0),
        }
    }

    /// Waits for the next moment that nobody else has; returns at once when that has passed.
    fn wait(&self) {
        let due = EVERY * self.next.fetch_add(1, Ordering::Relaxed);
        thread::sleep(due.saturating_sub(self.start.elapsed()));
    }
}

/// Keeps the processor for so much of the thread's time.
fn compute(long: Duration) {
    let until = processor_time() + long;
    while processor_time() < until {
        black_box((0..1_000_u64).fold(0, |sum, n| sum ^ black_box(n)));
    }
}

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// An XDP program: another port, no checksum, out of the interface. r8 and r9 are the frame's bounds.
fn instructions(interface: i32) -> Vec<[u8; 8]> {
    /// Helper numbers, of linux/bpf.h.
    const GET_PRANDOM_U32: i32 = 7;
    const REDIRECT: i32 = 23;
    /// Offsets in `xdp_md`.
    const DATA: i16 = 0;
    const DATA_END: i16 = 4;
    /// Of an Ethernet frame with an IPv4 header without options.
    const UDP: i16 = 14 + 20;
    let mut code = Assembly::default();
    code.push(op::LOAD32, 8, 1, DATA, 0);
    code.push(op::LOAD32, 9, 1, DATA_END, 0);
    code.push(op::MOVE, 1, 8, 0, 0);
    code.push(op::ADD, 1, 0, 0, i32::from(UDP) + 8);
    code.leave_if(op::JUMP_IF_GREATER, 1, 9);
    code.push(op::CALL, 0, 0, 0, GET_PRANDOM_U32);
    code.push(op::STORE8, 8, 0, UDP + 3, 0);
    code.push(op::SET, 1, 0, 0, 0);
    code.push(op::STORE16, 8, 1, UDP + 6, 0);
    code.push(op::SET, 1, 0, 0, interface);
    code.push(op::SET, 2, 0, 0, 0);
    code.push(op::CALL, 0, 0, 0, REDIRECT);
    code.push(op::EXIT, 0, 0, 0, 0);
    code.finish()
}
