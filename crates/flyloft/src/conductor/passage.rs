//! What is still to be seen of a wake once what was woken is ready: how the first visitor gets through, who sees no end
//! before that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::edge::Passage;
use crate::engine::Thawed;
use crate::parts::Parts;
use crate::store::{EnvRow, SeenRow, WakeRow};

/// An answer that has not begun by then tells of the request, and not of the wake.
const PATIENCE: Duration = Duration::from_secs(30);

/// A wake that is ready, and those who wait for its answer.
pub struct Waited {
    pub came: Instant,
    pub ready: Instant,
    pub passage: watch::Receiver<Passage>,
    pub thawed: Option<Thawed>,
}

impl Waited {
    /// Comes back when the first of them has its answer, when nobody waits any more, or when it takes too long. Says how
    /// far they have come, and the time from the visit to the answer if there was one.
    async fn seen(mut self, patience: Duration) -> (SeenRow, Option<Duration>) {
        let is_over = |passage: &Passage| passage.answered.is_some();
        let _ = tokio::time::timeout(patience, self.passage.wait_for(is_over)).await;
        let Passage { passed, connected, answered } = *self.passage.borrow();
        let mut last = self.ready;
        let mut since_the_last = |step: Option<Instant>| {
            let step = step?;
            Some(step.saturating_duration_since(std::mem::replace(&mut last, step)))
        };
        let seen = SeenRow {
            passed: since_the_last(passed),
            connected: since_the_last(connected),
            answered: since_the_last(answered),
            prefetched: self.thawed.as_ref().and_then(Thawed::prefetched),
            released: self.thawed.as_ref().and_then(Thawed::released),
        };
        (seen, answered.map(|answered| answered.saturating_duration_since(self.came)))
    }
}

/// Puts a wake on record as far as it is known, and the rest of it as soon as that is. Nobody waits for the rest.
pub async fn record(parts: &Arc<Parts>, env: &EnvRow, wake: WakeRow, waited: Option<Waited>) {
    let (app, total, failed) = (env.name.app.clone(), wake.total, wake.failure.is_some());
    if waited.is_none() {
        parts.tally.wake(&app, total, failed);
    }
    let added = parts.store.add_wake(env.id, wake).await;
    let added = added.inspect_err(|error| tracing::warn!(env = %env.name, %error, "failed to record a wake"));
    let Some(waited) = waited else { return };
    let (parts, name) = (parts.clone(), env.name.clone());
    tokio::spawn(async move {
        let (seen, answered) = waited.seen(PATIENCE).await;
        parts.tally.wake(&app, answered.unwrap_or(total), failed);
        if let Ok(wake) = added
            && let Err(error) = parts.store.complete_wake(wake, seen, answered).await
        {
            tracing::warn!(env = %name, %error, "failed to record how a visitor got through");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_hangs_is_not_waited_for_and_what_is_known_by_then_is_told() {
        let came = Instant::now();
        let [ready, passed] = [20, 30].map(|after| came + Duration::from_millis(after));
        let (_edge, passage) = watch::channel(Passage { passed: Some(passed), ..Passage::default() });
        let waited = Waited { came, ready, passage, thawed: None };
        let seen = SeenRow { passed: Some(Duration::from_millis(10)), ..SeenRow::default() };
        assert_eq!(waited.seen(Duration::from_millis(5)).await, (seen, None));
    }
}
