//! The kinds of servers, and what each of them is called elsewhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::name::excerpt;

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Postgres,
    /// MariaDB as well.
    Mysql,
    /// Valkey as well.
    Redis,
    Rabbitmq,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Postgres, Kind::Mysql, Kind::Redis, Kind::Rabbitmq];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Postgres => "postgres",
            Kind::Mysql => "mysql",
            Kind::Redis => "redis",
            Kind::Rabbitmq => "rabbitmq",
        }
    }

    /// What an environment is given.
    pub fn thing(self) -> &'static str {
        match self {
            Kind::Postgres | Kind::Mysql => "Database",
            Kind::Redis => "Redis",
            Kind::Rabbitmq => "RabbitMQ",
        }
    }

    /// What Heroku and others call an add-on, without its plan.
    pub fn of_addon(name: &str) -> Option<Self> {
        match name {
            "heroku-postgresql" | "postgresql" | "postgres" => Some(Kind::Postgres),
            "jawsdb" | "jawsdb-maria" | "cleardb" | "mariadb" | "mysql" => Some(Kind::Mysql),
            "heroku-redis"
            | "heroku-key-value-store"
            | "rediscloud"
            | "redistogo"
            | "redisgreen"
            | "valkey"
            | "redis" => Some(Kind::Redis),
            "cloudamqp" | "rabbitmq" => Some(Kind::Rabbitmq),
            _ => None,
        }
    }

    /// Whether a service of that name is called as it would be called without one: `DATABASE_URL`.
    pub fn is_its_name(self, alias: &str) -> bool {
        match self {
            Kind::Postgres => alias == "DATABASE",
            Kind::Mysql => ["DATABASE", "MYSQL", "JAWSDB", "JAWSDB_MARIA", "CLEARDB_DATABASE"].contains(&alias),
            Kind::Redis => alias == "REDIS",
            Kind::Rabbitmq => ["RABBITMQ", "CLOUDAMQP"].contains(&alias),
        }
    }

    /// What a URL begins with, without and with encryption where that makes a difference.
    pub(super) fn schemes(self) -> (&'static str, &'static str) {
        match self {
            Kind::Postgres => ("postgres", "postgres"),
            Kind::Mysql => ("mysql", "mysql"),
            Kind::Redis => ("redis", "rediss"),
            Kind::Rabbitmq => ("amqp", "amqps"),
        }
    }

    /// Whether what begins like this is encrypted. None where such a URL is not one of this kind.
    pub(super) fn encrypts(self, scheme: &str) -> Option<bool> {
        match (self, scheme) {
            (Kind::Postgres, "postgres" | "postgresql") => Some(false),
            (Kind::Mysql, "mysql" | "mariadb") => Some(false),
            (Kind::Redis, "redis" | "valkey") => Some(false),
            (Kind::Redis, "rediss" | "valkeys") => Some(true),
            (Kind::Rabbitmq, "amqp") => Some(false),
            (Kind::Rabbitmq, "amqps") => Some(true),
            _ => None,
        }
    }

    /// Where such a server listens if nobody says otherwise.
    pub(super) fn port(self, encrypts: bool) -> u16 {
        match self {
            Kind::Postgres => 5432,
            Kind::Mysql => 3306,
            Kind::Redis => 6379,
            Kind::Rabbitmq if encrypts => 5671,
            Kind::Rabbitmq => 5672,
        }
    }

    /// What its administrator connects to if nobody says otherwise.
    pub(super) fn database(self) -> &'static str {
        match self {
            Kind::Postgres => "postgres",
            // None is needed.
            Kind::Mysql => "",
            Kind::Redis => "0",
            Kind::Rabbitmq => "/",
        }
    }

    /// Who its administrator is if nobody says otherwise.
    pub(super) fn user(self) -> Option<&'static str> {
        match self {
            Kind::Postgres | Kind::Mysql | Kind::Rabbitmq => None,
            Kind::Redis => Some("default"),
        }
    }

    /// How long a name may be there.
    pub(super) fn longest_name(self) -> usize {
        match self {
            // PostgreSQL's NAMEDATALEN is 64, with a NUL at its end.
            Kind::Postgres | Kind::Redis | Kind::Rabbitmq => 63,
            // Of users, with MySQL.
            Kind::Mysql => 32,
        }
    }

    /// What a URL's parameters are called.
    pub(super) fn parameters(self) -> &'static str {
        match self {
            Kind::Postgres | Kind::Redis => "`sslmode`",
            Kind::Mysql => "`sslmode`, or `ssl-mode`",
            Kind::Rabbitmq => "`management`",
        }
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        match text {
            "mariadb" => Ok(Kind::Mysql),
            "valkey" => Ok(Kind::Redis),
            text => Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownKind(excerpt(text))),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no kind of service; there are {all}", all = Kind::ALL.map(|kind| format!("`{kind}`")).join(", "))]
pub struct UnknownKind(String);
