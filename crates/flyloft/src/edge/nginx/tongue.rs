//! Which words nginx knows, by its version.
//!
//! Two have to know them: the nginx that is installed, which judges a configuration and is started with it, and the one
//! that runs, which reads it. They differ from an upgrade on until nginx is started anew.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flyloft_core::nginx::Http2;

use super::master::{Master, Running};
use crate::exec::Cmd;
use crate::machine::tools;

/// How long it may take to say a version.
const LIMIT: Duration = Duration::from_secs(10);

/// What is known of both, so that nobody is asked twice.
#[derive(Default)]
pub struct Tongue {
    installed: Option<(Mark, bool)>,
    running: Option<(Running, bool)>,
}

/// What tells a program from another one that is installed in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    path: PathBuf,
    /// Its device, its number there, and when it was written.
    file: [u64; 2],
    written: (i64, i64),
}

impl Tongue {
    /// Asks whoever is new. What cannot be asked knows what every version knows.
    pub async fn listen(&mut self, master: &Master) {
        self.ask(tools::path("nginx").as_deref()).await;
        self.meet(master.find().map(|running| (running, !running.is_outdated())));
    }

    /// Whether HTTP/2 is said of a server.
    pub fn knows_http2(&self) -> bool {
        let knows = |is: Option<bool>| is != Some(false);
        self.installed.as_ref().is_some_and(|(_, knows)| *knows) && knows(self.running.map(|(_, knows)| knows))
    }

    async fn ask(&mut self, program: Option<&Path>) {
        let found = program.and_then(|path| Mark::of(path).ok());
        if self.installed.as_ref().map(|(mark, _)| mark) == found.as_ref() {
            return;
        }
        self.installed = None;
        let Some(mark) = found else { return };
        match Cmd::new(&mark.path).arg("-v").timeout(LIMIT).run().await {
            Ok(said) => {
                let said = String::from_utf8_lossy(&said.stderr).trim().to_owned();
                tracing::debug!(said, "nginx is another one");
                self.installed = Some((mark, Http2::is_known_to(&said)));
            }
            Err(error) => tracing::debug!(%error, "failed to ask nginx for its version"),
        }
    }

    /// One that runs, and whether it is the one that is installed.
    fn meet(&mut self, found: Option<(Running, bool)>) {
        let Some((running, is_installed)) = found else {
            self.running = None;
            return;
        };
        // What cannot be said now may be said the next time.
        let Some((_, knows)) = self.installed else { return };
        if self.running.is_none_or(|(known, _)| known != running) {
            self.running = Some((running, is_installed && knows));
        }
    }
}

impl Mark {
    fn of(path: &Path) -> std::io::Result<Self> {
        let found = path.metadata()?;
        let (file, written) = ([found.dev(), found.ino()], (found.mtime(), found.mtime_nsec()));
        Ok(Self { path: path.to_owned(), file, written })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Has this version be installed, as packages are: in one moment.
    fn install(path: &Path, version: &str) {
        let new = path.with_extension("new");
        fs::write(&new, format!("#!/bin/sh\necho 'nginx version: nginx/{version}' >&2\n")).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[tokio::test]
    async fn words_are_used_that_the_nginx_that_is_installed_and_the_one_that_runs_know() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("nginx");
        let one = Running::trial;
        let mut tongue = Tongue::default();
        tongue.ask(Some(&program)).await;
        tongue.meet(Some((one(4), true)));
        assert!(!tongue.knows_http2(), "there is none");
        install(&program, "1.26.3");
        tongue.ask(Some(&program)).await;
        tongue.meet(Some((one(4), true)));
        assert!(tongue.knows_http2(), "it could not be asked before");
        install(&program, "1.22.1");
        tongue.ask(Some(&program)).await;
        tongue.meet(Some((one(1), true)));
        assert!(!tongue.knows_http2());
        install(&program, "1.26.3");
        tongue.ask(Some(&program)).await;
        tongue.meet(Some((one(1), false)));
        assert!(!tongue.knows_http2(), "the old one still runs");
        tongue.meet(None);
        assert!(tongue.knows_http2(), "it is to be started");
        tongue.meet(Some((one(2), true)));
        assert!(tongue.knows_http2());
        install(&program, "1.22.1");
        tongue.ask(Some(&program)).await;
        tongue.meet(Some((one(2), false)));
        assert!(!tongue.knows_http2(), "the old one could not be started with such words");
        install(&program, "1.26.4");
        tongue.ask(Some(&program)).await;
        tongue.meet(Some((one(2), false)));
        assert!(tongue.knows_http2(), "what runs is known from before");
        tongue.meet(Some((one(3), false)));
        assert!(!tongue.knows_http2(), "nobody knows what that is");
        tongue.meet(None);
        assert!(tongue.knows_http2());
        fs::remove_file(&program).unwrap();
        tongue.ask(Some(&program)).await;
        assert!(!tongue.knows_http2());
    }
}
