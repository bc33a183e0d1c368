//! How much may be said: bursts as they come, but no more than so many bytes a second in the long run.
//!
//! Whoever writes more waits in its own pipe. The log would be bounded without this; the work of whoever writes it to
//! the disk, outside the container's limits, would not.

use std::time::{Duration, Instant};

/// Bytes a second.
const RATE: i64 = 1 << 20;
/// Bytes that may come at once after a quiet while.
const BURST: i64 = 4 << 20;

#[derive(Debug)]
pub struct Allowance {
    /// Below zero, the debt is waited for.
    left: i64,
    at: Instant,
}

impl Allowance {
    pub fn new(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    pub fn spend(&mut self, bytes: usize) {
        self.left -= bytes as i64;
    }

    /// How long nothing more may be said, if so.
    pub fn pause(&mut self, now: Instant) -> Option<Duration> {
        let earned = now.saturating_duration_since(self.at).as_micros() as i64;
        // Only whole bytes are booked, and the clock with them, or many short looks would earn nothing.
        if earned.saturating_mul(RATE) >= 1_000_000 {
            self.left = BURST.min(self.left.saturating_add(earned.saturating_mul(RATE) / 1_000_000));
            self.at = now;
        }
        (self.left <= 0).then(|| Duration::from_micros(((1 - self.left) as u64 * 1_000_000).div_ceil(RATE as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_what_is_above_waits_for_its_time() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        allowance.spend(BURST as usize - 1);
        assert_eq!(allowance.pause(start), None);
        allowance.spend(1 + RATE as usize);
        let pause = allowance.pause(start).unwrap();
        assert!((Duration::from_secs(1)..Duration::from_millis(1010)).contains(&pause), "{pause:?}");
        assert!(allowance.pause(start + pause / 2).is_some());
        assert_eq!(allowance.pause(start + pause + Duration::from_millis(1)), None);
    }

    #[test]
    fn quiet_is_not_saved_up_beyond_a_burst() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(allowance.pause(later), None);
        allowance.spend(BURST as usize);
        assert!(allowance.pause(later).is_some());
    }
}
