//! What is to wake and is not on the disk any more is built anew: it was given up to make room, or it comes from another
//! machine.
//!
//! What must hold: it comes to what was deployed, as far as this server still builds so; whoever waits knows what for;
//! and as soon as something else is to serve, nothing is built.

use std::time::{Duration, Instant};

use flyloft_core::name::ReleaseNumber;
use flyloft_core::policy::Span;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::build::Hold;
use crate::deploy::image;
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::store::{self, Content, EnvRow, EventKind, ReleaseRow};
use crate::transcript::Transcript;

/// After a full disk, or on a new machine, many may be visited at once.
static BUILDS: Semaphore = Semaphore::const_new(2);

/// What is not kept any more.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    pub env: &'a EnvRow,
    pub release: &'a ReleaseRow,
    pub content: &'a Content,
}

/// Builds it anew for somebody, and says to its people what came of it.
pub async fn rebuild(
    parts: &Parts,
    before: Before<'_>,
    by: &str,
    given_up: &CancellationToken,
) -> Result<(Content, Hold)> {
    let Before { env, release, .. } = before;
    let number = release.number;
    let doing = match &release.commit {
        Some(commit) => format!("It is being built anew from commit {}, since it was not kept.", commit.short()),
        None => "It is being built anew, since it was not kept.".to_owned(),
    };
    parts.edge.explain(&env.host, &doing);
    let begun = Instant::now();
    let built = tokio::select! {
        biased;
        () = given_up.cancelled() => {
            return Err(Error::conflict(format!("{number} of `{}` is not wanted any more", env.name)));
        }
        built = build(parts, before) => built,
    };
    parts.looked_through.forget();
    let (kind, text) = match &built {
        Ok((content, _)) => (EventKind::Rebuilt, said(number, begun.elapsed(), before.content, content)),
        Err(error) => (EventKind::RebuildFailed, format!("{number}: {}", error.brief())),
    };
    let told = parts.store.tell(&env.name.app, Some(&env.name.env), kind, by, &text, store::now()).await;
    if let Err(error) = told {
        tracing::warn!(env = %env.name, %error, "failed to record that an environment was built anew");
    }
    built
}

async fn build(parts: &Parts, Before { env, release, content }: Before<'_>) -> Result<(Content, Hold)> {
    let failed = || format!("failed to build {} of `{}` anew", release.number, env.name);
    let _turn = BUILDS.acquire().await.or_failed(failed)?;
    let path = parts.settings.transcript(env.id, release.number);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).or_failed(failed)?;
    }
    let transcript = Transcript::create(&path).or_failed(failed)?;
    transcript.step(&format!("Building {} anew", release.number));
    let before = image::Before { env, commit: release.commit.as_ref(), content };
    let built = image::anew(parts, before, &transcript).await;
    transcript.settle();
    match built {
        Ok((built, hold)) => {
            // From now on it needs these layers.
            parts.store.set_content(env.id, release.number, &built).await.or_failed(failed)?;
            Ok((built, hold))
        }
        Err(error) => {
            transcript.error(&error.brief());
            Err(error)
        }
    }
}

fn said(number: ReleaseNumber, took: Duration, before: &Content, now: &Content) -> String {
    let took = match took.as_secs() {
        0 => format!("{} ms", took.as_millis()),
        seconds => Span(Some(Duration::from_secs(seconds))).to_string(),
    };
    let same = match before.image == now.image {
        true => "the same layers as before",
        false => "other layers than before, since this server builds it otherwise by now",
    };
    format!("{number} was built anew in {took}: {same}")
}

#[cfg(test)]
mod tests;
