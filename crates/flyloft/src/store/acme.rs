//! What is under way with ACME servers. Keys are sealed before they come here.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError};

/// An order that may be gone on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRow {
    /// What the certificate is for.
    pub name: String,
    /// The directory of the server where it was made.
    pub directory: String,
    pub url: String,
    /// See [`crate::vault`].
    pub key: Vec<u8>,
}

impl Store {
    /// What opens the account at a server, sealed.
    pub async fn acme_account(&self, directory: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let directory = directory.to_owned();
        self.call(move |t| {
            let sql = "SELECT credentials FROM acme_accounts WHERE directory = ?";
            Ok(t.query_row(sql, [directory], |row| row.get(0)).optional()?)
        })
        .await
    }

    /// None: it has no such account any more.
    pub async fn set_acme_account(&self, directory: &str, credentials: Option<Vec<u8>>) -> Result<(), StoreError> {
        let directory = directory.to_owned();
        self.call(move |t| {
            t.execute("DELETE FROM acme_accounts WHERE directory = ?", [&directory])?;
            if let Some(credentials) = credentials {
                t.execute("INSERT INTO acme_accounts VALUES (?, ?)", params![directory, credentials])?;
            }
            Ok(())
        })
        .await
    }

    pub async fn acme_order(&self, name: &str) -> Result<Option<OrderRow>, StoreError> {
        let name = name.to_owned();
        self.call(move |t| {
            let sql = "SELECT name, directory, url, key FROM acme_orders WHERE name = ?";
            let order = t.query_row(sql, [name], |row| {
                Ok(OrderRow { name: row.get(0)?, directory: row.get(1)?, url: row.get(2)?, key: row.get(3)? })
            });
            Ok(order.optional()?)
        })
        .await
    }

    /// Puts a new order on record, which counts for a week from now on.
    pub async fn begin_acme_order(&self, order: OrderRow, now: i64) -> Result<(), StoreError> {
        const WEEK: i64 = 7 * 24 * 60 * 60;
        self.call(move |t| {
            let OrderRow { name, directory, url, key } = order;
            t.execute("INSERT INTO acme_ordered VALUES (?, ?)", params![name, now])?;
            t.execute("DELETE FROM acme_ordered WHERE at <= ?", [now - WEEK])?;
            t.execute("INSERT OR REPLACE INTO acme_orders VALUES (?, ?, ?, ?)", params![name, directory, url, key])?;
            Ok(())
        })
        .await
    }

    pub async fn end_acme_order(&self, name: &str) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.call(move |t| {
            t.execute("DELETE FROM acme_orders WHERE name = ?", [name])?;
            Ok(())
        })
        .await
    }

    /// The host names of all environments, and these of the server's own. Orders for others are forgotten.
    pub async fn acme_hosts(&self, own: &[String]) -> Result<Vec<String>, StoreError> {
        let own = serde_json::to_string(own).expect("texts can be written as JSON");
        self.call(move |t| {
            let hosts = "SELECT host FROM environments UNION SELECT value FROM json_each(?)";
            let sql = format!("DELETE FROM acme_orders WHERE name NOT LIKE '*.%' AND name NOT IN ({hosts})");
            t.execute(&sql, [&own])?;
            let mut query = t.prepare(hosts)?;
            let rows = query.query_map([own], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// The orders of the last week, by name and when they were made, the oldest first.
    pub async fn acme_ordered(&self) -> Result<Vec<(String, i64)>, StoreError> {
        self.call(|t| {
            let mut query = t.prepare("SELECT name, at FROM acme_ordered ORDER BY at")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}
