//! Up and down the ladder: what wakes an environment, and what time does to it.
//!
//! There is no clock that asks all environments. Each conductor sleeps until its own next step down is due, and looks
//! only then whether somebody has used the environment meanwhile.

use std::time::Duration;

use flyloft_core::lifecycle::{self, Depth, Event, Live, Refusal, Runs, State, Timestamp};
use flyloft_core::policy::{Policy, Span};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::effect::tell;
use super::wake::{self, Call};
use super::{Caller, Look, Message, Task, Told, rests};
use crate::admission::Place;
use crate::error::Result;
use crate::store::EventKind;

/// How long time is left alone at most, at least, and after a failure.
const FAR: Duration = Duration::from_secs(24 * 3600);
const PACE: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(60);

impl Task {
    /// Has it wake for somebody, if there is room for it. Where there is none yet, all who come wait together.
    pub(super) async fn want_awake(&mut self, caller: Caller, answer: Option<oneshot::Sender<Result<Told>>>) {
        self.callers.extend(answer);
        if self.entering {
            return;
        }
        // Nobody falls asleep for somebody who is not let in anyway.
        if lifecycle::step(&self.state, &self.wish(), self.parts.clock.now(), &self.policy()).is_err() {
            return self.wake_for(caller, None).await;
        }
        let (id, need) = (self.env.id, self.memory.bytes());
        if !self.rests() {
            return self.wake_for(caller, None).await;
        }
        if let Some(place) = self.parts.admission.enter_now(id, need) {
            return self.wake_for(caller, Some(place)).await;
        }
        let Some(myself) = self.myself.upgrade() else { return };
        self.entering = true;
        self.parts.edge.explain(&self.env.host, wake::MEMORY);
        let parts = self.parts.clone();
        tokio::spawn(async move {
            let place = parts.admission.enter(id, need).await;
            let _ = myself.send(Box::new(Message::Admitted { caller, place })).await;
        });
    }

    pub(super) async fn admitted(&mut self, caller: Caller, place: Result<Place>) {
        self.entering = false;
        match place {
            Ok(place) => self.wake_for(caller, Some(place)).await,
            Err(error) => {
                tracing::warn!(env = %self.env.name, %error, "no room to wake");
                if self.rests()
                    && let Err(error) = self.turn_away(&error.brief()).await
                {
                    tracing::warn!(env = %self.env.name, %error, "failed to turn visitors away");
                }
                for caller in self.callers.drain(..) {
                    let _ = caller.send(Err(error.clone()));
                }
            }
        }
    }

    async fn wake_for(&mut self, caller: Caller, place: Option<Place>) {
        if let State::Live(Live { runs: runs @ (Runs::Asleep { .. } | Runs::Off { .. }), .. }) = self.state {
            let slept = self.slept(runs);
            self.uses.by(&caller.by);
            self.call = Some(Call::new(caller, runs, slept));
            self.disturb.cancel();
        }
        self.place = place;
        let told = self.step(&self.wish(), None).await;
        (self.call, self.place) = (None, None);
        // Whoever waits must not do so in vain.
        let turned_away = match &told {
            Ok(Err(Refusal::Unbuilt { .. })) => self.close().await,
            Err(error) if self.rests() => {
                tracing::warn!(env = %self.env.name, %error, "failed to wake");
                self.turn_away(&error.brief()).await
            }
            _ => Ok(()),
        };
        if let Err(error) = turned_away {
            tracing::warn!(env = %self.env.name, %error, "failed to turn visitors away");
        }
        let told = told.and_then(|told| told.map_err(|refusal| self.refused(refusal)));
        for caller in self.callers.drain(..) {
            let _ = caller.send(told.clone());
        }
    }

    /// Who asks by a command has a reason. Visitors come by themselves.
    fn wish(&self) -> Event {
        if self.callers.is_empty() { Event::Visit } else { Event::Wake }
    }

    fn rests(&self) -> bool {
        rests(&self.state)
    }

    /// When time brings about the next step down, if nobody comes.
    pub(super) fn due(&self) -> Instant {
        let next = lifecycle::next_rung(&self.state, &self.policy());
        let far = match &self.state {
            _ if !self.unrecorded.is_empty() => RETRY,
            State::Live(Live { runs: Runs::Awake { .. }, .. }) => self.parts.settings.use_forgotten,
            State::Live(_) | State::Destroyed { .. } => FAR,
        };
        let due = next.map_or(far, |(due, _)| self.parts.clock.until(due).min(far));
        (Instant::now() + due).max(self.rested)
    }

    pub(super) async fn tick(&mut self) {
        // Even if it cannot be stored that it steps down, this must not turn in a circle.
        self.rested = Instant::now() + PACE;
        self.record_again().await;
        let look = self.look_at_use();
        let events = self.last_use(look).map(|at| Event::Used { at });
        self.look = Some(look);
        for event in events.into_iter().chain([Event::Clock]) {
            match self.step(&event, None).await {
                Ok(Ok(Told::Done)) if matches!(self.state, State::Destroyed { .. }) => self.tell_of_its_end().await,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(env = %self.env.name, %event, %error, "failed to step down");
                    self.rested = Instant::now() + RETRY;
                }
            }
        }
        self.look = None;
    }

    /// Has on record when it was last used, which the edge forgets when the daemon ends.
    pub(super) async fn note_use(&mut self) {
        let Some(at) = self.last_use(self.look_at_use()) else { return };
        if let Err(error) = self.step(&Event::Used { at }, None).await {
            tracing::warn!(env = %self.env.name, %error, "failed to record when it was last used");
        }
    }

    /// Falls asleep for others, if nobody uses it.
    pub(super) async fn make_room(&mut self) -> bool {
        let look = self.look_at_use();
        if look.is_in_use() || self.uses.now() > 0 {
            return false;
        }
        self.look = Some(look);
        let told = self.step(&Event::Sleep { depth: Depth::Shallow }, None).await;
        self.look = None;
        matches!(told, Ok(Ok(_)))
    }

    fn look_at_use(&self) -> Look {
        Look::at(&self.parts, &self.env.host, &self.uses)
    }

    fn last_use(&self, look: Look) -> Option<Timestamp> {
        let visited = look.unused.map(|unused| self.parts.clock.now().minus(unused));
        visited.max(self.uses.last())
    }

    /// What time destroys nobody has asked for.
    async fn tell_of_its_end(&self) {
        let text = format!("nobody used it for its `expire`, {}", Span(self.policy().expire));
        tell(&self.parts, &self.env.name, EventKind::Destroyed, &text).await;
    }

    /// Notes when it stops being awake.
    pub(super) fn pass(&mut self, to: &State, now: Timestamp) {
        let runs = |state: &State| match state {
            State::Live(live) => live.runs,
            State::Destroyed { .. } => Runs::None,
        };
        match (runs(&self.state), runs(to)) {
            (Runs::Awake { .. }, Runs::Asleep { .. } | Runs::Off { .. }) => {
                self.parted.set(Some(now));
                self.down = Some(now);
            }
            // It may be turned off before it has fallen asleep.
            (Runs::Asleep { .. } | Runs::Off { .. }, Runs::Asleep { .. } | Runs::Off { .. }) => {}
            (_, Runs::Awake { .. }) => {
                self.parted.set(None);
                self.down = None;
            }
            _ => self.parted.set(None),
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
