//! Apps and what fetches their repositories.

use flyloft_core::gate::Hashed;
use flyloft_core::name::AppName;
use flyloft_core::policy::Settings;
use rusqlite::{OptionalExtension, Row, params};

use super::{Store, StoreError, name, parse, print};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppRow {
    pub name: AppName,
    /// Where pull requests and branches are fetched from; none if the app is only pushed to.
    pub git_url: Option<String>,
    pub created_at: i64,
    pub environments: u32,
    /// What is set for its environments.
    pub settings: Settings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    Token,
    DeployKey,
}

/// How an app's private repository is read. Bound to one host.
#[derive(Clone, PartialEq, Eq)]
pub struct CredentialRow {
    pub kind: CredentialKind,
    pub host: String,
    pub username: String,
    /// The token, or the private key in OpenSSH's format.
    pub secret: String,
}

const APP: &str = "SELECT name, git_url, created_at,
    (SELECT count(*) FROM environments WHERE environments.app = apps.name), settings FROM apps";

impl Store {
    /// Makes the app. Says whether it is new; an app that is there already keeps its URL.
    pub async fn create_app(&self, app: &AppName, git_url: Option<&str>, now: i64) -> Result<bool, StoreError> {
        let (app, url) = (app.to_string(), git_url.map(str::to_owned));
        self.call(move |t| {
            // The first generation is one that no earlier app of this name has had, and so are its layers and caches.
            let sql = "INSERT INTO apps (name, git_url, created_at, generation) VALUES (?1, ?2, ?3, ?3)
                       ON CONFLICT DO NOTHING";
            Ok(t.execute(sql, params![app, url, now])? == 1)
        })
        .await
    }

    pub async fn set_app_url(&self, app: &AppName, git_url: &str) -> Result<(), StoreError> {
        let (app, url) = (app.to_string(), git_url.to_owned());
        self.call(move |t| {
            t.execute("UPDATE apps SET git_url = ?2 WHERE name = ?1", params![app, url])?;
            Ok(())
        })
        .await
    }

    pub async fn set_app_settings(&self, app: &AppName, settings: &Settings) -> Result<(), StoreError> {
        let (app, settings) = (app.to_string(), print(settings));
        self.call(move |t| {
            t.execute("UPDATE apps SET settings = ?2 WHERE name = ?1", params![app, settings])?;
            Ok(())
        })
        .await
    }

    pub async fn set_gate_password(&self, app: &AppName, password: Hashed) -> Result<(), StoreError> {
        let app = app.to_string();
        self.call(move |t| {
            t.execute("UPDATE apps SET gate_password = ?2 WHERE name = ?1", params![app, password.0])?;
            Ok(())
        })
        .await
    }

    /// How often the app was built anew from nothing; one more than before if `anew`.
    pub async fn generation(&self, app: &AppName, anew: bool) -> Result<u64, StoreError> {
        let app = app.to_string();
        self.note(move |t| {
            let sql = "UPDATE apps SET generation = generation + ?2 WHERE name = ?1 RETURNING generation";
            Ok(t.query_row(sql, params![app, anew], |row| row.get::<_, i64>(0))? as u64)
        })
        .await
    }

    pub async fn app(&self, app: &AppName) -> Result<Option<AppRow>, StoreError> {
        let app = app.to_string();
        self.call(move |t| {
            let row = t.query_row(&format!("{APP} WHERE name = ?1"), [app], columns).optional()?;
            row.map(AppRow::from_columns).transpose()
        })
        .await
    }

    pub async fn apps(&self) -> Result<Vec<AppRow>, StoreError> {
        self.call(|t| {
            let mut query = t.prepare(&format!("{APP} ORDER BY name"))?;
            query.query_map([], columns)?.map(|row| AppRow::from_columns(row?)).collect()
        })
        .await
    }

    /// Removes an app, unless it has environments still. Says whether it is gone.
    pub async fn remove_app(&self, app: &AppName) -> Result<bool, StoreError> {
        let app = app.to_string();
        self.call(move |t| {
            let sql = "SELECT EXISTS (SELECT 1 FROM environments WHERE app = ?1)";
            if t.query_row(sql, [&app], |row| row.get(0))? {
                return Ok(false);
            }
            t.execute("DELETE FROM key_apps WHERE app = ?1", [&app])?;
            t.execute("DELETE FROM volume_templates WHERE app = ?1", [&app])?;
            t.execute("DELETE FROM apps WHERE name = ?1", [&app])?;
            Ok(true)
        })
        .await
    }

    pub async fn set_credential(&self, app: &AppName, credential: CredentialRow) -> Result<(), StoreError> {
        let app = app.to_string();
        self.call(move |t| {
            let sql = "INSERT OR REPLACE INTO credentials (app, kind, host, username, secret) VALUES (?, ?, ?, ?, ?)";
            let CredentialRow { kind, host, username, secret } = credential;
            t.execute(sql, params![app, kind.as_str(), host, username, secret])?;
            Ok(())
        })
        .await
    }

    pub async fn credential(&self, app: &AppName) -> Result<Option<CredentialRow>, StoreError> {
        let app = app.to_string();
        self.call(move |t| {
            let sql = "SELECT kind, host, username, secret FROM credentials WHERE app = ?1";
            let row = t.query_row(sql, [app], |row| {
                let kind =
                    if row.get::<_, String>(0)? == "token" { CredentialKind::Token } else { CredentialKind::DeployKey };
                Ok(CredentialRow { kind, host: row.get(1)?, username: row.get(2)?, secret: row.get(3)? })
            });
            Ok(row.optional()?)
        })
        .await
    }
}

impl CredentialKind {
    fn as_str(self) -> &'static str {
        match self {
            CredentialKind::Token => "token",
            CredentialKind::DeployKey => "deploy-key",
        }
    }
}

type Columns = (String, Option<String>, i64, u32, String);

fn columns(row: &Row) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

impl AppRow {
    fn from_columns((app, git_url, created_at, environments, settings): Columns) -> Result<Self, StoreError> {
        Ok(Self { name: name(&app)?, git_url, created_at, environments, settings: parse("settings", &settings)? })
    }
}
