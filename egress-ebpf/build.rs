//! Linker arguments of the kernel programs.

fn main() {
    for argument in [
        // Without it LLVM reads the byte arrays of `egress_common::abi` byte by byte: it cannot
        // know that the machine's loads need no alignment. What it may not touch unaligned all the
        // same is the stack, see `egress_common::packet::Chunk`.
        "--cpu-features=+allows-misaligned-mem-access",
        // Otherwise clearing a few words becomes a call of a loop over bytes.
        "--disable-expand-memcpy-in-order",
    ] {
        println!("cargo::rustc-link-arg={argument}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
