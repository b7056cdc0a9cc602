//! Calls of bpf(2) that aya does not offer: creating a map of any type, and writing raw entries, one
//! or many at once.

#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::maps::{MapData, MapError};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_type};

/// A map outside the object: the inner maps of RULESET_CIDRS and INBOUND.
pub(super) fn create_map(
    name: &str,
    map_type: bpf_map_type,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
) -> Result<MapData, MapError> {
    #[expect(clippy::as_conversions, reason = "the enum is the kernel's, of u32")]
    let map_type = map_type as u32;
    let map = aya_obj::Map::new_from_params(map_type, key, value, entries, flags);
    MapData::create(map, name, None)
}

/// `BPF_MAP_UPDATE_BATCH` (5.6, of tries 5.16): all keys in one call. `keys` and `values` hold
/// `count` entries each. Returns how many were written before an error.
pub(super) fn update_batch(
    map: impl AsFd,
    keys: &[u8],
    values: &[u8],
    count: u32,
) -> Result<(), (u32, io::Error)> {
    let mut attr = zeroed();
    // SAFETY: `batch` is the member of the union that BPF_MAP_UPDATE_BATCH reads, and any bytes
    // are a value of it.
    let batch = unsafe { &mut attr.batch };
    batch.keys = address(keys);
    batch.values = address(values);
    batch.count = count;
    batch.map_fd = fd(map.as_fd());
    match call(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr) {
        Ok(_) => Ok(()),
        Err(error) => {
            // SAFETY: as above; the kernel wrote back how many entries it took.
            let written = unsafe { attr.batch.count };
            Err((written.min(count), error))
        }
    }
}

/// One entry, by `BPF_MAP_UPDATE_ELEM`.
pub(super) fn update_one(map: impl AsFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = zeroed();
    // SAFETY: the second member of the union is the one BPF_MAP_UPDATE_ELEM reads, and any bytes are
    // a value of it.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = fd(map.as_fd());
    element.key = address(key);
    element.__bindgen_anon_1.value = address(value);
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// `BPF_LINK_DETACH` (5.9) of a pinned link: what it attached is gone when this returns. Without it
/// the link goes with its last reference, some time after the pin is removed, and until then the
/// interface refuses the same program.
pub(super) fn detach_pinned_link(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    // SAFETY: the fourth member of the union is the one BPF_OBJ_GET reads, and any bytes are a value
    // of it.
    let object = unsafe { &mut attr.__bindgen_anon_4 };
    object.pathname = address(path.as_bytes_with_nul());
    let number = call(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us, and nothing else knows it.
    let link = unsafe { OwnedFd::from_raw_fd(number) };
    let mut attr = zeroed();
    attr.link_detach.link_fd = fd(link.as_fd());
    call(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

fn fd(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

#[expect(clippy::as_conversions, reason = "the kernel takes addresses as u64")]
fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr() as u64
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain integers; all zeroes are a value of every member.
    unsafe { std::mem::zeroed() }
}

/// Returns what the command does: a descriptor, or 0.
fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    #[expect(clippy::as_conversions, reason = "the enum is the kernel's, of u32")]
    let command = command as u32;
    // SAFETY: `attr` is a bpf_attr of the size given; the pointers in it were made from live slices
    // whose lengths the caller states in `count`.
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
