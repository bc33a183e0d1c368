//! Variables of apps, of all pull requests of an app, and of environments.

use std::collections::BTreeMap;

use flyloft_core::name::AppName;
use rusqlite::params;

use super::{EnvId, Store, StoreError};

/// Whose variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    App,
    /// All environments of the app that are of pull requests.
    PullRequests,
    Environment(EnvId),
}

impl Scope {
    /// In the column `environment`. Ids of environments are positive.
    fn column(self) -> i64 {
        match self {
            Scope::App => 0,
            Scope::PullRequests => -1,
            Scope::Environment(id) => id.0,
        }
    }
}

impl Store {
    /// Sets (`Some`) and unsets (`None`) variables.
    pub async fn set_variables(
        &self,
        app: &AppName,
        of: Scope,
        changes: BTreeMap<String, Option<String>>,
    ) -> Result<(), StoreError> {
        self.set_variables_for(app, of, changes, false).await
    }

    /// The same; those of an app are for pull requests, too, if they are `shared`.
    pub async fn set_variables_for(
        &self,
        app: &AppName,
        of: Scope,
        changes: BTreeMap<String, Option<String>>,
        shared: bool,
    ) -> Result<(), StoreError> {
        let (app, id) = (app.to_string(), of.column());
        self.call(move |t| {
            for (name, value) in changes {
                match value {
                    Some(value) => t.execute(
                        "INSERT OR REPLACE INTO variables (app, environment, name, value, shared)
                         VALUES (?, ?, ?, ?, ?)",
                        params![app, id, name, value, shared],
                    )?,
                    None => t.execute(
                        "DELETE FROM variables WHERE app = ? AND environment = ? AND name = ?",
                        params![app, id, name],
                    )?,
                };
            }
            Ok(())
        })
        .await
    }

    /// Those of an app that pull requests have as well.
    pub async fn shared_variables(&self, app: &AppName) -> Result<BTreeMap<String, String>, StoreError> {
        let app = app.to_string();
        self.call(move |t| {
            let mut query =
                t.prepare("SELECT name, value FROM variables WHERE app = ? AND environment = 0 AND shared")?;
            let rows = query.query_map([app], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Those alone that are set for this.
    pub async fn variables(&self, app: &AppName, of: Scope) -> Result<BTreeMap<String, String>, StoreError> {
        let (app, id) = (app.to_string(), of.column());
        self.call(move |t| {
            let mut query = t.prepare("SELECT name, value FROM variables WHERE app = ? AND environment = ?")?;
            let rows = query.query_map(params![app, id], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}
