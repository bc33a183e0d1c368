//! Environments: what each follows, its life, and what serves it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use flyloft_core::gate::Hashed;
use flyloft_core::lifecycle::{Deploying, State, Timestamp};
use flyloft_core::name::{AppName, EnvName, EnvRef, Origin, ReleaseNumber};
use flyloft_core::policy::Settings;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{Store, StoreError, name, parse, print};
use crate::engine::{ContainerId, Held};

/// Of one environment, and never of another: an environment that is made again after it was destroyed has a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnvId(pub i64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvRow {
    pub id: EnvId,
    pub name: EnvRef,
    pub host: String,
    pub origin: Origin,
    /// The life cycle's state, as its own JSON.
    pub state: String,
    /// How many of each process type were asked for.
    pub formation: BTreeMap<String, u32>,
    pub live: Option<LiveRow>,
    pub created_at: i64,
    /// What is set for it, for its app, and what `app.json` of the release that serves asks for.
    pub settings: Settings,
    pub app_settings: Settings,
    pub asked: Settings,
    pub memory: MemoryRow,
    /// How often what opens its gate was revoked.
    pub gate_generation: u32,
    /// What its app has for those of its gates that ask for a password.
    pub gate_password: Option<Hashed>,
}

impl EnvRow {
    /// Whether something is being deployed to it.
    pub fn is_deploying(&self) -> bool {
        is_deploying(&self.state)
    }
}

/// Whether something is being deployed where this is the state.
pub fn is_deploying(state: &str) -> bool {
    let state = serde_json::from_str(state);
    matches!(state, Ok(State::Live(live)) if live.deploying != Deploying::No)
}

/// What an environment was found to hold, for a look that asks no engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryRow {
    /// Bytes just before it was last put to sleep or turned off.
    pub awake: Option<u64>,
    /// What was left when it was last put to sleep. Of the past, if it does not sleep.
    pub asleep: Option<Held>,
    /// When it last stopped being awake, by the clock of the life cycle; none since it woke.
    pub down_since: Option<Timestamp>,
}

/// What serves an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveRow {
    pub release: ReleaseNumber,
    pub container: ContainerId,
    /// None where the app has no web process.
    pub upstream: Option<SocketAddr>,
}

const ENVIRONMENT: &str = "SELECT id, app, name, host, origin, state, formation, live, container, upstream,
    created_at, settings, (SELECT settings FROM apps WHERE apps.name = app),
    (SELECT content ->> 'settings' FROM releases WHERE environment = environments.id AND number = live),
    memory_awake, memory_asleep, down_since, gate_generation,
    (SELECT gate_password FROM apps WHERE apps.name = app) FROM environments";

impl Store {
    /// Makes an environment, or finds it. `Err` names who has the host name, or what else the name stands for.
    pub async fn ensure_environment(
        &self,
        env: &EnvRef,
        host: &str,
        origin: &Origin,
        state: &str,
        now: i64,
    ) -> Result<Result<EnvRow, EnvRow>, StoreError> {
        let (env, host, origin, state) = (env.clone(), host.to_owned(), origin.clone(), state.to_owned());
        self.call(move |t| {
            let sql = format!(
                "{ENVIRONMENT} WHERE host = ?1 OR (app = ?2 AND name = ?3) ORDER BY app = ?2 AND name = ?3 DESC"
            );
            let mut query = t.prepare(&sql)?;
            let mut rows = query.query(params![host, env.app.as_str(), env.env.as_str()])?;
            if let Some(row) = rows.next()? {
                let found = EnvRow::from_row(row)?;
                return Ok(if found.name == env && found.origin == origin { Ok(found) } else { Err(found) });
            }
            drop(rows);
            t.execute(
                "INSERT INTO environments (app, name, host, origin, state, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![env.app.as_str(), env.env.as_str(), host, print(&origin), state, now],
            )?;
            let id = EnvId(t.last_insert_rowid());
            let sql = format!("{ENVIRONMENT} WHERE id = ?1");
            Ok(Ok(t.query_row(&sql, [id.0], |row| Ok(EnvRow::from_row(row)))??))
        })
        .await
    }

    /// Gives an environment another host name, unless one has it already: that one's name is the `Err`.
    pub async fn set_host(&self, id: EnvId, host: &str) -> Result<Result<(), EnvRef>, StoreError> {
        let host = host.to_owned();
        self.call(move |t| {
            let mut query = t.prepare(&format!("{ENVIRONMENT} WHERE host = ?1 AND id <> ?2"))?;
            if let Some(row) = query.query(params![host, id.0])?.next()? {
                return Ok(Err(EnvRow::from_row(row)?.name));
            }
            t.execute("UPDATE environments SET host = ?2 WHERE id = ?1", params![id.0, host])?;
            Ok(Ok(()))
        })
        .await
    }

    pub async fn environment(&self, env: &EnvRef) -> Result<Option<EnvRow>, StoreError> {
        let env = env.clone();
        self.call(move |t| {
            let mut query = t.prepare(&format!("{ENVIRONMENT} WHERE app = ?1 AND name = ?2"))?;
            let mut rows = query.query(params![env.app.as_str(), env.env.as_str()])?;
            rows.next()?.map(EnvRow::from_row).transpose()
        })
        .await
    }

    /// All of them, or those of an app.
    pub async fn environments(&self, app: Option<&AppName>) -> Result<Vec<EnvRow>, StoreError> {
        let app = app.map(|app| app.to_string());
        self.call(move |t| {
            let mut query = t.prepare(&format!("{ENVIRONMENT} WHERE ?1 IS NULL OR app = ?1 ORDER BY app, name"))?;
            let mut rows = query.query([app])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(EnvRow::from_row(row)?);
            }
            Ok(all)
        })
        .await
    }

    /// All of them by their ids alone.
    pub async fn environment_ids(&self) -> Result<Vec<EnvId>, StoreError> {
        self.call(|t| {
            let mut query = t.prepare("SELECT id FROM environments ORDER BY id")?;
            let rows = query.query_map([], |row| Ok(EnvId(row.get(0)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// When one of them was last used, of which that is the latest.
    pub async fn newest_use(&self) -> Result<Option<Timestamp>, StoreError> {
        self.call(|t| {
            // One whose state cannot be read has its say when it is taken up.
            let newest = "SELECT CAST(max(json_extract(state, '$.live.last_used')) AS INTEGER) FROM environments
                WHERE json_valid(state)";
            let newest: Option<i64> = t.query_row(newest, [], |row| row.get(0))?;
            Ok(newest.and_then(|at| u64::try_from(at).ok()).map(Timestamp))
        })
        .await
    }

    /// Records the life cycle's state and, where the event came to that, what serves from here on: the moment at which
    /// a deploy has happened. The release that served until now is retired in the same transaction.
    pub async fn set_state(&self, id: EnvId, state: &str, live: Option<&LiveRow>, now: i64) -> Result<(), StoreError> {
        let (state, live) = (state.to_owned(), live.cloned());
        self.call(move |t| {
            set_state(t, id, &state)?;
            if let Some(live) = live {
                set_live(t, id, live, now)?;
            }
            Ok(())
        })
        .await
    }

    /// The same for a state that a power cut ends anyway, such as to be awake: nobody waits for the disk.
    pub async fn note_state(&self, id: EnvId, state: &str) -> Result<(), StoreError> {
        let state = state.to_owned();
        self.note(move |t| set_state(t, id, &state)).await
    }

    pub async fn set_formation(&self, id: EnvId, formation: &BTreeMap<String, u32>) -> Result<(), StoreError> {
        let formation = print(formation);
        self.call(move |t| {
            t.execute("UPDATE environments SET formation = ?2 WHERE id = ?1", params![id.0, formation])?;
            Ok(())
        })
        .await
    }

    pub async fn set_settings(&self, id: EnvId, settings: &Settings) -> Result<(), StoreError> {
        let settings = print(settings);
        self.call(move |t| {
            t.execute("UPDATE environments SET settings = ?2 WHERE id = ?1", params![id.0, settings])?;
            Ok(())
        })
        .await
    }

    /// From here on nothing opens its gate that was signed before.
    pub async fn revoke_links(&self, id: EnvId) -> Result<(), StoreError> {
        self.call(move |t| {
            t.execute("UPDATE environments SET gate_generation = gate_generation + 1 WHERE id = ?1", [id.0])?;
            Ok(())
        })
        .await
    }

    /// Notes what it held when it stopped being awake, and when that was.
    pub async fn note_rest(&self, id: EnvId, awake: Option<u64>, at: Timestamp) -> Result<(), StoreError> {
        self.note(move |t| {
            let sql = "UPDATE environments SET memory_awake = coalesce(?2, memory_awake), memory_asleep = NULL,
                       down_since = ?3 WHERE id = ?1";
            t.execute(sql, params![id.0, awake.map(|bytes| bytes as i64), at.0 as i64])?;
            Ok(())
        })
        .await
    }

    /// Notes what is left of it asleep; none while that changes.
    pub async fn note_held(&self, id: EnvId, held: Option<Held>) -> Result<(), StoreError> {
        self.note(move |t| {
            let held = held.map(|held| print(&held));
            t.execute("UPDATE environments SET memory_asleep = ?2 WHERE id = ?1", params![id.0, held])?;
            Ok(())
        })
        .await
    }

    /// Whether `scripts.postdeploy` has run, or no deploy needs to run it any more.
    pub async fn is_postdeployed(&self, id: EnvId) -> Result<bool, StoreError> {
        self.call(move |t| {
            let sql = "SELECT postdeployed_at IS NOT NULL FROM environments WHERE id = ?1";
            Ok(t.query_row(sql, [id.0], |row| row.get(0)).optional()?.unwrap_or(true))
        })
        .await
    }

    /// Notes that it has run; none: it is to run with the next deploy.
    pub async fn set_postdeployed(&self, id: EnvId, at: Option<i64>) -> Result<(), StoreError> {
        self.call(move |t| {
            t.execute("UPDATE environments SET postdeployed_at = ?2 WHERE id = ?1", params![id.0, at])?;
            Ok(())
        })
        .await
    }

    /// The number of the environment's next container, counted from 1 and never given twice.
    pub async fn next_container(&self, id: EnvId) -> Result<u32, StoreError> {
        self.note(move |t| {
            let sql = "UPDATE environments SET containers = containers + 1 WHERE id = ?1 RETURNING containers";
            Ok(t.query_row(sql, [id.0], |row| row.get(0))?)
        })
        .await
    }

    /// Removes an environment with its releases and variables. What it has on servers has to go from now on.
    pub async fn remove_environment(&self, id: EnvId) -> Result<(), StoreError> {
        self.call(move |t| {
            t.execute("DELETE FROM variables WHERE environment = ?1", [id.0])?;
            t.execute("UPDATE services SET state = 'dropping', environment = NULL WHERE environment = ?1", [id.0])?;
            t.execute("DELETE FROM volumes WHERE environment = ?1", [id.0])?;
            t.execute("DELETE FROM ports WHERE environment = ?1", [id.0])?;
            t.execute("DELETE FROM environments WHERE id = ?1", [id.0])?;
            Ok(())
        })
        .await
    }
}

fn set_state(t: &Transaction, id: EnvId, state: &str) -> Result<(), StoreError> {
    t.execute("UPDATE environments SET state = ?2 WHERE id = ?1", params![id.0, state])?;
    Ok(())
}

fn set_live(t: &Transaction, id: EnvId, live: LiveRow, now: i64) -> Result<(), StoreError> {
    let LiveRow { release, container, upstream } = live;
    t.execute(
        "UPDATE releases SET status = 'retired' WHERE environment = ?1 AND status = 'live' AND number <> ?2",
        params![id.0, release.0],
    )?;
    t.execute(
        "UPDATE releases SET status = 'live', ended_at = coalesce(ended_at, ?3) WHERE environment = ?1 AND number = ?2",
        params![id.0, release.0, now],
    )?;
    t.execute(
        "UPDATE environments SET live = ?2, container = ?3, upstream = ?4, down_since = NULL,
            postdeployed_at = CASE WHEN live IS ?2 THEN postdeployed_at ELSE coalesce(postdeployed_at, ?5) END
         WHERE id = ?1",
        params![id.0, release.0, container.0, upstream.map(|address| address.to_string()), now],
    )?;
    Ok(())
}

impl EnvRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let live: Option<u32> = row.get(7)?;
        let container: Option<String> = row.get(8)?;
        let upstream: Option<String> = row.get(9)?;
        let upstream = upstream
            .map(|text| text.parse().map_err(|_| StoreError::Corrupt(format!("upstream `{text}`"))))
            .transpose()?;
        Ok(Self {
            id: EnvId(row.get(0)?),
            name: EnvRef::new(name::<AppName>(&row.get::<_, String>(1)?)?, name::<EnvName>(&row.get::<_, String>(2)?)?),
            host: row.get(3)?,
            origin: parse("origin", &row.get::<_, String>(4)?)?,
            state: row.get(5)?,
            formation: parse("formation", &row.get::<_, String>(6)?)?,
            live: live.zip(container).map(|(release, container)| LiveRow {
                release: ReleaseNumber(release),
                container: ContainerId(container),
                upstream,
            }),
            created_at: row.get(10)?,
            settings: parse("settings", &row.get::<_, String>(11)?)?,
            app_settings: parse("settings", &row.get::<_, String>(12)?)?,
            asked: row.get::<_, Option<String>>(13)?.map_or(Ok(Settings::default()), |text| parse("content", &text))?,
            memory: MemoryRow {
                awake: row.get::<_, Option<i64>>(14)?.map(|bytes| bytes as u64),
                asleep: row.get::<_, Option<String>>(15)?.map(|text| parse("memory", &text)).transpose()?,
                down_since: row.get::<_, Option<i64>>(16)?.map(|at| Timestamp(at as u64)),
            },
            gate_generation: row.get(17)?,
            gate_password: row.get::<_, Option<String>>(18)?.map(Hashed),
        })
    }
}

impl Store {
    /// The release that serves `env`, if one does.
    pub async fn live_release(&self, env: &EnvRow) -> Result<Option<super::ReleaseRow>, StoreError> {
        match &env.live {
            Some(live) => self.release(env.id, live.release).await,
            None => Ok(None),
        }
    }

    /// The environment with this id, if it is there still.
    pub async fn environment_of(&self, id: EnvId) -> Result<Option<EnvRow>, StoreError> {
        self.call(move |t| {
            let mut query = t.prepare(&format!("{ENVIRONMENT} WHERE id = ?1"))?;
            let mut rows = query.query([id.0])?;
            rows.next()?.map(EnvRow::from_row).transpose()
        })
        .await
    }
}
