//! Why the daemon ends, and for how long it waits before.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::DRAIN;
use crate::door::socket::Upgrade;
use crate::error::{Error, Kind, OrFailed, Result};
use crate::handover::{Checked, Program};

/// How long what clients have under way may take when a newer version takes over. Everybody is served meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the runtime may take to tell of a signal that a handler has noted.
const TURN: Duration = Duration::from_millis(2);

/// Why the daemon ends.
#[derive(Debug)]
pub enum Reason {
    Stop,
    Upgrade(Checked),
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
            let checked = tokio::select! {
                biased;
                () = stopped(&mut self.int, &mut self.term) => {
                    let _ = answer.send(Err(Error::new(Kind::Unavailable, "the daemon was told to stop meanwhile")));
                    return Reason::Stop;
                }
                checked = program.check() => checked,
            };
            if let Err(error) = &checked {
                tracing::error!(%error, "no other version takes over");
            }
            let (told, program) = match checked {
                Ok(program) => (Ok(()), Some(program)),
                Err(error) => (Err(error), None),
            };
            let _ = answer.send(told);
            if let Some(program) = program {
                tracing::info!("another version would start, and takes over once what is under way has ended");
                self.upgrades.close();
                return Reason::Upgrade(program);
            }
        }
    }

    /// Waits for the end of what is under way, as long as the reason allows. Whoever stops the daemon need not wait for
    /// an upgrade first, and who does so twice need not wait at all.
    pub async fn unless_stopped(&mut self, reason: Reason, under_way: impl Future<Output = ()>) -> Reason {
        let patience = match reason {
            Reason::Stop => DRAIN,
            Reason::Upgrade(_) => PATIENCE,
        };
        tokio::select! {
            biased;
            () = stopped(&mut self.int, &mut self.term) => Reason::Stop,
            () = under_way => reason,
            () = tokio::time::sleep(patience) => {
                tracing::warn!(seconds = patience.as_secs(), "what is still under way is cut");
                reason
            }
        }
    }

    /// Whether somebody has stopped the daemon since. From here on a signal ends this process at once, whatever program
    /// it is by then, until that listens for itself: nobody's stop is lost between the two.
    pub async fn stopped_meanwhile(&mut self) -> bool {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: no handler is installed here; the default needs none.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        tokio::time::timeout(TURN, stopped(&mut self.int, &mut self.term)).await.is_ok()
    }
}

async fn stopped(int: &mut Signal, term: &mut Signal) {
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}
