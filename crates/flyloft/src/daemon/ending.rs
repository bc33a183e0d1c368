//! Why the daemon ends, and for how long it waits before.

use std::convert::Infallible;
use std::pin::pin;
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

    /// Whoever wants an upgrade and is not the first is told so at once.
    pub async fn first(&mut self, program: &Program) -> Reason {
        let reason = self.come(program).await;
        self.upgrades.close();
        while let Ok(Upgrade { answer }) = self.upgrades.try_recv() {
            let _ = answer.send(Err(match reason {
                Reason::Stop => stops(),
                Reason::Upgrade(_) => Error::upgrading(),
            }));
        }
        reason
    }

    async fn come(&mut self, program: &Program) -> Reason {
        loop {
            let answer = tokio::select! {
                biased;
                () = stopped(&mut self.int, &mut self.term) => return Reason::Stop,
                Some(Upgrade { answer }) = self.upgrades.recv() => answer,
            };
            let checked = tokio::select! {
                biased;
                () = stopped(&mut self.int, &mut self.term) => {
                    let _ = answer.send(Err(stops()));
                    return Reason::Stop;
                }
                checked = program.check() => checked,
                never = refuse(&mut self.upgrades) => match never {},
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
                return Reason::Upgrade(program);
            }
        }
    }

    /// Waits for the end of what is under way, as long as the reason allows. Whoever stops the daemon need not wait for
    /// an upgrade first: that ends as any other stop. Who does so twice need not wait at all.
    pub async fn unless_stopped(&mut self, mut reason: Reason, under_way: impl Future<Output = ()>) -> Reason {
        let mut under_way = pin!(under_way);
        loop {
            let patience = match reason {
                Reason::Stop => DRAIN,
                Reason::Upgrade(_) => PATIENCE,
            };
            tokio::select! {
                biased;
                () = stopped(&mut self.int, &mut self.term) => match reason {
                    Reason::Stop => return reason,
                    Reason::Upgrade(_) => reason = Reason::Stop,
                },
                () = &mut under_way => return reason,
                () = tokio::time::sleep(patience) => {
                    tracing::warn!(seconds = patience.as_secs(), "what is still under way is cut");
                    return reason;
                }
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

fn stops() -> Error {
    Error::new(Kind::Unavailable, "the daemon was told to stop meanwhile")
}

/// For as long as an upgrade is under way.
async fn refuse(upgrades: &mut mpsc::Receiver<Upgrade>) -> Infallible {
    while let Some(Upgrade { answer }) = upgrades.recv().await {
        let _ = answer.send(Err(Error::upgrading()));
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use nix::sys::signal::{Signal::SIGTERM, raise};
    use tokio::sync::oneshot;

    use super::*;

    /// Waits until a signal of this process has been told to all who listen.
    async fn told_to_stop(term: &mut Signal) {
        raise(SIGTERM).unwrap();
        term.recv().await.unwrap();
    }

    fn program(dir: &Path, script: &str) -> Program {
        let path = dir.join("program");
        fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", dir.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Program::at(&path)
    }

    fn ask(upgrades: &mpsc::Sender<Upgrade>) -> oneshot::Receiver<Result<()>> {
        let (answer, told) = oneshot::channel();
        assert!(upgrades.try_send(Upgrade { answer }).is_ok());
        told
    }

    async fn upgrade() -> Reason {
        let dir = tempfile::tempdir().unwrap();
        Reason::Upgrade(program(dir.path(), "exit 0").check().await.unwrap())
    }

    fn reasons() -> (Reasons, mpsc::Sender<Upgrade>, Signal) {
        let (upgrades, asked) = mpsc::channel(1);
        (Reasons::new(asked).unwrap(), upgrades, signal(SignalKind::terminate()).unwrap())
    }

    #[tokio::test]
    async fn who_wants_an_upgrade_while_one_is_looked_at_is_told_so_before_that_ends() {
        let (mut reasons, upgrades, _) = reasons();
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path(), "touch looks; until [ -e go ]; do sleep 0.01; done");
        let first = ask(&upgrades);
        let second = async {
            while !dir.path().join("looks").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let refused = ask(&upgrades).await.unwrap().unwrap_err();
            fs::write(dir.path().join("go"), "").unwrap();
            refused
        };
        let both = async { tokio::join!(reasons.first(&program), second) };
        let (reason, refused) = tokio::time::timeout(CHECKED, both).await.unwrap();
        assert!(matches!(reason, Reason::Upgrade(_)), "{reason:?}");
        first.await.unwrap().unwrap();
        assert_eq!(refused.what, "an upgrade is under way already");
    }

    /// Less than the check may take.
    const CHECKED: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn who_wants_an_upgrade_of_a_daemon_that_stops_is_told_so() {
        let (mut reasons, upgrades, mut term) = reasons();
        let mut told = ask(&upgrades);
        told_to_stop(&mut term).await;
        let reason = reasons.first(&Program::at(Path::new("/nonexistent"))).await;
        assert!(matches!(reason, Reason::Stop), "{reason:?}");
        assert_eq!(told.try_recv().unwrap().unwrap_err().what, "the daemon was told to stop meanwhile");
        assert!(upgrades.is_closed());
    }

    #[tokio::test]
    async fn what_is_under_way_comes_to_its_end_though_the_daemon_is_stopped_in_an_upgrade() {
        let (mut reasons, _upgrades, mut term) = reasons();
        let mut ended = false;
        let under_way = async {
            told_to_stop(&mut term).await;
            ended = true;
        };
        let reason = reasons.unless_stopped(upgrade().await, under_way).await;
        assert!(matches!(reason, Reason::Stop), "{reason:?}");
        assert!(ended);
    }

    #[tokio::test]
    async fn who_stops_the_daemon_twice_need_not_wait() {
        let (mut reasons, _upgrades, mut term) = reasons();
        let under_way = async {
            told_to_stop(&mut term).await;
            told_to_stop(&mut term).await;
            std::future::pending().await
        };
        let ended = tokio::time::timeout(DRAIN / 2, reasons.unless_stopped(upgrade().await, under_way)).await;
        assert!(matches!(ended, Ok(Reason::Stop)), "{ended:?}");
    }

    #[tokio::test]
    async fn a_stop_is_noticed_until_the_end_and_ends_the_process_from_then_on() {
        let (mut reasons, _upgrades, mut term) = reasons();
        told_to_stop(&mut term).await;
        assert!(reasons.stopped_meanwhile().await);
        assert!(!reasons.stopped_meanwhile().await);
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: nothing is installed; what is there is written to a structure of this function.
            let now = unsafe {
                let mut now: libc::sigaction = std::mem::zeroed();
                assert_eq!(libc::sigaction(signal, std::ptr::null(), &mut now), 0);
                now
            };
            assert_eq!(now.sa_sigaction, libc::SIG_DFL);
        }
    }
}
