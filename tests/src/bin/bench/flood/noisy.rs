//! What is beside the quiet pod: a pod that floods, or a thread that only computes.
//!
//! An XDP program in the pod's namespace is given copies of a frame ([`kernel::run_live`]). Whenever a
//! microsecond has passed it writes a port into one and redirects it to the pod's own interface; those in
//! between it lets go. From there on the frames go as the pod's do: through the veth to the node's end,
//! whose NAPI poll makes a packet of each and hands it to the hook, all on one processor. What they do not
//! go through is the pod's own sockets, stack and queue, which one processor cannot make a million
//! datagrams a second with. The node's end takes such frames with GRO on, which it is for this pod alone.
//!
//! It is one call for as long as the flood lasts, because beginning and ending one patches kernel code and
//! waits for grace periods, which other processors notice. So the processor is busy all the time, between
//! the frames too, and so is the thread that computes.

use std::hint::black_box;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{Array, Map, MapData};
use aya_obj::generated::{bpf_map_type, bpf_prog_type};
use egress_tests::harness::{NetNs, Pod, World};
use rustix::time::{ClockId, clock_gettime};

use super::super::assembly::{Assembly, op};
use super::super::{driver, kernel};
use super::on;

/// Where the noisy pod may not send: 256 ports from here on, so that each drop is another record.
pub(super) const FORBIDDEN: u16 = 0x0900;

/// Nanoseconds from frame to frame: a million a second.
const EVERY: i32 = 1_000;

/// Runs of the program in one call: more than there are in a flood, most of which find that it is not
/// time yet. What is left at its end takes a second.
const RUNS: u32 = 40_000_000;

/// Frames that the kernel makes at a time: few enough for one poll (64) and for the veth's ring (256).
const BATCH: u32 = 32;

/// What goes on beside the quiet pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    Nothing,
    Computing,
    Flood,
}

/// The pod that floods.
pub(super) struct Noisy<'a> {
    pod: &'a NetNs,
    program: OwnedFd,
    /// When the next frame is due, and how many were sent.
    pace: Array<MapData, [u64; 2]>,
    /// Not 0: none is sent any more.
    end: Array<MapData, u64>,
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
        let array = |name, value| driver::map(name, bpf_map_type::BPF_MAP_TYPE_ARRAY, value, 1);
        let (pace, end) = (array("pace", 16)?, array("end", 8)?);
        let [pace_fd, end_fd] = [&pace, &end].map(|map| map.fd().as_fd().as_raw_fd());
        let code = instructions(i32::try_from(interface)?, pace_fd, end_fd);
        Ok(Self {
            pod: &pod.ns,
            program: kernel::load(bpf_prog_type::BPF_PROG_TYPE_XDP, &code)?,
            pace: Array::try_from(Map::from_map_data(pace)?)?,
            end: Array::try_from(Map::from_map_data(end)?)?,
            frame,
            cpu,
        })
    }

    /// Does `task` while something goes on beside it; also tells how many frames were sent.
    pub(super) fn during<T>(
        &mut self,
        beside: Beside,
        task: impl FnOnce() -> Result<T>,
    ) -> Result<(T, u64)> {
        let Self {
            pod,
            program,
            pace,
            end,
            frame,
            cpu,
        } = self;
        let now = clock_gettime(ClockId::Monotonic);
        let now = u64::try_from(now.tv_sec)? * 1_000_000_000 + u64::try_from(now.tv_nsec)?;
        pace.set(0, [now, 0], 0)?;
        end.set(0, 0, 0)?;
        let stop = AtomicBool::new(false);
        let work = || -> Result<()> {
            match beside {
                Beside::Nothing => {}
                Beside::Computing => {
                    while !stop.load(Ordering::Relaxed) {
                        black_box((0..10_000_u64).fold(0, |sum, n| sum ^ black_box(n)));
                    }
                }
                Beside::Flood => {
                    kernel::run_live(&*program, frame, RUNS, BATCH)?;
                    ensure!(stop.load(Ordering::Relaxed), "the flood ended too early");
                }
            }
            Ok(())
        };
        let done = thread::scope(|scope| {
            let other = scope.spawn(|| pod.run(|| on(*cpu, work)));
            let done = task();
            stop.store(true, Ordering::Relaxed);
            end.set(0, 1, 0)?;
            other
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the noisy thread panicked")))?;
            done
        })?;
        let [_, sent] = pace.get(&0, 0)?;
        Ok((done, sent))
    }
}

/// An XDP program: if it is time, another port, no checksum, out of the interface. r8 and r9 are the
/// frame's bounds, r7 is the pace.
fn instructions(interface: i32, pace: RawFd, end: RawFd) -> Vec<[u8; 8]> {
    /// Helper numbers, of linux/bpf.h.
    const KTIME_GET_NS: i32 = 5;
    const GET_PRANDOM_U32: i32 = 7;
    const REDIRECT: i32 = 23;
    const XDP_DROP: i32 = 1;
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
    code.load_value(1, end);
    code.push(op::LOAD64, 1, 1, 0, 0);
    code.leave_if(op::JUMP_UNLESS_EQUAL, 1, 0);
    code.load_value(7, pace);
    code.push(op::CALL, 0, 0, 0, KTIME_GET_NS);
    code.push(op::LOAD64, 1, 7, 0, 0);
    code.leave_if(op::JUMP_IF_GREATER, 1, 0);
    code.push(op::ADD, 1, 0, 0, EVERY);
    code.push(op::STORE64, 7, 1, 0, 0);
    code.push(op::LOAD64, 1, 7, 8, 0);
    code.push(op::ADD, 1, 0, 0, 1);
    code.push(op::STORE64, 7, 1, 8, 0);
    code.push(op::CALL, 0, 0, 0, GET_PRANDOM_U32);
    code.push(op::STORE8, 8, 0, UDP + 3, 0);
    code.push(op::SET, 1, 0, 0, 0);
    code.push(op::STORE16, 8, 1, UDP + 6, 0);
    code.push(op::SET, 1, 0, 0, interface);
    code.push(op::SET, 2, 0, 0, 0);
    code.push(op::CALL, 0, 0, 0, REDIRECT);
    code.push(op::EXIT, 0, 0, 0, 0);
    code.finish(XDP_DROP)
}
