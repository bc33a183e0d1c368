//! What an app asks for: `postgres`, `postgres:REPORTS`, `postgres@shop_seed`, `redis/database`, `none`.

use std::fmt;

use thiserror::Error;

use super::{Data, Kind, ServerUrl, UnknownKind};
use crate::name::{EnvRef, excerpt, shorten};

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    pub kind: Kind,
    pub isolation: Isolation,
    /// What its variable is called, as in `REPORTS_URL`. Without it the variables are those of the kind.
    pub alias: Option<String>,
    /// What it has in it at first; nothing, if nothing is said.
    pub data: Option<Data>,
}

/// How environments on one server are kept apart, where there is more than one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolation {
    /// Redis: each has keys with a prefix of its own.
    #[default]
    Usual,
    /// Redis: each has a database number of its own.
    Database,
}

/// All that an app asks for. Prints as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks(pub Vec<Ask>);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    #[error("{0}")]
    Kind(#[from] UnknownKind),
    #[error("`{0}` is no name for variables: capital letters, digits and `_`, with a letter in front, 30 at most")]
    Alias(String),
    #[error("{0} has no isolation `{1}`; {there}", there = Isolation::there(*.0))]
    Isolation(Kind, String),
    #[error("`{0}` is no name for a template: lower-case letters, digits, `_` and `-`, 30 at most")]
    Template(String),
    #[error("`{0}` is not an environment such as `shop/main`")]
    Data(String),
    #[error("`{0}` is asked for twice; name the second one, as in `{1}:REPORTS`")]
    Twice(String, Kind),
    #[error("`{0}` is the name of two services")]
    SameName(String),
    #[error("{0} services are too many: {MOST} are allowed")]
    TooMany(usize),
}

/// An app that wants more has made a mistake.
const MOST: usize = 10;

const NONE: &str = "none";

impl Isolation {
    /// As people write it.
    fn parse(kind: Kind, text: &str) -> Result<Self, AskError> {
        match (kind, text) {
            (Kind::Redis, "prefix") => Ok(Self::Usual),
            (Kind::Redis, "database") => Ok(Self::Database),
            _ => Err(AskError::Isolation(kind, excerpt(text))),
        }
    }

    fn there(kind: Kind) -> &'static str {
        match kind {
            Kind::Redis => "there are `prefix` and `database`",
            Kind::Postgres | Kind::Mysql | Kind::Rabbitmq => "there is one way only",
        }
    }
}

impl Ask {
    pub fn new(kind: Kind, alias: Option<&str>) -> Result<Self, AskError> {
        let is_inside = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        match alias {
            Some(alias)
                if alias.len() > 30
                    || !alias.starts_with(|c: char| c.is_ascii_uppercase())
                    || !alias.chars().all(is_inside) =>
            {
                Err(AskError::Alias(excerpt(alias)))
            }
            alias => Ok(Self { kind, isolation: Isolation::Usual, alias: alias.map(str::to_owned), data: None }),
        }
    }

    /// The same, which begins with these data.
    pub fn with(self, data: Option<Data>) -> Self {
        Self { data, ..self }
    }

    /// Whether it is the same one, whatever it begins with.
    pub fn is(&self, other: &Self) -> bool {
        (self.kind, self.isolation, &self.alias) == (other.kind, other.isolation, &other.alias)
    }

    /// `what` is a kind, and perhaps how it is kept apart: `redis/database`.
    pub fn parse(what: &str, alias: Option<&str>) -> Result<Self, AskError> {
        match what.split_once('/') {
            Some((kind, isolation)) => Self::new(kind.parse()?, alias)?.kept_apart_by(isolation),
            None => Self::new(what.parse()?, alias),
        }
    }

    pub fn kept_apart_by(self, isolation: &str) -> Result<Self, AskError> {
        Ok(Self { isolation: Isolation::parse(self.kind, isolation)?, ..self })
    }

    /// The variables by which an app finds it, whatever the server is like.
    pub fn variables(&self) -> Vec<String> {
        let names: &[&str] = match (&self.alias, self.kind) {
            (Some(alias), Kind::Redis) => return vec![format!("{alias}_URL"), format!("{alias}_PREFIX")],
            (Some(alias), _) => return vec![format!("{alias}_URL")],
            (None, Kind::Postgres) => &["DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"],
            (None, Kind::Mysql) => &[
                "DATABASE_URL",
                "MYSQL_URL",
                "JAWSDB_URL",
                "JAWSDB_MARIA_URL",
                "CLEARDB_DATABASE_URL",
                "MYSQL_HOST",
                "MYSQL_PORT",
                "MYSQL_USER",
                "MYSQL_PASSWORD",
                "MYSQL_DATABASE",
            ],
            (None, Kind::Redis) => &[
                "REDIS_URL",
                "REDISCLOUD_URL",
                "REDIS_HOST",
                "REDIS_PORT",
                "REDIS_USERNAME",
                "REDIS_PASSWORD",
                "REDIS_DB",
                "REDIS_PREFIX",
            ],
            (None, Kind::Rabbitmq) => &[
                "RABBITMQ_URL",
                "CLOUDAMQP_URL",
                "RABBITMQ_HOST",
                "RABBITMQ_PORT",
                "RABBITMQ_USER",
                "RABBITMQ_PASSWORD",
                "RABBITMQ_VHOST",
            ],
        };
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// What [`Ask::parse`] reads.
    pub fn what(&self) -> String {
        match self.isolation {
            Isolation::Usual => self.kind.to_string(),
            Isolation::Database => format!("{}/database", self.kind),
        }
    }

    /// Whether a server can have it. Where environments begin in a database of others, none is given a number of its own.
    pub fn fits(&self, server: &ServerUrl) -> bool {
        server.kind == self.kind && (self.isolation == Isolation::Usual || server.database != self.kind.database())
    }

    /// Of which kind a server has to be, as the end of a sentence.
    pub fn of_which_kind(&self) -> &'static str {
        match self.isolation {
            Isolation::Usual => "of that kind",
            Isolation::Database => "that gives numbers: the URL of one ends in another than 0, as in redis://HOST/1",
        }
    }

    /// What it is called on its server: of lower-case letters, digits and `_`, as many as fit there, so that nobody has to
    /// quote it. The same environment never gets the name of another one, not even of one that had its name before: `id`
    /// is its own, of the daemon `instance`.
    pub fn name_for(&self, env: &EnvRef, instance: &str, id: i64) -> String {
        let alias = self.alias.as_deref().unwrap_or_default().to_ascii_lowercase();
        let said = format!("flyloft-{}-{}", env.app, env.env);
        let said = if alias.is_empty() { said } else { format!("{said}-{alias}") };
        let whole = format!("{instance}/{id}/{}/{alias}", self.what());
        shorten(&said, &whole, self.kind.longest_name()).replace('-', "_")
    }
}

impl Asks {
    pub fn parse(text: &str) -> Result<Self, AskError> {
        if text.trim() == NONE {
            return Ok(Self::default());
        }
        let mut asks = Self::default();
        for part in text.split(',').map(str::trim) {
            let (part, data) = part.split_once('@').map_or((part, None), |(part, data)| (part, Some(data)));
            let (what, alias) = part.split_once(':').map_or((part, None), |(what, alias)| (what, Some(alias)));
            asks.add(Ask::parse(what, alias)?.with(data.map(Data::parse).transpose()?))?;
        }
        Ok(asks)
    }

    pub fn add(&mut self, ask: Ask) -> Result<(), AskError> {
        for there in &self.0 {
            // Their variables would have the same names, however each is kept apart, and whatever it begins with.
            match (&there.alias, &ask.alias) {
                (one, other) if one == other && there.kind == ask.kind => {
                    return Err(AskError::Twice(ask.clone().with(None).to_string(), ask.kind));
                }
                (Some(one), Some(other)) if one == other => return Err(AskError::SameName(one.clone())),
                _ => {}
            }
        }
        self.0.push(ask);
        match self.0.len() {
            many if many > MOST => Err(AskError::TooMany(many)),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what())?;
        if let Some(alias) = &self.alias {
            write!(f, ":{alias}")?;
        }
        match &self.data {
            Some(data) => write!(f, "@{data}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(NONE);
        }
        for (index, ask) in self.0.iter().enumerate() {
            write!(f, "{}{ask}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::TemplateName;
    use super::*;

    #[track_caller]
    fn refuse(text: &str, error: &str) {
        assert_eq!(Asks::parse(text).unwrap_err().to_string(), error);
    }

    #[test]
    fn asks_are_the_same_after_they_were_printed() {
        for text in [
            "none",
            "postgres",
            "postgres,postgres:REPORTS",
            "postgres@shop_seed,postgres:REPORTS@shop/main",
            "redis,redis/database:JOBS",
            "mysql,rabbitmq",
        ] {
            assert_eq!(Asks::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Asks::parse("postgres, postgres:A_1").unwrap().to_string(), "postgres,postgres:A_1");
        assert_eq!(Asks::parse("valkey/prefix").unwrap().to_string(), "redis");
    }

    #[test]
    fn what_cannot_be_made_is_refused_in_words() {
        refuse("", "`` is no kind of service; there are `postgres`, `mysql`, `redis`, `rabbitmq`");
        refuse("oracle", "`oracle` is no kind of service; there are `postgres`, `mysql`, `redis`, `rabbitmq`");
        refuse("postgres,postgres", "`postgres` is asked for twice; name the second one, as in `postgres:REPORTS`");
        let names = "capital letters, digits and `_`, with a letter in front, 30 at most";
        refuse("postgres:reports", &format!("`reports` is no name for variables: {names}"));
        refuse("postgres:", &format!("`` is no name for variables: {names}"));
        refuse("postgres@a,postgres@b", "`postgres` is asked for twice; name the second one, as in `postgres:REPORTS`");
        let names = "lower-case letters, digits, `_` and `-`, 30 at most";
        refuse("postgres@Seed", &format!("`Seed` is no name for a template: {names}"));
        refuse("postgres@", &format!("`` is no name for a template: {names}"));
        refuse("postgres@shop/", "`shop/` is not an environment such as `shop/main`");
        let many = (0..11).map(|n| format!("postgres:A{n}")).collect::<Vec<_>>().join(",");
        refuse(&many, "11 services are too many: 10 are allowed");
        refuse(
            "redis,redis/database",
            "`redis/database` is asked for twice; name the second one, as in `redis:REPORTS`",
        );
        refuse("redis:CACHE,postgres:CACHE", "`CACHE` is the name of two services");
        refuse("redis/own", "redis has no isolation `own`; there are `prefix` and `database`");
        refuse("postgres/database", "postgres has no isolation `database`; there is one way only");
    }

    #[test]
    fn templates_of_two_daemons_and_of_two_times_have_names_of_their_own_that_fit() {
        let name = |name: &str, instance, id| TemplateName::parse(name).unwrap().name_for(Kind::Postgres, instance, id);
        let all = [
            name("shop_seed", "1f3a9c", "1"),
            name("shop_seed", "1f3a9c", "2"),
            name("shop_seed", "2b4d6e", "1"),
            name(&"a".repeat(30), "1f3a9c", "1"),
        ];
        assert!(all[0].starts_with("flyloft_template_shop_seed_"), "{}", all[0]);
        let user = TemplateName::parse("shop_seed").unwrap().name_for(Kind::Mysql, "1f3a9c", "1");
        assert!(user.len() <= 32, "{user}");
        for (index, name) in all.iter().enumerate() {
            assert!(name.len() <= 63 && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')), "{name}");
            assert!(!all[..index].contains(name));
        }
    }

    #[test]
    fn names_fit_are_plain_and_are_nobody_elses() {
        let name = |env: &str, id, ask: &str| {
            Asks::parse(ask).unwrap().0[0].name_for(&EnvRef::parse(env).unwrap(), "1f3a9c", id)
        };
        let long = format!("{}/{}", "a".repeat(30), "b".repeat(40));
        let all = [
            name("shop/main", 1, "postgres"),
            name("shop/main", 2, "postgres"),
            name("shop/main", 1, "postgres:REPORTS"),
            name("a-b/c", 3, "postgres"),
            name("a/b-c", 4, "postgres"),
            name(&long, 5, "postgres"),
            name(&long, 6, "postgres:REPORTS"),
            name("shop/main", 1, "redis"),
            name("shop/main", 1, "mysql"),
            name("shop/main", 1, "rabbitmq"),
            name("shop/main", 1, "redis/database"),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        let users = [name(&long, 5, "mysql"), name(&long, 6, "mysql"), name("shop/main", 1, "mysql:REPORTS")];
        assert!(users.iter().all(|name| name.len() <= 32), "{users:?}");
        assert_ne!(users[0], users[1]);
        assert!(all[0].starts_with("flyloft_shop_main_"), "{}", all[0]);
        for name in &all {
            assert!(name.len() <= 63 && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')), "{name}");
        }
    }
}
