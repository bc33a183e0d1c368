//! How one host name is used. What must hold: looking costs a request next to nothing, so there is no call of the kernel
//! and no lock but for one request of a second, and a request that is under way is never mistaken for one that has ended.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::clock::now;

/// Who uses it is noted no more often than this, in milliseconds: words for people take longer than a look.
const NOTED_EVERY: u64 = 1000;

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
    /// Who used it, in words for people, and when that was noted; 0 before the first time.
    user: Mutex<Option<Arc<str>>>,
    noted: AtomicU64,
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

    /// Takes note of who uses it, unless that has just been done.
    pub fn note(&self, by: impl FnOnce() -> String) {
        let (now, noted) = (now(), self.noted.load(Ordering::Relaxed));
        if noted == 0 || now.saturating_sub(noted) >= NOTED_EVERY {
            self.noted.store(now, Ordering::Relaxed);
            *self.user.lock().unwrap_or_else(PoisonError::into_inner) = Some(by().into());
        }
    }

    /// Who used it last, to a second.
    pub fn last_user(&self) -> Option<Arc<str>> {
        self.user.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
    fn who_uses_it_is_noted_once_a_second_and_not_put_into_words_more_often() {
        let counters = Counters::default();
        assert_eq!(counters.last_user(), None);
        counters.note(|| "GET /cart".to_owned());
        counters.note(|| unreachable!("that has just been done"));
        assert_eq!(counters.last_user().as_deref(), Some("GET /cart"));
        counters.noted.store(now().saturating_sub(NOTED_EVERY).max(1), Ordering::Relaxed);
        counters.note(|| "GET /till".to_owned());
        assert_eq!(counters.last_user().as_deref(), Some("GET /till"));
    }

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
