//! Linker arguments of the kernel programs.

fn main() {
    // Without it LLVM reads the byte arrays of `egress_common::abi` byte by byte: it cannot
    // know that the machine's loads need no alignment.
    println!("cargo::rustc-link-arg=--cpu-features=+allows-misaligned-mem-access");
    println!("cargo::rerun-if-changed=build.rs");
}
