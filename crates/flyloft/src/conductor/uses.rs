//! What uses an environment beside the requests that the edge counts: commands that run in it, and what is said to its
//! published ports.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// In words for people.
    words: Mutex<Words>,
}

#[derive(Default)]
struct Words {
    /// The commands that run, each by whom.
    commands: Vec<Arc<str>>,
    /// Who or what used it last, as far as that is none of the edge's, and when.
    last: Option<(Timestamp, Arc<str>)>,
}

/// Somebody uses the environment for as long as they have this.
pub struct InUse(Uses, Arc<str>);

impl Uses {
    pub fn new(clock: Clock) -> Self {
        Self { clock, counts: Arc::default() }
    }

    /// A command, in words for people.
    pub fn begin(&self, by: &str) -> InUse {
        let by = Arc::<str>::from(by);
        self.counts.words().commands.push(by.clone());
        self.counts.now.fetch_add(1, Ordering::SeqCst);
        InUse(self.clone(), by)
    }

    /// Who or what uses it this moment, in words for people.
    pub fn by(&self, who: &str) {
        self.counts.words().last = Some((self.clock.now(), who.into()));
    }

    /// The commands that run.
    pub fn commands(&self) -> Vec<Arc<str>> {
        self.counts.words().commands.clone()
    }

    /// Who or what used it last that the edge has not seen, and when.
    pub fn last_user(&self) -> Option<(Timestamp, Arc<str>)> {
        let said = self.said().map(|at| (at, Arc::from("what was said to a published port")));
        let last = self.counts.words().last.clone();
        last.into_iter().chain(said).max_by_key(|(at, _)| *at)
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

impl Counts {
    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let Self(Uses { clock, counts }, by) = self;
        let now = clock.now();
        let mut words = counts.words();
        if let Some(place) = words.commands.iter().position(|command| Arc::ptr_eq(command, by)) {
            words.commands.remove(place);
        }
        words.last = Some((now, by.clone()));
        drop(words);
        counts.last.store(now.0, Ordering::SeqCst);
        counts.now.fetch_sub(1, Ordering::SeqCst);
    }
}
