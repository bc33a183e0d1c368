//! How one host name is used. What must hold: looking costs a request next to nothing, so there is no lock and no
//! call of the kernel, and a request that is under way is never mistaken for one that has ended.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::clock::now;

/// How a host name has been used since it was first routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Answers by the hundreds of their status: `[1xx, 2xx, 3xx, 4xx, 5xx]`.
    pub answers: [u64; 5],
    /// Requests that wait for it to wake.
    pub waiting: usize,
}

#[derive(Default)]
pub struct Counters {
    /// Requests that count as use, from their arrival to the end of their answer.
    under_way: AtomicUsize,
    /// When it was last used, by [`clock`](super::clock); 0 before the first time.
    last: AtomicU64,
    answers: [AtomicU64; 5],
}

impl Counters {
    pub fn begin(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// What has begun is over.
    pub fn end(&self) {
        self.touch();
        // Whoever sees the lower number sees the time as well.
        self.under_way.fetch_sub(1, Ordering::Release);
    }

    /// It is used this moment.
    pub fn touch(&self) {
        self.last.store(now(), Ordering::Relaxed);
    }

    pub fn unused_for(&self) -> Option<Duration> {
        if self.under_way.load(Ordering::Acquire) > 0 {
            return Some(Duration::ZERO);
        }
        match self.last.load(Ordering::Relaxed) {
            0 => None,
            last => Some(Duration::from_millis(now().saturating_sub(last))),
        }
    }

    pub fn count(&self, status: u16) {
        if let Some(answers) = self.answers.get(usize::from(status / 100).wrapping_sub(1)) {
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn answers(&self) -> [u64; 5] {
        std::array::from_fn(|class| self.answers[class].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_used_now_and_what_has_ended_since_then() {
        let counters = Counters::default();
        assert_eq!(counters.unused_for(), None);
        counters.begin();
        counters.begin();
        counters.end();
        // Long ago, as far as the end of the first goes.
        counters.last.store(1, Ordering::Relaxed);
        assert_eq!(counters.unused_for(), Some(Duration::ZERO));
        counters.end();
        assert!(counters.unused_for().unwrap() < Duration::from_secs(10));
        counters.last.store(now() - 5_000, Ordering::Relaxed);
        assert!(counters.unused_for().unwrap() >= Duration::from_secs(5));
    }
}
