//! `flyloft stats`: what environments hold, how often they wake, and how long that takes.

use std::time::Duration;

use flyloft_core::lifecycle::{Runs, State};
use flyloft_core::name::EnvRef;
use serde::Serialize;

use super::environments::word;
use super::reply::{Reply, size, table};
use super::why::millis;
use super::{Api, Call, Ending};
use crate::command::{Stats, Target};
use crate::error::{OrFailed, Result};
use crate::store::{self, EnvRow, WakeRow};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Serialize)]
struct StatsList {
    environments: Vec<StatsItem>,
}

#[derive(Serialize)]
struct StatsItem {
    name: EnvRef,
    state: &'static str,
    /// Bytes of memory that it holds now, and that it held before it was last put to rest.
    memory: Option<u64>,
    memory_awake: Option<u64>,
    #[serde(flatten)]
    numbers: Numbers,
}

#[derive(Debug, PartialEq, Serialize)]
struct Numbers {
    /// In the last 24 hours, those in vain included.
    wakes_today: usize,
    /// Of the last two hundred wakes, those in vain aside, from the visit to its answer, or where nobody waited until it was ready.
    wake_p50_ms: Option<f64>,
    wake_p99_ms: Option<f64>,
    /// Seconds of the last 24 hours in which it was asleep or off.
    asleep_today: u64,
    /// The part of that time, or of its life if that is shorter.
    asleep_share: f64,
}

impl Numbers {
    /// From its wakes, the newest first, how long it has rested if it rests now, and how old it is.
    fn of(wakes: &[WakeRow], resting: Option<Duration>, old: Duration, wall: i64) -> Self {
        let window = old.min(DAY);
        let ago = |at: i64| Duration::from_millis((wall - at).max(0) as u64);
        let last = wakes.iter().take(store::LAST_WAKES);
        let mut times: Vec<_> = last.filter(|wake| wake.failure.is_none()).map(|wake| wake.total).collect();
        times.sort_unstable();
        // The nearest rank.
        let rank = |share: f64| {
            let rank = (times.len() as f64 * share).ceil() as usize;
            times.get(rank.saturating_sub(1)).copied().map(millis)
        };
        // What it slept before a wake in vain is counted with the next one.
        let slept = wakes.iter().filter(|wake| wake.failure.is_none() && ago(wake.at) < window);
        let slept: Duration = slept.map(|wake| wake.slept.min(window - ago(wake.at))).sum();
        let asleep = (slept + resting.unwrap_or_default().min(window)).min(window);
        Self {
            wakes_today: wakes.iter().filter(|wake| ago(wake.at) < DAY).count(),
            wake_p50_ms: rank(0.5),
            wake_p99_ms: rank(0.99),
            asleep_today: asleep.as_secs(),
            asleep_share: (asleep.as_secs_f64() / window.as_secs_f64().max(0.001) * 1000.0).round() / 1000.0,
        }
    }
}

impl Reply for StatsList {
    fn text(&self) -> String {
        if self.environments.is_empty() {
            return "there are no environments yet\n".to_owned();
        }
        let rows = self.environments.iter().map(|env| {
            let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size);
            let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
            let Numbers { wakes_today, wake_p50_ms, wake_p99_ms, asleep_share, .. } = env.numbers;
            [
                env.name.to_string(),
                env.state.to_owned(),
                bytes(env.memory),
                bytes(env.memory_awake),
                wakes_today.to_string(),
                ms(wake_p50_ms),
                ms(wake_p99_ms),
                format!("{:.0} %", asleep_share * 100.0),
            ]
        });
        table(["ENVIRONMENT", "STATE", "MEMORY", "AWAKE", "WAKES TODAY", "P50", "P99", "ASLEEP"], rows)
    }
}

impl Api {
    pub(super) async fn stats(&self, call: &mut Call<'_>, stats: Stats) -> Result<Ending> {
        let failed = || "failed to look at environments";
        let store = &self.loft.parts.store;
        let rows = match &stats.target {
            Some(Target::Env(env)) => {
                call.must_use(&env.app)?;
                vec![self.loft.find(env).await?.0]
            }
            Some(Target::App(app)) => {
                call.must_use(app)?;
                self.must_exist(app).await?;
                store.environments(Some(app)).await.or_failed(failed)?
            }
            None => store.environments(None).await.or_failed(failed)?,
        };
        let rows: Vec<_> = rows.into_iter().filter(|row| call.may_use(&row.name.app)).collect();
        let mut wakes = store.all_wakes().await.or_failed(failed)?;
        let held = self.loft.parts.held(&rows).await;
        let item = |(row, memory): (EnvRow, Option<u64>)| {
            let state = serde_json::from_str::<State>(&row.state).ok();
            let resting = state.as_ref().and_then(|state| self.resting(&row, state));
            let wall = store::now();
            let old = Duration::from_millis((wall - row.created_at).max(0) as u64);
            StatsItem {
                numbers: Numbers::of(&wakes.remove(&row.id).unwrap_or_default(), resting, old, wall),
                state: match &state {
                    Some(State::Live(live)) => word(&live.runs),
                    Some(State::Destroyed { .. }) => "destroyed",
                    None => "unknown",
                },
                memory,
                memory_awake: row.memory.awake,
                name: row.name,
            }
        };
        let environments = rows.into_iter().zip(held).map(item).collect();
        Ok(StatsList { environments }.into())
    }

    /// How long it has not been awake.
    fn resting(&self, row: &EnvRow, state: &State) -> Option<Duration> {
        let State::Live(live) = state else { return None };
        let (Runs::Asleep { since, .. } | Runs::Off { since, .. }) = live.runs else { return None };
        Some(self.loft.parts.clock.now().since(row.memory.down_since.unwrap_or(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SeenRow;

    const HOUR: u64 = 3600;
    const NOW: i64 = 100 * 24 * 3_600_000;

    fn wake(hours_ago: u64, slept_hours: u64, millis: u64) -> WakeRow {
        WakeRow {
            at: NOW - (hours_ago * HOUR * 1000) as i64,
            by: "GET /".to_owned(),
            was: "asleep".to_owned(),
            admitted: Duration::ZERO,
            queued: Duration::ZERO,
            started: Duration::ZERO,
            ready: Duration::ZERO,
            seen: SeenRow::default(),
            total: Duration::from_millis(millis),
            failure: None,
            slept: Duration::from_secs(slept_hours * HOUR),
        }
    }

    #[test]
    fn numbers_are_of_the_last_day_and_percentiles_of_the_last_wakes() {
        let wakes = [wake(2, 3, 10), WakeRow { failure: Some("x".to_owned()), ..wake(5, 9, 900) }, wake(20, 10, 20)];
        let older = [wake(30, 20, 500)];
        let all: Vec<_> = wakes.into_iter().chain(older).collect();
        let numbers = Numbers::of(&all, Some(Duration::from_secs(HOUR)), 10 * DAY, NOW);
        // One hour now, three before the last wake, and of the ten before the first of the day those four within it.
        let expected = Numbers {
            wakes_today: 3,
            wake_p50_ms: Some(20.0),
            wake_p99_ms: Some(500.0),
            asleep_today: 8 * HOUR,
            asleep_share: 0.333,
        };
        assert_eq!(numbers, expected);
    }

    #[test]
    fn all_wakes_of_a_day_count_and_the_last_of_them_make_the_percentiles() {
        // Two hundred that took 10 ms, and before them as many that took 20, every minute one after a minute of sleep.
        let minutes = |number: usize| NOW - number as i64 * 60_000;
        let all = (0..400).map(|number| WakeRow {
            at: minutes(2 * number),
            slept: Duration::from_secs(60),
            ..wake(0, 0, if number < 200 { 10 } else { 20 })
        });
        let numbers = Numbers::of(&all.collect::<Vec<_>>(), None, 10 * DAY, NOW);
        assert_eq!((numbers.wakes_today, numbers.asleep_today), (400, 400 * 60));
        assert_eq!(numbers.wake_p99_ms, Some(10.0));
    }

    #[test]
    fn what_is_younger_than_a_day_is_measured_by_its_own_age() {
        let numbers = Numbers::of(&[], Some(Duration::from_secs(2 * HOUR)), Duration::from_secs(4 * HOUR), NOW);
        assert_eq!((numbers.asleep_share, numbers.wakes_today, numbers.wake_p50_ms), (0.5, 0, None));
    }
}
