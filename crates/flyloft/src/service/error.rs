//! What can be wrong with a server of others, and what to do about it.

use thiserror::Error;

use super::Server;
use crate::error;

#[derive(Debug, Error)]
#[error("server `{server}` at {address} {fault}")]
pub struct ServiceError {
    pub server: String,
    pub address: String,
    pub fault: Fault,
    /// What was said about it, in the server's words or the system's.
    pub said: Option<String>,
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
    #[error("is of a kind of which {0}")]
    NotOfThisKind(&'static str),
    #[error("only reads: it is a replica")]
    Replica,
    #[error("failed to {0}")]
    Other(&'static str),
}

impl ServiceError {
    pub fn new(server: &Server, fault: Fault) -> Self {
        Self { server: server.name.clone(), address: server.url.address(), fault, said: None }
    }

    pub fn said(self, text: impl ToString) -> Self {
        Self { said: Some(text.to_string()), ..self }
    }

    fn hint(&self) -> String {
        let again = || format!("flyloft services check {}", self.server);
        match &self.fault {
            Fault::Down | Fault::Slow(_) => {
                format!("is it running, and does its firewall let this machine in? try: {}", again())
            }
            Fault::Password { .. } => "tell the right one: remove the server, and add it again".to_owned(),
            Fault::Barred => "let this machine in, in the server's `pg_hba.conf`".to_owned(),
            Fault::NoDatabase(_) => "name one that is there in the URL, such as `postgres`".to_owned(),
            Fault::UnknownCa => "name the certificate of who signed it: --ca FILE".to_owned(),
            Fault::Certificate => {
                "the URL must name the host as its certificate does, which must not be over, nor one that signs others"
                    .to_owned()
            }
            Fault::NoTls => "turn `ssl` on in the server, or leave --ca and `sslmode` out".to_owned(),
            Fault::TlsWanted => {
                "say `?sslmode=require` in the URL, or name who signed its certificate, --ca FILE; or let this machine \
                 in, in the server's `pg_hba.conf`"
                    .to_owned()
            }
            Fault::Crowded => format!("raise its `max_connections`, or end what holds them; then: {}", again()),
            Fault::Full => format!("make room there; then: {}", again()),
            Fault::Forbidden { user, .. } => {
                format!("let the server's owner run there: ALTER ROLE \"{user}\" CREATEDB CREATEROLE")
            }
            Fault::Old { .. } => "upgrade it, or add another server".to_owned(),
            Fault::Taken { what, name } => {
                format!(
                    "nothing was done to it; if it is of the daemon whose backup was restored here, give it the \
                     comment that it lacks; else rename it, or drop it: DROP {} \"{name}\"",
                    what.to_uppercase()
                )
            }
            Fault::NoSeed(_) => "ask for other data, or for none: flyloft set APP/ENV services=…".to_owned(),
            Fault::NotOfThisKind(_) => "PostgreSQL has that".to_owned(),
            Fault::Replica => "name its primary in the URL".to_owned(),
            Fault::Other(_) => format!("look at the server's log, and try: {}", again()),
        }
    }
}

impl From<ServiceError> for error::Error {
    fn from(error: ServiceError) -> Self {
        let mut told = Self::failed(&error).hint(error.hint());
        told.causes.extend(error.said);
        told
    }
}
