//! Up and down the ladder: what wakes an environment, and what time does to it.
//!
//! There is no clock that asks all environments. Each conductor sleeps until its own next step down is due, and looks
//! only then whether somebody has used the environment meanwhile.

use std::time::Duration;

use flyloft_core::lifecycle::{self, Event, Live, Refusal, Runs, State};
use flyloft_core::policy::Policy;
use tokio::time::Instant;

use super::wake::Call;
use super::{Task, Told};
use crate::error::Result;

/// How long time is left alone at most, at least, and after a failure.
const FAR: Duration = Duration::from_secs(24 * 3600);
const PACE: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(60);

impl Task {
    pub(super) async fn wake_for(&mut self, by: String) -> Result<Result<Told, Refusal>> {
        if let State::Live(Live { runs: runs @ (Runs::Asleep { .. } | Runs::Off { .. }), .. }) = self.state {
            self.call = Some(Call::new(by, runs));
            self.disturb.cancel();
        }
        let told = self.step(&Event::Wake, None).await;
        self.call = None;
        told
    }

    /// When time brings about the next step down, if nobody comes.
    pub(super) fn due(&self) -> Instant {
        let next = lifecycle::next_rung(&self.state, self.policy());
        let due = next.map_or(FAR, |(due, _)| self.parts.clock.until(due).min(FAR));
        (Instant::now() + due).max(self.rested)
    }

    pub(super) async fn tick(&mut self) {
        // Even if it cannot be stored that it steps down, this must not turn in a circle.
        self.rested = Instant::now() + PACE;
        let unused = self.parts.edge.unused_for(&self.env.host).map(|unused| self.parts.clock.now().minus(unused));
        let mut events = Vec::from_iter(unused.max(self.uses.last()).map(|at| Event::Used { at }));
        events.push(Event::Clock);
        for event in events {
            if let Err(error) = self.step(&event, None).await {
                tracing::warn!(env = %self.env.name, %event, %error, "failed to step down");
                self.rested = Instant::now() + RETRY;
            }
        }
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.parts.settings.policy
    }
}
