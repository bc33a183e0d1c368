//! Up and down the ladder: what wakes an environment, and what time does to it.
//!
//! There is no clock that asks all environments. Each conductor sleeps until its own next step down is due, and looks
//! only then whether somebody has used the environment meanwhile.

use std::time::Duration;

use flyloft_core::lifecycle::{self, Event, Live, Refusal, Runs, State, Timestamp};
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
            let slept = self.slept(runs);
            self.call = Some(Call::new(by, runs, slept));
            self.disturb.cancel();
        }
        let told = self.step(&Event::Wake, None).await;
        self.call = None;
        told
    }

    /// When time brings about the next step down, if nobody comes.
    pub(super) fn due(&self) -> Instant {
        let next = lifecycle::next_rung(&self.state, &self.policy());
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

    /// Notes when it stops being awake.
    pub(super) fn pass(&mut self, to: &State, now: Timestamp) {
        let runs = |state: &State| match state {
            State::Live(live) => live.runs,
            State::Destroyed { .. } => Runs::None,
        };
        self.parted = match (runs(&self.state), runs(to)) {
            (Runs::Awake { .. }, Runs::Asleep { .. } | Runs::Off { .. }) => Some(now),
            _ => None,
        };
        match runs(to) {
            Runs::Awake { .. } => self.down = None,
            _ => self.down = self.parted.or(self.down),
        }
    }

    /// How long it has not been awake.
    fn slept(&self, runs: Runs) -> Duration {
        let (Runs::Asleep { since, .. } | Runs::Off { since, .. }) = runs else { return Duration::ZERO };
        self.parts.clock.now().since(self.down.unwrap_or(since))
    }

    pub(super) fn policy(&self) -> Policy {
        self.parts.settings.levels(&self.env, &self.env.asked).policy()
    }
}
