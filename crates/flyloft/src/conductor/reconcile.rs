//! Comparing an environment with what the engine has of it, at the start and every minute. What a difference leads to is
//! decided by [`flyloft_core::lifecycle`].

use flyloft_core::lifecycle::{Deploying, Event, Found, State};

use super::Task;
use super::effect::is_leftover;
use crate::engine::{ContainerState, Observed};
use crate::error::{OrFailed, Result};
use crate::store;

impl Task {
    pub(super) async fn reconcile(&mut self, observed: &[Observed]) -> Result<()> {
        if matches!(self.state, State::Destroyed { .. }) {
            // Its removal did not come to its end: it is taken up as after a restart.
            self.step(&Event::DaemonStarted { rebooted: false }, None).await?.ok();
            return Ok(());
        }
        let found = match &self.env.live {
            None => Found::Gone,
            Some(live) => match observed.iter().find(|container| container.id == live.container).map(found) {
                Some(Found::Running) => Found::Running,
                // The list is a little old: what was launched or woken since is not in it.
                _ => {
                    let now = self.parts.engine.find(&live.container).await;
                    let now = now.or_failed(|| format!("failed to look at `{}`", live.container))?;
                    now.as_ref().map_or(Found::Gone, found)
                }
            },
        };
        let found = match found {
            Found::Frozen if !self.moved.is_as_deep_as(&self.state) => Found::Resident,
            found => found,
        };
        self.step(&Event::Found(found), None).await?.ok();
        self.settle().await?;
        // Seldom so. To look each time would be a look at all containers for each environment.
        if observed.iter().any(|container| is_leftover(&container.id, &self.env)) {
            self.tidy().await;
        }
        Ok(())
    }

    /// Releases that are on record and that nobody deploys: the daemon died, or the store failed, before they began.
    async fn settle(&self) -> Result<()> {
        let State::Live(live) = &self.state else { return Ok(()) };
        let under_way = match live.deploying {
            Deploying::No => vec![],
            Deploying::Yes { release, newest } => std::iter::once(release).chain(newest).collect(),
        };
        let under_way = under_way.into_iter().chain(self.later).collect();
        let settled = self.parts.store.fail_all_but(self.env.id, under_way, "it never began", store::now()).await;
        settled.or_failed(|| format!("failed to settle the releases of `{}`", self.env.name))
    }
}

fn found(container: &Observed) -> Found {
    match (container.excess, container.state) {
        (Some(excess), _) => Found::Over(excess),
        (None, ContainerState::Stopped) => Found::Stopped,
        (None, ContainerState::Running) => Found::Running,
        (None, ContainerState::Frozen) => Found::Frozen,
    }
}
