//! How long a process waits before it is started again: longer each time, until it has stayed up for a while.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// Who stayed up this long begins anew.
const STEADY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// The wait after a run of `up`.
    pub fn next(&mut self, up: Duration) -> Duration {
        let wait = match self.last {
            Some(last) if up < STEADY => (last * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some(wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::from_millis(20);

    #[test]
    fn the_wait_doubles_up_to_a_minute() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..8).map(|_| backoff.next(AT_ONCE).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn a_minute_up_is_forgiven() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.next(AT_ONCE);
        }
        assert_eq!(backoff.next(STEADY), FIRST);
        assert_eq!(backoff.next(AT_ONCE), FIRST * 2);
    }
}
