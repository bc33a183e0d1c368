//! How environments woke: who or what woke them, and how long each part of it took.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Row, Transaction, params};

use super::{EnvId, Store, StoreError};

/// So many of the last ones are kept for each environment, and all of the last day.
pub const KEPT: usize = 200;

/// Milliseconds.
const DAY: i64 = 24 * 3_600_000;

/// One that is on record.
#[derive(Clone, Copy, Debug)]
pub struct WakeId(i64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WakeRow {
    /// Milliseconds since the Unix epoch.
    pub at: i64,
    /// Who or what woke it, for people: `GET /cart`, `alice`.
    pub by: String,
    /// `asleep`, `deep`, `off`, or `awake` where it was started anew.
    pub was: String,
    /// Until there was room for it to be awake.
    pub admitted: Duration,
    /// Beside that until its turn came.
    pub queued: Duration,
    /// Beside that until its processes ran; what was not kept was built in that time.
    pub started: Duration,
    /// From then on until it was known that they answer.
    pub ready: Duration,
    /// From then on, where somebody waited for an answer.
    pub seen: SeenRow,
    /// From the visit to the answer, or as far as it came.
    pub total: Duration,
    pub failure: Option<String>,
    /// How long it had not been awake before.
    pub slept: Duration,
}

/// What the first of those who waited saw of it, as far as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeenRow {
    /// Until it did not have to wait any more.
    pub passed: Option<Duration>,
    /// From then on until it had a connection to the app.
    pub connected: Option<Duration>,
    /// From then on until its answer began.
    pub answered: Option<Duration>,
    /// Beside that, from the thaw until what was touched at the last wake was in memory.
    pub prefetched: Option<Duration>,
    /// And until nobody was held back any more so that others wake first.
    pub released: Option<Duration>,
}

impl Store {
    pub async fn add_wake(&self, id: EnvId, wake: WakeRow) -> Result<WakeId, StoreError> {
        self.note(move |t| {
            let WakeRow { at, by, was, admitted, queued, started, ready, seen, total, failure, slept } = wake;
            let woke = failure.is_none();
            let times = [admitted, queued, started, ready, total, slept].map(micros);
            t.execute(
                "INSERT INTO wakes (environment, at, by, was, failure, admitted, queued, started, ready, total, slept)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                params![id.0, at, by, was, failure, times[0], times[1], times[2], times[3], times[4], times[5]],
            )?;
            let wake = WakeId(t.last_insert_rowid());
            set_seen(t, wake, seen)?;
            t.execute("UPDATE environments SET down_since = NULL WHERE id = ?1 AND ?2", params![id.0, woke])?;
            t.execute(
                "DELETE FROM wakes WHERE environment = ?1 AND at < ?3 AND rowid NOT IN
                 (SELECT rowid FROM wakes WHERE environment = ?1 ORDER BY rowid DESC LIMIT ?2)",
                params![id.0, KEPT as i64, at - DAY],
            )?;
            Ok(wake)
        })
        .await
    }

    /// Adds what was seen of a wake afterwards, and how long it took until the answer if there was one.
    pub async fn complete_wake(
        &self,
        wake: WakeId,
        seen: SeenRow,
        answered: Option<Duration>,
    ) -> Result<(), StoreError> {
        self.note(move |t| {
            set_seen(t, wake, seen)?;
            let sql = "UPDATE wakes SET total = coalesce(?2, total) WHERE rowid = ?1";
            t.execute(sql, params![wake.0, answered.map(micros)])?;
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

fn set_seen(t: &Transaction, wake: WakeId, seen: SeenRow) -> Result<(), StoreError> {
    let SeenRow { passed, connected, answered, prefetched, released } = seen;
    let times = [passed, connected, answered, prefetched, released].map(|time| time.map(micros));
    t.execute(
        "UPDATE wakes SET passed = ?2, connected = ?3, answered = ?4, prefetched = ?5, released = ?6 WHERE rowid = ?1",
        params![wake.0, times[0], times[1], times[2], times[3], times[4]],
    )?;
    Ok(())
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

const WAKE: &str = "SELECT environment, at, by, was, failure, admitted, queued, started, ready, total, slept, passed,
    connected, answered, prefetched, released FROM wakes";

impl WakeRow {
    fn from_row(row: &Row) -> rusqlite::Result<(EnvId, Self)> {
        let time = |micros: i64| Duration::from_micros(micros.max(0) as u64);
        let spent = |index| row.get(index).map(time);
        let seen = |index| row.get::<_, Option<i64>>(index).map(|micros| micros.map(time));
        let wake = Self {
            at: row.get(1)?,
            by: row.get(2)?,
            was: row.get(3)?,
            failure: row.get(4)?,
            admitted: spent(5)?,
            queued: spent(6)?,
            started: spent(7)?,
            ready: spent(8)?,
            total: spent(9)?,
            slept: spent(10)?,
            seen: SeenRow {
                passed: seen(11)?,
                connected: seen(12)?,
                answered: seen(13)?,
                prefetched: seen(14)?,
                released: seen(15)?,
            },
        };
        Ok((EnvId(row.get(0)?), wake))
    }
}
