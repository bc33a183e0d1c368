//! Data on servers that databases begin with. On record before they are made, and until they are known to be gone.

use flyloft_core::service::{Kind, TemplateName};
use rusqlite::{OptionalExtension, Row, params};

use super::{Store, StoreError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateRow {
    pub id: i64,
    /// None once it is to go.
    pub name: Option<TemplateName>,
    pub server: String,
    pub kind: Kind,
    /// On the server.
    pub database: String,
    /// See [`crate::vault`].
    pub password: Vec<u8>,
    pub is_ready: bool,
    pub created_at: i64,
}

/// See [`Store::begin_template`].
#[derive(Clone, Debug)]
pub struct NewTemplate {
    pub name: TemplateName,
    pub server: String,
    pub kind: Kind,
    pub database: String,
    pub password: Vec<u8>,
}

const TEMPLATE: &str = "SELECT id, name, server, kind, database, password, state, created_at FROM templates";

impl Store {
    /// Puts on record what is about to be made. None if there is one of that name already.
    pub async fn begin_template(&self, new: NewTemplate, now: i64) -> Result<Option<TemplateRow>, StoreError> {
        self.call(move |t| {
            let NewTemplate { name, server, kind, database, password } = new;
            let made = t.execute(
                "INSERT INTO templates (name, server, kind, database, password, state, created_at)
                 VALUES (?, ?, ?, ?, ?, 'making', ?) ON CONFLICT (name) DO NOTHING",
                params![name.as_str(), server, kind.as_str(), database, password, now],
            )?;
            if made == 0 {
                return Ok(None);
            }
            let mut query = t.prepare(&format!("{TEMPLATE} WHERE id = ?1"))?;
            let mut rows = query.query([t.last_insert_rowid()])?;
            rows.next()?.map(TemplateRow::from_row).transpose()
        })
        .await
    }

    pub async fn template_is_ready(&self, id: i64) -> Result<(), StoreError> {
        self.call(move |t| {
            t.execute("UPDATE templates SET state = 'ready' WHERE id = ?1 AND state = 'making'", [id])?;
            Ok(())
        })
        .await
    }

    pub async fn template(&self, name: &TemplateName) -> Result<Option<TemplateRow>, StoreError> {
        let name = name.as_str().to_owned();
        self.call(move |t| {
            let mut query = t.prepare(&format!("{TEMPLATE} WHERE name = ?1"))?;
            let mut rows = query.query([name])?;
            rows.next()?.map(TemplateRow::from_row).transpose()
        })
        .await
    }

    /// All that have a name, by it.
    pub async fn templates(&self) -> Result<Vec<TemplateRow>, StoreError> {
        self.templates_where("name IS NOT NULL ORDER BY name").await
    }

    /// Those that have to go.
    pub async fn stray_templates(&self) -> Result<Vec<TemplateRow>, StoreError> {
        self.templates_where("state = 'dropping' ORDER BY id").await
    }

    async fn templates_where(&self, what: &'static str) -> Result<Vec<TemplateRow>, StoreError> {
        self.call(move |t| {
            let mut query = t.prepare(&format!("{TEMPLATE} WHERE {what}"))?;
            let mut rows = query.query([])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(TemplateRow::from_row(row)?);
            }
            Ok(all)
        })
        .await
    }

    /// It has to go, and its name is free. Says whether it was there.
    pub async fn drop_template(&self, id: i64) -> Result<bool, StoreError> {
        self.call(move |t| {
            let sql = "UPDATE templates SET state = 'dropping', name = NULL WHERE id = ?1 AND name IS NOT NULL";
            Ok(t.execute(sql, [id])? == 1)
        })
        .await
    }

    /// What the last daemon was making has to go.
    pub async fn abandon_templates(&self) -> Result<(), StoreError> {
        self.call(|t| {
            t.execute("UPDATE templates SET state = 'dropping', name = NULL WHERE state = 'making'", [])?;
            Ok(())
        })
        .await
    }

    /// It is gone.
    pub async fn forget_template(&self, id: i64) -> Result<(), StoreError> {
        self.call(move |t| {
            t.execute("DELETE FROM templates WHERE id = ?1 AND state = 'dropping'", [id])?;
            Ok(())
        })
        .await
    }

    /// Whether any template is on that server, or has to go from it.
    pub async fn has_templates(&self, server: &str) -> Result<bool, StoreError> {
        let server = server.to_owned();
        self.call(move |t| {
            let found = t.query_row("SELECT 1 FROM templates WHERE server = ?1", [server], |_| Ok(())).optional()?;
            Ok(found.is_some())
        })
        .await
    }
}

impl TemplateRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let corrupt = |error: &dyn std::fmt::Display| StoreError::Corrupt(error.to_string());
        let name = row.get::<_, Option<String>>(1)?.map(|name| TemplateName::parse(&name)).transpose();
        let kind = row.get::<_, String>(3)?.parse::<Kind>();
        Ok(Self {
            id: row.get(0)?,
            name: name.map_err(|error| corrupt(&error))?,
            server: row.get(2)?,
            kind: kind.map_err(|error| corrupt(&error))?,
            database: row.get(4)?,
            password: row.get(5)?,
            is_ready: row.get::<_, String>(6)? == "ready",
            created_at: row.get(7)?,
        })
    }
}
