//! What the bench asks of the kernel: namespaces of its own, programs made of plain
//! instructions, and `BPF_PROG_TEST_RUN`.

#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::CStr;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_type};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::net::netdevice::name_to_index;
use rustix::thread::{CpuSet, UnshareFlags, sched_getcpu, sched_setaffinity, unshare_unsafe};
use rustix::time::{ClockId, clock_gettime};

/// Where the private BPF file system is.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// Packets' interface: a test run without one takes the namespace's loopback.
pub(crate) const HOOK: u64 = 1;

/// What one test run said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ran {
    /// The last run's return value.
    pub(crate) verdict: u32,
    /// Processor time of one run, in nanoseconds.
    pub(crate) nanoseconds: f64,
}

/// Moves the process into a network and a mount namespace of its own, with a BPF file system of
/// its own. Whatever is pinned there goes with the process, also when that is killed.
pub(crate) fn enter_own_namespaces() -> Result<()> {
    // SAFETY: what is unsafe about unshare is to give threads different tables of file
    // descriptors, and these flags keep the table shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
        .context("making namespaces")?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .context("keeping mounts to this process")?;
    mount("bpf", BPFFS, "bpf", MountFlags::empty(), None)
        .with_context(|| format!("mounting a BPF file system on {BPFFS}"))
}

/// Binds the process to the CPU it is on, and returns that: caches and per-CPU lists stay warm.
pub(crate) fn stay_on_this_cpu() -> Result<usize> {
    let cpu = sched_getcpu();
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("staying on CPU {cpu}"))?;
    Ok(cpu)
}

/// Runs a tc program `repeat` times on one frame, whose mark is `mark` at first. Whatever the
/// program does to frame and mark is what the next run finds.
///
/// The time is the thread's processor time over the whole call, divided. It agrees with the
/// kernel's own `duration`, which is cut to whole nanoseconds: a twentieth of what the empty program
/// costs. What the call takes beside its runs, a few microseconds, is lost among them.
pub(crate) fn test_run(program: impl AsFd, frame: &[u8], repeat: u32, mark: u32) -> Result<Ran> {
    // The start of __sk_buff: length, packet type, mark.
    let context = [0, 0, mark];
    let mut attr = zeroed();
    // SAFETY: `test` is the member that BPF_PROG_TEST_RUN reads, and any bytes are a value of it.
    let test = unsafe { &mut attr.test };
    test.prog_fd = raw(&program);
    test.data_in = address(frame.as_ptr());
    test.data_size_in = u32::try_from(frame.len())?;
    test.ctx_in = address(context.as_ptr());
    test.ctx_size_in = u32::try_from(size_of_val(&context))?;
    test.repeat = repeat;
    let before = processor_time();
    call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr).context("BPF_PROG_TEST_RUN")?;
    let spent = processor_time().saturating_sub(before);
    // SAFETY: as above; the kernel filled the results in.
    let verdict = unsafe { attr.test.retval };
    Ok(Ran {
        verdict,
        nanoseconds: spent.as_secs_f64() * 1e9 / f64::from(repeat),
    })
}

/// Gives an XDP program copies of a frame, and does with each what it says: one that it redirects to an
/// interface is sent there (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18). The namespace is the caller's.
pub(crate) fn run_live(program: impl AsFd, frame: &[u8], copies: u32, batch: u32) -> Result<()> {
    const LIVE_FRAMES: u32 = 1 << 1;
    let mut attr = zeroed();
    // SAFETY: `test` is the member that BPF_PROG_TEST_RUN reads, and any bytes are a value of it.
    let test = unsafe { &mut attr.test };
    test.prog_fd = raw(&program);
    test.data_in = address(frame.as_ptr());
    test.data_size_in = u32::try_from(frame.len())?;
    test.repeat = copies;
    test.flags = LIVE_FRAMES;
    test.batch_size = batch;
    call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)
        .context("BPF_PROG_TEST_RUN with live frames, which take Linux 5.18")?;
    Ok(())
}

/// Turns GRO on for an interface of the caller's namespace; a veth then polls (NAPI, Linux 5.13).
pub(crate) fn turn_gro_on(interface: &str) -> Result<()> {
    /// `struct ethtool_value`, and what sets GRO; of linux/ethtool.h.
    #[repr(C)]
    struct EthtoolValue {
        command: u32,
        data: u32,
    }
    const ETHTOOL_SGRO: u32 = 0x2c;
    let mut value = EthtoolValue {
        command: ETHTOOL_SGRO,
        data: 1,
    };
    // SAFETY: plain integers and pointers; all zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .take(room)
        .zip(interface.bytes())
    {
        *to = from.try_into().context("a name of an interface is ASCII")?;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = UdpSocket::bind("[::]:0")?;
    // SAFETY: SIOCETHTOOL takes an `ifreq` with a name that ends with a zero and a pointer to what the
    // command at its start calls for; both live until the call has returned.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("turning GRO on for {interface}"));
    }
    Ok(())
}

/// The index of an interface of the caller's namespace.
pub(crate) fn interface_index(name: &str) -> Result<u32> {
    let socket = UdpSocket::bind("[::]:0")?;
    Ok(name_to_index(&socket, name)?)
}

/// Loads instructions as a program of a kind.
pub(crate) fn load(kind: bpf_prog_type, instructions: &[[u8; 8]]) -> Result<OwnedFd> {
    const LICENSE: &CStr = c"Dual MIT/GPL";
    let mut log = vec![0_u8; 1 << 16];
    let mut attr = zeroed();
    // SAFETY: this is the member that BPF_PROG_LOAD reads, and any bytes are a value of it.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    #[expect(clippy::as_conversions, reason = "the enum is the kernel's, of u32")]
    let kind = kind as u32;
    load.prog_type = kind;
    load.insn_cnt = u32::try_from(instructions.len())?;
    load.insns = address(instructions.as_ptr());
    load.license = address(LICENSE.as_ptr());
    load.log_level = 1;
    load.log_size = u32::try_from(log.len())?;
    load.log_buf = address(log.as_mut_ptr());
    let fd = call(bpf_cmd::BPF_PROG_LOAD, &mut attr).with_context(|| {
        let log = String::from_utf8_lossy(&log);
        format!("loading a program: {}", log.trim_end_matches('\0'))
    })?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

fn raw(fd: &impl AsFd) -> u32 {
    u32::try_from(fd.as_fd().as_raw_fd()).unwrap_or(u32::MAX)
}

#[expect(clippy::as_conversions, reason = "the kernel takes addresses as u64")]
fn address<T>(pointer: *const T) -> u64 {
    pointer as u64
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain integers; all zeroes are a value of every member.
    unsafe { std::mem::zeroed() }
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    #[expect(clippy::as_conversions, reason = "the enum is the kernel's, of u32")]
    let command = command as u32;
    // SAFETY: `attr` is a bpf_attr of the size given; the pointers in it were made from slices that
    // outlive the call, with their lengths beside them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
