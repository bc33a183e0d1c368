//! The last thing that the environment of a pull request does: `scripts.pr-predestroy` of its `app.json`, as long as what
//! it cleans up after is there. Whatever becomes of it, the environment goes.

use flyloft_core::name::Origin;

use super::Task;
use super::effect::tell;
use crate::deploy::spec;
use crate::engine::ContainerState;
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::store::{EventKind, LiveRow};
use crate::transcript::Transcript;

impl Task {
    pub(super) async fn farewell(&self) {
        let (Origin::PullRequest(_), Some(live)) = (&self.env.origin, &self.env.live) else { return };
        let script = match self.parts.store.live_release(&self.env).await {
            Ok(release) => release.and_then(|release| release.content).and_then(|content| content.predestroy),
            Err(error) => return tracing::warn!(env = %self.env.name, %error, "failed to look for a last script"),
        };
        let Some(script) = script else { return };
        // What is about to rest stays awake for it.
        self.disturb.cancel();
        let limit = self.parts.settings.farewell;
        let ended = match tokio::time::timeout(limit, run(&self.parts, live, &script)).await {
            Ok(ended) => ended,
            Err(_) => Err(Error::failed(format!("it did not end within {} s", limit.as_secs()))),
        };
        if let Err(error) = ended {
            let text =
                format!("pr-predestroy failed, and the environment is destroyed all the same: {}", error.brief());
            tell(&self.parts, &self.env.name, EventKind::FarewellFailed, &text).await;
        }
    }
}

async fn run(parts: &Parts, live: &LiveRow, script: &str) -> Result<()> {
    let failed = || format!("failed to run it in `{}`", live.container);
    let found = parts.engine.find(&live.container).await.or_failed(failed)?;
    match found.map(|found| found.state) {
        Some(ContainerState::Running) => {}
        Some(ContainerState::Frozen) => drop(parts.engine.thaw(&live.container).await.or_failed(failed)?),
        Some(ContainerState::Stopped) => parts.engine.start(&live.container).await.or_failed(failed)?,
        None => return Err(Error::failed("its container is not kept any more")),
    }
    // What it prints may be secret, and nobody is there to read it.
    let named = ("pr-predestroy.1", script);
    let ended = spec::run(&parts.engine, &live.container, named, &Transcript::discard()).await.or_failed(failed)?;
    match ended.code {
        0 => Ok(()),
        code => Err(Error::failed(format!("it ended with status {code}"))),
    }
}
