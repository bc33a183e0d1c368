//! What is kept for later, how much of it, and the one place where the rest goes.
//!
//! | what | what stays | `[disk]` |
//! |---|---|---|
//! | package caches | the last used, while there is room | `caches`, `floor` |
//! | layers | those that a release needs, and more while there is room | `layers`, `floor` |
//! | releases | the newest that served and the newest that failed, of each environment | `releases`, `floor` |
//! | environments that are off | all, while there is room | `floor` |
//! | output of deploys | that of the releases that stay | |
//! | repositories | what branches and releases hold; the rest for a day or two | |
//! | events | the newest 10,000; `store/events.rs` sees to it | |
//!
//! What serves, sleeps or is being deployed needs its release, and so nothing of it is ever among what goes. Of what is
//! off the image and the disk go last ([`room`]): it is built anew when it is visited.

mod room;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use self::room::make_room;
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::store::EnvId;

const PERIOD: Duration = Duration::from_secs(60);

/// How long everything is left alone where nothing is known to have become superfluous.
const ROUND: Duration = Duration::from_secs(3600);

/// When everything was last looked through; never, if something has ended since then that leaves something over: a
/// deploy, a build, an environment. To look through it takes time that grows with the number of environments.
#[derive(Debug, Default)]
pub struct LookedThrough(Mutex<Option<Instant>>);

impl LookedThrough {
    /// Something may have become superfluous.
    pub fn forget(&self) {
        self.set(None);
    }

    fn set(&self, at: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn is_due(&self, now: Instant) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_none_or(|last| now.duration_since(last) >= ROUND)
    }
}

pub async fn keep_for_ever(parts: Arc<Parts>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        keep(&parts).await;
        match parts.repositories.tidy_is_due() {
            // Beside the rest: git takes its time.
            Ok(true) => drop(tokio::spawn(tidy_repositories(parts.clone()))),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "failed to see when repositories were tidied"),
        }
    }
}

/// Collects what can go, if there may be something.
pub async fn keep(parts: &Parts) {
    let now = Instant::now();
    // Whoever cannot be asked may be short of room.
    if room::is_short(parts).unwrap_or(true) || parts.looked_through.is_due(now) {
        parts.looked_through.set(Some(now));
        collect(parts).await;
        // What deploys have taken, and this.
        let _ = tokio::task::spawn_blocking(crate::memory::give_back).await;
    }
}

/// Each kind on its own: where one cannot be collected the others are, all the more on a disk that is full.
pub async fn collect(parts: &Parts) {
    // Releases first, since they keep the others.
    told(parts, "releases", collect_releases(parts).await);
    told(parts, "output of deploys", collect_transcripts(parts).await);
    told(parts, "layers and package caches", room::collect(parts).await.map(drop));
}

fn told(parts: &Parts, what: &str, collected: Result<()>) {
    if let Err(error) = collected {
        tracing::warn!(what, %error, "failed to make room");
        parts.looked_through.forget();
    }
}

async fn collect_releases(parts: &Parts) -> Result<()> {
    parts.store.forget_releases(parts.settings.disk.releases).await.or_failed(|| "failed to forget old releases")
}

/// Removes what was said in deploys of releases that are not on record any more.
async fn collect_transcripts(parts: &Parts) -> Result<()> {
    let failed = || "failed to remove the output of old deploys";
    let settings = &parts.settings;
    // Listed before the store is asked: a release is on record before its deploy says anything.
    let said = transcripts(parts).or_failed(failed)?;
    let releases = parts.store.all_releases().await.or_failed(failed)?;
    let envs = parts.store.environment_ids().await.or_failed(failed)?;
    let envs = envs.into_iter().collect::<BTreeSet<_>>();
    let kept: BTreeSet<PathBuf> = releases.iter().map(|(env, release)| settings.transcript(*env, *release)).collect();
    for Said { env, dir, files } in said {
        // Nobody writes there again, since ids are never given twice.
        if !envs.contains(&env) {
            fs::remove_dir_all(dir).or_failed(failed)?;
            continue;
        }
        for file in files.iter().filter(|file| !kept.contains(*file)) {
            fs::remove_file(file).or_failed(failed)?;
        }
    }
    Ok(())
}

/// What deploys of an environment have said.
struct Said {
    env: EnvId,
    dir: PathBuf,
    files: Vec<PathBuf>,
}

fn transcripts(parts: &Parts) -> io::Result<Vec<Said>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(&parts.settings.transcripts)? {
        let entry = entry?;
        let Some(env) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let files = fs::read_dir(entry.path())?.map(|file| Ok(file?.path())).collect::<io::Result<_>>()?;
        all.push(Said { env: EnvId(env), dir: entry.path(), files });
    }
    Ok(all)
}

/// Once a day.
async fn tidy_repositories(parts: Arc<Parts>) {
    let apps = match parts.store.apps().await {
        Ok(apps) => apps,
        Err(error) => return tracing::warn!(%error, "failed to list the apps whose repositories are tidied"),
    };
    for app in apps {
        let tidied = async {
            let keep = parts.store.commits(&app.name).await.or_failed(|| "failed to see which commits are needed")?;
            Ok::<_, Error>(parts.repositories.tidy(&app.name, &keep).await?)
        };
        if let Err(error) = tidied.await {
            tracing::warn!(app = %app.name, %error, "failed to tidy a repository");
        }
    }
}

#[cfg(test)]
mod tests;
