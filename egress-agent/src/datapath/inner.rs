//! Maps that stand in a slot of a map of maps.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya_obj::generated::bpf_map_type;

use super::sys;

/// Sizes of the keys and values of inner maps, in bytes.
const INNER_SIZES: [u32; 4] = [4, 8, 20, 256];
/// The type of an array's key in [`InnerTypes`]: a u32.
const INDEX: u32 = 2;

/// Type information (BTF) for the maps outside the object: the inner maps of RULESET_CIDRS and
/// INBOUND.
///
/// From 5.15 to 6.2 an inner map must equal the object's template in what its BTF says of timers, and
/// "no BTF" differs from "no timer" (`bpf_map_meta_equal`). Every kernel takes maps that have it, so
/// there is one way for all.
#[derive(Debug)]
pub struct InnerTypes(OwnedFd);

impl InnerTypes {
    /// Loads it: for every size in [`INNER_SIZES`] a struct of so many bytes, as tries demand of keys
    /// (Documentation/bpf/btf.rst).
    pub fn load() -> io::Result<Self> {
        const INT: u32 = 1 << 24;
        const ARRAY: u32 = 3 << 24;
        const STRUCT_OF_ONE: u32 = 4 << 24 | 1;
        const STRINGS: &[u8; 8] = b"\0u8\0u32\0";
        // 1: u8, of 8 bits; 2: u32. Then pairs: an array of type 1 indexed by type 1, and a struct of it.
        let mut types: Vec<u32> = vec![1, INT, 1, 8, 4, INT, 4, 32];
        for (size, id) in INNER_SIZES.into_iter().zip((3..).step_by(2)) {
            types.extend([0, ARRAY, 0, 1, 1, size, 0, STRUCT_OF_ONE, size, 0, id, 0]);
        }
        let length = u32::try_from(types.len() * 4).unwrap_or(u32::MAX);
        let mut bytes: Vec<u8> = Vec::new();
        // Magic, version 1, no flags; then the header's length and where types and strings are.
        bytes.extend(0xeb9f_u16.to_ne_bytes());
        bytes.extend([1, 0]);
        for word in [24, 0, length, length, 8].into_iter().chain(types) {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(STRINGS);
        Ok(Self(sys::load_btf(&bytes)?))
    }

    /// Makes a map that can be an inner map. Of `name` the first 15 bytes show in `bpftool map`.
    pub fn create_map(
        &self,
        name: &str,
        map_type: bpf_map_type,
        sizes: (u32, u32),
        entries: u32,
        flags: u32,
    ) -> io::Result<OwnedFd> {
        let (key, value) = sizes;
        let key_type = if map_type == bpf_map_type::BPF_MAP_TYPE_ARRAY {
            INDEX
        } else {
            struct_of(key)?
        };
        sys::create_map(
            name,
            map_type,
            entries,
            flags,
            self.0.as_fd(),
            (key, key_type),
            (value, struct_of(value)?),
        )
    }
}

/// The type of a struct of so many bytes in [`InnerTypes`].
fn struct_of(size: u32) -> io::Result<u32> {
    INNER_SIZES
        .into_iter()
        .zip((4..).step_by(2))
        .find_map(|(known, id)| (known == size).then_some(id))
        .ok_or_else(|| io::Error::other(format!("no inner map has {size} bytes")))
}
