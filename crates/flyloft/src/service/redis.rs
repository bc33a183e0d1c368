//! Redis, from version 7.0 on, and Valkey: an environment gets a user, whom rules confine to keys with a prefix of its
//! own or to a database number of its own.

mod idle;
mod made;
mod rules;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, RedisConnectionInfo, RedisError, Value};
use async_trait::async_trait;
use flyloft_core::service::ServerUrl;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::AbortOnDropHandle;

use super::link::{self, Stream};
use super::{Client as Programs, Driver, Fault, Health, Label, PATIENCE, Server, ServiceError, Wanted, in_time};

/// Earlier ones have no rules for subcommands, share one global table between everybody's scripts, and sort by keys
/// that a user may not read.
const LEAST: u32 = 7;

/// What an administrator must be allowed to do, and what for.
const NEEDED: &[(&[&str], &str)] = &[
    (&["ACL", "SETUSER", "flyloft", "on"], "make users"),
    (&["ACL", "DELUSER", "flyloft"], "remove users"),
    (&["ACL", "LIST"], "list users"),
    (&["ACL", "SAVE"], "save users"),
    (&["CLIENT", "KILL", "USER", "flyloft"], "end connections"),
    (&["CLIENT", "LIST"], "list connections"),
    (&["SELECT", "0"], "choose a database"),
    (&["SCAN", "0"], "look for keys"),
    (&["UNLINK", "flyloft_x:y"], "remove keys"),
];

/// The same where environments can have database numbers.
const NEEDED_FOR_NUMBERS: &[(&[&str], &str)] = &[
    (&["CONFIG", "GET", "databases"], "read how many databases there are"),
    (&["SET", "flyloft:lock", "x"], "hold a lock"),
    (&["GET", "flyloft:lock"], "hold a lock"),
    (&["UNLINK", "flyloft:lock"], "hold a lock"),
    (&["FLUSHDB"], "empty a database"),
];

/// Who it is has been said by then.
static NOBODY: LazyLock<RedisConnectionInfo> = LazyLock::new(|| RedisConnectionInfo::default().set_skip_set_lib_name());

pub struct Redis;

/// A connection, which ends when it is dropped.
struct Session<'a> {
    server: &'a Server,
    connection: MultiplexedConnection,
    _driver: AbortOnDropHandle<()>,
}

#[async_trait]
impl Driver for Redis {
    async fn check(&self, server: &Server) -> Result<Health, ServiceError> {
        in_time(server, async { Session::open(server).await?.check().await }).await
    }

    async fn provide(&self, server: &Server, wanted: &Wanted) -> Result<Option<u16>, ServiceError> {
        in_time(server, async { Session::open(server).await?.provide(wanted).await }).await
    }

    async fn remove(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        in_time(server, async { Session::open(server).await?.remove(label).await }).await
    }

    async fn lost(&self, server: &Server, names: &[String]) -> Result<Vec<String>, ServiceError> {
        in_time(server, async { Session::open(server).await?.lost(names).await }).await
    }

    async fn hang_up(&self, server: &Server, labels: &[Label], quiet: Duration) -> Result<Vec<String>, ServiceError> {
        in_time(server, async { Session::open(server).await?.hang_up(labels, quiet).await }).await
    }

    async fn renew(&self, server: &Server, wanted: &Wanted) -> Result<(), ServiceError> {
        in_time(server, async { Session::open(server).await?.renew(wanted).await }).await
    }

    fn client(&self, server: &Server, wanted: &Wanted) -> Result<Programs, ServiceError> {
        let url = &server.url;
        let number = wanted.label.number.unwrap_or(shared_number(server)).to_string();
        let mut shell = vec!["redis-cli", "-h", &url.host];
        let port = url.port.to_string();
        shell.extend(["-p", &port, "--user", &wanted.label.name, "-n", &number]);
        let authority = server.authority_file();
        match &authority {
            Some(file) => shell.extend(["--tls", "--cacert", file]),
            None if url.tls => shell.extend(["--tls", "--insecure"]),
            None => {}
        }
        Ok(Programs {
            packages: &["redis-tools"],
            user: wanted.label.name.clone(),
            env: vec![
                ("REDISCLI_AUTH".to_owned(), wanted.password.0.clone()),
                ("REDISCLI_HISTFILE".to_owned(), "/dev/null".to_owned()),
            ],
            shell: shell.into_iter().map(str::to_owned).collect(),
            dumps: None,
        })
    }

    fn variables(&self, server: &Server, wanted: &Wanted, alias: Option<&str>) -> Vec<(String, String)> {
        let (name, password) = (&wanted.label.name, &wanted.password.0);
        let number = wanted.label.number.unwrap_or(shared_number(server)).to_string();
        let url = ServerUrl { user: name.clone(), database: number.clone(), ..server.url.clone() };
        let (url, prefix) = (url.with_password(password), format!("{name}:"));
        let Some(alias) = alias else {
            let parts = [
                // As Heroku calls what has each of these names there.
                ("REDIS_URL", url.clone()),
                ("REDISCLOUD_URL", url),
                ("REDIS_HOST", server.url.host.clone()),
                ("REDIS_PORT", server.url.port.to_string()),
                ("REDIS_USERNAME", name.clone()),
                ("REDIS_PASSWORD", password.clone()),
                ("REDIS_DB", number),
                ("REDIS_PREFIX", prefix),
            ];
            let parts = parts.into_iter().map(|(name, value)| (name.to_owned(), value));
            return parts.chain(server.authority_variable("REDIS")).collect();
        };
        let parts = [(format!("{alias}_URL"), url), (format!("{alias}_PREFIX"), prefix)];
        parts.into_iter().chain(server.authority_variable(alias)).collect()
    }
}

/// The database in which environments with a prefix are.
fn shared_number(server: &Server) -> u16 {
    server.url.database.parse().expect("a URL of Redis has a number")
}

impl<'a> Session<'a> {
    async fn open(server: &'a Server) -> Result<Self, ServiceError> {
        let mut stream = link::open(server, server.url.port).await?;
        greet(server, &mut *stream).await?;
        let failed = |error| fault_of(server, error, "connect");
        let (mut connection, driver) = MultiplexedConnection::new(&NOBODY, stream).await.map_err(failed)?;
        connection.set_response_timeout(PATIENCE);
        Ok(Self { server, connection, _driver: AbortOnDropHandle::new(tokio::spawn(driver)) })
    }

    async fn ask(&self, doing: &'static str, command: &Cmd) -> Result<Value, ServiceError> {
        let answer = command.query_async(&mut self.connection.clone()).await;
        answer.map_err(|error| fault_of(self.server, error, doing))
    }

    async fn info(&self) -> Result<BTreeMap<String, String>, ServiceError> {
        let text = texts(&self.ask("look at its state", &command(&["INFO"])).await?).concat();
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Ok(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    async fn check(&self) -> Result<Health, ServiceError> {
        let info = self.info().await?;
        let said = |name: &str| info.get(name).map(String::as_str).unwrap_or_default();
        // Valkey says as well with which Redis it goes.
        let version = info.get("valkey_version").or(info.get("redis_version")).cloned().unwrap_or_default();
        let major = said("redis_version").split('.').next().and_then(|major| major.parse::<u32>().ok());
        let fault = match () {
            () if major.is_none_or(|major| major < LEAST) => Some(Fault::Old { found: version.clone(), least: "7.0" }),
            () if said("role") == "slave" => Some(Fault::Replica),
            () if said("cluster_enabled") == "1" => Some(Fault::Unfit(
                "it is one of a cluster, and has users and keys of its own",
                "add a server that stands alone",
            )),
            () => None,
        };
        if let Some(fault) = fault {
            return Err(ServiceError::new(self.server, fault));
        }
        // Where it has no password, whoever connects and says nothing is an administrator.
        let everybody = self.ask("look at users", &command(&["ACL", "GETUSER", "default"])).await?;
        let flags = made::field(&everybody, "flags");
        if ["on", "nopass"].iter().all(|flag| flags.split(' ').any(|there| there == *flag)) {
            return Err(ServiceError::new(self.server, Fault::Open("default".to_owned())));
        }
        self.may_do(NEEDED).await?;
        if shared_number(self.server) != 0 {
            self.may_do(NEEDED_FOR_NUMBERS).await?;
        }
        let number = |name: &str| said(name).parse().unwrap_or_default();
        Ok(Health { version, connections: number("connected_clients"), max_connections: Some(number("maxclients")) })
    }

    async fn may_do(&self, needed: &[(&[&str], &'static str)]) -> Result<(), ServiceError> {
        let user = &self.server.url.user;
        for (words, what) in needed {
            let mut trial = command(&["ACL", "DRYRUN", user]);
            let said = texts(&self.ask("try what it may do", trial.arg(*words)).await?).concat();
            if said != "OK" {
                let fault = Fault::Forbidden { user: user.clone(), what };
                return Err(ServiceError::new(self.server, fault).said(said));
            }
        }
        Ok(())
    }

    async fn lost(&self, names: &[String]) -> Result<Vec<String>, ServiceError> {
        let there = texts(&self.ask("list users", &command(&["ACL", "USERS"])).await?);
        Ok(names.iter().filter(|name| !there.contains(name)).cloned().collect())
    }
}

/// Says who it is. Whom a server does not let in it tells so unasked, and then it ends the connection: what comes first
/// is read as what it is.
async fn greet(server: &Server, stream: &mut dyn Stream) -> Result<(), ServiceError> {
    let (user, password) = (server.url.user.as_str(), server.password.0.as_str());
    let hello = match (user, password) {
        ("default", "") => command(&["PING"]),
        (user, password) => command(&["AUTH", user, password]),
    };
    let down = |error: std::io::Error| ServiceError::new(server, Fault::Down).said(error);
    let mut line = Vec::new();
    // Who ends the connection before all is sent may have said something.
    let sent = stream.write_all(&hello.get_packed_command()).await;
    while !line.ends_with(b"\r\n") && line.len() < 512 {
        match stream.read_u8().await {
            Ok(byte) => line.push(byte),
            Err(_) if line.is_empty() && !server.url.tls => {
                // One that goes down just now does so as well, and takes nobody any more then.
                link::open(server, server.url.port).await?;
                return Err(ServiceError::new(server, Fault::TlsWanted).said("it ended the connection without a word"));
            }
            Err(error) if line.is_empty() => return Err(down(error)),
            Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&line);
    let text = text.trim_end();
    let fault = match text.split(' ').next().unwrap_or_default() {
        "+OK" | "+PONG" => return sent.map_err(down),
        "-WRONGPASS" | "-NOAUTH" => Fault::Password { user: user.to_owned() },
        "-DENIED" => Fault::Barred,
        "-LOADING" => Fault::Down,
        "-ERR" if text.contains("max number of clients") => Fault::Crowded,
        "-ERR" if text.contains("without any password configured") => Fault::Open("default".to_owned()),
        error if error.starts_with('-') => Fault::Other("let anybody in"),
        // An alert of TLS, for one.
        _ if !server.url.tls => return Err(ServiceError::new(server, Fault::TlsWanted)),
        _ => Fault::Other("speak the protocol of Redis"),
    };
    Err(ServiceError::new(server, fault).said(text.trim_start_matches('-')))
}

fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command
}

/// What there is of text in an answer, in its order.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::BulkString(bytes) => vec![String::from_utf8_lossy(bytes).into_owned()],
        Value::SimpleString(text) => vec![text.clone()],
        Value::Okay => vec!["OK".to_owned()],
        Value::Int(number) => vec![number.to_string()],
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// What an error means. Its first word is what tells.
fn fault_of(server: &Server, error: RedisError, doing: &'static str) -> ServiceError {
    let user = || server.url.user.clone();
    let fault = match error.code() {
        Some("NOPERM") => Fault::Forbidden { user: user(), what: doing },
        Some("WRONGPASS" | "NOAUTH") => Fault::Password { user: user() },
        Some("READONLY") => Fault::Replica,
        // Its disk takes no more, so it takes no more either.
        Some("MISCONF") => Fault::Full,
        Some("LOADING" | "BUSY" | "MASTERDOWN") => Fault::Down,
        _ if error.is_io_error() => Fault::Down,
        _ => Fault::Other(doing),
    };
    let said = error.detail().map_or_else(|| error.to_string(), str::to_owned);
    ServiceError::new(server, fault).said(said)
}

#[cfg(test)]
mod tests;
