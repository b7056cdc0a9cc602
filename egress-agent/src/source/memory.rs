//! Giving memory back after a large text or list.

/// A text from which on it is worth the while: its values took some forty times as much.
const LARGE: usize = 4 << 20;

/// [`give_back`], when a text of this many bytes was just parsed.
pub(super) fn give_back_after(bytes: usize) {
    if bytes >= LARGE {
        give_back();
    }
}

/// A change of so many objects leaves garbage that is worth giving back when it was taken in.
pub(super) const LARGE_CHANGE: usize = 1_000;

/// Returns what is free to the kernel. The C library keeps it otherwise, and the agent's size
/// would be that of the largest list or manifest it ever saw for good.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "there is no safe wrapper of malloc_trim")]
        // SAFETY: malloc_trim may be called at any time from any thread; it frees only what
        // no one has allocated.
        let _released: libc::c_int = unsafe { libc::malloc_trim(0) };
    }
}
