//! Memory that the allocator keeps after it was freed.

/// Gives it back to the system. Each thread has a heap of its own, which is as large as it ever was until then: what
/// lies on top of what was freed, however small it is, keeps it from shrinking.
///
/// It takes some milliseconds for each hundred megabytes, in which who allocates waits.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and may be called at any time by any thread (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
