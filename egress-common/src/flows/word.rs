//! Eight bytes that CPUs and the agent read and write at once, whole, in no order.

#[cfg(not(target_arch = "bpf"))]
pub(super) use host::Word;
#[cfg(target_arch = "bpf")]
pub(super) use kernel::Word;

#[cfg(not(target_arch = "bpf"))]
mod host {
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// See the module.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub(crate) struct Word(AtomicU64);

    impl Word {
        pub(crate) fn load(&self) -> u64 {
            self.0.load(Relaxed)
        }

        pub(crate) fn store(&self, value: u64) {
            self.0.store(value, Relaxed);
        }
    }
}

/// LLVM selects no instruction for a relaxed atomic of this target, whose loads and stores of a word
/// are one instruction each and atomic as on the machine they are translated to.
#[cfg(target_arch = "bpf")]
mod kernel {
    #![expect(unsafe_code, reason = "volatile access in place of an atomic one")]

    use core::cell::UnsafeCell;

    /// See the module.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub(crate) struct Word(UnsafeCell<u64>);

    impl Word {
        #[inline(always)]
        pub(crate) fn load(&self) -> u64 {
            // SAFETY: the pointer is that of a live word; what others write meanwhile is another
            // value of it, for it is loaded by one instruction.
            unsafe { self.0.get().read_volatile() }
        }

        #[inline(always)]
        pub(crate) fn store(&self, value: u64) {
            // SAFETY: as in `load`.
            unsafe { self.0.get().write_volatile(value) }
        }
    }
}
