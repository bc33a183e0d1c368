//! What uses an environment beside the requests that the edge counts: commands that run in it, and what is said to its
//! published ports.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use flyloft_core::lifecycle::Timestamp;

use crate::clock::Clock;

/// Clones count together.
#[derive(Clone)]
pub struct Uses {
    clock: Clock,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    now: AtomicUsize,
    /// When the last one ended; 0 before the first.
    last: AtomicU64,
    /// When something was last said to a port; 0 before that.
    said: AtomicU64,
}

/// Somebody uses the environment for as long as they have this.
pub struct InUse(Uses);

impl Uses {
    pub fn new(clock: Clock) -> Self {
        Self { clock, counts: Arc::default() }
    }

    pub fn begin(&self) -> InUse {
        self.counts.now.fetch_add(1, Ordering::SeqCst);
        InUse(self.clone())
    }

    /// How many there are.
    pub fn now(&self) -> usize {
        self.counts.now.load(Ordering::SeqCst)
    }

    /// When there was one last, or something was said, if ever.
    pub fn last(&self) -> Option<Timestamp> {
        match self.counts.now.load(Ordering::SeqCst) {
            0 => Some(Timestamp(self.counts.last.load(Ordering::SeqCst))).filter(|last| last.0 > 0).max(self.said()),
            _ => Some(self.clock.now()),
        }
    }

    /// Something has been said to a port.
    pub fn note(&self) {
        self.counts.said.store(self.clock.now().0, Ordering::SeqCst);
    }

    /// When that was so last, if ever.
    pub fn said(&self) -> Option<Timestamp> {
        Some(Timestamp(self.counts.said.load(Ordering::SeqCst))).filter(|said| said.0 > 0)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let Uses { clock, counts } = &self.0;
        counts.last.store(clock.now().0, Ordering::SeqCst);
        counts.now.fetch_sub(1, Ordering::SeqCst);
    }
}
