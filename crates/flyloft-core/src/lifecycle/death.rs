//! What becomes of an environment whose container ends by itself, or does not come up.
//!
//! The first time it is started again at once. What ends again soon after that would do so for ever: it is off until
//! somebody comes or, if it is pinned, until a pause is over that doubles each time. What has no memory to start in is
//! off in the same way, and has a pause that stays the same.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::effect::{Answer, Effect, Refusal};
use super::state::{Live, Runs, Timestamp, WhyOff};
use super::{done, off_for};
use crate::name::ReleaseNumber;

/// Ends that lie no further apart than this are in a row.
const IN_A_ROW: Duration = Duration::from_secs(15 * 60);

/// How long the first pause is, and the longest: shorter than a row is broken off by.
const PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10 * 60));

/// How long the pause is where there was no memory. Before each attempt others are asked to make room, for some seconds.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(60);

/// How often in a row it has ended by itself or not come up, and when it last did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deaths {
    pub count: u32,
    pub last: Timestamp,
}

impl Deaths {
    fn and_one_more(before: Option<Self>, now: Timestamp) -> Self {
        let before = before.filter(|deaths| now.since(deaths.last) <= IN_A_ROW);
        Self { count: before.map_or(0, |deaths| deaths.count).saturating_add(1), last: now }
    }

    fn pause(self) -> Duration {
        PAUSE.0.saturating_mul(1 << self.count.saturating_sub(1).min(10)).min(PAUSE.1)
    }
}

impl Live {
    pub(super) fn count_death(&mut self, now: Timestamp) {
        self.deaths = Some(Deaths::and_one_more(self.deaths, now));
    }

    /// How long it is left alone. Without an end, somebody has to come.
    fn pause(&self) -> Option<Duration> {
        self.pinned.then(|| self.deaths.map_or(PAUSE.0, Deaths::pause))
    }

    /// When what is off, since it ended or had no room, is started again by itself.
    pub(super) fn tried_again_at(&self) -> Option<Timestamp> {
        match self.runs {
            Runs::Off { since, why: WhyOff::Crashed, .. } => self.pause().map(|pause| since.plus(pause)),
            Runs::Off { why: WhyOff::NoRoom { until }, .. } => Some(until).filter(|_| self.pinned),
            _ => None,
        }
    }
}

/// The container of what is awake or asleep has ended.
pub(super) fn ended(mut live: Live, release: ReleaseNumber, now: Timestamp) -> Result<Answer, Refusal> {
    live.count_death(now);
    let is_first = live.deaths.is_some_and(|deaths| deaths.count == 1);
    if is_first && matches!(live.runs, Runs::Awake { .. }) {
        live.runs = Runs::Waking { release, since: now };
        let again = Some(Duration::ZERO);
        return done(live, [Effect::Hold, Effect::Start { release }, Effect::ReportEnd { release, again }]);
    }
    live.runs = off_for(release, WhyOff::Crashed, now);
    let again = live.pause();
    done(live, [Effect::Hold, Effect::ReportEnd { release, again }])
}

/// What was to be started by itself could not be let in. It does not run, so there is nothing to stop.
pub(super) fn no_room(mut live: Live, release: ReleaseNumber, now: Timestamp) -> Result<Answer, Refusal> {
    if !live.runs.is_waking(release) {
        return Ok(Answer::AlreadySo);
    }
    live.runs = off_for(release, WhyOff::NoRoom { until: now.plus(NO_ROOM_PAUSE) }, now);
    done(live, [Effect::Hold])
}
