//! How the edge ends, in two steps, so that a long download keeps nobody else waiting.
//!
//! ```text
//!   serves ── leave ──► who is connected comes to an end, ── close ──► nobody is let in; those who came
//!                       newcomers are served                           meanwhile come to an end
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

/// What tells the threads of it. Each deadline is set before its token is cancelled.
#[derive(Default)]
pub struct Halt {
    begun: AtomicBool,
    pub leaving: CancellationToken,
    leave_by: OnceLock<Instant>,
    pub closed: CancellationToken,
    close_by: OnceLock<Instant>,
}

impl Halt {
    /// Whoever is connected has until then.
    pub fn leave(&self, deadline: Instant) {
        let _ = self.leave_by.set(deadline);
        self.begun.store(true, Ordering::Relaxed);
        self.leaving.cancel();
    }

    /// Nobody is let in any more, and who is there has until then.
    pub fn close(&self, deadline: Instant) {
        self.leave(deadline);
        let _ = self.close_by.set(deadline);
        self.closed.cancel();
    }

    /// Whether it has begun. For every answer, so it takes no lock.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Until when who waits is to be answered, once it has begun.
    pub fn leave_by(&self) -> Option<Instant> {
        self.leave_by.get().copied()
    }

    /// When the rest is cut, once nobody is let in any more.
    pub fn close_by(&self) -> Option<Instant> {
        self.close_by.get().copied()
    }
}
