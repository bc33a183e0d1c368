//! What is known of followed environments as long as the daemon runs.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use flyloft_core::name::CommitId;
use tokio::sync::OwnedSemaphorePermit;

use crate::store::EnvId;

#[derive(Default)]
pub struct Memory(Mutex<HashMap<EnvId, Known>>);

#[derive(Default)]
struct Known {
    /// When its repository was last looked at.
    looked_at: Option<i64>,
    staging: Option<Staging>,
    /// For which commit a person is needed.
    asked: Option<CommitId>,
}

struct Staging {
    commit: CommitId,
    /// What lets it be deployed, once it may be.
    turn: Option<Arc<OwnedSemaphorePermit>>,
}

impl Memory {
    /// When the repository that an environment follows was last looked at, in milliseconds since the Unix epoch.
    pub fn looked_at(&self, id: EnvId) -> Option<i64> {
        self.known().get(&id)?.looked_at
    }

    /// Somebody stages this environment now: what was being staged of itself is not on record as staged when it ends.
    pub fn forget(&self, id: EnvId) {
        self.known().remove(&id);
    }

    /// Forgets all but these.
    pub(super) fn keep(&self, ids: HashSet<EnvId>) {
        self.known().retain(|id, _| ids.contains(id));
    }

    pub(super) fn looked(&self, id: EnvId, now: i64) {
        self.known().entry(id).or_default().looked_at = Some(now);
    }

    pub(super) fn staging(&self, id: EnvId) -> Option<CommitId> {
        Some(self.known().get(&id)?.staging.as_ref()?.commit.clone())
    }

    /// Whether a person was needed for the same commit at the last look already.
    pub(super) fn asks_again(&self, id: EnvId, commit: &CommitId) -> bool {
        let asked = self.known().entry(id).or_default().asked.replace(commit.clone());
        asked.as_ref() == Some(commit)
    }

    /// From now on this is what is being staged. It has the turn of what it takes the place of.
    pub(super) fn begin(&self, id: EnvId, commit: &CommitId) -> Option<Arc<OwnedSemaphorePermit>> {
        let mut known = self.known();
        let known = known.entry(id).or_default();
        let turn = known.staging.take().and_then(|staging| staging.turn);
        known.staging = Some(Staging { commit: commit.clone(), turn: turn.clone() });
        turn
    }

    /// Keeps a turn with what is being staged. Says whether that is still the same.
    pub(super) fn hold(&self, id: EnvId, commit: &CommitId, turn: &Arc<OwnedSemaphorePermit>) -> bool {
        let mut known = self.known();
        let staging = known.get_mut(&id).and_then(|known| known.staging.as_mut());
        match staging.filter(|staging| staging.commit == *commit) {
            Some(staging) => {
                staging.turn = Some(turn.clone());
                true
            }
            None => false,
        }
    }

    /// It is not being staged any more, unless something else is by now.
    pub(super) fn end(&self, id: EnvId, commit: &CommitId) {
        if let Some(known) = self.known().get_mut(&id) {
            known.staging.take_if(|staging| staging.commit == *commit);
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<EnvId, Known>> {
        self.0.lock().expect("not poisoned")
    }
}
