//! What can be wrong with a server of others, and what to do about it.

use flyloft_core::service::Kind;
use thiserror::Error;

use super::Server;
use crate::error;

#[derive(Debug, Error)]
#[error("server `{server}` at {address} {fault}")]
pub struct ServiceError {
    pub server: String,
    pub kind: Kind,
    pub address: Box<str>,
    pub fault: Fault,
    /// What was said about it, in the server's words or the system's.
    pub said: Option<String>,
    /// Whether commands find the server by its name.
    pub is_added: bool,
}

/// What it does, or does not do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("cannot be reached")]
    Down,
    #[error("did not answer in {0} s")]
    Slow(u64),
    #[error("does not let `{user}` in: the password is wrong, or there is no such user")]
    Password { user: String },
    #[error("does not let this machine in")]
    Barred,
    #[error("has no database `{0}`")]
    NoDatabase(String),
    #[error("has a certificate that nobody vouches for")]
    UnknownCa,
    #[error("has a certificate that is not right")]
    Certificate,
    #[error("does not encrypt, although that is asked for")]
    NoTls,
    #[error("does not let this machine in without encryption")]
    TlsWanted,
    #[error("has no connection left")]
    Crowded,
    #[error("has no room left on its disk")]
    Full,
    #[error("lacks a right: `{user}` may not {what}")]
    Forbidden { user: String, what: &'static str },
    #[error("is too old: it has version {found}, and {least} is the least")]
    Old { found: String, least: &'static str },
    #[error("has a {what} `{name}` that is not ours")]
    Taken { what: &'static str, name: String },
    #[error("has no `{0}` any more, whose data were asked for")]
    NoSeed(String),
    /// With what there is not, and which kinds have it.
    #[error("is of a kind of which {0}")]
    NotOfThisKind(&'static str, &'static str),
    #[error("only reads: it is a replica")]
    Replica,
    #[error("lets everybody in: its user `{0}` has no password")]
    Open(String),
    #[error("has no database number left: it has {0} of them")]
    NoNumber(u16),
    /// With why, and what to do.
    #[error("does not do: {0}")]
    Unfit(&'static str, &'static str),
    #[error("failed to {0}")]
    Other(&'static str),
}

impl Fault {
    /// Whether it may be over in a moment: a server that is started anew, and one of which everybody wants something.
    pub fn may_pass(&self) -> bool {
        matches!(self, Fault::Down | Fault::Crowded)
    }

    /// Whether it says something of what was asked for alone, and nothing of all else on the server.
    pub fn is_of_one_thing(&self) -> bool {
        matches!(self, Fault::Other(_) | Fault::Forbidden { .. } | Fault::Taken { .. } | Fault::NoSeed(_))
    }
}

impl ServiceError {
    pub fn new(server: &Server, fault: Fault) -> Self {
        let (name, kind, address) = (server.name.clone(), server.url.kind, server.url.address().into());
        Self { server: name, kind, address, fault, said: None, is_added: true }
    }

    pub fn said(self, text: impl ToString) -> Self {
        Self { said: Some(text.to_string()), ..self }
    }

    /// Of a server that is being added, and goes as it came.
    pub fn of_a_new_one(self) -> Self {
        Self { is_added: false, ..self }
    }

    fn hint(&self) -> String {
        let again = || match self.is_added {
            true => format!("flyloft services check {}", self.server),
            false => "the same again".to_owned(),
        };
        match &self.fault {
            Fault::Down if self.kind == Kind::Rabbitmq => format!(
                "is it running, with its management plugin (rabbitmq-plugins enable rabbitmq_management), and does its \
                 firewall let this machine in? try: {}",
                again()
            ),
            Fault::Down | Fault::Slow(_) => {
                format!("is it running, and does its firewall let this machine in? try: {}", again())
            }
            Fault::Password { .. } if !self.is_added => "give the right one in its URL".to_owned(),
            Fault::Password { .. } => {
                format!("give the right one; where it has changed: flyloft services change {} --url -", self.server)
            }
            Fault::Barred => format!("let this machine in, in the server's {}", self.door()),
            Fault::NoDatabase(_) => "name one that is there in the URL, such as `postgres`".to_owned(),
            Fault::UnknownCa => "name the certificate of who signed it: --ca FILE".to_owned(),
            Fault::Certificate => {
                "the URL must name the host as its certificate does, which must not be over, nor one that signs others"
                    .to_owned()
            }
            Fault::NoTls => match self.kind {
                Kind::Postgres => "turn `ssl` on in the server, or leave --ca and `sslmode` out".to_owned(),
                Kind::Mysql => "give the server a certificate, or leave --ca and `sslmode` out".to_owned(),
                Kind::Rabbitmq => {
                    "name its ports that encrypt in the URL, or say amqp:// and leave --ca out".to_owned()
                }
                Kind::Redis => "name its `tls-port` in the URL, or say redis:// and leave --ca out".to_owned(),
            },
            Fault::TlsWanted => self.with_encryption(),
            Fault::Crowded => {
                let limit = match self.kind {
                    Kind::Postgres | Kind::Mysql => "max_connections",
                    Kind::Redis => "maxclients",
                    Kind::Rabbitmq => "connection_max",
                };
                format!("raise its `{limit}`, or end what holds them; then: {}", again())
            }
            Fault::Full => format!("make room there; then: {}", again()),
            Fault::Forbidden { user, .. } => format!("let the server's owner run there: {}", self.rights(user)),
            Fault::Old { .. } => "upgrade it, or add another server".to_owned(),
            Fault::Taken { what, name } => self.not_ours(what, name),
            Fault::NoSeed(_) => "ask for other data, or for none: flyloft set APP/ENV services=…".to_owned(),
            Fault::NotOfThisKind(_, others) => format!("{others} have that"),
            Fault::Replica => "name its primary in the URL".to_owned(),
            Fault::Open(user) => format!(
                "whoever reaches it reaches all of it, so nobody can be kept apart: ACL SETUSER {user} resetpass, or \
                 `requirepass` in its configuration"
            ),
            Fault::NoNumber(_) => {
                "raise `databases` in its configuration, or destroy environments that have one".to_owned()
            }
            Fault::Unfit(_, instead) => (*instead).to_owned(),
            Fault::Other(_) => format!("look at the server's log, and try: {}", again()),
        }
    }

    /// Where a server is told whom to let in.
    fn door(&self) -> &'static str {
        match self.kind {
            Kind::Postgres => "`pg_hba.conf`",
            Kind::Mysql => "users: one is of a name and a host",
            Kind::Redis => "configuration: `bind`, `protected-mode`",
            Kind::Rabbitmq => "configuration: `loopback_users`",
        }
    }

    fn with_encryption(&self) -> String {
        match self.kind {
            Kind::Postgres | Kind::Mysql => format!(
                "say `?sslmode=require` in the URL, or name who signed its certificate, --ca FILE; or let this machine \
                 in, in the server's {}",
                self.door()
            ),
            Kind::Rabbitmq => {
                "say amqps:// in the URL, or name who signed its certificate, --ca FILE; or name ports of the server's \
                 that are not encrypted"
                    .to_owned()
            }
            Kind::Redis => {
                "say rediss:// in the URL, or name who signed its certificate, --ca FILE; or name a port of the server's \
                 that is not encrypted"
                    .to_owned()
            }
        }
    }

    /// What gives an administrator the rights that are needed.
    fn rights(&self, user: &str) -> String {
        match self.kind {
            Kind::Postgres => format!("ALTER ROLE \"{user}\" CREATEDB CREATEROLE"),
            Kind::Mysql => format!(
                "GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO '{user}'@'%'; GRANT SELECT ON mysql.user TO \
                 '{user}'@'%'; GRANT ALL ON `flyloft\\_%`.* TO '{user}'@'%' WITH GRANT OPTION; (with MySQL it is \
                 CONNECTION_ADMIN)"
            ),
            Kind::Redis => format!("ACL SETUSER {user} allkeys allchannels +@all"),
            Kind::Rabbitmq => format!("rabbitmqctl set_user_tags {user} administrator"),
        }
    }

    fn not_ours(&self, what: &str, name: &str) -> String {
        let (mark, end) = match self.kind {
            Kind::Postgres => ("give it the comment that it lacks", format!("DROP {} \"{name}\"", what.to_uppercase())),
            Kind::Mysql => ("tell `flyloft_labels` of it", format!("DROP {} `{name}`", what.to_uppercase())),
            Kind::Rabbitmq if what == "user" => {
                ("give it the tag that it lacks", format!("rabbitmqctl delete_user {name}"))
            }
            Kind::Rabbitmq => ("give it the description that it lacks", format!("rabbitmqctl delete_vhost {name}")),
            Kind::Redis => ("give it the channel that it lacks", format!("ACL DELUSER {name}")),
        };
        format!(
            "nothing was done to it; if it is of the daemon whose backup was restored here, {mark}; else rename it, or \
             drop it: {end}"
        )
    }
}

impl From<ServiceError> for error::Error {
    fn from(error: ServiceError) -> Self {
        let mut told = Self::failed(&error).hint(error.hint());
        told.causes.extend(error.said);
        told
    }
}
