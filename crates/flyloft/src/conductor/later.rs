//! What does not interrupt a deploy that is under way: a restart, another scale, changed variables. They are about what
//! serves, and so about what that deploy makes serve.

use flyloft_core::lifecycle::{Cause, Deploying, Event, State};
use flyloft_core::name::ReleaseNumber;

use super::Task;
use crate::deploy::Source;
use crate::error::{OrFailed, Result};
use crate::transcript::Transcript;

impl Task {
    /// Whether this release has to wait, which it then does. Of several that wait the newest is enough: it begins with
    /// all that is set by then.
    pub(super) async fn put_off(&mut self, release: ReleaseNumber, transcript: &Transcript) -> Result<bool> {
        let State::Live(live) = &self.state else { return Ok(false) };
        let Deploying::Yes { release: current, newest } = live.deploying else { return Ok(false) };
        transcript.step(&format!("Waiting until {} is deployed", newest.unwrap_or(current)));
        if let Some(earlier) = self.later.replace(release) {
            self.skip_deploy(earlier, Cause::Superseded { by: release }).await?;
        }
        Ok(true)
    }

    /// Begins what has waited, as soon as nothing is in its way.
    pub(super) async fn begin_later(&mut self) {
        let Some(release) = self.later else { return };
        let cause = match &self.state {
            State::Live(live) if live.deploying != Deploying::No => return,
            State::Live(live) => live.newest().map(|by| Cause::Superseded { by }),
            State::Destroyed { .. } => Some(Cause::Destroyed),
        };
        let begun = async {
            self.take_up(release).await?;
            self.step(&Event::Deploy { release }, None).await
        };
        let refused = match begun.await {
            Ok(decided) => decided.is_err(),
            // It is tried again with the next message.
            Err(error) => return tracing::warn!(env = %self.env.name, %release, %error, "failed to begin a deploy"),
        };
        self.later = None;
        // Something newer serves, which was begun with all that is set, or nothing is to serve any more.
        if refused
            && let Some(cause) = cause
            && let Err(error) = self.skip_deploy(release, cause).await
        {
            tracing::warn!(env = %self.env.name, %release, %error, "failed to record that a deploy was skipped");
        }
    }

    /// What serves may be of another commit by now than when this was asked for.
    async fn take_up(&mut self, release: ReleaseNumber) -> Result<()> {
        let failed = || format!("failed to look up what serves `{}`", self.env.name);
        let store = &self.parts.store;
        let Some(live) = store.live_release(&self.env).await.or_failed(failed)? else { return Ok(()) };
        if let Some(Source::Again { commit, .. }) = self.jobs.get_mut(&release).map(|waits| &mut waits.job.work.source)
        {
            commit.clone_from(&live.commit);
            store.set_commit(self.env.id, release, live.commit).await.or_failed(failed)?;
        }
        Ok(())
    }
}
