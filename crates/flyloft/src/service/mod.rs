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
    /// On the same server, whose data it begins with.
    pub seed: Option<Label>,
}

/// Programs of Debian's for people, and how they find a database. None of it has an argument that is secret, or that
/// somebody else has chosen.
#[derive(Clone, Debug)]
pub struct Client {
    pub packages: &'static [&'static str],
    pub env: Vec<(String, String)>,
    /// For a person at a terminal.
    pub shell: Vec<String>,
    /// Writes all data to standard output, and reads them from standard input.
    pub dump: Vec<String>,
    pub restore: Vec<String>,
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

    /// Whether it gives what is made the data of [`Wanted::seed`].
    fn copies(&self) -> bool {
        false
    }

    /// Gives it the data that it begins with anew, in place of what it has. That stays until the new ones are whole; then
    /// whoever is connected is cut.
    async fn renew(&self, server: &Server, wanted: &Wanted) -> Result<(), ServiceError> {
        let _ = wanted;
        Err(no_data(server))
    }

    /// Makes an empty one aside, to be filled while the other is in use. One that is there is dropped before. Gives what
    /// finds it; [`Driver::put_in_place`] or [`Driver::drop_aside`] is its end.
    async fn open_aside(&self, server: &Server, wanted: &Wanted) -> Result<Client, ServiceError> {
        let _ = wanted;
        Err(no_data(server))
    }

    /// What was filled aside takes the place of what is there.
    async fn put_in_place(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        let _ = label;
        Err(no_data(server))
    }

    async fn drop_aside(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        let _ = label;
        Err(no_data(server))
    }

    /// Makes a template of what was made and filled: nobody connects to it any more, and only
    /// [`Driver::remove_template`] drops it.
    async fn seal(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        let _ = label;
        Err(no_data(server))
    }

    /// As [`Driver::remove`], for what was sealed.
    async fn remove_template(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        let _ = label;
        Err(no_data(server))
    }

    /// How people get at it.
    fn client(&self, server: &Server, wanted: &Wanted) -> Result<Client, ServiceError> {
        let _ = wanted;
        Err(ServiceError::new(server, Fault::NotOfThisKind("flyloft starts no client")))
    }

    /// How an app finds it.
    fn variables(&self, server: &Server, wanted: &Wanted, alias: Option<&str>) -> Vec<(String, String)>;
}

fn no_data(server: &Server) -> ServiceError {
    ServiceError::new(server, Fault::NotOfThisKind("flyloft keeps no data to begin with"))
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
