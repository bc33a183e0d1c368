//! How environments woke: who or what woke them, and how long each part of it took.

use std::time::Duration;

use rusqlite::params;

use super::{EnvId, Store, StoreError};

/// So many of the last ones are kept for each environment.
const KEPT: u32 = 200;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WakeRow {
    /// Milliseconds since the Unix epoch.
    pub at: i64,
    /// Who or what woke it, for people: `GET /cart`, `alice`.
    pub by: String,
    /// `asleep`, `deep`, `off`, or `awake` where it was started anew.
    pub was: String,
    /// Until its turn came.
    pub queued: Duration,
    /// From then on until its processes ran.
    pub started: Duration,
    /// From then on until they answered; nothing where they were thawed.
    pub answered: Duration,
    /// From the visit to the route.
    pub total: Duration,
    pub failure: Option<String>,
}

impl Store {
    pub async fn add_wake(&self, id: EnvId, wake: WakeRow) -> Result<(), StoreError> {
        self.note(move |t| {
            let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
            let WakeRow { at, by, was, queued, started, answered, total, failure } = wake;
            let times = [queued, started, answered, total].map(micros);
            t.execute(
                "INSERT INTO wakes (environment, at, by, was, queued, started, answered, total, failure)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![id.0, at, by, was, times[0], times[1], times[2], times[3], failure],
            )?;
            t.execute(
                "DELETE FROM wakes WHERE environment = ?1 AND rowid NOT IN
                 (SELECT rowid FROM wakes WHERE environment = ?1 ORDER BY rowid DESC LIMIT ?2)",
                params![id.0, KEPT],
            )?;
            Ok(())
        })
        .await
    }

    /// The last wakes of an environment, the newest first.
    pub async fn wakes(&self, id: EnvId) -> Result<Vec<WakeRow>, StoreError> {
        self.call(move |t| {
            let mut query = t.prepare(
                "SELECT at, by, was, queued, started, answered, total, failure
                 FROM wakes WHERE environment = ?1 ORDER BY rowid DESC",
            )?;
            let micros = |micros: i64| Duration::from_micros(micros.max(0) as u64);
            let rows = query.query_map([id.0], |row| {
                Ok(WakeRow {
                    at: row.get(0)?,
                    by: row.get(1)?,
                    was: row.get(2)?,
                    queued: micros(row.get(3)?),
                    started: micros(row.get(4)?),
                    answered: micros(row.get(5)?),
                    total: micros(row.get(6)?),
                    failure: row.get(7)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}
