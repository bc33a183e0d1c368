//! Servers of databases and the like. Their passwords are sealed before they come here.

use flyloft_core::service::{Kind, ServerUrl};
use rusqlite::{Row, params};

use super::{Store, StoreError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    pub name: String,
    pub url: ServerUrl,
    /// See [`crate::vault`].
    pub password: Vec<u8>,
    /// Certificates that vouch for it, as PEM.
    pub ca: Option<String>,
    pub created_at: i64,
}

const SERVER: &str = "SELECT name, kind, url, password, ca, created_at FROM servers";

impl Store {
    /// Says whether the name was free.
    pub async fn add_server(&self, server: ServerRow) -> Result<bool, StoreError> {
        self.call(move |t| {
            let ServerRow { name, url, password, ca, created_at } = server;
            let added = t.execute(
                "INSERT OR IGNORE INTO servers (name, kind, url, password, ca, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                params![name, url.kind.as_str(), url.to_string(), password, ca, created_at],
            )?;
            Ok(added == 1)
        })
        .await
    }

    /// All of them, by name.
    pub async fn servers(&self) -> Result<Vec<ServerRow>, StoreError> {
        self.call(|t| {
            let mut query = t.prepare(&format!("{SERVER} ORDER BY name"))?;
            let mut rows = query.query([])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(ServerRow::from_row(row)?);
            }
            Ok(all)
        })
        .await
    }

    pub async fn server(&self, name: &str) -> Result<Option<ServerRow>, StoreError> {
        let name = name.to_owned();
        self.call(move |t| {
            let mut query = t.prepare(&format!("{SERVER} WHERE name = ?1"))?;
            let mut rows = query.query([name])?;
            rows.next()?.map(ServerRow::from_row).transpose()
        })
        .await
    }
}

impl ServerRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let kind: Kind = row.get::<_, String>(1)?.parse().map_err(|error| StoreError::Corrupt(format!("{error}")))?;
        let (url, _) = ServerUrl::parse(kind, &row.get::<_, String>(2)?)
            .map_err(|error| StoreError::Corrupt(error.to_string()))?;
        Ok(Self { name: row.get(0)?, url, password: row.get(3)?, ca: row.get(4)?, created_at: row.get(5)? })
    }
}
