//! Comparing an environment with what the engine has of it, at the start, every minute, and while it rests in its turn.
//! What a difference leads to is decided by [`flyloft_core::lifecycle`].

use flyloft_core::lifecycle::{self, Answer, Deploying, Event, Found, Live, Runs, State};

use super::Task;
use super::effect::is_leftover;
use crate::engine::{ContainerId, ContainerState, Observed};
use crate::error::{OrFailed, Result};
use crate::store;

impl Task {
    pub(super) async fn reconcile(&mut self, observed: &[Observed]) -> Result<()> {
        if matches!(self.state, State::Destroyed { .. }) {
            // Its removal did not come to its end: it is taken up as after a restart.
            self.step(&Event::DaemonStarted { rebooted: false }, None).await?.ok();
            return Ok(());
        }
        if let Some(live) = &self.env.live {
            let listed = self.found(observed.iter().find(|container| container.id == live.container));
            // The list is a little old: what was launched or woken since is not in it.
            if !self.is_as_it_should_be(&listed) {
                let container = live.container.clone();
                self.look(&container).await?;
            }
        }
        self.settle().await?;
        // Seldom so. To look each time would be a look at all containers for each environment.
        if observed.iter().any(|container| is_leftover(&container.id, &self.env)) {
            self.tidy().await;
        }
        Ok(())
    }

    /// The engine has told that a container has ended. What is awake is not left without one until the next look at it;
    /// what sleeps is none of this: it is started for its next visitor, who may be here already and must not be told
    /// that it has crashed. But what is told while it wakes may be true of what has been woken, so it is looked at once
    /// it is awake.
    pub(super) async fn ended(&mut self, container: &ContainerId) -> Result<()> {
        if self.env.live.as_ref().is_none_or(|live| live.container != *container) {
            return Ok(());
        }
        if !self.is_awake() {
            self.ended_unseen = true;
            return Ok(());
        }
        self.look(container).await
    }

    /// Looks at what was told to have ended when it was not awake, if it is by now.
    pub(super) async fn see_what_ended(&mut self) {
        if !self.ended_unseen || !self.is_awake() {
            return;
        }
        self.ended_unseen = false;
        let Some(container) = self.env.live.as_ref().map(|live| live.container.clone()) else { return };
        if let Err(error) = self.look(&container).await {
            tracing::warn!(env = %self.env.name, %error, "failed to look at what has ended");
        }
    }

    fn is_awake(&self) -> bool {
        matches!(self.state, State::Live(Live { runs: Runs::Awake { .. }, .. }))
    }

    async fn look(&mut self, container: &ContainerId) -> Result<()> {
        let now = self.parts.engine.find(container).await;
        let now = now.or_failed(|| format!("failed to look at `{container}`"))?;
        self.step(&self.found(now.as_ref()), None).await?.ok();
        Ok(())
    }

    /// What it means that the engine has this of what serves.
    fn found(&self, container: Option<&Observed>) -> Event {
        Event::Found(match container {
            None => Found::Gone,
            Some(Observed { excess: Some(excess), .. }) => Found::Over(*excess),
            Some(Observed { state: ContainerState::Stopped, .. }) => Found::Stopped,
            Some(Observed { state: ContainerState::Running, .. }) => Found::Running,
            Some(Observed { state: ContainerState::Frozen, .. }) => {
                let is_moved = self.moved.is_as_deep_as(&self.state, || self.parts.admission.swap_free());
                if is_moved { Found::Frozen } else { Found::Resident }
            }
        })
    }

    fn is_as_it_should_be(&self, found: &Event) -> bool {
        let decided = lifecycle::step(&self.state, found, self.parts.clock.now(), &self.policy());
        matches!(decided, Ok(Answer::AlreadySo))
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
