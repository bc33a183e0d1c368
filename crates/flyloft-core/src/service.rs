//! Services: databases and the like outside the containers. Their kinds, where their servers are, and what apps ask for.

mod ask;
mod data;
mod kind;
pub mod managed;

use std::fmt;
use std::net::Ipv6Addr;

use thiserror::Error;

pub use ask::{Ask, AskError, Asks, Isolation};
pub use data::{Data, TemplateName};
pub use kind::{Kind, UnknownKind};

use crate::name::excerpt;

/// Where a server is, and who administers it. The password is kept apart, so that this can be shown.
///
/// Reads and prints as `postgres://admin@db.example.org:5432/postgres?sslmode=require`, or as
/// `rediss://default@cache:6379/1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    pub kind: Kind,
    pub user: String,
    /// A name or an address, that of IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// With Redis the number of one, with RabbitMQ a virtual host.
    pub database: String,
    /// Whether connections are encrypted, which is with a certificate that is checked.
    pub tls: bool,
    /// Where RabbitMQ is managed, unless that is where it is by itself.
    pub management: Option<u16>,
}

/// Where a container that has something on a server of this name finds who vouches for it, if that was named.
pub fn authority_file(server: &str) -> String {
    format!("/flyloft/ca/{server}.pem")
}

/// None of them quotes the URL, which has a password in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    #[error("the URL of a {0} server begins with `{begin}://`", begin = .0.schemes().0)]
    Scheme(Kind),
    #[error("the URL names no user: write it as {begin}://USER:PASSWORD@HOST/DATABASE", begin = .0.schemes().0)]
    NoUser(Kind),
    #[error("the URL names no host")]
    NoHost,
    #[error("the URL's host is neither a name nor an address")]
    Host,
    #[error("the URL's port is not a number from 1 to 65535")]
    Port,
    #[error("in the URL a `%` is followed by what is not two hexadecimal digits, or does not stand for text")]
    Escape,
    #[error("the URL has a control character in it")]
    Control,
    #[error("the URL has a `{0}` too many: one in the password is written `{1}`")]
    Unescaped(char, &'static str),
    #[error("the URL's path is no number of a database, such as /1")]
    Number,
    #[error("the URL's parameter `{1}` is not known; there is {there}", there = .0.parameters())]
    Parameter(Kind, String),
    #[error("the URL's `sslmode` must be `require`, which checks the certificate, or `disable`")]
    SslMode,
}

impl ServerUrl {
    /// The URL and the password in it.
    pub fn parse(kind: Kind, text: &str) -> Result<(Self, String), UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme(kind))?;
        let tls = kind.encrypts(scheme).ok_or(UrlError::Scheme(kind))?;
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        // A host and a database have none.
        if parameters.contains('@') {
            return Err(UrlError::Unescaped('?', "%3F"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains('/') {
            return Err(UrlError::Unescaped('/', "%2F"));
        }
        let (user, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        if user.contains('@') {
            return Err(UrlError::Unescaped('@', "%40"));
        }
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        let (host, port) = host_and_port(address)?;
        let mut url = Self {
            kind,
            user: unescape(user)?,
            host: host.to_owned(),
            port: port.unwrap_or(kind.port(tls)),
            database: unescape(path)?,
            tls,
            management: None,
        };
        if url.user.is_empty() {
            url.user = kind.user().ok_or(UrlError::NoUser(kind))?.to_owned();
        }
        if url.database.is_empty() {
            url.database = kind.database().to_owned();
        }
        if kind == Kind::Redis && !is_number(&url.database) {
            return Err(UrlError::Number);
        }
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("management", port) if kind == Kind::Rabbitmq => {
                    url.management = Some(port.parse().ok().filter(|port| *port > 0).ok_or(UrlError::Port)?);
                }
                (other, _) if kind == Kind::Rabbitmq => return Err(UrlError::Parameter(kind, excerpt(other))),
                ("sslmode", "require" | "verify-ca" | "verify-full") => url.tls = true,
                ("sslmode", "disable") => url.tls = false,
                // As MySQL's own programs have it.
                ("ssl-mode", mode) if kind == Kind::Mysql => url.tls = ssl_mode(mode)?,
                ("sslmode", _) => return Err(UrlError::SslMode),
                (other, _) => return Err(UrlError::Parameter(kind, excerpt(other))),
            }
        }
        Ok((url, unescape(password)?))
    }

    /// `db.example.org:5432`
    pub fn address(&self) -> String {
        format!("{}:{}", Host(&self.host), self.port)
    }

    /// As a URL has the host.
    pub fn host_in_url(&self) -> String {
        Host(&self.host).to_string()
    }

    pub fn management_port(&self) -> u16 {
        self.management.unwrap_or(if self.tls { 15671 } else { 15672 })
    }

    /// With somebody's password in it, for somebody who may know it.
    pub fn with_password(&self, password: &str) -> String {
        self.written(Some(password))
    }

    fn written(&self, password: Option<&str>) -> String {
        let Self { kind, user, port, database, management, .. } = self;
        let password = password.map(|password| format!(":{}", escape(password))).unwrap_or_default();
        let (scheme, encrypted) = kind.schemes();
        let (scheme, tls) = match self.tls {
            true if scheme == encrypted => (scheme, "?sslmode=require"),
            true => (encrypted, ""),
            false => (scheme, ""),
        };
        let host = Host(&self.host);
        let management = management.map(|port| format!("?management={port}")).unwrap_or_default();
        format!("{scheme}://{}{password}@{host}:{port}/{}{tls}{management}", escape(user), escape(database))
    }
}

/// Without a password.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(None))
    }
}

/// As URLs have it: an address of IPv6 is in brackets.
struct Host<'a>(&'a str);

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]", self.0) } else { f.write_str(self.0) }
    }
}

fn host_and_port(address: &str) -> Result<(&str, Option<u16>), UrlError> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(UrlError::Host)?;
            host.parse::<Ipv6Addr>().map_err(|_| UrlError::Host)?;
            (host, port.strip_prefix(':').or((port.is_empty()).then_some("")).ok_or(UrlError::Host)?)
        }
        None => {
            let (host, port) = address.split_once(':').unwrap_or((address, ""));
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            match host {
                "" => return Err(UrlError::NoHost),
                host if host.len() > 253 || !host.chars().all(is_name) => return Err(UrlError::Host),
                host => (host, port),
            }
        }
    };
    match port {
        "" => Ok((host, None)),
        port => match port.parse() {
            Ok(port @ 1..) => Ok((host, Some(port))),
            _ => Err(UrlError::Port),
        },
    }
}

/// Those that encrypt whatever the server wants. With the others it depends on that.
fn ssl_mode(mode: &str) -> Result<bool, UrlError> {
    match mode.to_ascii_uppercase().as_str() {
        "REQUIRED" | "VERIFY_CA" | "VERIFY_IDENTITY" => Ok(true),
        "DISABLED" => Ok(false),
        _ => Err(UrlError::SslMode),
    }
}

/// One of a database: Redis takes no zeros in front of it, and nobody has a thousand.
fn is_number(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|number| number.to_string() == text)
}

/// As RFC 3986, 2.1 and 2.3 have it: all but unreserved characters.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn unescape(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = after.split_at_checked(2).ok_or(UrlError::Escape)?;
        bytes.extend(hex::decode(digits).map_err(|_| UrlError::Escape)?);
        rest = after;
    }
    let text = String::from_utf8(bytes).map_err(|_| UrlError::Escape)?;
    if text.contains(char::is_control) { Err(UrlError::Control) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<(ServerUrl, String), UrlError> {
        ServerUrl::parse(Kind::Postgres, text)
    }

    #[track_caller]
    fn refuse(text: &str, error: UrlError) {
        assert_eq!(parse(text).unwrap_err(), error, "{text}");
    }

    #[test]
    fn what_a_url_leaves_out_is_what_postgresql_takes_for_it() {
        let (url, password) = parse("postgresql://admin:s3cret@db.example.org").unwrap();
        assert_eq!(url.to_string(), "postgres://admin@db.example.org:5432/postgres");
        assert_eq!((url.address().as_str(), password.as_str()), ("db.example.org:5432", "s3cret"));
        let (url, password) = parse("postgres://admin@[fd00::1]:5433/main?sslmode=verify-full").unwrap();
        assert_eq!(url.to_string(), "postgres://admin@[fd00::1]:5433/main?sslmode=require");
        assert_eq!((url.host.as_str(), password.as_str()), ("fd00::1", ""));
        assert!(!parse("postgres://a@b?sslmode=disable").unwrap().0.tls);
    }

    #[test]
    fn what_is_no_url_of_a_server_is_refused_without_being_quoted() {
        refuse("mysql://admin@db", UrlError::Scheme(Kind::Postgres));
        refuse("admin:s3cret", UrlError::Scheme(Kind::Postgres));
        refuse("postgres://db.example.org/postgres", UrlError::NoUser(Kind::Postgres));
        refuse("postgres://:s3cret@db", UrlError::NoUser(Kind::Postgres));
        refuse("postgres://admin@/postgres", UrlError::NoHost);
        refuse("postgres://admin@db;rm/postgres", UrlError::Host);
        refuse("postgres://admin@[::1/postgres", UrlError::Host);
        refuse("postgres://admin@[::1]5/postgres", UrlError::Host);
        refuse("postgres://admin@db:0/postgres", UrlError::Port);
        refuse("postgres://admin@db:70000/postgres", UrlError::Port);
        refuse("postgres://admin:50%@db/postgres", UrlError::Escape);
        refuse("postgres://admin:%ff@db/postgres", UrlError::Escape);
        refuse("postgres://admin:a%0Ab@db/postgres", UrlError::Control);
        refuse("postgres://admin:p@ss@db/postgres", UrlError::Unescaped('@', "%40"));
        refuse("postgres://admin:what?@db/postgres", UrlError::Unescaped('?', "%3F"));
        refuse("postgres://admin@db/a/b", UrlError::Unescaped('/', "%2F"));
        refuse("postgres://admin@db?options=-c", UrlError::Parameter(Kind::Postgres, "options".to_owned()));
        refuse("postgres://admin@db?sslmode=prefer", UrlError::SslMode);
    }

    #[test]
    fn a_url_of_redis_says_by_its_scheme_whether_it_is_encrypted_and_needs_no_user() {
        let redis = |text: &str| ServerUrl::parse(Kind::Redis, text).map(|(url, password)| (url.to_string(), password));
        let told = |url: &str, password: &str| Ok((url.to_owned(), password.to_owned()));
        assert_eq!(redis("redis://cache"), told("redis://default@cache:6379/0", ""));
        assert_eq!(redis("valkeys://:a%40b@cache/3"), told("rediss://default@cache:6379/3", "a@b"));
        assert_eq!(redis("redis://ops:x@cache:7000?sslmode=require"), told("rediss://ops@cache:7000/0", "x"));
        assert_eq!(redis("redis://cache/main"), Err(UrlError::Number));
        assert_eq!(redis("redis://cache/01"), Err(UrlError::Number));
        let told = redis("postgres://cache").unwrap_err().to_string();
        assert_eq!(told, "the URL of a redis server begins with `redis://`");
    }

    #[test]
    fn a_url_of_mysql_needs_no_database_and_takes_mysqls_own_word_for_encryption() {
        let mysql = |text: &str| ServerUrl::parse(Kind::Mysql, text).map(|(url, _)| url.to_string());
        assert_eq!(mysql("mariadb://admin:x@db").unwrap(), "mysql://admin@db:3306/");
        assert_eq!(mysql("mysql://admin@db:3306/").unwrap(), "mysql://admin@db:3306/");
        let encrypted = "mysql://admin@db:3306/main?sslmode=require";
        assert_eq!(mysql("mysql://admin@db/main?ssl-mode=VERIFY_CA").unwrap(), encrypted);
        assert_eq!(mysql(encrypted).unwrap(), encrypted);
        assert_eq!(mysql("mysql://admin@db?ssl-mode=PREFERRED"), Err(UrlError::SslMode));
        assert_eq!(mysql("mysql://db"), Err(UrlError::NoUser(Kind::Mysql)));
    }

    #[test]
    fn a_url_of_rabbitmq_has_a_port_for_apps_and_one_by_which_it_is_managed() {
        let rabbitmq = |text: &str| ServerUrl::parse(Kind::Rabbitmq, text).map(|(url, _)| url);
        let ports = |url: ServerUrl| (url.port, url.management_port());
        assert_eq!(rabbitmq("amqp://admin:x@mq").map(ports), Ok((5672, 15672)));
        assert_eq!(rabbitmq("amqps://admin:x@mq").map(ports), Ok((5671, 15671)));
        let url = rabbitmq("amqps://admin:x@mq:1/?management=443").unwrap();
        assert_eq!(url.to_string(), "amqps://admin@mq:1/%2F?management=443");
        assert_eq!((url.management_port(), url.database.as_str()), (443, "/"));
        assert_eq!(rabbitmq(&url.to_string()), Ok(url));
        assert_eq!(rabbitmq("amqp://admin@mq?management=0"), Err(UrlError::Port));
        let told = rabbitmq("amqp://admin@mq?heartbeat=5").unwrap_err().to_string();
        assert_eq!(told, "the URL's parameter `heartbeat` is not known; there is `management`");
    }

    proptest! {
        #[test]
        fn any_user_password_and_database_are_the_same_after_a_url(
            user in "[^\\p{Cc}]{1,20}", password in "[^\\p{Cc}]{1,40}", database in "[^\\p{Cc}]{1,20}",
        ) {
            let url = ServerUrl {
                kind: Kind::Postgres, user, host: "db".to_owned(), port: 1, database, tls: true, management: None,
            };
            prop_assert_eq!(parse(&url.with_password(&password)), Ok((url.clone(), password)));
            prop_assert_eq!(parse(&url.to_string()), Ok((url, String::new())));
        }

        #[test]
        fn any_text_is_taken_or_refused_and_a_refusal_quotes_no_password(text in "postgres://(?s).{0,60}") {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.to_string().contains(char::is_control), "{error}");
            }
        }
    }
}
