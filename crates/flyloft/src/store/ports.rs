//! Ports of environments that the host publishes. On record before anybody comes by them.

use flyloft_core::name::{AppName, EnvName, EnvRef};
use flyloft_core::port::{Port, Protocol};
use rusqlite::{Row, params};

use super::{EnvId, Store, StoreError, name};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRow {
    pub env: EnvId,
    pub name: EnvRef,
    pub protocol: Protocol,
    /// Of the environment's container.
    pub port: u16,
    pub host_port: u16,
    pub created_at: i64,
}

const PORT: &str = "SELECT environment, app, name, protocol, port, host_port, ports.created_at
                    FROM ports JOIN environments ON environments.id = environment";

impl Store {
    /// Puts a port on record, unless the environment has it published already or is gone, or another one has that port of
    /// the host. Says whether it did.
    pub async fn add_port(&self, env: EnvId, port: Port, now: i64) -> Result<bool, StoreError> {
        self.call(move |t| {
            let added = t.execute(
                "INSERT INTO ports (environment, protocol, port, host_port, created_at)
                 SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM environments WHERE id = ?1)
                 ON CONFLICT DO NOTHING",
                params![env.0, port.protocol.as_str(), port.port, port.host, now],
            )?;
            Ok(added == 1)
        })
        .await
    }

    pub async fn remove_port(&self, env: EnvId, protocol: Protocol, port: u16) -> Result<(), StoreError> {
        self.call(move |t| {
            let sql = "DELETE FROM ports WHERE environment = ?1 AND protocol = ?2 AND port = ?3";
            Ok(t.execute(sql, params![env.0, protocol.as_str(), port]).map(drop)?)
        })
        .await
    }

    pub async fn ports(&self) -> Result<Vec<PortRow>, StoreError> {
        self.call(|t| {
            let mut query = t.prepare(&format!("{PORT} ORDER BY app, name, port, protocol"))?;
            let mut rows = query.query([])?;
            let mut ports = Vec::new();
            while let Some(row) = rows.next()? {
                ports.push(PortRow::from_row(row)?);
            }
            Ok(ports)
        })
        .await
    }

    pub async fn ports_of(&self, env: EnvId) -> Result<Vec<PortRow>, StoreError> {
        let mut ports = self.ports().await?;
        ports.retain(|row| row.env == env);
        Ok(ports)
    }
}

impl PortRow {
    pub fn port(&self) -> Port {
        Port { protocol: self.protocol, host: self.host_port, port: self.port }
    }

    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let protocol: String = row.get(3)?;
        Ok(Self {
            env: EnvId(row.get(0)?),
            name: EnvRef::new(name::<AppName>(&row.get::<_, String>(1)?)?, name::<EnvName>(&row.get::<_, String>(2)?)?),
            protocol: protocol.parse().map_err(|error| StoreError::Corrupt(format!("{error}")))?,
            port: row.get(4)?,
            host_port: row.get(5)?,
            created_at: row.get(6)?,
        })
    }
}
