//! Keeps the repositories of an app small.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flyloft_core::name::{AppName, CommitId};

use super::{Repositories, SourceError};

const LIMIT: Duration = Duration::from_secs(3600);

impl Repositories {
    /// Packs what an app has, and gives up what was fetched and is not among `keep`: the commits that releases are
    /// made from. Objects that nothing holds go when they are a day old, so that nothing under way loses any.
    pub async fn tidy(&self, app: &AppName, keep: &[CommitId]) -> Result<(), SourceError> {
        let fetched = self.fetched(app);
        for repository in [self.repository(app), fetched.clone()].into_iter().chain(self.modules_of(app)) {
            if !repository.join("HEAD").exists() {
                continue;
            }
            let turn = self.turns.of(&repository);
            let _turn = turn.lock().await;
            if repository == fetched {
                self.give_up(&repository, keep).await?;
            }
            // On one core and in little memory: this is never urgent.
            let git = self.git().within(&repository).set("pack.threads", "1").set("pack.windowMemory", "128m");
            let collect = git.command("gc").args(["--quiet", "--prune=1.day.ago"]).timeout(LIMIT);
            collect.run().await.map_err(|source| failed(&repository, source))?;
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
