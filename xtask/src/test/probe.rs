//! Whether this machine can run the tests in the kernel. Tries, and never compares
//! versions; leaves nothing behind.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::privileges::Privileges;
use crate::process;

/// The first thing that is missing, in words; `None` when nothing is.
pub(super) fn obstacle() -> Result<Option<String>> {
    let privileges = Privileges::own()?;
    if !privileges.lacking.is_empty() {
        let lacking: Vec<&str> = privileges.lacking.into_iter().collect();
        return Ok(Some(format!("not root, or without {}", lacking.join(", "))));
    }
    if let Err(error) = network_namespace() {
        return Ok(Some(format!(
            "no network namespace with a veth pair: {error:#}"
        )));
    }
    if let Err(error) = load_program() {
        return Ok(Some(format!("the kernel refuses a BPF program: {error}")));
    }
    if let Err(error) = bpf_filesystem() {
        return Ok(Some(format!("no bpffs: {error:#}")));
    }
    Ok(None)
}

/// In a namespace that ends with the command.
fn network_namespace() -> Result<()> {
    process::output(Command::new("unshare").args([
        "--net", "ip", "link", "add", "near", "type", "veth", "peer", "name", "far",
    ]))
    .map(drop)
}

/// Mounts it where nobody else sees it.
fn bpf_filesystem() -> Result<()> {
    process::output(
        Command::new("unshare")
            .args(["--mount", "mount", "-t", "bpf", "none"])
            .arg(Path::new("/mnt")),
    )
    .map(drop)
}

/// `BPF_PROG_LOAD` of linux/bpf.h.
const PROG_LOAD: libc::c_int = 5;

/// `BPF_PROG_TYPE_SCHED_CLS`: what the agent attaches to a pod's interface.
const SCHED_CLS: u32 = 3;

/// `r0 = 0; exit`, as two 8-byte instructions.
const NOTHING: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// The start of `union bpf_attr` that every kernel with tc programs reads.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The program is unloaded when its descriptor closes, at the end of this function.
#[expect(unsafe_code, reason = "bpf(2) has no wrapper in libc")]
fn load_program() -> io::Result<()> {
    let address = |pointer: usize| u64::try_from(pointer).map_err(io::Error::other);
    let attr = ProgLoad {
        prog_type: SCHED_CLS,
        insn_cnt: 2,
        insns: address(NOTHING.as_ptr().expose_provenance())?,
        license: address(c"GPL".as_ptr().expose_provenance())?,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `attr` outlives the call and its length is passed with it; `insns` and
    // `license` point to constants of the stated length; the kernel writes to none of them,
    // as there is no log buffer.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_LOAD,
            &raw const attr,
            size_of::<ProgLoad>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call above returned it just now, and nothing else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}
