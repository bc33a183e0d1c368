//! `flyloft up`, and what all deploys that somebody waits for have in common.

use std::pin::pin;
use std::sync::Arc;

use flyloft_core::name::{AppName, EnvName, EnvRef, Origin};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use super::archive::Unpacking;
use super::reply::Reply;
use super::{Api, Call, Ending};
use crate::command::Up;
use crate::conductor::{Conductor, Ticket};
use crate::deploy::{Deployed, FETCHES_WAIT, Leftover, Source, Work};
use crate::error::{Error, Kind, OrFailed, Result};
use crate::source::Want;
use crate::store::EnvRow;

#[derive(Serialize)]
pub(super) struct Staged {
    env: String,
    release: String,
    url: String,
}

impl Reply for Staged {
    fn text(&self) -> String {
        // The transcript, which everybody but `--json` has read, ends with it.
        String::new()
    }
}

impl Api {
    pub(super) async fn up(&self, call: &mut Call<'_>, up: Up) -> Result<Ending> {
        call.must_use(&up.app)?;
        let (origin, env, source) = match (up.pr, &up.branch, &up.commit, &up.path) {
            (Some(number), ..) => {
                let commit = self.fetch(call, &up.app, Want::PullRequest(number)).await?;
                (Origin::PullRequest(number), EnvName::for_pull_request(number), commit)
            }
            (_, Some(branch), ..) => {
                let env = EnvName::for_branch(branch).map_err(Error::usage)?;
                let commit = self.fetch(call, &up.app, Want::Branch(branch.clone())).await?;
                (Origin::Branch(branch.clone()), env, commit)
            }
            (_, _, Some(commit), _) => {
                let fetched = self.fetch(call, &up.app, Want::Commit(commit.clone())).await?;
                (Origin::Commit(commit.clone()), EnvName::for_commit(commit), fetched)
            }
            (_, _, _, Some(path)) => {
                if path.as_os_str() != "-" {
                    return Err(Error::usage("the daemon opens no files for its clients")
                        .hint("send an archive: tar -c . | ssh … up APP --path -"));
                }
                if up.name.pull_request().is_some() {
                    return Err(
                        Error::usage(format!("`{}` is kept for pull requests", up.name)).hint("say another --name")
                    );
                }
                self.ensure_app(&up.app, call.by()).await?;
                (Origin::Directory, up.name.clone(), Source::Tree { dir: self.unpack(&mut call.io.stdin).await? })
            }
            _ => {
                return Err(Error::usage("there is nothing named to stage")
                    .hint("say one of --pr NUMBER, --branch NAME, --commit ID, --path DIR"));
            }
        };
        let name = EnvRef::new(up.app, env);
        let (env, conductor) = self.loft.ensure(&name, &origin).await?;
        self.follow_from_now(&env, &source).await?;
        let work = Work {
            source,
            reason: "up".to_owned(),
            by: call.by().to_owned(),
            no_cache: up.no_cache,
            attached: false,
            together: None,
            push: None,
        };
        Ok(self.deploy_and_show(call, conductor, work).await?.into())
    }

    /// Brings what is wanted of the app's remote repository into its own, and says which commit that is: this one is
    /// built, whatever the remote moves on to meanwhile.
    async fn fetch(&self, call: &mut Call<'_>, app: &AppName, want: Want) -> Result<Source> {
        let parts = &self.loft.parts;
        self.must_exist(app).await?;
        let (url, credentials) = parts.remote(app).await?.ok_or_else(|| {
            Error::conflict(format!("app `{app}` has no repository to fetch from"))
                .hint(format!("flyloft apps create {app} --git URL"))
        })?;
        let waits = Arc::new(Notify::new());
        let noticed = waits.clone();
        let repositories = parts.repositories.noticing(move || noticed.notify_one());
        let mut fetching = pin!(repositories.fetch(app, &url, &want, &credentials));
        let fetched = loop {
            tokio::select! {
                biased;
                () = waits.notified() => call.say(&format!("       {FETCHES_WAIT}\n")).await?,
                fetched = &mut fetching => break fetched?,
            }
        };
        let what = fetched.reference.as_deref().unwrap_or("the commit");
        call.say(&format!("-----> Fetched {what}: {}\n", fetched.commit)).await?;
        Ok(Source::Commit { commit: fetched.commit, quarantine: None })
    }

    /// What was fetched as a branch or a pull request is followed from here on, from this commit on.
    async fn follow_from_now(&self, env: &EnvRow, source: &Source) -> Result<()> {
        let (Origin::Branch(_) | Origin::PullRequest(_), Source::Commit { commit, .. }) = (&env.origin, source) else {
            return Ok(());
        };
        let parts = &self.loft.parts;
        let Some((url, _)) = parts.remote(&env.name.app).await? else { return Ok(()) };
        self.loft.follows.forget(env.id);
        let followed = parts.store.follow(env.id, &url.to_string(), commit).await;
        followed.or_failed(|| format!("failed to record what `{}` follows", env.name))
    }

    /// Unpacks a tar archive into the engine's staging directory, as its user.
    pub(super) async fn unpack(&self, archive: &mut (impl AsyncRead + Unpin)) -> Result<Leftover> {
        let failed = || "failed to unpack the archive";
        let staging = self.loft.parts.engine.staging();
        let dir = staging.dir.join(format!("up-{}", crate::random::hex(8)));
        let parts = &self.loft.parts;
        let (limits, floor) = (parts.repositories.limits(), parts.settings.disk.floor);
        let unpacking = Unpacking { dir: dir.clone(), user: staging.user, limits, floor };
        unpacking.check_space(&staging.dir)?;
        let user = Some(staging.user);
        std::fs::create_dir(&dir).or_failed(failed)?;
        let tree = Leftover(dir.clone());
        std::os::unix::fs::chown(&dir, user, user).or_failed(failed)?;
        unpacking.unpack(archive).await?;
        Ok(tree)
    }

    /// Deploys while the caller reads along.
    pub(super) async fn deploy_and_show(
        &self,
        call: &mut Call<'_>,
        conductor: Conductor,
        work: Work,
    ) -> Result<Staged> {
        let ticket = conductor.deploy(work).await?;
        let env = ticket.env.clone();
        let deployed = if call.json {
            follow(ticket, &mut tokio::io::sink()).await?
        } else {
            follow(ticket, &mut call.io.stdout).await?
        };
        let Deployed { release, url } = deployed;
        Ok(Staged { env: env.to_string(), release: release.to_string(), url })
    }
}

/// Writes what a deploy says while it goes on, and gives what comes of it.
pub(super) async fn follow(ticket: Ticket, output: &mut (impl AsyncWrite + Unpin)) -> Result<Deployed> {
    let Ticket { transcript, mut ended, .. } = ticket;
    let failed = || "failed to follow the deploy";
    let mut follower = transcript.follow().or_failed(failed)?;
    // Only the deploy may hold the transcript now, or it would never end.
    drop(transcript);
    let mut telling = true;
    let mut result = None;
    while telling || result.is_none() {
        tokio::select! {
            piece = follower.next(), if telling => match piece.or_failed(failed)? {
                Some(piece) => {
                    output.write_all(&piece).await.or_failed(failed)?;
                    output.flush().await.or_failed(failed)?;
                }
                None => telling = false,
            },
            end = &mut ended, if result.is_none() => result = Some(end),
        }
    }
    let gone = || Error::new(Kind::Unavailable, "the daemon ended in the middle of the deploy");
    result.expect("the loop waits for it").map_err(|_| gone())?
}
