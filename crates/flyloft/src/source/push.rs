//! What a push does to the branches of an app, and that only one push at a time does it.
//!
//! Git compares each branch with what the client took it for after the hook has accepted the push: when everything is
//! staged and serves already. So the same is asked here twice: before anything is made, and when all of it is ready to
//! serve. From then on, until git has moved the branches and ended, no other push to the app comes that far.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::name::{AppName, BranchName, CommitId};
use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard};

use super::{Quarantine, Repositories, SourceError};

/// Git moves branches in milliseconds. One that takes longer has a client that does not listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one `git push` brings, checked: at least one update, no branch twice.
#[derive(Clone, Debug)]
pub struct Push {
    pub updates: Vec<BranchUpdate>,
    /// Where the new objects are until the push is accepted. None if it brings none, as a deletion does.
    pub quarantine: Option<Quarantine>,
    pub turn: Turn,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchUpdate {
    pub branch: BranchName,
    /// What the client took the branch for. None if it is new.
    pub old: Option<CommitId>,
    /// None if the branch is being deleted.
    pub new: Option<CommitId>,
}

/// A push's turn to move the branches of its app. Taken at most once, and given back with the last clone.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<Taking>);

#[derive(Debug, Default)]
struct Taking {
    lock: Arc<Mutex<()>>,
    /// None if another push held it for too long.
    taken: OnceCell<Option<OwnedMutexGuard<()>>>,
}

impl Turn {
    pub(super) fn new(lock: Arc<Mutex<()>>) -> Self {
        Self(Arc::new(Taking { lock, taken: OnceCell::new() }))
    }

    async fn take(&self) -> Result<(), SourceError> {
        let wait = || async { tokio::time::timeout(PATIENCE, self.0.lock.clone().lock_owned()).await.ok() };
        self.0.taken.get_or_init(wait).await.as_ref().map(drop).ok_or(SourceError::Busy)
    }
}

impl Repositories {
    /// Whether git will move the branches as the push asks.
    pub async fn check(&self, app: &AppName, push: &Push) -> Result<(), SourceError> {
        let asked: String = push.updates.iter().map(question).collect();
        let failed = |source| SourceError::Git { doing: "look up what is pushed".to_owned(), source };
        let git = self.git().within(&self.repository(app)).reading(push.quarantine.as_ref());
        let said = git.command("cat-file").arg("--batch-check=%(objectname) %(objecttype)").stdin(asked).run().await;
        let said = said.map_err(failed)?;
        let said = String::from_utf8_lossy(&said.stdout);
        let mut objects = said.lines().map(Object::parse);
        for update in &push.updates {
            update.check(objects.next().flatten(), update.new.as_ref().and_then(|_| objects.next()).flatten())?;
        }
        Ok(())
    }

    /// The same once more; from now on no other push to the app moves a branch before this one has ended.
    pub async fn hold(&self, app: &AppName, push: &Push) -> Result<(), SourceError> {
        push.turn.take().await?;
        self.check(app, push).await
    }

    /// Deletes a branch whose environment goes, so that the same commit can be pushed again: git asks nobody about a
    /// branch that is already where the client wants it.
    pub async fn delete_branch(&self, app: &AppName, branch: &BranchName) -> Result<(), SourceError> {
        let repository = self.repository(app);
        let reference = format!("refs/heads/{branch}");
        let failed = |source| SourceError::Git { doing: format!("delete branch `{branch}`"), source };
        if !repository.join("HEAD").exists() {
            return Ok(());
        }
        let git = self.git().within(&repository);
        let look = git.command("for-each-ref").args(["--format=%(refname) %(objectname)", &reference]).run().await;
        let look = look.map_err(failed)?;
        let look = String::from_utf8_lossy(&look.stdout);
        let prefix = format!("{reference} ");
        let Some(at) = look.lines().find_map(|line| line.strip_prefix(&prefix)) else { return Ok(()) };
        // If it has moved, somebody has pushed it anew.
        let delete = git.command("update-ref").args(["-d", &reference, at]);
        let lock = self.lock_of_pushes(&repository);
        let Ok(_turn) = lock.clone().try_lock_owned() else {
            // The push under way is most often the one that deletes this branch.
            tokio::spawn(async move {
                let _turn = lock.lock().await;
                if let Err(error) = delete.run().await {
                    tracing::debug!(%error, "a branch was gone before it could be deleted");
                }
            });
            return Ok(());
        };
        delete.run().await.map(drop).map_err(failed)
    }

    pub(super) fn turn_to_push(&self, repository: &Path) -> Turn {
        Turn::new(self.lock_of_pushes(repository))
    }

    /// Not that of those who change the repository's objects, which may take long.
    fn lock_of_pushes(&self, repository: &Path) -> Arc<Mutex<()>> {
        self.turns.of(&repository.join("refs"))
    }
}

/// A line for each object, see git-cat-file(1), "BATCH OUTPUT".
fn question(update: &BranchUpdate) -> String {
    let new = update.new.as_ref().map(|new| format!("{new}\n")).unwrap_or_default();
    format!("refs/heads/{}\n{new}", update.branch)
}

/// What there is, if anything: `ID TYPE`, or `NAME missing`.
struct Object<'a> {
    id: &'a str,
    kind: &'a str,
}

impl<'a> Object<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (id, kind) = line.rsplit_once(' ')?;
        (kind != "missing").then_some(Self { id, kind })
    }
}

impl BranchUpdate {
    fn check(&self, now: Option<Object<'_>>, new: Option<Object<'_>>) -> Result<(), SourceError> {
        if now.map(|now| now.id) != self.old.as_ref().map(CommitId::as_str) {
            return Err(SourceError::Moved(self.branch.clone()));
        }
        match (&self.new, new) {
            (Some(id), Some(Object { kind, .. })) if kind != "commit" => {
                Err(SourceError::NotACommit { id: id.clone(), kind: kind.to_owned(), branch: self.branch.clone() })
            }
            (Some(id), None) => Err(SourceError::NoCommit(id.clone())),
            _ => Ok(()),
        }
    }
}
