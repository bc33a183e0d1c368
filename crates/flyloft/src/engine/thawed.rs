//! What is still done for a container that runs again.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long that takes, from before the thaw on. Clones are the same.
#[derive(Clone, Debug)]
pub struct Thawed(Arc<Times>);

#[derive(Debug)]
struct Times {
    began: Instant,
    prefetched: OnceLock<Duration>,
    released: OnceLock<Duration>,
}

impl Thawed {
    /// A container is about to be thawed.
    pub fn begin() -> Self {
        Self(Arc::new(Times { began: Instant::now(), prefetched: OnceLock::new(), released: OnceLock::new() }))
    }

    /// What it touched when it last woke is in memory.
    pub fn has_prefetched(&self) {
        self.0.prefetched.get_or_init(|| self.0.began.elapsed());
    }

    /// Nobody is held back any more so that others wake first.
    pub fn has_released(&self) {
        self.0.released.get_or_init(|| self.0.began.elapsed());
    }

    /// Until it was so. Nothing as long as it is not, and where there was nothing to bring in.
    pub fn prefetched(&self) -> Option<Duration> {
        self.0.prefetched.get().copied()
    }

    /// Until it was so. Nothing as long as it is not, and where nobody was held back.
    pub fn released(&self) -> Option<Duration> {
        self.0.released.get().copied()
    }
}
