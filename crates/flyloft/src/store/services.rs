//! What environments have on servers. On record before it is made, and until it is known to be gone.

use std::collections::BTreeSet;

use flyloft_core::lifecycle::Timestamp;
use flyloft_core::name::{AppName, EnvName, EnvRef};
use flyloft_core::service::Ask;
use rusqlite::{OptionalExtension, Row, params};

use super::{EnvId, Store, StoreError, name, print};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    pub id: i64,
    /// None once it is destroyed.
    pub env: Option<EnvId>,
    pub server: String,
    pub ask: Ask,
    /// On the server.
    pub name: String,
    /// See [`crate::vault`].
    pub password: Vec<u8>,
    pub state: ServiceState,
    /// Of the database that it has there, where it has one that is told by a number.
    pub number: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceState {
    /// It may be there in part.
    Making,
    Ready,
    /// Its environment is gone, and it has to go as well.
    Dropping,
}

/// See [`Store::begin_service`].
#[derive(Clone, Debug)]
pub struct NewService {
    pub env: EnvId,
    pub server: String,
    pub ask: Ask,
    pub name: String,
    pub password: Vec<u8>,
}

/// What became of a server that was to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgotten {
    Gone,
    Unknown,
    /// By these, and so many that are gone themselves.
    Used(Vec<EnvRef>, usize),
}

const SERVICE: &str = "SELECT id, environment, server, kind, alias, name, password, state, number FROM services";

impl Store {
    /// Puts on record what is about to be made, and gives what was on record already where that is so. None if the
    /// environment is gone.
    pub async fn begin_service(&self, new: NewService, now: i64) -> Result<Option<ServiceRow>, StoreError> {
        self.call(move |t| {
            let NewService { env, server, ask, name, password } = new;
            let there = t.query_row("SELECT 1 FROM environments WHERE id = ?1", [env.0], |_| Ok(())).optional()?;
            if there.is_none() {
                return Ok(None);
            }
            let alias = ask.alias.as_deref().unwrap_or_default();
            let kind = ask.what();
            t.execute(
                "INSERT INTO services (environment, server, kind, alias, name, password, state, created_at)
                 VALUES (?, ?, ?, ?, ?, ?, 'making', ?) ON CONFLICT (environment, kind, alias) DO NOTHING",
                params![env.0, server, kind, alias, name, password, now],
            )?;
            let mut query = t.prepare(&format!("{SERVICE} WHERE environment = ?1 AND kind = ?2 AND alias = ?3"))?;
            let mut rows = query.query(params![env.0, kind, alias])?;
            rows.next()?.map(ServiceRow::from_row).transpose()
        })
        .await
    }

    /// It is there, and has this number if it has one. Says whether it is still on record.
    pub async fn service_is_ready(&self, id: i64, number: Option<u16>) -> Result<bool, StoreError> {
        self.call(move |t| {
            let known = t.execute("UPDATE services SET number = ?2 WHERE id = ?1", params![id, number])?;
            t.execute("UPDATE services SET state = 'ready' WHERE id = ?1 AND state = 'making'", [id])?;
            Ok(known == 1)
        })
        .await
    }

    /// Of all that is on a server but this.
    pub async fn numbers_of_others(&self, server: &str, id: i64) -> Result<BTreeSet<u16>, StoreError> {
        let server = server.to_owned();
        self.call(move |t| {
            let mut query =
                t.prepare("SELECT number FROM services WHERE server = ?1 AND id IS NOT ?2 AND number IS NOT NULL")?;
            let mut rows = query.query(params![server, id])?;
            let mut numbers = BTreeSet::new();
            while let Some(row) = rows.next()? {
                numbers.insert(row.get(0)?);
            }
            Ok(numbers)
        })
        .await
    }

    pub async fn services_of(&self, env: EnvId) -> Result<Vec<ServiceRow>, StoreError> {
        self.services_where("environment = ?1", Some(env.0)).await
    }

    /// What environments have that are there.
    pub async fn services(&self) -> Result<Vec<ServiceRow>, StoreError> {
        self.services_where("environment IS NOT ?1", None).await
    }

    /// What has lost its environment.
    pub async fn stray_services(&self) -> Result<Vec<ServiceRow>, StoreError> {
        self.services_where("environment IS ?1", None).await
    }

    /// What is there of environments that came to rest after `after`, and no later than `until`; and these, if theirs rests
    /// still. Each with the moment at which it came to rest.
    pub async fn services_at_rest(
        &self,
        after: Timestamp,
        until: Timestamp,
        also: &BTreeSet<i64>,
    ) -> Result<Vec<(ServiceRow, Timestamp)>, StoreError> {
        let also = print(also);
        self.call(move |t| {
            let mut query = t.prepare(
                "SELECT services.id, environment, server, kind, alias, services.name, password, services.state,
                    number, down_since
                 FROM services JOIN environments ON environments.id = environment
                 WHERE services.state = 'ready' AND down_since <= ?2
                    AND (down_since > ?1 OR services.id IN (SELECT value FROM json_each(?3))) ORDER BY services.id",
            )?;
            let mut rows = query.query(params![after.0 as i64, until.0 as i64, also])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push((ServiceRow::from_row(row)?, Timestamp(row.get::<_, i64>(9)? as u64)));
            }
            Ok(all)
        })
        .await
    }

    async fn services_where(&self, what: &'static str, of: Option<i64>) -> Result<Vec<ServiceRow>, StoreError> {
        self.call(move |t| {
            let mut query = t.prepare(&format!("{SERVICE} WHERE {what} ORDER BY id"))?;
            let mut rows = query.query([of])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(ServiceRow::from_row(row)?);
            }
            Ok(all)
        })
        .await
    }

    /// It is gone.
    pub async fn forget_service(&self, id: i64) -> Result<(), StoreError> {
        self.call(move |t| {
            t.execute("DELETE FROM services WHERE id = ?1 AND state = 'dropping'", [id])?;
            Ok(())
        })
        .await
    }

    /// Forgets a server on which nothing of ours is.
    pub async fn forget_server(&self, server: &str) -> Result<Forgotten, StoreError> {
        let server = server.to_owned();
        self.call(move |t| {
            let mut query = t.prepare(
                "SELECT app, environments.name FROM services LEFT JOIN environments ON environments.id = environment
                 WHERE server = ?1 ORDER BY app, environments.name",
            )?;
            let (mut users, mut strays) = (Vec::new(), 0);
            let mut rows = query.query([&server])?;
            while let Some(row) = rows.next()? {
                match (row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?) {
                    (Some(app), Some(env)) => {
                        users.push(EnvRef::new(name::<AppName>(&app)?, name::<EnvName>(&env)?));
                    }
                    _ => strays += 1,
                }
            }
            if strays > 0 || !users.is_empty() {
                users.dedup();
                return Ok(Forgotten::Used(users, strays));
            }
            t.execute("DELETE FROM managed WHERE server = ?1", [&server])?;
            let gone = t.execute("DELETE FROM servers WHERE name = ?1", [&server])?;
            Ok(if gone == 1 { Forgotten::Gone } else { Forgotten::Unknown })
        })
        .await
    }
}

impl ServiceRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let alias: String = row.get(4)?;
        let ask = Ask::parse(&row.get::<_, String>(3)?, Some(alias.as_str()).filter(|alias| !alias.is_empty()))
            .map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let state = match row.get::<_, String>(7)?.as_str() {
            "making" => ServiceState::Making,
            "ready" => ServiceState::Ready,
            "dropping" => ServiceState::Dropping,
            other => return Err(StoreError::Corrupt(format!("state `{other}` of a service"))),
        };
        Ok(Self {
            id: row.get(0)?,
            env: row.get::<_, Option<i64>>(1)?.map(EnvId),
            server: row.get(2)?,
            ask,
            name: row.get(5)?,
            password: row.get(6)?,
            state,
            number: row.get(8)?,
        })
    }
}
