//! What makes databases and the like on servers that somebody runs. A narrow trait, with one driver for each kind.
//!
//! A driver sees neither the store nor other drivers: what it is to do, and whose label that carries, is told. All of it is
//! idempotent.

#[cfg(test)]
#[path = "../../tests/it/postgres.rs"]
pub mod bench;
pub mod error;
pub mod postgres;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flyloft_core::service::{Kind, ServerUrl};
use serde::Serialize;

pub use error::{Fault, ServiceError};

/// Not shown where it is printed for debugging.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A server, and what opens it.
#[derive(Clone, Debug)]
pub struct Server {
    /// As the administrator calls it.
    pub name: String,
    pub url: ServerUrl,
    pub password: Secret,
    /// Certificates that vouch for it, as PEM; those that the machine trusts if there are none.
    pub ca: Option<String>,
}

/// What a server that is well says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Such as `15.8`.
    pub version: String,
    /// Connections that clients have now, and how many there may be.
    pub connections: u32,
    pub max_connections: u32,
}

/// By what a thing on a server is known, and known to be ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Of lower-case letters, digits and `_`, 63 at most.
    pub name: String,
    /// The comment that it carries.
    pub text: String,
}

/// What an environment is to get.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub label: Label,
    pub password: Secret,
    /// How many it may open at once.
    pub connections: u32,
}

#[async_trait]
pub trait Driver: Send + Sync {
    /// Whether the server can be reached, and lets its administrator do all that is needed.
    async fn check(&self, server: &Server) -> Result<Health, ServiceError>;

    /// Makes it, or finds it made. What has the name and not the label is left alone: [`Fault::Taken`].
    async fn provide(&self, server: &Server, wanted: &Wanted) -> Result<(), ServiceError>;

    /// Ends who uses it, and leaves nothing of it. What has the name and not the label is left alone.
    async fn remove(&self, server: &Server, label: &Label) -> Result<(), ServiceError>;

    /// Ends connections of these on which nothing has happened for so long. Gives the names of those that still have some.
    /// Where connections that nobody uses cost next to nothing, none is ended.
    async fn hang_up(&self, server: &Server, labels: &[Label], quiet: Duration) -> Result<Vec<String>, ServiceError> {
        let _ = (server, labels, quiet);
        Ok(Vec::new())
    }

    /// How an app finds it.
    fn variables(&self, server: &Server, wanted: &Wanted, alias: Option<&str>) -> Vec<(String, String)>;
}

/// The driver of each kind.
#[derive(Clone)]
pub struct Drivers {
    pub postgres: Arc<dyn Driver>,
}

impl Drivers {
    pub fn of(&self, kind: Kind) -> &dyn Driver {
        match kind {
            Kind::Postgres => &*self.postgres,
        }
    }
}
