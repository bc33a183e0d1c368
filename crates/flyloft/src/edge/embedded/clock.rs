//! The time for what happens with every request.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds of a clock that nobody sets, and that costs a memory access or two: it is as exact as the kernel's tick,
/// 1 to 10 ms (clock_getres(2)).
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("Linux has had this clock since 2.6.32");
    // 0 stands for never.
    (now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000).max(1)
}
