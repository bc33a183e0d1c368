//! What makes databases and the like on servers that somebody runs. A narrow trait, with one driver for each kind.
//!
//! A driver sees neither the store nor other drivers: what it is to do, and whose label that carries, is told. All of it is
//! idempotent.

#[cfg(test)]
#[path = "../../tests/it/postgres.rs"]
pub mod bench;
pub mod error;
pub mod link;
#[cfg(test)]
#[path = "../../tests/it/mariadb.rs"]
pub mod mariadb_bench;
pub mod mysql;
#[cfg(test)]
pub use crate::own_server;
pub mod postgres;
pub mod rabbitmq;
#[cfg(test)]
#[path = "../../tests/it/rabbitmq.rs"]
pub mod rabbitmq_bench;
pub mod redis;
#[cfg(test)]
#[path = "../../tests/it/redis.rs"]
pub mod redis_bench;
pub mod tls;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flyloft_core::service::{Isolation, Kind, ServerUrl, authority_file};
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
    /// Where it is as well, where that is known without asking for a name.
    pub beside: Option<IpAddr>,
}

impl Server {
    /// With certificates of its own it is meant to be, whatever its URL says.
    pub fn is_encrypted(&self) -> bool {
        self.url.tls || self.ca.is_some()
    }

    /// Where what talks to it in a container finds who vouches for it, if that was named: [`tls::files`].
    pub fn authority_file(&self) -> Option<String> {
        self.ca.as_ref().map(|_| authority_file(&self.name))
    }

    /// The same for an app whose URL cannot say so: each client has other words for it there.
    fn authority_variable(&self, name: &str) -> Option<(String, String)> {
        Some((format!("{name}_SSL_CA"), self.authority_file()?))
    }
}

/// What a server that is well says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Such as `15.8`.
    pub version: String,
    /// Connections that clients have now, and how many there may be, where it says.
    pub connections: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
}

/// By what a thing on a server is known, and known to be ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Of lower-case letters, digits and `_`, 63 at most.
    pub name: String,
    /// The comment that it carries.
    pub text: String,
    /// The database number that it was given, where it has one of its own.
    pub number: Option<u16>,
}

/// What an environment is to get.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub label: Label,
    pub password: Secret,
    /// How many it may open at once.
    pub connections: u32,
    pub isolation: Isolation,
    /// Database numbers that others have had from here, whatever the server knows of them.
    pub taken: BTreeSet<u16>,
    /// On the same server, whose data it begins with.
    pub seed: Option<Label>,
}

/// Programs of Debian's for people, and how they find a database. None of it has an argument that is secret, or that
/// somebody else has chosen.
#[derive(Clone, Debug)]
pub struct Client {
    pub packages: &'static [&'static str],
    /// Who they are there.
    pub user: String,
    pub env: Vec<(String, String)>,
    /// For a person at a terminal.
    pub shell: Vec<String>,
    pub dumps: Option<Dumps>,
}

/// What takes all data out of a database, and into one.
#[derive(Clone, Debug)]
pub struct Dumps {
    /// Writes them to standard output.
    pub dump: Vec<String>,
    /// Reads them from standard input.
    pub restore: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// It begins with nothing.
    Never,
    /// The server copies it: [`Wanted::seed`], [`Driver::renew`], [`Driver::put_in_place`].
    Itself,
    /// A dump of the one is read into the other, by programs of these packages: [`Client::dumps`], [`Driver::empty`].
    Dumps(&'static [&'static str]),
}

#[async_trait]
pub trait Driver: Send + Sync {
    /// Whether the server can be reached, and lets its administrator do all that is needed.
    async fn check(&self, server: &Server) -> Result<Health, ServiceError>;

    /// Makes it, or finds it made. What has the name and not the label is left alone: [`Fault::Taken`]. Gives the
    /// database number of its own, where it has one.
    async fn provide(&self, server: &Server, wanted: &Wanted) -> Result<Option<u16>, ServiceError>;

    /// Ends who uses it, and leaves nothing of it. What has the name and not the label is left alone.
    async fn remove(&self, server: &Server, label: &Label) -> Result<(), ServiceError>;

    /// Which of these the server has not: it has forgotten them, or is another one.
    async fn lost(&self, server: &Server, names: &[String]) -> Result<Vec<String>, ServiceError>;

    /// Ends connections of these on which nothing has happened for so long, and on which no statement runs. Gives the names of those that still have some.
    /// Where the server ends those of clients that do not answer by itself, as a RabbitMQ does by its heartbeats, none is ended.
    async fn hang_up(&self, server: &Server, labels: &[Label], quiet: Duration) -> Result<Vec<String>, ServiceError> {
        let _ = (server, labels, quiet);
        Ok(Vec::new())
    }

    /// How what is made gets the data of another one.
    fn copies(&self) -> Copies {
        Copies::Never
    }

    /// Gives it the data that it begins with anew, or none, in place of what it has. That stays until the new ones are
    /// whole; then whoever is connected is cut. Where it is cut off in the middle, [`Driver::provide`] makes what is
    /// missing. Not for what is filled from a dump, which goes by way of [`Driver::open_aside`].
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

    /// Ends who uses it, and leaves nothing in it: for what cannot be put in place.
    async fn empty(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        let _ = label;
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
        self.remove(server, label).await
    }

    /// How people get at it.
    fn client(&self, server: &Server, wanted: &Wanted) -> Result<Client, ServiceError> {
        let _ = wanted;
        Err(ServiceError::new(
            server,
            Fault::NotOfThisKind("flyloft starts no client", "PostgreSQL, MariaDB and Redis"),
        ))
    }

    /// How an app finds it.
    fn variables(&self, server: &Server, wanted: &Wanted, alias: Option<&str>) -> Vec<(String, String)>;
}

pub fn no_data(server: &Server) -> ServiceError {
    ServiceError::new(server, Fault::NotOfThisKind("flyloft keeps no data to begin with", "PostgreSQL and MariaDB"))
}

/// The driver of each kind.
#[derive(Clone)]
pub struct Drivers {
    pub postgres: Arc<dyn Driver>,
    pub mysql: Arc<dyn Driver>,
    pub redis: Arc<dyn Driver>,
    pub rabbitmq: Arc<dyn Driver>,
}

impl Drivers {
    pub fn of(&self, kind: Kind) -> &dyn Driver {
        match kind {
            Kind::Postgres => &*self.postgres,
            Kind::Mysql => &*self.mysql,
            Kind::Redis => &*self.redis,
            Kind::Rabbitmq => &*self.rabbitmq,
        }
    }
}

/// A server in reach answers in milliseconds. One that is busy is given time.
const PATIENCE: Duration = Duration::from_secs(20);

/// What copies a database, or drops one, is as busy as that is large.
const COPYING: Duration = Duration::from_secs(1800);

async fn in_time<T>(server: &Server, work: impl Future<Output = Result<T, ServiceError>>) -> Result<T, ServiceError> {
    within(PATIENCE, server, work).await
}

async fn within<T>(
    patience: Duration,
    server: &Server,
    work: impl Future<Output = Result<T, ServiceError>>,
) -> Result<T, ServiceError> {
    let slow = |_| ServiceError::new(server, Fault::Slow(patience.as_secs()));
    tokio::time::timeout(patience, work).await.map_err(slow)?
}

#[cfg(test)]
mod tests {
    use flyloft_core::service::Ask;

    use super::*;
    use crate::daemon::drivers;

    /// One of each kind, which is not there, and what an environment wants.
    fn servers() -> impl Iterator<Item = (Kind, Server, Wanted)> {
        Kind::ALL.into_iter().zip(["postgres://a@b", "mysql://a@b", "redis://b", "amqp://a@b"]).map(|(kind, url)| {
            let (url, password) = ServerUrl::parse(kind, url).unwrap();
            let server = Server { name: "it".to_owned(), url, password: Secret(password), ca: None, beside: None };
            let label = Label { name: "flyloft_x".to_owned(), text: "flyloft x".to_owned(), number: None };
            let (password, isolation, taken) = (Secret("s".to_owned()), Isolation::Usual, BTreeSet::new());
            (kind, server, Wanted { label, password, connections: 1, isolation, taken, seed: None })
        })
    }

    /// How the hint of an error calls kinds.
    fn named(error: ServiceError) -> [bool; 4] {
        let text = crate::error::Error::from(error).text();
        let hint = text.lines().find(|line| line.contains("hint: ")).unwrap();
        ["PostgreSQL", "MariaDB", "Redis", "RabbitMQ"].map(|name| hint.contains(name))
    }

    #[test]
    fn who_asks_for_what_a_kind_has_not_is_told_which_have_it() {
        let drivers = drivers();
        let have_clients = Kind::ALL.map(|kind| {
            let (_, server, wanted) = servers().find(|(there, ..)| *there == kind).unwrap();
            drivers.of(kind).client(&server, &wanted)
        });
        let have = have_clients.each_ref().map(Result::is_ok);
        let errors = have_clients.into_iter().filter_map(Result::err);
        assert_eq!(errors.map(named).collect::<Vec<_>>(), [have]);
        let have = Kind::ALL.map(|kind| drivers.of(kind).copies() != Copies::Never);
        let (_, server, _) = servers().last().unwrap();
        assert_eq!(named(no_data(&server)), have);
    }

    /// What is said of an ask before anything is made, and what comes of it.
    #[test]
    fn an_app_is_given_the_variables_that_were_announced() {
        let drivers = drivers();
        for (kind, server, wanted) in servers() {
            for alias in [None, Some("REPORTS")] {
                let given = drivers.of(kind).variables(&server, &wanted, alias);
                let given: Vec<String> = given.into_iter().map(|(name, _)| name).collect();
                assert_eq!(given, Ask::new(kind, alias).unwrap().variables());
            }
        }
    }

    #[test]
    fn an_app_is_told_who_vouches_for_an_encrypted_server_where_that_was_named() {
        let drivers = drivers();
        let mut told = String::new();
        for (kind, plain, wanted) in servers() {
            let ca = Some("PEM".to_owned());
            let named = Server { url: ServerUrl { tls: true, ..plain.url.clone() }, ca, ..plain.clone() };
            for alias in [None, Some("REPORTS")] {
                let [plain, named] = [&plain, &named].map(|server| drivers.of(kind).variables(server, &wanted, alias));
                for (name, value) in named.into_iter().filter(|variable| !plain.contains(variable)) {
                    told += &format!("{name}={value}\n");
                }
            }
        }
        insta::assert_snapshot!(told, @r"
        DATABASE_URL=postgres://flyloft_x:s@b:5432/flyloft_x?sslmode=verify-full&sslrootcert=/flyloft/ca/it.pem
        PGSSLMODE=verify-full
        PGSSLROOTCERT=/flyloft/ca/it.pem
        REPORTS_URL=postgres://flyloft_x:s@b:5432/flyloft_x?sslmode=verify-full&sslrootcert=/flyloft/ca/it.pem
        MYSQL_SSL_MODE=VERIFY_IDENTITY
        MYSQL_SSL_CA=/flyloft/ca/it.pem
        REPORTS_SSL_CA=/flyloft/ca/it.pem
        REDIS_URL=rediss://flyloft_x:s@b:6379/0
        REDISCLOUD_URL=rediss://flyloft_x:s@b:6379/0
        REDIS_SSL_CA=/flyloft/ca/it.pem
        REPORTS_URL=rediss://flyloft_x:s@b:6379/0
        REPORTS_SSL_CA=/flyloft/ca/it.pem
        RABBITMQ_URL=amqps://flyloft_x:s@b:5672/flyloft_x
        CLOUDAMQP_URL=amqps://flyloft_x:s@b:5672/flyloft_x
        RABBITMQ_SSL_CA=/flyloft/ca/it.pem
        REPORTS_URL=amqps://flyloft_x:s@b:5672/flyloft_x
        REPORTS_SSL_CA=/flyloft/ca/it.pem
        ");
    }
}
