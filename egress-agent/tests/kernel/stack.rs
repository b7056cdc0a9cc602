//! The stack that the kernel programs take, as the strictest kernel counts it.
//!
//! Along a chain of calls the frames share 512 bytes. Linux 5.10 rounds each frame up to 32 bytes, at
//! least one, whatever runs the program; newer ones to 16 where it is compiled (`check_max_stack_depth` in
//! `kernel/bpf/verifier.c`). So a program that loads here may be refused there, and the verifier here
//! cannot tell. What an older one would say is computed from the instructions.

use std::collections::BTreeSet;

use aya_obj::generated::{
    BPF_ADD, BPF_ALU64, BPF_CALL, BPF_JMP, BPF_K, BPF_LDX, BPF_MOV, BPF_PSEUDO_CALL, BPF_ST,
    BPF_STX, BPF_X, bpf_insn,
};
use aya_obj::{Function, Object};

/// `MAX_BPF_STACK`.
pub(crate) const MOST: usize = 512;
/// To which a frame is rounded: the granularity of the interpreter's stack.
const GRANULE: usize = 32;
/// The register of the frame's end.
const FRAME: u8 = 10;

/// Functions that call each other in turn, the program first, each with the bytes of its frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain(Vec<(String, usize)>);

impl Chain {
    /// What an older kernel adds up for it.
    pub(crate) fn bytes(&self) -> usize {
        let frames = self.0.iter();
        frames
            .map(|(_, frame)| frame.max(&1).next_multiple_of(GRANULE))
            .sum()
    }
}

/// The chain of calls of a program that takes the most stack.
pub(crate) fn deepest(object: &[u8], program: &str) -> Chain {
    let mut object = Object::parse(object).unwrap();
    let sections = object.functions.keys().map(|(section, _)| *section);
    object.relocate_calls(&sections.collect()).unwrap();
    let key = object.programs[program].function_key();
    let code = &object.functions[&key].instructions;
    let starts = (0..code.len()).filter_map(|at| callee(code, at));
    let linked = Linked {
        name: program,
        code,
        starts: starts.chain([0, code.len()]).collect(),
        functions: object.functions.values().collect(),
    };
    linked.deepest_from(0)
}

/// A program and behind it every function that it calls.
struct Linked<'a> {
    name: &'a str,
    code: &'a [bpf_insn],
    /// Where functions start; and the end.
    starts: BTreeSet<usize>,
    /// The object's, for their names.
    functions: Vec<&'a Function>,
}

impl Linked<'_> {
    /// Ends, for there is no recursion in BPF.
    fn deepest_from(&self, start: usize) -> Chain {
        let end = *self.starts.range(start + 1..).next().unwrap();
        let body = &self.code[start..end];
        let callees: BTreeSet<usize> = (start..end)
            .filter_map(|at| callee(self.code, at))
            .collect();
        let below = callees.into_iter().map(|callee| self.deepest_from(callee));
        let mut chain = below.max_by_key(Chain::bytes).unwrap_or_default();
        chain.0.insert(0, (self.name_of(body), frame(body)));
        chain
    }

    fn name_of(&self, body: &[bpf_insn]) -> String {
        let same = |function: &&&Function| {
            let codes = function.instructions.iter().map(|other| other.code);
            codes.eq(body.iter().map(|one| one.code))
        };
        let known = self.functions.iter().find(same);
        known
            .map_or(self.name, |function| &function.name)
            .to_owned()
    }
}

/// Where the function starts that is called at a place.
fn callee(code: &[bpf_insn], at: usize) -> Option<usize> {
    let instruction = code[at];
    let is_call = u32::from(instruction.code) == BPF_JMP | BPF_CALL
        && u32::from(instruction.src_reg()) == BPF_PSEUDO_CALL;
    is_call.then(|| {
        let next = isize::try_from(at + 1).unwrap();
        usize::try_from(next + isize::try_from(instruction.imm).unwrap()).unwrap()
    })
}

/// Bytes of a function's frame: the lowest that it reads, writes or takes the address of.
fn frame(body: &[bpf_insn]) -> usize {
    let mut lowest = 0;
    let mut copy_of_frame = None;
    for instruction in body {
        let (to, from) = (instruction.dst_reg(), instruction.src_reg());
        let offset = i32::from(instruction.off);
        let code = u32::from(instruction.code);
        let class = code & 0x07;
        if class == BPF_LDX && from == FRAME || (class == BPF_ST || class == BPF_STX) && to == FRAME
        {
            lowest = lowest.min(offset);
        }
        // The compiler makes an address of two instructions, one behind the other.
        if code == BPF_ALU64 | BPF_ADD | BPF_K && copy_of_frame == Some(to) {
            lowest = lowest.min(instruction.imm);
        }
        copy_of_frame = (code == BPF_ALU64 | BPF_MOV | BPF_X && from == FRAME).then_some(to);
    }
    usize::try_from(-lowest).unwrap()
}
