//! System calls that aya does not offer: loading bare type information and creating a map with it,
//! writing raw entries, one or many at once, attaching by descriptors alone, detaching a pinned link,
//! pinning anew, and mapping an array into memory.

#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::NonNull;

use aya_obj::generated::{BPF_F_BEFORE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type};
use egress_common::flows::FlowSet;

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

/// `BPF_MAP_DELETE_BATCH` (5.6): all keys in one call, up to the first that is not there.
pub(super) fn delete_batch(map: impl AsFd, keys: &[u8], count: u32) -> io::Result<()> {
    let mut attr = zeroed();
    // SAFETY: `batch` is the member of the union that BPF_MAP_DELETE_BATCH reads, and any bytes are a value of
    // it.
    let batch = unsafe { &mut attr.batch };
    batch.keys = address(keys);
    batch.count = count;
    batch.map_fd = fd(map.as_fd());
    call(bpf_cmd::BPF_MAP_DELETE_BATCH, &mut attr).map(drop)
}

/// Writes entries in order: by one call where the kernel takes them so, else one by one. With the
/// bytes of keys and of values comes the size of one.
pub(super) fn update_all(
    map: BorrowedFd<'_>,
    (keys, key_size): (&[u8], usize),
    (values, value_size): (&[u8], usize),
) -> io::Result<()> {
    let keys_each = keys.chunks(key_size);
    let count = u32::try_from(keys_each.len()).unwrap_or(u32::MAX);
    if count == 0 {
        return Ok(());
    }
    if let Err((written, error)) = update_batch(map, keys, values, count) {
        tracing::debug!(written, %error, "a batch was refused, writing one by one");
        for (key, value) in keys_each.zip(values.chunks(value_size)) {
            update_one(map, key, value)?;
        }
    }
    Ok(())
}

/// `BPF_MAP_LOOKUP_BATCH` (5.6): all keys and values of a hash or an array, by a call for some thousands.
/// Nobody else may write to the map meanwhile.
pub(super) fn read_all(
    map: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
) -> io::Result<(Vec<u8>, Vec<u8>)> {
    // More than one bucket of a hash ever holds.
    const TOGETHER: u32 = 4_096;
    let together = usize::try_from(TOGETHER).map_err(io::Error::other)?;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut some_keys = vec![0; key_size * together];
    let mut some_values = vec![0; value_size * together];
    // Where a call begins, and where the next one goes on: an index or a bucket.
    let (mut place, mut next) = ([0; 4], [0; 4]);
    let mut first = true;
    loop {
        let mut attr = zeroed();
        // SAFETY: `batch` is the member of the union that BPF_MAP_LOOKUP_BATCH reads, and any bytes are a
        // value of it.
        let batch = unsafe { &mut attr.batch };
        batch.in_batch = if first { 0 } else { address_of(&mut place) };
        batch.out_batch = address_of(&mut next);
        batch.keys = address_of(&mut some_keys);
        batch.values = address_of(&mut some_values);
        batch.count = TOGETHER;
        batch.map_fd = fd(map);
        let result = call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
        let ended = match result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        // SAFETY: as above; the kernel wrote back how many entries there were.
        let count = unsafe { attr.batch.count };
        let count = usize::try_from(count.min(TOGETHER)).map_err(io::Error::other)?;
        keys.extend(some_keys.iter().take(count * key_size));
        values.extend(some_values.iter().take(count * value_size));
        if ended {
            return Ok((keys, values));
        }
        (first, place) = (false, next);
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
fn update_one(map: impl AsFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = zeroed();
    // SAFETY: the second member of the union is the one BPF_MAP_UPDATE_ELEM reads, and any bytes are
    // a value of it.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = fd(map.as_fd());
    element.key = address(key);
    element.__bindgen_anon_1.value = address(value);
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// `BPF_LINK_CREATE` (TCX: 6.6): a program before all others of a hook. Waits for a grace period.
pub(super) fn attach_first(
    program: BorrowedFd<'_>,
    interface: u32,
    hook: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: `link_create` is the member of the union that BPF_LINK_CREATE reads, and any bytes are
    // a value of it.
    let link = unsafe { &mut attr.link_create };
    link.__bindgen_anon_1.prog_fd = fd(program);
    link.__bindgen_anon_2.target_ifindex = interface;
    #[expect(clippy::as_conversions, reason = "the enum is the kernel's, of u32")]
    let hook = hook as u32;
    link.attach_type = hook;
    link.flags = BPF_F_BEFORE;
    let number = call(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
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

/// Pins what is pinned at `held` at another path too (`BPF_OBJ_GET`, `BPF_OBJ_PIN`).
pub(super) fn pin_again(held: &Path, place: &Path) -> io::Result<()> {
    pin(pinned(held)?.as_fd(), place)
}

/// `BPF_OBJ_PIN`: what it names lives on when its last descriptor is closed.
pub(super) fn pin(held: BorrowedFd<'_>, place: &Path) -> io::Result<()> {
    let path = CString::new(place.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    // SAFETY: the fourth member of the union is the one BPF_OBJ_PIN reads, and any bytes are a value
    // of it.
    let object = unsafe { &mut attr.__bindgen_anon_4 };
    object.pathname = address(path.as_bytes_with_nul());
    object.bpf_fd = fd(held);
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

/// An array's values in this process' memory, shared with the kernel. Of a map with
/// `BPF_F_MMAPABLE` (5.5).
#[derive(Debug)]
pub(super) struct Shared {
    start: NonNull<FlowSet>,
    count: usize,
}

// SAFETY: the memory is nobody's but the map's, and flow sets are read and written by words that any
// thread may access.
unsafe impl Send for Shared {}

impl Shared {
    /// Maps the `count` sets of an array.
    pub(super) fn new(map: impl AsFd, count: u32) -> io::Result<Self> {
        let count = usize::try_from(count).map_err(io::Error::other)?;
        // SAFETY: a new mapping, which is over no other memory of the process.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * size_of::<FlowSet>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, count })
    }

    /// The sets.
    pub(super) const fn sets(&self) -> &[FlowSet] {
        // SAFETY: the mapping is of `count` sets and page aligned, any bytes are a set, and what the
        // kernel writes it writes by whole words, as the type expects.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and no reference outlives `self`.
        let result = unsafe {
            libc::munmap(
                self.start.as_ptr().cast(),
                self.count * size_of::<FlowSet>(),
            )
        };
        if result != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "unmapping a table of flows");
        }
    }
}

/// Bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the call writes at most N bytes to a buffer of N.
    let written = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    if usize::try_from(written) == Ok(N) {
        Ok(bytes)
    } else {
        Err(io::Error::last_os_error())
    }
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
