//! Calls of bpf(2) that aya does not offer: loading bare type information and creating a map with it,
//! writing raw entries, one or many at once, detaching a pinned link, and pinning anew.

#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type};

/// `BPF_BTF_LOAD` of type information in the kernel's format.
pub(super) fn load_btf(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: this member of the union is the one BPF_BTF_LOAD reads, and any bytes are a value of it.
    let btf = unsafe { &mut attr.__bindgen_anon_7 };
    btf.btf = address(bytes);
    btf.btf_size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let number = call(bpf_cmd::BPF_BTF_LOAD, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// `BPF_MAP_CREATE` of a map whose key and value have a size and a type of `btf` each.
pub(super) fn create_map(
    name: &str,
    map_type: bpf_map_type,
    entries: u32,
    flags: u32,
    btf: BorrowedFd<'_>,
    key: (u32, u32),
    value: (u32, u32),
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: the first member of the union is the one BPF_MAP_CREATE reads, and any bytes are a value
    // of it.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    #[expect(clippy::as_conversions, reason = "the enum is the kernel's, of u32")]
    let map_type = map_type as u32;
    map.map_type = map_type;
    map.max_entries = entries;
    map.map_flags = flags;
    // The last byte stays zero.
    for (place, byte) in map.map_name.iter_mut().take(15).zip(name.bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    map.btf_fd = fd(btf);
    (map.key_size, map.btf_key_type_id) = key;
    (map.value_size, map.btf_value_type_id) = value;
    let number = call(bpf_cmd::BPF_MAP_CREATE, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
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

/// `BPF_MAP_LOOKUP_BATCH` (5.6) of a hash: every entry, `batch` at a time, as the bytes of its key and
/// of its value. Entries that come and go meanwhile may be missed.
pub(super) fn for_each_entry<const K: usize, const V: usize>(
    map: impl AsFd,
    batch: u32,
    mut visit: impl FnMut(&[u8; K], &[u8; V]),
) -> io::Result<()> {
    let room = usize::try_from(batch).unwrap_or_default();
    let mut keys = vec![[0; K]; room];
    let mut values = vec![[0; V]; room];
    let mut position = [0_u8; 4];
    let mut first = true;
    loop {
        let mut attr = zeroed();
        // SAFETY: `batch` is the member of the union that BPF_MAP_LOOKUP_BATCH reads, and any bytes
        // are a value of it.
        let request = unsafe { &mut attr.batch };
        request.in_batch = if first { 0 } else { address(&position) };
        request.out_batch = address_of(&mut position);
        request.keys = address_of(keys.as_flattened_mut());
        request.values = address_of(values.as_flattened_mut());
        request.count = batch;
        request.map_fd = fd(map.as_fd());
        let result = call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
        // SAFETY: as above; the kernel wrote back how many entries it gave.
        let given = unsafe { attr.batch.count };
        let done = match result {
            Ok(_) => false,
            // The last ones.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let given = usize::try_from(given).unwrap_or_default();
        for (key, value) in keys.iter().zip(&values).take(given) {
            visit(key, value);
        }
        if done {
            return Ok(());
        }
        first = false;
    }
}

/// `BPF_PROG_QUERY` (TCX: 6.6): how many programs are on a hook of an interface.
pub(super) fn attached(interface: u32, hook: bpf_attach_type) -> io::Result<u32> {
    let mut attr = zeroed();
    // SAFETY: `query` is the member of the union that BPF_PROG_QUERY reads, and any bytes are a value
    // of it.
    let query = unsafe { &mut attr.query };
    query.__bindgen_anon_1.target_ifindex = interface;
    #[expect(clippy::as_conversions, reason = "the enum is the kernel's, of u32")]
    let hook = hook as u32;
    query.attach_type = hook;
    call(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: as above.
    let query = unsafe { attr.query };
    // SAFETY: the kernel wrote the count back, and both members of this union are u32.
    Ok(unsafe { query.__bindgen_anon_2.prog_cnt })
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
    let link = pinned(pin)?;
    let mut attr = zeroed();
    attr.link_detach.link_fd = fd(link.as_fd());
    call(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Pins what is pinned at `pin` at another path too (`BPF_OBJ_GET`, `BPF_OBJ_PIN`).
pub(super) fn pin_again(pin: &Path, place: &Path) -> io::Result<()> {
    let held = pinned(pin)?;
    let path = CString::new(place.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    // SAFETY: the fourth member of the union is the one BPF_OBJ_PIN reads, and any bytes are a value
    // of it.
    let object = unsafe { &mut attr.__bindgen_anon_4 };
    object.pathname = address(path.as_bytes_with_nul());
    object.bpf_fd = fd(held.as_fd());
    call(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// The interface that a pinned TCX link is on: 0 when it was detached, or the interface is gone.
pub(super) fn pinned_link_interface(pin: &Path) -> io::Result<u32> {
    let link = pinned(pin)?;
    // `struct bpf_link_info` of a TCX link: type, id, program, padding; then interface and type of
    // attachment.
    let mut info = [0_u8; 24];
    let mut attr = zeroed();
    attr.info.bpf_fd = fd(link.as_fd());
    attr.info.info_len = u32::try_from(info.len()).unwrap_or_default();
    attr.info.info = address_of(&mut info);
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let interface = info.get(16..).and_then(<[u8]>::first_chunk);
    Ok(interface.map_or(0, |bytes| u32::from_ne_bytes(*bytes)))
}

fn pinned(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    // SAFETY: the fourth member of the union is the one BPF_OBJ_GET reads, and any bytes are a value
    // of it.
    let object = unsafe { &mut attr.__bindgen_anon_4 };
    object.pathname = address(path.as_bytes_with_nul());
    let number = call(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn fd(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

#[expect(clippy::as_conversions, reason = "the kernel takes addresses as u64")]
fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr() as u64
}

/// Of bytes that the kernel writes to.
#[expect(clippy::as_conversions, reason = "the kernel takes addresses as u64")]
fn address_of(bytes: &mut [u8]) -> u64 {
    bytes.as_mut_ptr() as u64
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
