//! Programs as plain instructions: too small to be worth an object of their own.

/// Operation codes, of linux/bpf.h.
pub(crate) mod op {
    pub(crate) const ADD: u8 = 0x07;
    pub(crate) const ADD32: u8 = 0x04;
    pub(crate) const AND32: u8 = 0x54;
    pub(crate) const CALL: u8 = 0x85;
    pub(crate) const EXIT: u8 = 0x95;
    pub(crate) const JUMP_IF_EQUAL: u8 = 0x15;
    pub(crate) const JUMP_IF_GREATER: u8 = 0x2d;
    pub(crate) const JUMP_UNLESS_EQUAL: u8 = 0x55;
    pub(crate) const LOAD16: u8 = 0x69;
    pub(crate) const LOAD32: u8 = 0x61;
    pub(crate) const LOAD64: u8 = 0x79;
    pub(crate) const LOAD_MAP: u8 = 0x18;
    pub(crate) const MOVE: u8 = 0xbf;
    pub(crate) const MOVE32: u8 = 0xbc;
    pub(crate) const SET: u8 = 0xb7;
    pub(crate) const SHIFT_RIGHT32: u8 = 0x74;
    pub(crate) const STORE8: u8 = 0x73;
    pub(crate) const STORE16: u8 = 0x6b;
    pub(crate) const STORE32: u8 = 0x63;
    pub(crate) const STORE64: u8 = 0x7b;
    pub(crate) const XOR32: u8 = 0xac;
}

/// `BPF_PSEUDO_MAP_FD` and `BPF_PSEUDO_MAP_VALUE`.
const MAP_FD: u8 = 1;
const MAP_VALUE: u8 = 2;

/// Instructions, the jumps among them that leave, and the way out at the end.
#[derive(Default)]
pub(crate) struct Assembly {
    code: Vec<[u8; 8]>,
    leaving: Vec<(usize, u8, u8, u8)>,
}

impl Assembly {
    pub(crate) fn push(&mut self, code: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        self.code
            .push(instruction(code, to, from, offset, immediate));
    }

    /// A conditional jump to the way out.
    pub(crate) fn leave_if(&mut self, code: u8, left: u8, right: u8) {
        self.leaving.push((self.code.len(), code, left, right));
        self.push(code, left, right, 0, 0);
    }

    pub(crate) fn load_map(&mut self, to: u8, fd: i32) {
        self.push(op::LOAD_MAP, to, MAP_FD, 0, fd);
        self.push(0, 0, 0, 0, 0);
    }

    /// The address of an array's first value.
    pub(crate) fn load_value(&mut self, to: u8, fd: i32) {
        self.push(op::LOAD_MAP, to, MAP_VALUE, 0, fd);
        self.push(0, 0, 0, 0, 0);
    }

    /// With what the way out returns.
    pub(crate) fn finish(mut self, returned: i32) -> Vec<[u8; 8]> {
        let out = self.code.len();
        for (at, code, left, right) in std::mem::take(&mut self.leaving) {
            let distance = i16::try_from(out - at - 1).unwrap_or(i16::MAX);
            if let Some(jump) = self.code.get_mut(at) {
                *jump = instruction(code, left, right, distance, 0);
            }
        }
        self.push(op::SET, 0, 0, 0, returned);
        self.push(op::EXIT, 0, 0, 0, 0);
        self.code
    }
}

/// `struct bpf_insn`, whose two registers share a byte in the order of the machine.
fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> [u8; 8] {
    let registers = if cfg!(target_endian = "little") {
        from << 4 | to
    } else {
        to << 4 | from
    };
    let [o0, o1] = offset.to_ne_bytes();
    let [i0, i1, i2, i3] = immediate.to_ne_bytes();
    [code, registers, o0, o1, i0, i1, i2, i3]
}
