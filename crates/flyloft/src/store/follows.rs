//! What environments follow that were staged from a repository elsewhere.

use flyloft_core::name::{AppName, CommitId, EnvName, EnvRef, Origin};
use rusqlite::{Row, params};

use super::{EnvId, Store, StoreError, name, parse};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowRow {
    pub id: EnvId,
    pub name: EnvRef,
    pub origin: Origin,
    /// The life cycle's state, as its own JSON.
    pub state: String,
    /// The repository in which it was seen.
    pub url: String,
    /// Where it was seen there, once that was staged.
    pub head: CommitId,
    pub missing: Option<MissingRow>,
}

/// See `flyloft_core::follow::Missing`; in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingRow {
    pub at: i64,
    pub lasted: i64,
}

const FOLLOW: &str = "SELECT id, app, name, origin, state, url, head, missing_at, missing_for
    FROM follows JOIN environments ON environments.id = follows.environment";

impl Store {
    /// From now on the environment follows what it was made from.
    pub async fn follow(&self, id: EnvId, url: &str, head: &CommitId) -> Result<(), StoreError> {
        let (url, head) = (url.to_owned(), head.to_string());
        self.call(move |t| {
            let sql = "INSERT OR REPLACE INTO follows (environment, url, head) VALUES (?1, ?2, ?3)";
            t.execute(sql, params![id.0, url, head])?;
            Ok(())
        })
        .await
    }

    /// Says whether it followed anything.
    pub async fn unfollow(&self, id: EnvId) -> Result<bool, StoreError> {
        self.call(move |t| Ok(t.execute("DELETE FROM follows WHERE environment = ?1", [id.0])? > 0)).await
    }

    /// All environments that follow something, by app.
    pub async fn following(&self) -> Result<Vec<(AppName, EnvId)>, StoreError> {
        self.call(|t| {
            let mut query = t.prepare(
                "SELECT app, id FROM follows JOIN environments ON environments.id = follows.environment ORDER BY app",
            )?;
            let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, EnvId(row.get(1)?))))?;
            rows.map(|row| row.map_err(StoreError::from).and_then(|(app, id)| Ok((name(&app)?, id)))).collect()
        })
        .await
    }

    pub async fn followed(&self, app: &AppName) -> Result<Vec<FollowRow>, StoreError> {
        let app = app.to_string();
        self.call(move |t| {
            let mut query = t.prepare(&format!("{FOLLOW} WHERE app = ?1 ORDER BY name"))?;
            let mut rows = query.query([app])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(FollowRow::from_row(row)?);
            }
            Ok(all)
        })
        .await
    }

    pub async fn followed_by(&self, id: EnvId) -> Result<Option<FollowRow>, StoreError> {
        self.call(move |t| {
            let mut query = t.prepare(&format!("{FOLLOW} WHERE id = ?1"))?;
            let mut rows = query.query([id.0])?;
            rows.next()?.map(FollowRow::from_row).transpose()
        })
        .await
    }

    /// What was seen at `head` in the repository `url` is staged, or given up. Says nothing about an environment that
    /// somebody has staged from there since: its record is not `before` any more.
    pub async fn settle(&self, before: &FollowRow, url: &str, head: &CommitId) -> Result<(), StoreError> {
        let (id, was_url, was) = (before.id, before.url.clone(), before.head.to_string());
        let (url, head) = (url.to_owned(), head.to_string());
        self.call(move |t| {
            let sql = "UPDATE follows SET url = ?4, head = ?5 WHERE environment = ?1 AND url = ?2 AND head = ?3";
            t.execute(sql, params![id.0, was_url, was, url, head])?;
            Ok(())
        })
        .await
    }

    pub async fn set_missing(&self, id: EnvId, missing: Option<MissingRow>) -> Result<(), StoreError> {
        self.note(move |t| {
            let (at, lasted) = (missing.map(|missing| missing.at), missing.map_or(0, |missing| missing.lasted));
            let sql = "UPDATE follows SET missing_at = ?2, missing_for = ?3 WHERE environment = ?1";
            t.execute(sql, params![id.0, at, lasted])?;
            Ok(())
        })
        .await
    }
}

impl FollowRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let at: Option<i64> = row.get(7)?;
        let lasted = row.get(8)?;
        Ok(Self {
            id: EnvId(row.get(0)?),
            name: EnvRef::new(name::<AppName>(&row.get::<_, String>(1)?)?, name::<EnvName>(&row.get::<_, String>(2)?)?),
            origin: parse("origin", &row.get::<_, String>(3)?)?,
            state: row.get(4)?,
            url: row.get(5)?,
            head: name(&row.get::<_, String>(6)?)?,
            missing: at.map(|at| MissingRow { at, lasted }),
        })
    }
}
