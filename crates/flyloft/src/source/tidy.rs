//! Keeps the repositories of an app small.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flyloft_core::name::{AppName, CommitId};

use super::{Repositories, SourceError};

const LIMIT: Duration = Duration::from_secs(3600);

/// How often repositories are tidied.
const PERIOD: Duration = Duration::from_secs(24 * 3600);

impl Repositories {
    /// Whether it is time to tidy the repositories of all apps; if so, the next time is a day from now. A restart of
    /// the daemon makes no difference.
    pub fn tidy_is_due(&self) -> io::Result<bool> {
        let mark = self.dir.join("tidied");
        let last = match fs::metadata(&mark) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => Some(found?.modified()?),
        };
        // A clock that was set back must not keep them from it.
        if last.is_some_and(|last| last.elapsed().is_ok_and(|age| age < PERIOD)) {
            return Ok(false);
        }
        File::create(&mark)?.set_modified(SystemTime::now())?;
        Ok(true)
    }

    /// Packs what an app has, and gives up what was fetched and is not among `keep`: the commits that releases are
    /// made from. Objects that nothing holds go when they are a day old, so that nothing under way loses any; what is
    /// given up now goes the next time, since somebody may have just fetched it for a release that is not among `keep`.
    pub async fn tidy(&self, app: &AppName, keep: &[CommitId]) -> Result<(), SourceError> {
        let fetched = self.fetched(app);
        for repository in [self.repository(app), fetched.clone()].into_iter().chain(self.modules_of(app)) {
            if !repository.join("HEAD").exists() {
                continue;
            }
            let turn = self.turns.of(&repository);
            let _turn = turn.lock().await;
            // On one core: this is never urgent.
            let git = self.git().within(&repository).set("pack.threads", "1");
            let collect = git.command("gc").args(["--quiet", "--prune=1.day.ago"]).timeout(LIMIT);
            collect.run().await.map_err(|source| failed(&repository, source))?;
            if repository == fetched {
                self.give_up(&repository, keep).await?;
            }
        }
        Ok(())
    }

    async fn give_up(&self, repository: &Path, keep: &[CommitId]) -> Result<(), SourceError> {
        let git = self.git().within(repository);
        let list = git.command("for-each-ref").args(["--format=%(objectname) %(refname)", "refs/flyloft/"]);
        let listed = list.run().await.map_err(|source| failed(repository, source))?;
        let kept = |commit: &str| keep.iter().any(|kept| kept.as_str() == commit);
        let delete: String = String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(commit, _)| !kept(commit))
            .map(|(_, reference)| format!("delete {reference}\n"))
            .collect();
        let update = git.command("update-ref").arg("--stdin").stdin(delete);
        update.run().await.map(drop).map_err(|source| failed(repository, source))
    }

    fn modules_of(&self, app: &AppName) -> Vec<PathBuf> {
        let modules = fs::read_dir(self.dir.join("modules").join(app.as_str()));
        modules.map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
    }
}

fn failed(repository: &Path, source: crate::exec::ExecError) -> SourceError {
    SourceError::Git { doing: format!("tidy the repository `{}`", repository.display()), source }
}
