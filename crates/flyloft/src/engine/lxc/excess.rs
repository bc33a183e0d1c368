//! What containers were stopped for. Each has a file that says so, for the daemon that comes next; but where the disk is
//! full there may be no room for it, and whoever then found the container ended would start it again. So this daemon
//! remembers it, from before it ends until somebody starts it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use flyloft_core::policy::Excess;
use tokio::sync::Notify;

use crate::engine::{ContainerId, ContainerState, Observed};

#[derive(Debug, Default)]
pub struct Excesses {
    of: Mutex<HashMap<ContainerId, Excess>>,
    stopped: Notify,
}

impl Excesses {
    /// Before it is stopped.
    pub fn remember(&self, id: &ContainerId, excess: Excess) {
        self.of().insert(id.clone(), excess);
    }

    /// It is started, or removed.
    pub fn forget(&self, id: &ContainerId) {
        self.of().remove(id);
    }

    /// What was found, with what is remembered of it.
    pub fn remembered(&self, found: Observed) -> Observed {
        let known = self.of().get(&found.id).copied().filter(|_| found.state == ContainerState::Stopped);
        Observed { excess: known.or(found.excess), ..found }
    }

    /// One was stopped.
    pub fn tell(&self) {
        self.stopped.notify_one();
    }

    /// Comes back when one was stopped since this last came back.
    pub async fn told(&self) {
        self.stopped.notified().await;
    }

    fn of(&self) -> MutexGuard<'_, HashMap<ContainerId, Excess>> {
        self.of.lock().expect("nothing panics while it notes")
    }
}
