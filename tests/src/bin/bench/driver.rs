//! A program that makes every run another packet, then tail-calls the program that is measured.
//!
//! `BPF_PROG_TEST_RUN` repeats one frame. For paths whose cost lies in meeting new flows or many
//! flows, the driver writes destination and ports of the next packet into the frame first. The
//! number of the packet is the frame's mark, which lives as long as the test run:
//!
//! ```text
//! patch = patches[mark % 65,536]
//! destination, source port, destination port = patch
//! source port ^= mark / 65,536           so that 2^32 packets are of as many flows
//! mark += 1
//! tail call
//! ```
//!
//! What the driver itself costs is measured by letting it call the empty program. It is a list of
//! instructions here rather than a part of the agent's object, which has no use for it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData, ProgramArray};
use aya::programs::ProgramFd;
use aya_obj::generated::{bpf_map_type, bpf_prog_type};

use super::assembly::{Assembly, op};
use super::kernel;
use super::scene::Family;

/// Packets that differ by their patch; after that they differ by their source port.
pub(crate) const PATCHES: u32 = 1 << 16;

/// What makes one packet differ from another, in network order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patch {
    pub(crate) destination: [u8; 16],
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
}

/// A tail-calling driver a family and program.
pub(crate) struct Drivers {
    patches: Array<MapData, [u8; 20]>,
    /// The programs that can be called. Nothing reads it here, but it empties when it is closed.
    _targets: ProgramArray<MapData>,
    /// Descriptors of the two, which own them.
    patches_fd: RawFd,
    targets_fd: RawFd,
    loaded: BTreeMap<(Family, u32), OwnedFd>,
}

impl Drivers {
    /// Drivers that can call these programs, by their index.
    pub(crate) fn new(programs: &[&ProgramFd]) -> Result<Self> {
        let patches = map("patches", bpf_map_type::BPF_MAP_TYPE_ARRAY, 20, PATCHES)?;
        let patches_fd = patches.fd().as_fd().as_raw_fd();
        let count = u32::try_from(programs.len())?;
        let targets = map("targets", bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY, 4, count)?;
        let targets_fd = targets.fd().as_fd().as_raw_fd();
        let mut targets = ProgramArray::try_from(Map::from_map_data(targets)?)?;
        for (index, program) in programs.iter().enumerate() {
            targets
                .set(u32::try_from(index)?, program, 0)
                .context("naming the program that the driver calls")?;
        }
        Ok(Self {
            patches: Array::try_from(Map::from_map_data(patches)?)?,
            _targets: targets,
            patches_fd,
            targets_fd,
            loaded: BTreeMap::new(),
        })
    }

    /// The packets of the next runs.
    pub(crate) fn set_patches(&mut self, patches: impl Iterator<Item = Patch>) -> Result<()> {
        for (index, patch) in (0..PATCHES).zip(patches) {
            let mut bytes = [0; 20];
            let (address, ports) = bytes.split_at_mut(16);
            address.copy_from_slice(&patch.destination);
            let (source, destination) = ports.split_at_mut(2);
            source.copy_from_slice(&patch.source_port.to_be_bytes());
            destination.copy_from_slice(&patch.destination_port.to_be_bytes());
            self.patches.set(index, bytes, 0)?;
        }
        Ok(())
    }

    /// The driver of frames of a family that calls the program at an index.
    pub(crate) fn get(&mut self, family: Family, target: u32) -> Result<BorrowedFd<'_>> {
        let driver = match self.loaded.entry((family, target)) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let code = instructions(family, self.patches_fd, self.targets_fd, target);
                entry.insert(kernel::load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, &code)?)
            }
        };
        Ok(OwnedFd::as_fd(driver))
    }
}

pub(crate) fn map(name: &str, kind: bpf_map_type, value: u32, entries: u32) -> Result<MapData> {
    #[expect(clippy::as_conversions, reason = "the enum is the kernel's, of u32")]
    let kind = kind as u32;
    let map = aya_obj::Map::new_from_params(kind, 4, value, entries, 0);
    MapData::create(map, name, None).with_context(|| format!("making map {name}"))
}

/// Helper numbers, of linux/bpf.h.
const MAP_LOOKUP_ELEM: i32 = 1;
const TAIL_CALL: i32 = 12;
/// Offsets in `__sk_buff`.
const MARK: i16 = 8;
const DATA: i16 = 76;
const DATA_END: i16 = 80;

/// r6 the context, r7 the mark, r8 and r9 the frame's bounds, r0 the patch.
fn instructions(family: Family, patches: i32, targets: i32, target: u32) -> Vec<[u8; 8]> {
    let (destination, words) = match family {
        Family::V4 => (14 + 16, 1),
        Family::V6 => (14 + 24, 4),
    };
    let ports = destination + 4 * words;
    let mut code = Assembly::default();
    code.push(op::MOVE, 6, 1, 0, 0);
    code.push(op::LOAD32, 7, 6, MARK, 0);
    code.push(op::MOVE32, 1, 7, 0, 0);
    code.push(op::ADD32, 1, 0, 0, 1);
    code.push(op::STORE32, 6, 1, MARK, 0);
    code.push(op::MOVE32, 1, 7, 0, 0);
    code.push(op::AND32, 1, 0, 0, 0xffff);
    code.push(op::STORE32, 10, 1, -4, 0);
    code.load_map(1, patches);
    code.push(op::MOVE, 2, 10, 0, 0);
    code.push(op::ADD, 2, 0, 0, -4);
    code.push(op::CALL, 0, 0, 0, MAP_LOOKUP_ELEM);
    code.leave_if(op::JUMP_IF_EQUAL, 0, 0);
    code.push(op::LOAD32, 8, 6, DATA, 0);
    code.push(op::LOAD32, 9, 6, DATA_END, 0);
    code.push(op::MOVE, 1, 8, 0, 0);
    code.push(op::ADD, 1, 0, 0, i32::from(ports) + 4);
    code.leave_if(op::JUMP_IF_GREATER, 1, 9);
    for word in 0..words {
        code.push(op::LOAD32, 1, 0, 4 * word, 0);
        code.push(op::STORE32, 8, 1, destination + 4 * word, 0);
    }
    code.push(op::LOAD16, 1, 0, 16, 0);
    code.push(op::SHIFT_RIGHT32, 7, 0, 0, 16);
    code.push(op::XOR32, 1, 7, 0, 0);
    code.push(op::STORE16, 8, 1, ports, 0);
    code.push(op::LOAD16, 1, 0, 18, 0);
    code.push(op::STORE16, 8, 1, ports + 2, 0);
    code.push(op::MOVE, 1, 6, 0, 0);
    code.load_map(2, targets);
    code.push(op::SET, 3, 0, 0, i32::try_from(target).unwrap_or(i32::MAX));
    code.push(op::CALL, 0, 0, 0, TAIL_CALL);
    // TC_ACT_OK, which no program that is measured returns: a run that ends here shows.
    code.finish(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_that_leave_end_at_the_way_out() {
        let code = instructions(Family::V6, 3, 4, 1);
        let out = code.len() - 2;
        let targets: Vec<usize> = code
            .iter()
            .enumerate()
            .filter(|(_, [code, ..])| [op::JUMP_IF_EQUAL, op::JUMP_IF_GREATER].contains(code))
            .map(|(at, [_, _, low, high, ..])| {
                at + 1 + usize::from(u16::from_ne_bytes([*low, *high]))
            })
            .collect();
        assert_eq!(targets, [out, out]);
    }
}
