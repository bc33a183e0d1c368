//! Memory that the allocator keeps after it was freed.

/// Heaps that all threads share. By itself glibc gives eight to each processor, and the many threads that come and go
/// for what blocks leave each of them full of holes: with a thousand environments half of the heap was freed memory.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Bytes from which on a piece is mapped by itself, and goes back to the system when it is freed. glibc starts with the
/// same, and raises it to the largest that was ever freed.
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 128 << 10;

/// Keeps little from the start. To be called before there are other threads: what they have taken by then stays theirs.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_ARENA_MAX, HEAPS), (libc::M_MMAP_THRESHOLD, MAPPED)] {
        // SAFETY: takes two numbers (mallopt(3)). What it does not know, it refuses, and all is as without it.
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}

/// Gives it back to the system. A heap is as large as it ever was until then: what lies on top of what was freed, however
/// small it is, keeps it from shrinking.
///
/// It takes some milliseconds for each hundred megabytes, in which who allocates waits.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and may be called at any time by any thread (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
