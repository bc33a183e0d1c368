//! Staging what has moved: the commit is fetched, and then deployed as `flyloft up` deploys it.

use std::sync::{Arc, LazyLock};

use flyloft_core::name::CommitId;
use tokio::sync::Semaphore;

use super::{MYSELF, Remote, news};
use crate::deploy::{Source, Work};
use crate::error::{Error, Kind, OrFailed, Result};
use crate::loft::Loft;
use crate::source::{Refusal, SourceError, Want};
use crate::store::{EventKind, FollowRow};

/// So many environments at once are staged of themselves: a base branch that moves may have every pull request move.
static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(4)));

/// Fetches what an environment has moved to, and has it deployed beside all this. An error is one of the repository or
/// the store.
pub(super) async fn stage(loft: &Arc<Loft>, remote: &Remote, row: FollowRow, commit: CommitId) -> Result<()> {
    let url = remote.url.to_string();
    let want = Want::Commit(commit.clone());
    let fetched = loft.parts.repositories.fetch(&row.name.app, &remote.url, &want, &remote.credentials).await;
    match fetched {
        Ok(_) => {}
        // It has moved on.
        Err(SourceError::NoCommitThere { .. }) => return Ok(()),
        // It is the commit's own fault: the next one may be better.
        Err(error @ SourceError::Remote { why: Refusal::TooLarge | Refusal::Malformed(_), .. }) => {
            let text = format!("`{}` cannot be fetched: {}", commit.short(), Error::from(error).brief());
            news::tell(&loft.parts.store, &row.name, EventKind::DeployFailed, &text).await;
            return settle(loft, &row, &url, &commit).await;
        }
        Err(error) => return Err(error.into()),
    }
    let turn = loft.follows.begin(row.id, &commit);
    let loft = loft.clone();
    tokio::spawn(async move {
        let turn = match turn {
            Some(turn) => turn,
            None => match TURNS.clone().acquire_owned().await {
                Ok(turn) => Arc::new(turn),
                Err(_) => return,
            },
        };
        if loft.follows.hold(row.id, &commit, &turn) {
            if let Err(error) = see_through(&loft, &row, &url, &commit).await {
                tracing::warn!(env = %row.name, %error, "failed to stage what has moved; trying again at the next look");
            }
            loft.follows.end(row.id, &commit);
        }
    });
    Ok(())
}

/// Deploys the commit, and records that this has been done.
async fn see_through(loft: &Loft, row: &FollowRow, url: &str, commit: &CommitId) -> Result<()> {
    let judged = deploy(loft, row, commit).await?;
    match judged && loft.follows.staging(row.id).as_ref() == Some(commit) {
        true => settle(loft, row, url, commit).await,
        false => Ok(()),
    }
}

/// Says whether the deploy has shown what the commit is worth. It has not if something newer took its place, or if the
/// environment was destroyed.
async fn deploy(loft: &Loft, row: &FollowRow, commit: &CommitId) -> Result<bool> {
    let (env, conductor) = loft.find(&row.name).await?;
    if env.id != row.id {
        return Ok(false);
    }
    let work = Work {
        source: Source::Commit { commit: commit.clone(), quarantine: None },
        reason: MYSELF.to_owned(),
        by: MYSELF.to_owned(),
        no_cache: false,
        attached: false,
        together: None,
        push: None,
    };
    let ticket = conductor.deploy(work).await?;
    Ok(!matches!(ticket.ended.await, Err(_) | Ok(Err(Error { kind: Kind::Conflict, .. }))))
}

async fn settle(loft: &Loft, row: &FollowRow, url: &str, commit: &CommitId) -> Result<()> {
    let settled = loft.parts.store.settle(row, url, commit).await;
    settled.or_failed(|| format!("failed to record what `{}` follows", row.name))
}
