//! Says when it is time to log something again: what strangers can bring about at any rate must not fill the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const LOG_EVERY: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    pub fn now(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= LOG_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_logged_once_a_minute() {
        let seldom = Seldom::default();
        assert_eq!([seldom.now(), seldom.now()], [true, false]);
        *seldom.0.lock().unwrap() = Instant::now().checked_sub(LOG_EVERY);
        assert!(seldom.now());
    }
}
