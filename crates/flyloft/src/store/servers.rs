//! Servers of databases and the like. Their passwords are sealed before they come here.

use std::path::Path;

use flyloft_core::plan::Stack;
use flyloft_core::service::managed::{Outfit, Share};
use flyloft_core::service::{Kind, ServerUrl};
use rusqlite::{Connection, Row, params};

use super::{Store, StoreError, VERSION, read_only, version};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    pub name: String,
    /// Of one that the daemon runs itself the host says nothing.
    pub url: ServerUrl,
    /// See [`crate::vault`].
    pub password: Vec<u8>,
    /// Certificates that vouch for it, as PEM.
    pub ca: Option<String>,
    /// It is one that the daemon runs itself.
    pub managed: Option<ManagedRow>,
    pub created_at: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedRow {
    /// Given by the store.
    pub id: i64,
    pub outfit: Outfit,
}

const SERVER: &str = "SELECT name, kind, url, password, ca, created_at, id, stack, edition, memory, disk
    FROM servers LEFT JOIN managed ON server = name";

impl Store {
    /// Says whether the name was free.
    pub async fn add_server(&self, server: ServerRow) -> Result<bool, StoreError> {
        self.call(move |t| {
            let ServerRow { name, url, password, ca, managed, created_at } = server;
            let added = t.execute(
                "INSERT OR IGNORE INTO servers (name, kind, url, password, ca, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                params![name, url.kind.as_str(), url.to_string(), password, ca, created_at],
            )?;
            if let Some(ManagedRow { outfit: Outfit { stack, edition, share }, .. }) = managed.filter(|_| added == 1) {
                t.execute(
                    "INSERT INTO managed (server, stack, edition, memory, disk) VALUES (?, ?, ?, ?, ?)",
                    params![name, stack.name(), edition, share.memory as i64, share.disk as i64],
                )?;
            }
            Ok(added == 1)
        })
        .await
    }

    /// Says whether there is one of that name.
    pub async fn change_server(&self, server: ServerRow) -> Result<bool, StoreError> {
        self.call(move |t| {
            let ServerRow { name, url, password, ca, .. } = server;
            let changed = t.execute(
                "UPDATE servers SET url = ?, password = ?, ca = ? WHERE name = ?",
                params![url.to_string(), password, ca, name],
            )?;
            Ok(changed == 1)
        })
        .await
    }

    /// Of a server that the daemon runs itself. Says whether it is still on record.
    pub async fn set_outfit(&self, id: i64, outfit: Outfit) -> Result<bool, StoreError> {
        self.call(move |t| {
            let Outfit { stack, edition, share } = outfit;
            let set = t.execute(
                "UPDATE managed SET stack = ?2, edition = ?3, memory = ?4, disk = ?5 WHERE id = ?1",
                params![id, stack.name(), edition, share.memory as i64, share.disk as i64],
            )?;
            Ok(set == 1)
        })
        .await
    }

    /// All of them, by name.
    pub async fn servers(&self) -> Result<Vec<ServerRow>, StoreError> {
        self.call(|t| all(t)).await
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

/// All of those in a store that somebody else may have open. None where that is an older one.
pub fn servers_in(path: &Path) -> Result<Vec<ServerRow>, StoreError> {
    let connection = read_only(path)?;
    match version(&connection, path)? {
        VERSION => all(&connection),
        _ => Ok(Vec::new()),
    }
}

fn all(connection: &Connection) -> Result<Vec<ServerRow>, StoreError> {
    let mut query = connection.prepare(&format!("{SERVER} ORDER BY name"))?;
    let mut rows = query.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(ServerRow::from_row(row)?);
    }
    Ok(all)
}

impl ServerRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let kind: Kind = row.get::<_, String>(1)?.parse().map_err(|error| StoreError::Corrupt(format!("{error}")))?;
        let (url, _) = ServerUrl::parse(kind, &row.get::<_, String>(2)?)
            .map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let managed = match row.get::<_, Option<i64>>(6)? {
            Some(id) => Some(ManagedRow { id, outfit: outfit(row)? }),
            None => None,
        };
        let (name, password, ca, created_at) = (row.get(0)?, row.get(3)?, row.get(4)?, row.get(5)?);
        Ok(Self { name, url, password, ca, managed, created_at })
    }
}

fn outfit(row: &Row) -> Result<Outfit, StoreError> {
    let stack: String = row.get(7)?;
    let stack = Stack::parse(&stack).ok_or_else(|| StoreError::Corrupt(format!("a stack `{stack}`")))?;
    let bytes = |column| Ok::<_, StoreError>(row.get::<_, i64>(column)? as u64);
    Ok(Outfit { stack, edition: row.get(8)?, share: Share { memory: bytes(9)?, disk: bytes(10)? } })
}
