//! Environments that follow a branch or a pull request of a repository elsewhere: the repository is looked at, once a
//! round for all of them, and what has moved is staged, and what is gone goes.
//!
//! ```text
//!   every round:  survey ──► for each repository, at its own moment of the round
//!                               look (one `git ls-remote`) ──► for each environment: follow::decide
//!                                                                 stage · ask · destroy
//! ```
//!
//! What a look means is decided in [`flyloft_core::follow`]; what an environment becomes, its conductor decides. What
//! must hold:
//!
//! - A repository that no environment follows is not asked for anything. One that fails is left alone for longer and
//!   longer, and its people are told once.
//! - An environment is destroyed only after looks that went well and did not find what it follows.
//! - A commit is on record as staged when its deploy has ended: a daemon that dies in the middle of it begins again.

mod memory;
mod news;
mod staging;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::follow::{self, Missing, Pace, Record, Sight, Step};
use flyloft_core::lifecycle::{Event, Timestamp};
use flyloft_core::name::{AppName, CommitId, Origin};
use flyloft_core::policy::Span;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, MissedTickBehavior};

pub use self::memory::Memory;
use crate::config;
use crate::error::{OrFailed, Result};
use crate::loft::Loft;
use crate::source::{Credential, Look, RemoteUrl, Want};
use crate::store::{self, EventKind, FollowRow, MissingRow};

/// Who does what nobody asked for.
const MYSELF: &str = "follow";

/// So many git processes at once look at repositories.
static LOOKS: Semaphore = Semaphore::const_new(4);

/// People are told of so many failures in a row. A single one is a hiccup.
const TOLD: u32 = 2;

/// A repository, as far as it shows the same to all who ask: apps that share it are answered by one look.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Remote {
    url: RemoteUrl,
    credentials: Vec<Credential>,
}

/// One that is looked at.
#[derive(Clone)]
struct Watched {
    /// Its moment of each round, from 0 to 1: not all are looked at together.
    phase: f64,
    standing: Arc<Mutex<Standing>>,
}

#[derive(Default)]
struct Standing {
    /// Looks in a row that failed.
    failures: u32,
    rest_until: Option<Instant>,
    /// Whether a look has gone well since the daemon was started.
    well: bool,
}

pub async fn follow_for_ever(loft: Arc<Loft>, config: config::Follow) {
    let Some(every) = config.every else { return };
    let pace = Pace { every, gone: config.gone };
    let mut watched = HashMap::<Remote, Watched>::new();
    let mut rounds = tokio::time::interval(every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let remotes = match survey(&loft).await {
            Ok(remotes) => remotes,
            Err(error) => {
                tracing::warn!(%error, "failed to see what is followed");
                continue;
            }
        };
        watched.retain(|remote, _| remotes.contains_key(remote));
        for (remote, apps) in remotes {
            let watched = watched.entry(remote.clone()).or_insert_with(Watched::new).clone();
            let loft = loft.clone();
            tokio::spawn(async move {
                tokio::time::sleep(every.mul_f64(watched.phase)).await;
                watched.take_turn(&loft, &pace, &remote, &apps).await;
            });
        }
    }
}

/// The repositories that are followed, and the apps that come from each.
async fn survey(loft: &Loft) -> Result<HashMap<Remote, Vec<AppName>>> {
    let following = loft.parts.store.following().await.or_failed(|| "failed to list what is followed")?;
    loft.follows.keep(following.iter().map(|(_, id)| *id).collect());
    let mut apps: Vec<AppName> = following.into_iter().map(|(app, _)| app).collect();
    apps.dedup();
    let mut remotes = HashMap::<Remote, Vec<AppName>>::new();
    for app in apps {
        match loft.parts.remote(&app).await {
            Ok(Some((url, credentials))) => remotes.entry(Remote { url, credentials }).or_default().push(app),
            Ok(None) => {}
            Err(error) => tracing::warn!(%app, %error, "failed to see where an app comes from"),
        }
    }
    Ok(remotes)
}

impl Watched {
    fn new() -> Self {
        Self { phase: crate::random::chance(), standing: Arc::default() }
    }

    /// Looks, unless the last look is not over or the repository is left alone.
    async fn take_turn(&self, loft: &Arc<Loft>, pace: &Pace, remote: &Remote, apps: &[AppName]) {
        let Ok(mut standing) = self.standing.try_lock() else { return };
        if standing.rest_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        match look(loft, pace, remote, apps).await {
            Ok(()) => {
                // What an earlier daemon has told may have come to its end.
                if standing.failures >= TOLD || !standing.well {
                    let text = format!("`{}` can be read again", remote.url);
                    news::tell_recovery(&loft.parts.store, apps, &text).await;
                }
                *standing = Standing { well: true, ..Standing::default() };
            }
            Err(error) => {
                let what = error.brief();
                standing.failures = standing.failures.saturating_add(1);
                let rest = follow::rest(pace.every, standing.failures, crate::random::chance());
                standing.rest_until = Some(Instant::now() + rest);
                tracing::warn!(url = %remote.url, failures = standing.failures, error = what, "failed to follow");
                if standing.failures == TOLD {
                    let text = format!("{what}; it is tried again less and less often, up to once an hour");
                    news::tell_failure(&loft.parts.store, apps, &text).await;
                }
            }
        }
    }
}

/// One look at a repository, and what follows from it for all environments of these apps. An error is one of the
/// repository or the store, and all of it may be tried again.
async fn look(loft: &Arc<Loft>, pace: &Pace, remote: &Remote, apps: &[AppName]) -> Result<()> {
    let mut rows = Vec::new();
    for app in apps {
        let followed = loft.parts.store.followed(app).await;
        rows.extend(followed.or_failed(|| format!("failed to see what environments of `{app}` follow"))?);
    }
    let wanted: Vec<(FollowRow, Want)> =
        rows.into_iter().filter_map(|row| want(&row.origin).map(|want| (row, want))).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let wants: Vec<Want> = wanted.iter().map(|(_, want)| want.clone()).collect();
    let seen = {
        let _turn = LOOKS.acquire().await.or_failed(|| "failed to wait for a turn")?;
        loft.parts.repositories.look(&remote.url, &wants, &remote.credentials).await?
    };
    let mut result = Ok(());
    for (row, want) in wanted {
        let sight = sight(&seen, &want);
        loft.follows.looked(row.id, store::now());
        result = result.and(act(loft, pace, remote, row, &sight).await);
    }
    result
}

/// What an environment follows: nothing if it was made from a commit or a directory.
fn want(origin: &Origin) -> Option<Want> {
    match origin {
        Origin::Branch(branch) => Some(Want::Branch(branch.clone())),
        Origin::PullRequest(number) => Some(Want::PullRequest(*number)),
        Origin::Commit(_) | Origin::Directory => None,
    }
}

fn sight(seen: &Look, want: &Want) -> Sight {
    match seen.at(want) {
        Some(commit) => {
            Sight::At { commit: commit.clone(), vouched: matches!(want, Want::Branch(_)) || seen.is_branch(commit) }
        }
        None => Sight::Nowhere,
    }
}

async fn act(loft: &Arc<Loft>, pace: &Pace, remote: &Remote, row: FollowRow, sight: &Sight) -> Result<()> {
    let url = remote.url.to_string();
    let record = Record {
        head: row.head.clone(),
        staging: loft.follows.staging(row.id),
        here: row.url == url,
        missing: row.missing.map(Missing::from),
    };
    let decision = follow::decide(&record, sight, Timestamp(store::now() as u64), pace);
    if decision.missing != record.missing {
        let failed = || format!("failed to record whether `{}` has anything to follow", row.name);
        let missing = decision.missing.map(MissingRow::from);
        loft.parts.store.set_missing(row.id, missing).await.or_failed(failed)?;
        if record.missing.is_none() {
            let spared = Span(Some(pace.gone));
            let text = format!(
                "{} is gone from `{url}`; the environment goes as well, unless it is back in {spared}",
                row.origin
            );
            news::tell_once(&loft.parts.store, &row.name, EventKind::SourceGone, &text).await;
        }
    }
    match decision.step {
        Step::Nothing => Ok(()),
        Step::Adopt => {
            let settled = loft.parts.store.settle(&row, &url, &row.head).await;
            settled.or_failed(|| format!("failed to record what `{}` follows", row.name))
        }
        Step::Stage(commit) => staging::stage(loft, remote, row, commit).await,
        Step::Ask(commit) => {
            ask(loft, &url, &row, &commit).await;
            Ok(())
        }
        Step::Destroy => destroy(loft, &url, &row).await,
    }
}

/// Lets people know that they have to stage something themselves.
async fn ask(loft: &Loft, url: &str, row: &FollowRow, commit: &CommitId) {
    // A host may move a branch a moment before it moves the pull request: the next look tells.
    if !loft.follows.asks_again(row.id, commit) {
        return;
    }
    let Origin::PullRequest(number) = row.origin else { return };
    let text = format!(
        "{} is at `{}` now, and no branch of `{url}` is: look at it, and stage it with `flyloft up {} --pr {number}`",
        row.origin,
        commit.short(),
        row.name.app
    );
    news::tell_once(&loft.parts.store, &row.name, EventKind::SourceMoved, &text).await;
}

async fn destroy(loft: &Loft, url: &str, row: &FollowRow) -> Result<()> {
    let failed = || format!("failed to look up `{}`", row.name);
    let store = &loft.parts.store;
    // Somebody may be about to stage it from elsewhere, or have done so since the look.
    let now = store.followed_by(row.id).await.or_failed(failed)?;
    let Some(now) =
        now.filter(|now| (&now.url, &now.head) == (&row.url, &row.head) && !store::is_deploying(&now.state))
    else {
        return Ok(());
    };
    let conductor = match loft.find(&now.name).await {
        Ok((env, conductor)) if env.id == now.id => conductor,
        _ => return Ok(()),
    };
    match conductor.tell(Event::SourceGone).await {
        Ok(_) => {
            news::tell(store, &now.name, EventKind::Destroyed, &format!("{} is gone from `{url}`", now.origin)).await
        }
        // It is pinned.
        Err(error) => {
            let text = format!("{} is gone from `{url}`, and the environment stays: {}", now.origin, error.brief());
            news::tell_once(&loft.parts.store, &now.name, EventKind::SourceGone, &text).await;
        }
    }
    Ok(())
}

impl From<MissingRow> for Missing {
    fn from(row: MissingRow) -> Self {
        Self { at: Timestamp(row.at as u64), lasted: Duration::from_millis(row.lasted as u64) }
    }
}

impl From<Missing> for MissingRow {
    fn from(missing: Missing) -> Self {
        Self { at: missing.at.0 as i64, lasted: missing.lasted.as_millis() as i64 }
    }
}
