//! How environments woke: who or what woke them, and how long each part of it took.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Row, params};

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
    /// Beside that until its processes ran; what was not kept was built in that time.
    pub started: Duration,
    /// From then on until they answered; nothing where they were thawed.
    pub answered: Duration,
    /// From the visit to the route.
    pub total: Duration,
    pub failure: Option<String>,
    /// How long it had not been awake before.
    pub slept: Duration,
}

impl Store {
    pub async fn add_wake(&self, id: EnvId, wake: WakeRow) -> Result<(), StoreError> {
        self.note(move |t| {
            let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
            let WakeRow { at, by, was, queued, started, answered, total, failure, slept } = wake;
            let woke = failure.is_none();
            let times = [queued, started, answered, total, slept].map(micros);
            t.execute(
                "INSERT INTO wakes (environment, at, by, was, queued, started, answered, total, failure, slept)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![id.0, at, by, was, times[0], times[1], times[2], times[3], failure, times[4]],
            )?;
            t.execute("UPDATE environments SET down_since = NULL WHERE id = ?1 AND ?2", params![id.0, woke])?;
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
            let mut query = t.prepare(&format!("{WAKE} WHERE environment = ?1 ORDER BY rowid DESC"))?;
            let rows = query.query_map([id.0], |row| WakeRow::from_row(row).map(|(_, wake)| wake))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Those of all environments.
    pub async fn all_wakes(&self) -> Result<HashMap<EnvId, Vec<WakeRow>>, StoreError> {
        self.call(|t| {
            let mut query = t.prepare(&format!("{WAKE} ORDER BY rowid DESC"))?;
            let mut all = HashMap::<_, Vec<_>>::new();
            for row in query.query_map([], WakeRow::from_row)? {
                let (id, wake) = row?;
                all.entry(id).or_default().push(wake);
            }
            Ok(all)
        })
        .await
    }
}

const WAKE: &str = "SELECT environment, at, by, was, queued, started, answered, total, failure, slept FROM wakes";

impl WakeRow {
    fn from_row(row: &Row) -> rusqlite::Result<(EnvId, Self)> {
        let micros = |index| row.get(index).map(|micros: i64| Duration::from_micros(micros.max(0) as u64));
        let wake = Self {
            at: row.get(1)?,
            by: row.get(2)?,
            was: row.get(3)?,
            queued: micros(4)?,
            started: micros(5)?,
            answered: micros(6)?,
            total: micros(7)?,
            failure: row.get(8)?,
            slept: micros(9)?,
        };
        Ok((EnvId(row.get(0)?), wake))
    }
}
