//! Calls of bpf(2) that aya does not offer: creating an inner map with type information, writing raw
//! entries, one or many at once, and detaching a pinned link.

#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_type};

/// Sizes of the keys and values of inner maps, in bytes.
const INNER_SIZES: [u32; 5] = [4, 8, 16, 20, 24];

/// Type information (BTF) for the maps outside the object: the inner maps of RULESET_CIDRS and
/// INBOUND.
///
/// From 5.15 to 6.2 an inner map must equal the object's template in what its BTF says of timers, and
/// "no BTF" differs from "no timer" (`bpf_map_meta_equal`). Every kernel takes maps that have it, so
/// there is one way for all.
#[derive(Debug)]
pub(super) struct InnerTypes(OwnedFd);

impl InnerTypes {
    /// Loads it: for every size in [`INNER_SIZES`] a struct of so many bytes, as tries demand of keys
    /// (Documentation/bpf/btf.rst).
    pub(super) fn load() -> io::Result<Self> {
        const INT: u32 = 1 << 24;
        const ARRAY: u32 = 3 << 24;
        const STRUCT_OF_ONE: u32 = 4 << 24 | 1;
        const STRINGS: &[u8; 4] = b"\0u8\0";
        // 1: u8, of 8 bits. Then pairs: an array of type 1 indexed by type 1, and a struct of it.
        let mut types: Vec<u32> = vec![1, INT, 1, 8];
        for (size, id) in INNER_SIZES.into_iter().zip((2..).step_by(2)) {
            types.extend([0, ARRAY, 0, 1, 1, size, 0, STRUCT_OF_ONE, size, 0, id, 0]);
        }
        let length = u32::try_from(types.len() * 4).unwrap_or(u32::MAX);
        let mut bytes: Vec<u8> = Vec::new();
        // Magic, version 1, no flags; then the header's length and where types and strings are.
        bytes.extend(0xeb9f_u16.to_ne_bytes());
        bytes.extend([1, 0]);
        for word in [24, 0, length, length, 4].into_iter().chain(types) {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(STRINGS);
        let mut attr = zeroed();
        // SAFETY: this member of the union is the one BPF_BTF_LOAD reads, and any bytes are a value of
        // it.
        let btf = unsafe { &mut attr.__bindgen_anon_7 };
        btf.btf = address(&bytes);
        btf.btf_size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let number = call(bpf_cmd::BPF_BTF_LOAD, &mut attr)?;
        // SAFETY: the kernel just made this descriptor for us, and nothing else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    /// Makes a map that can be an inner map. Of `name` the first 15 bytes show in `bpftool map`.
    pub(super) fn create_map(
        &self,
        name: &str,
        map_type: bpf_map_type,
        sizes: (u32, u32),
        entries: u32,
        flags: u32,
    ) -> io::Result<OwnedFd> {
        let (key, value) = sizes;
        let mut attr = zeroed();
        // SAFETY: the first member of the union is the one BPF_MAP_CREATE reads, and any bytes are a
        // value of it.
        let map = unsafe { &mut attr.__bindgen_anon_1 };
        #[expect(clippy::as_conversions, reason = "the enum is the kernel's, of u32")]
        let map_type = map_type as u32;
        map.map_type = map_type;
        map.key_size = key;
        map.value_size = value;
        map.max_entries = entries;
        map.map_flags = flags;
        // The last byte stays zero.
        for (place, byte) in map.map_name.iter_mut().take(15).zip(name.bytes()) {
            *place = c_char::from_ne_bytes([byte]);
        }
        map.btf_fd = fd(self.0.as_fd());
        map.btf_key_type_id = struct_of(key)?;
        map.btf_value_type_id = struct_of(value)?;
        let number = call(bpf_cmd::BPF_MAP_CREATE, &mut attr)?;
        // SAFETY: the kernel just made this descriptor for us, and nothing else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

/// The type of a struct of so many bytes in [`InnerTypes`].
fn struct_of(size: u32) -> io::Result<u32> {
    INNER_SIZES
        .into_iter()
        .zip((3..).step_by(2))
        .find_map(|(known, id)| (known == size).then_some(id))
        .ok_or_else(|| io::Error::other(format!("no inner map has {size} bytes")))
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
