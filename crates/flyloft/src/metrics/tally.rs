//! What has happened since the daemon was started, counted for each app.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use flyloft_core::name::AppName;

/// Upper bounds of the buckets for wakes, in seconds.
pub const BOUNDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

#[derive(Default)]
pub struct Tally {
    apps: Mutex<BTreeMap<AppName, Counts>>,
    /// What was removed to keep within bounds, by what it was.
    dropped: Mutex<BTreeMap<&'static str, u64>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Wakes that were not in vain: how many took at most each of [`BOUNDS`], how many there were, and their seconds.
    pub wakes: [u64; BOUNDS.len()],
    pub woken: u64,
    pub waking: f64,
    /// Wakes in vain.
    pub failed_wakes: u64,
    pub deploys: u64,
    pub failed_deploys: u64,
}

impl Tally {
    /// A wake has ended, for whoever waited for it.
    pub fn wake(&self, app: &AppName, took: Duration, failed: bool) {
        self.count(app, |counts| {
            if failed {
                counts.failed_wakes += 1;
                return;
            }
            let took = took.as_secs_f64();
            counts.wakes.iter_mut().zip(BOUNDS).filter(|(_, bound)| took <= *bound).for_each(|(count, _)| *count += 1);
            counts.woken += 1;
            counts.waking += took;
        });
    }

    pub fn deploy(&self, app: &AppName, failed: bool) {
        self.count(app, |counts| match failed {
            true => counts.failed_deploys += 1,
            false => counts.deploys += 1,
        });
    }

    pub fn counts(&self) -> BTreeMap<AppName, Counts> {
        self.apps.lock().expect("not poisoned").clone()
    }

    pub fn dropped(&self, kind: &'static str) {
        *self.dropped.lock().expect("not poisoned").entry(kind).or_default() += 1;
    }

    pub fn all_dropped(&self) -> BTreeMap<&'static str, u64> {
        self.dropped.lock().expect("not poisoned").clone()
    }

    fn count(&self, app: &AppName, change: impl FnOnce(&mut Counts)) {
        change(self.apps.lock().expect("not poisoned").entry(app.clone()).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_is_in_every_bucket_that_is_large_enough() {
        let (tally, app) = (Tally::default(), AppName::parse("shop").unwrap());
        tally.wake(&app, Duration::from_millis(1), false);
        tally.wake(&app, Duration::from_millis(12), false);
        tally.wake(&app, Duration::from_secs(60), false);
        tally.wake(&app, Duration::from_secs(60), true);
        let counts = tally.counts().remove(&app).unwrap();
        assert_eq!(counts.wakes, [1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!((counts.woken, counts.failed_wakes), (3, 1));
        assert!((counts.waking - 60.013).abs() < 1e-9);
    }
}
