//! Releases, and the steps by which each was deployed.

use std::collections::{BTreeMap, BTreeSet};

use flyloft_core::name::{AppName, CommitId, ReleaseNumber};
use flyloft_core::policy::Settings;
use flyloft_core::volume;
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::{EnvId, Store, StoreError, name, parse, print};
use crate::engine::Image;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRelease {
    pub environment: EnvId,
    pub commit: Option<CommitId>,
    /// Why there is this release: `push`, `config`, `rollback to v2`.
    pub reason: String,
    pub by: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseRow {
    pub number: ReleaseNumber,
    pub commit: Option<CommitId>,
    pub reason: String,
    pub by: String,
    pub status: ReleaseStatus,
    pub content: Option<Content>,
    pub failure: Option<String>,
    pub created_at: i64,
    pub ended_at: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseStatus {
    Pending,
    Live,
    Retired,
    Failed,
}

/// All that is needed to launch a release again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub image: Image,
    /// What the build says about the environment of its processes (`PATH` and the like).
    pub env: BTreeMap<String, String>,
    /// The variables that were set when it was made.
    pub config: BTreeMap<String, String>,
    /// What `app.json` says where nobody set a variable.
    #[serde(default)]
    pub defaults: BTreeMap<String, String>,
    /// The Procfile: process types and commands, in its order.
    pub processes: Vec<(String, String)>,
    /// How many of each process type `app.json` wants.
    pub formation: BTreeMap<String, u32>,
    /// The path that says whether it is healthy; any answer to `/` will do if there is none.
    pub health: Option<String>,
    /// What `app.json` asks for.
    #[serde(default)]
    pub settings: Settings,
    /// Scripts of `app.json`, as it holds for this environment: after its first deploy, and before it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postdeploy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predestroy: Option<String>,
    /// Directories that `app.json` asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<volume::Ask>,
    /// Variables that `app.json` requires, and what it says they are for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub required: BTreeMap<String, Option<String>>,
    /// Variables that are made at random where nobody has set them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets: BTreeSet<String>,
    /// What the image was built with beside its commit; none where it was built before that was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<BuildInputs>,
}

/// Without these the same commit may come to another image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInputs {
    pub variables: BTreeMap<String, String>,
    /// How often the app had been built without its layers.
    pub generation: u64,
}

/// See [`Store::images`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    pub env: EnvId,
    pub number: ReleaseNumber,
    pub has_commit: bool,
    /// When its deploy ended, or began.
    pub at: i64,
    pub image: Image,
    /// It does not serve any more, and a newer one is on record.
    pub old: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRow {
    pub step: String,
    pub started_at: i64,
    pub ended_at: Option<i64>,
}

const RELEASE: &str =
    "SELECT number, commit_id, reason, by, status, content, failure, created_at, ended_at FROM releases";

impl Store {
    /// Numbers a new release of an environment.
    pub async fn add_release(&self, release: NewRelease, now: i64) -> Result<ReleaseNumber, StoreError> {
        self.note(move |t| {
            let NewRelease { environment, commit, reason, by } = release;
            let number = t.query_row(
                "INSERT INTO releases (environment, number, commit_id, reason, by, status, created_at)
                 SELECT ?1, 1 + coalesce(max(number), 0), ?2, ?3, ?4, 'pending', ?5
                 FROM releases WHERE environment = ?1 RETURNING number",
                params![environment.0, commit.map(String::from), reason, by, now],
                |row| row.get(0),
            )?;
            Ok(ReleaseNumber(number))
        })
        .await
    }

    /// A release that waited may be made from another commit than when it was asked for.
    pub async fn set_commit(
        &self,
        id: EnvId,
        number: ReleaseNumber,
        commit: Option<CommitId>,
    ) -> Result<(), StoreError> {
        self.note(move |t| {
            let sql = "UPDATE releases SET commit_id = ?3 WHERE environment = ?1 AND number = ?2";
            t.execute(sql, params![id.0, number.0, commit.map(String::from)])?;
            Ok(())
        })
        .await
    }

    pub async fn set_content(&self, id: EnvId, number: ReleaseNumber, content: &Content) -> Result<(), StoreError> {
        let content = print(content);
        self.note(move |t| {
            let sql = "UPDATE releases SET content = ?3 WHERE environment = ?1 AND number = ?2";
            t.execute(sql, params![id.0, number.0, content])?;
            Ok(())
        })
        .await
    }

    /// Records why a release did not come to serve. One that did is left alone.
    pub async fn fail_release(
        &self,
        id: EnvId,
        number: ReleaseNumber,
        failure: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        let failure = failure.to_owned();
        self.note(move |t| {
            t.execute(
                "UPDATE releases SET status = 'failed', failure = ?3, ended_at = ?4
                 WHERE environment = ?1 AND number = ?2 AND status = 'pending'",
                params![id.0, number.0, failure, now],
            )?;
            Ok(())
        })
        .await
    }

    /// Records that all pending releases failed but those `under_way`.
    pub async fn fail_all_but(
        &self,
        id: EnvId,
        under_way: Vec<ReleaseNumber>,
        failure: &'static str,
        now: i64,
    ) -> Result<(), StoreError> {
        self.note(move |t| {
            let mut query = t.prepare("SELECT number FROM releases WHERE environment = ?1 AND status = 'pending'")?;
            let pending: Vec<u32> = query.query_map([id.0], |row| row.get(0))?.collect::<Result<_, _>>()?;
            for number in pending.into_iter().filter(|number| !under_way.contains(&ReleaseNumber(*number))) {
                t.execute(
                    "UPDATE releases SET status = 'failed', failure = ?3, ended_at = ?4
                     WHERE environment = ?1 AND number = ?2",
                    params![id.0, number, failure, now],
                )?;
            }
            Ok(())
        })
        .await
    }

    pub async fn release(&self, id: EnvId, number: ReleaseNumber) -> Result<Option<ReleaseRow>, StoreError> {
        self.call(move |t| {
            let mut query = t.prepare(&format!("{RELEASE} WHERE environment = ?1 AND number = ?2"))?;
            let mut rows = query.query(params![id.0, number.0])?;
            rows.next()?.map(ReleaseRow::from_row).transpose()
        })
        .await
    }

    /// The newest first.
    pub async fn releases(&self, id: EnvId) -> Result<Vec<ReleaseRow>, StoreError> {
        self.call(move |t| {
            let mut query = t.prepare(&format!("{RELEASE} WHERE environment = ?1 ORDER BY number DESC"))?;
            let mut rows = query.query([id.0])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(ReleaseRow::from_row(row)?);
            }
            Ok(all)
        })
        .await
    }

    /// Written before the step is done.
    pub async fn begin_step(&self, id: EnvId, number: ReleaseNumber, step: &str, now: i64) -> Result<(), StoreError> {
        let step = step.to_owned();
        self.note(move |t| {
            t.execute(
                "INSERT OR REPLACE INTO steps (environment, release, step, started_at) VALUES (?, ?, ?, ?)",
                params![id.0, number.0, step, now],
            )?;
            Ok(())
        })
        .await
    }

    pub async fn end_step(&self, id: EnvId, number: ReleaseNumber, step: &str, now: i64) -> Result<(), StoreError> {
        let step = step.to_owned();
        self.note(move |t| {
            t.execute(
                "UPDATE steps SET ended_at = ?4 WHERE environment = ?1 AND release = ?2 AND step = ?3",
                params![id.0, number.0, step, now],
            )?;
            Ok(())
        })
        .await
    }

    /// In the order in which they were begun.
    pub async fn steps(&self, id: EnvId, number: ReleaseNumber) -> Result<Vec<StepRow>, StoreError> {
        self.call(move |t| {
            let mut query = t.prepare(
                "SELECT step, started_at, ended_at FROM steps WHERE environment = ?1 AND release = ?2
                 ORDER BY started_at, step",
            )?;
            let rows = query.query_map(params![id.0, number.0], |row| {
                Ok(StepRow { step: row.get(0)?, started_at: row.get(1)?, ended_at: row.get(2)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Forgets old releases of every environment. What serves stays, and what is about to; of those that served, and of
    /// those that failed, the newest `kept` each; and the newest of all, whose output is still asked for and after
    /// which the next one is numbered.
    pub async fn forget_releases(&self, kept: u32) -> Result<(), StoreError> {
        self.call(move |t| {
            t.execute(
                "DELETE FROM releases WHERE (environment, number) IN (
                     SELECT environment, number FROM (
                         SELECT environment, number, status,
                             row_number() OVER (PARTITION BY environment, status ORDER BY number DESC) AS age,
                             max(number) OVER (PARTITION BY environment) AS newest
                         FROM releases)
                     WHERE status IN ('retired', 'failed') AND age > ?1 AND number < newest)",
                [kept],
            )?;
            Ok(())
        })
        .await
    }

    /// All releases that are on record.
    pub async fn all_releases(&self) -> Result<Vec<(EnvId, ReleaseNumber)>, StoreError> {
        self.call(|t| {
            let mut query = t.prepare("SELECT environment, number FROM releases")?;
            let rows = query.query_map([], |row| Ok((EnvId(row.get(0)?), ReleaseNumber(row.get(1)?))))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// The commits that an app's releases are made from.
    pub async fn commits(&self, app: &AppName) -> Result<Vec<CommitId>, StoreError> {
        let app = app.to_string();
        self.call(move |t| {
            let mut query = t.prepare(
                "SELECT DISTINCT commit_id FROM releases JOIN environments ON environments.id = releases.environment
                 WHERE app = ?1 AND commit_id IS NOT NULL",
            )?;
            let mut commits = Vec::new();
            for commit in query.query_map([app], |row| row.get::<_, String>(0))? {
                commits.push(name(&commit?)?);
            }
            Ok(commits)
        })
        .await
    }

    /// The images of all releases that may be launched: what serves or is about to, and what may be rolled back to.
    pub async fn images(&self) -> Result<Vec<ImageRow>, StoreError> {
        self.call(move |t| {
            let mut query = t.prepare(
                "SELECT environment, number, commit_id IS NOT NULL, coalesce(ended_at, created_at), content ->> 'image',
                     status = 'retired' AND number < (SELECT max(number) FROM releases AS of WHERE of.environment =
                     releases.environment)
                 FROM releases WHERE content IS NOT NULL AND status <> 'failed'",
            )?;
            let mut rows = query.query([])?;
            let mut images = Vec::new();
            while let Some(row) = rows.next()? {
                images.push(ImageRow {
                    env: EnvId(row.get(0)?),
                    number: ReleaseNumber(row.get(1)?),
                    has_commit: row.get(2)?,
                    at: row.get(3)?,
                    image: parse("image", &row.get::<_, String>(4)?)?,
                    old: row.get(5)?,
                });
            }
            Ok(images)
        })
        .await
    }

    /// Forgets a release that [`ImageRow::old`] calls so, and says whether it was there.
    pub async fn forget_release(&self, id: EnvId, number: ReleaseNumber) -> Result<bool, StoreError> {
        self.call(move |t| {
            let sql = "DELETE FROM releases WHERE environment = ?1 AND number = ?2 AND status = 'retired'";
            Ok(t.execute(sql, params![id.0, number.0])? > 0)
        })
        .await
    }
}

impl Content {
    /// The variables without those that `app.json` gave it.
    pub fn set_by_people(&self) -> BTreeMap<String, String> {
        let given = |name: &String, value: &String| self.defaults.get(name) == Some(value);
        let set = self.config.iter().filter(|(name, value)| !given(name, value));
        set.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

impl ReleaseStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            ReleaseStatus::Pending => "pending",
            ReleaseStatus::Live => "live",
            ReleaseStatus::Retired => "retired",
            ReleaseStatus::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        Ok(match text {
            "pending" => ReleaseStatus::Pending,
            "live" => ReleaseStatus::Live,
            "retired" => ReleaseStatus::Retired,
            "failed" => ReleaseStatus::Failed,
            other => return Err(StoreError::Corrupt(format!("release status `{other}`"))),
        })
    }
}

impl ReleaseRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let commit: Option<String> = row.get(1)?;
        let content: Option<String> = row.get(5)?;
        Ok(Self {
            number: ReleaseNumber(row.get(0)?),
            commit: commit.as_deref().map(name::<CommitId>).transpose()?,
            reason: row.get(2)?,
            by: row.get(3)?,
            status: ReleaseStatus::parse(&row.get::<_, String>(4)?)?,
            content: content.map(|text| parse("content", &text)).transpose()?,
            failure: row.get(6)?,
            created_at: row.get(7)?,
            ended_at: row.get(8)?,
        })
    }
}
