//! SSH keys of people and machines.

use flyloft_core::name::AppName;
use rusqlite::{Transaction, params};

use super::{Store, StoreError, name};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    pub name: String,
    /// OpenSSH's one-line form: type and base64, no comment.
    pub public_key: String,
    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fingerprint: String,
    pub admin: bool,
    /// What a key that is not an admin's may deploy.
    pub apps: Vec<AppName>,
    pub created_at: i64,
}

impl Store {
    /// Adds a key, or gives the name that already has it.
    pub async fn add_key(&self, key: KeyRow) -> Result<Result<(), String>, StoreError> {
        self.call(move |t| {
            let taken = all(t)?.into_iter().find(|k| k.name == key.name || k.fingerprint == key.fingerprint);
            if let Some(taken) = taken {
                return Ok(Err(taken.name));
            }
            t.execute(
                "INSERT INTO keys (name, public_key, fingerprint, admin, created_at) VALUES (?, ?, ?, ?, ?)",
                params![key.name, key.public_key, key.fingerprint, key.admin, key.created_at],
            )?;
            for app in &key.apps {
                t.execute("INSERT INTO key_apps (key, app) VALUES (?, ?)", params![key.name, app.as_str()])?;
            }
            Ok(Ok(()))
        })
        .await
    }

    pub async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        self.call(all).await
    }

    pub async fn key_by_fingerprint(&self, fingerprint: &str) -> Result<Option<KeyRow>, StoreError> {
        let fingerprint = fingerprint.to_owned();
        self.call(move |t| Ok(all(t)?.into_iter().find(|key| key.fingerprint == fingerprint))).await
    }

    /// Says whether there was such a key.
    pub async fn remove_key(&self, key: &str) -> Result<bool, StoreError> {
        let key = key.to_owned();
        self.call(move |t| Ok(t.execute("DELETE FROM keys WHERE name = ?1", [key])? == 1)).await
    }
}

fn all(t: &Transaction) -> Result<Vec<KeyRow>, StoreError> {
    let mut apps = t.prepare("SELECT app FROM key_apps WHERE key = ?1 ORDER BY app")?;
    let mut query = t.prepare("SELECT name, public_key, fingerprint, admin, created_at FROM keys ORDER BY name")?;
    let rows = query.query_map([], |row| {
        Ok(KeyRow {
            name: row.get(0)?,
            public_key: row.get(1)?,
            fingerprint: row.get(2)?,
            admin: row.get(3)?,
            apps: Vec::new(),
            created_at: row.get(4)?,
        })
    })?;
    let mut keys = Vec::new();
    for row in rows {
        let mut key = row?;
        let names = apps.query_map([&key.name], |row| row.get::<_, String>(0))?;
        key.apps = names.map(|app| name(&app?)).collect::<Result<_, _>>()?;
        keys.push(key);
    }
    Ok(keys)
}
