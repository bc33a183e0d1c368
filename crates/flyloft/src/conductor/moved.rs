//! How much of a sleeper's memory is out of the way, as far as this daemon knows.
//!
//! The store has a note of it from the end of a move until the next one begins. So where there is none, a daemon died in
//! between, and the reconciliation has it done again; and a start with a thousand sleepers looks at none of them. What
//! found swap full is moved again in its turn, once there is room.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flyloft_core::lifecycle::{Depth, Live, Runs, State};

use crate::engine::{Held, Kept};

/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Moved(Arc<Mutex<Facts>>);

#[derive(Debug, Default)]
struct Facts {
    /// None while it is being moved, and where nothing is known.
    to: Option<Depth>,
    /// Why the last time not all of it was, which its people know.
    told: Option<Kept>,
    /// Bytes that found no place in swap.
    lacking: Option<u64>,
}

impl Moved {
    /// As the last daemon left it.
    pub fn taken_up(state: &State, held: Option<Held>) -> Self {
        let (told, lacking) = (held.and_then(|held| held.kept), held.as_ref().and_then(lacking));
        Self(Arc::new(Mutex::new(Facts { to: held.and(depth(state)), told, lacking })))
    }

    /// Nothing is known any more.
    pub fn forget(&self) {
        self.lock().to = None;
    }

    /// It has been moved, as far as it could be. Gives what its people do not know yet: why not all of it was.
    pub fn note(&self, to: Depth, held: &Held) -> Option<Kept> {
        let mut facts = self.lock();
        facts.to = Some(to);
        facts.lacking = lacking(held);
        // That nothing leads from compressed memory to a disk is so for all, and `flyloft doctor` says it.
        let kept = held.kept.filter(|kept| *kept != Kept::NoDisk);
        let news = kept.filter(|kept| facts.told != Some(*kept));
        facts.told = held.kept;
        news
    }

    /// Whether there is nothing left to be moved of somebody in this state, where so much of swap is free.
    pub fn is_as_deep_as(&self, state: &State, free: impl FnOnce() -> u64) -> bool {
        let facts = self.lock();
        facts.to >= depth(state) && facts.lacking.is_none_or(|lacking| free() < lacking)
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lacking(held: &Held) -> Option<u64> {
    (held.kept == Some(Kept::SwapFull)).then_some(held.resident)
}

/// How deeply it is to sleep.
fn depth(state: &State) -> Option<Depth> {
    match state {
        State::Live(Live { runs: Runs::Asleep { depth, .. }, .. }) => Some(*depth),
        _ => None,
    }
}
