//! Why the daemon ends, and for how long it waits before.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::DRAIN;
use crate::door::socket::Upgrade;
use crate::error::{OrFailed, Result};
use crate::handover::Program;

/// How long what clients have under way may take when a newer version takes over. Everybody is served meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Stop,
    Upgrade,
}

/// Where reasons to end come from.
pub struct Reasons {
    int: Signal,
    term: Signal,
    upgrades: mpsc::Receiver<Upgrade>,
}

impl Reasons {
    pub fn new(upgrades: mpsc::Receiver<Upgrade>) -> Result<Self> {
        let failed = || "failed to wait for signals";
        let int = signal(SignalKind::interrupt()).or_failed(failed)?;
        let term = signal(SignalKind::terminate()).or_failed(failed)?;
        Ok(Self { int, term, upgrades })
    }

    pub async fn first(&mut self, program: &Program) -> Reason {
        loop {
            let answer = tokio::select! {
                () = stopped(&mut self.int, &mut self.term) => return Reason::Stop,
                Some(Upgrade { answer }) = self.upgrades.recv() => answer,
            };
            let checked = program.check().await;
            let good = checked.is_ok();
            if let Err(error) = &checked {
                tracing::error!(%error, "no other version takes over");
            }
            let _ = answer.send(checked);
            if good {
                self.upgrades.close();
                return Reason::Upgrade;
            }
        }
    }

    /// Waits for the end of what is under way, as long as the reason allows. Whoever stops the daemon need not wait for
    /// an upgrade first, and who does so twice need not wait at all.
    pub async fn unless_stopped(&mut self, reason: Reason, under_way: impl Future<Output = ()>) -> Reason {
        let patience = match reason {
            Reason::Stop => DRAIN,
            Reason::Upgrade => PATIENCE,
        };
        tokio::select! {
            () = under_way => reason,
            () = tokio::time::sleep(patience) => {
                tracing::warn!(seconds = patience.as_secs(), "what is still under way is cut");
                reason
            }
            () = stopped(&mut self.int, &mut self.term) => Reason::Stop,
        }
    }
}

async fn stopped(int: &mut Signal, term: &mut Signal) {
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}
