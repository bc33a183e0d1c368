//! Several environments that are staged by one push: all of them, or none.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::{Error, Result};

/// One deploy's share of a push. Each deploy waits, when its new release is healthy, until all others are.
#[derive(Clone)]
pub struct Together(Arc<watch::Sender<Progress>>);

#[derive(Clone, Copy, Debug)]
struct Progress {
    missing: usize,
    failed: bool,
}

impl Together {
    /// What is said of a deploy that did not fail itself.
    pub const ANOTHER_FAILED: &str = "another branch of the same push failed";

    pub fn of(deploys: usize) -> Self {
        Self(Arc::new(watch::Sender::new(Progress { missing: deploys, failed: false })))
    }

    /// This one is healthy. Comes back when all are.
    pub async fn all_ready(&self) -> Result<()> {
        self.0.send_modify(|progress| progress.missing -= 1);
        let mut progress = self.0.subscribe();
        let seen = progress.wait_for(|progress| progress.failed || progress.missing == 0).await;
        match seen {
            Ok(progress) if !progress.failed => Ok(()),
            _ => Err(Error::failed(Self::ANOTHER_FAILED).hint("all branches of a push are staged together, or none")),
        }
    }

    /// This one has come to its end. If it failed, so do those that still wait.
    pub fn ended(&self, well: bool) {
        if !well {
            self.0.send_modify(|progress| progress.failed = true);
        }
    }
}
