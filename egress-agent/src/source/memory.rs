//! Giving memory back after a large text.

/// A text from which on it is worth the while: its values took some forty times as much.
const LARGE: usize = 4 << 20;

/// Returns what is free to the kernel when a text of this many bytes was just parsed. The C
/// library keeps it otherwise, and the agent's size would be that of its largest manifest's
/// values for good.
pub(super) fn give_back(bytes: usize) {
    if bytes < LARGE {
        return;
    }
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "there is no safe wrapper of malloc_trim")]
        // SAFETY: malloc_trim may be called at any time from any thread; it frees only what
        // no one has allocated.
        let _released: libc::c_int = unsafe { libc::malloc_trim(0) };
    }
}
