//! MariaDB, from version 10.5 on, and MySQL, from version 8.0 on: an environment gets a user and a database.

mod aside;
mod made;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use flyloft_core::service::ServerUrl;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, Error, OptsBuilder, Params, SslOpts};

use super::{
    COPYING, Client as Programs, Copies, Driver, Dumps, Fault, Health, Label, Server, ServiceError, Wanted, in_time,
    tls, within,
};

/// For MySQL's servers as well.
const CLIENT: &[&str] = &["mariadb-client"];

pub struct Mysql;

/// A connection, which ends when it is dropped.
struct Session<'a> {
    server: &'a Server,
    conn: Conn,
}

/// Of which kin a server is, and its version as it says it.
struct Version {
    is_mariadb: bool,
    text: String,
}

#[async_trait]
impl Driver for Mysql {
    async fn check(&self, server: &Server) -> Result<Health, ServiceError> {
        in_time(server, async { Session::open(server).await?.check().await }).await
    }

    async fn provide(&self, server: &Server, wanted: &Wanted) -> Result<Option<u16>, ServiceError> {
        in_time(server, async { Session::open(server).await?.provide(wanted).await }).await?;
        Ok(None)
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

    fn copies(&self) -> Copies {
        Copies::Dumps(CLIENT)
    }

    async fn open_aside(&self, server: &Server, wanted: &Wanted) -> Result<Programs, ServiceError> {
        let aside = aside::of(wanted);
        in_time(server, async { Session::open(server).await?.open_aside(&wanted.label, &aside).await }).await?;
        Ok(programs(server, &aside, &aside.label.name))
    }

    async fn drop_aside(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        in_time(server, async { Session::open(server).await?.drop_aside(label).await }).await
    }

    async fn empty(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        within(COPYING, server, async { Session::open(server).await?.empty(label).await }).await
    }

    /// Nobody has been told its password.
    async fn seal(&self, _server: &Server, _label: &Label) -> Result<(), ServiceError> {
        Ok(())
    }

    fn client(&self, server: &Server, wanted: &Wanted) -> Result<Programs, ServiceError> {
        Ok(programs(server, wanted, &wanted.label.name))
    }

    fn variables(&self, server: &Server, wanted: &Wanted, alias: Option<&str>) -> Vec<(String, String)> {
        let (name, password) = (&wanted.label.name, &wanted.password.0);
        // How encryption is asked for in a URL differs from client to client, and what one does not know it refuses.
        let url = ServerUrl { user: name.clone(), database: name.clone(), tls: false, ..server.url.clone() };
        let url = url.with_password(password);
        let Some(alias) = alias else {
            let urls = ["DATABASE_URL", "MYSQL_URL", "JAWSDB_URL", "JAWSDB_MARIA_URL", "CLEARDB_DATABASE_URL"];
            let parts = [
                ("MYSQL_HOST", server.url.host.clone()),
                ("MYSQL_PORT", server.url.port.to_string()),
                ("MYSQL_USER", name.clone()),
                ("MYSQL_PASSWORD", password.clone()),
                ("MYSQL_DATABASE", name.clone()),
            ];
            let mode = if server.ca.is_some() { "VERIFY_IDENTITY" } else { "REQUIRED" };
            let tls = server.is_encrypted().then(|| ("MYSQL_SSL_MODE", mode.to_owned()));
            let all = urls.map(|name| (name, url.clone())).into_iter().chain(parts).chain(tls);
            let all = all.map(|(name, value)| (name.to_owned(), value));
            return all.chain(server.authority_variable("MYSQL")).collect();
        };
        [(format!("{alias}_URL"), url)].into_iter().chain(server.authority_variable(alias)).collect()
    }
}

/// Reads a dump from standard input. What was made by its owner is made by whoever reads it: to say somebody else takes a
/// right that no environment has. One that names a database would be read into that one. No line of data begins as such a
/// line does, since line ends in data are written in another way.
const RESTORE: &str = r#"set -o pipefail
IFS= read -r -N 1 begin
[ -n "$begin" ] || { echo 'the dump is empty' >&2; exit 1; }
{ printf %s "$begin"; cat; } | sed \
    -e '/^\(USE `\|CREATE DATABASE \|\/\*!40000 DROP DATABASE \)/{s/.*/the dump names a database of its own: take it without `--databases`/w /dev/stderr' \
    -e 'Q1' -e '}' \
    -e '/^\(\/\*!50\|CREATE DEFINER\)/s/DEFINER=`[^`]*`@`[^`]*`//' | "$@""#;

/// What works with a database of that name. Those of MariaDB are for MySQL as well. They would check a certificate without
/// being told of who signed it, and encrypt or not as the server has it, unless they are told otherwise.
fn programs(server: &Server, wanted: &Wanted, database: &str) -> Programs {
    let mut tls = match server.authority_file() {
        Some(file) => vec![format!("--ssl-ca={file}"), "--ssl-verify-server-cert".to_owned()],
        None => vec!["--skip-ssl-verify-server-cert".to_owned()],
    };
    tls.extend(server.is_encrypted().then(|| "--ssl".to_owned()));
    let at = [
        "--no-defaults".to_owned(),
        format!("--host={}", server.url.host),
        format!("--port={}", server.url.port),
        "--protocol=tcp".to_owned(),
        format!("--user={}", wanted.label.name),
    ];
    let program = |program: &str, options: &[&str]| {
        let options = options.iter().map(|&option| option.to_owned());
        let words = [program.to_owned()].into_iter().chain(at.clone()).chain(tls.clone());
        words.chain(options).chain([database.to_owned()]).collect::<Vec<_>>()
    };
    let restore = ["bash", "-c", RESTORE, "restore"].map(str::to_owned);
    let dump = ["--single-transaction", "--quick", "--routines", "--events", "--triggers", "--no-tablespaces"];
    Programs {
        packages: CLIENT,
        user: wanted.label.name.clone(),
        env: vec![
            ("MYSQL_PWD".to_owned(), wanted.password.0.clone()),
            ("MYSQL_HISTFILE".to_owned(), "/dev/null".to_owned()),
        ],
        shell: program("mariadb", &[]),
        dumps: Some(Dumps {
            dump: program("mariadb-dump", &dump),
            restore: [&restore[..], &program("mariadb", &["--skip-reconnect"])].concat(),
        }),
    }
}

impl<'a> Session<'a> {
    async fn open(server: &'a Server) -> Result<Self, ServiceError> {
        let url = &server.url;
        let options = OptsBuilder::default()
            .ip_or_hostname(url.host.clone())
            .tcp_port(url.port)
            .user(Some(url.user.clone()))
            .pass(Some(server.password.0.clone()).filter(|password| !password.is_empty()))
            .db_name(Some(url.database.clone()).filter(|name| !name.is_empty()))
            // Nobody else's machine is this one.
            .prefer_socket(false)
            .ssl_opts(if server.is_encrypted() { Some(encryption(server)?) } else { None });
        let conn = Conn::new(options).await.map_err(|error| fault_of(server, error, "connect"))?;
        Ok(Self { server, conn })
    }

    async fn check(&mut self) -> Result<Health, ServiceError> {
        let version = self.version().await?;
        let number: Vec<u32> = version.text.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
        let least = if version.is_mariadb { ("10.5", [10, 5]) } else { ("8.0", [8, 0]) };
        if number.as_slice() < least.1.as_slice() {
            let fault = Fault::Old { found: version.text, least: least.0 };
            return Err(ServiceError::new(self.server, fault));
        }
        let limits = "SELECT @@global.max_connections, @@global.read_only + 0";
        let (max_connections, reads): (u32, u32) = self.one("look at its state", limits, ()).await?;
        if reads != 0 {
            return Err(ServiceError::new(self.server, Fault::Replica));
        }
        self.may_do_what_is_needed().await?;
        let count = "SHOW GLOBAL STATUS LIKE 'Threads_connected'";
        let (_, connections): (String, String) = self.one("look at its state", count, ()).await?;
        let connections = connections.parse().unwrap_or_default();
        Ok(Health { version: version.text, connections, max_connections: Some(max_connections) })
    }

    async fn version(&mut self) -> Result<Version, ServiceError> {
        let text: String = self.one("look at its state", "SELECT VERSION()", ()).await?;
        let is_mariadb = text.contains("MariaDB");
        // What packagers add: `10.11.6-MariaDB-0+deb12u1`.
        let number = text.split('-').next().unwrap_or_default();
        let text = if is_mariadb { format!("{number}-MariaDB") } else { number.to_owned() };
        Ok(Version { is_mariadb, text })
    }

    async fn may_do_what_is_needed(&mut self) -> Result<(), ServiceError> {
        // Whether a name is taken cannot be seen otherwise.
        let _: Option<u8> = self.first("look at users", "SELECT 1 FROM mysql.user LIMIT 1", ()).await?;
        let who = "SELECT CURRENT_USER(), CURRENT_ROLE()";
        let (user, role): (String, Option<String>) = self.one("look at its rights", who, ()).await?;
        let (name, host) = user.rsplit_once('@').unwrap_or((&user, "%"));
        let grantee = format!("'{name}'@'{host}'");
        let rights = "SELECT PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = ?";
        let global: BTreeSet<String> =
            self.all("look at its rights", rights, (grantee.as_str(),)).await?.into_iter().collect();
        let grantable = "SELECT PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES
             WHERE GRANTEE = ? AND IS_GRANTABLE = 'YES'
             UNION SELECT PRIVILEGE_TYPE FROM information_schema.SCHEMA_PRIVILEGES
             WHERE GRANTEE = ? AND IS_GRANTABLE = 'YES' AND 'flyloft_a' LIKE TABLE_SCHEMA";
        let grantable: Vec<String> =
            self.all("look at its rights", grantable, (grantee.as_str(), grantee.as_str())).await?;
        let grantable = BTreeSet::from_iter(grantable);
        let kills = ["SUPER", "CONNECTION ADMIN", "CONNECTION_ADMIN"];
        let lacks = match () {
            () if !global.contains("CREATE USER") => "create users",
            () if !["CREATE", "DROP"].iter().all(|right| grantable.contains(*right)) => "create databases for others",
            () if !global.contains("PROCESS") => "see connections",
            () if !kills.iter().any(|right| global.contains(*right)) => "end connections",
            () => return Ok(()),
        };
        // A role's rights are not among these. What it lacks turns out when it is needed.
        if role.is_some_and(|role| !role.is_empty() && role != "NONE") {
            return Ok(());
        }
        let fault = Fault::Forbidden { user: self.server.url.user.clone(), what: lacks };
        Err(ServiceError::new(self.server, fault))
    }

    async fn run(&mut self, doing: &'static str, sql: &str) -> Result<(), ServiceError> {
        self.conn.query_drop(sql).await.map_err(|error| fault_of(self.server, error, doing))
    }

    /// The same of what must be done whole: what went wrong on the way may be no more than a warning.
    async fn run_whole(&mut self, doing: &'static str, sql: &str) -> Result<(), ServiceError> {
        self.run(doing, sql).await?;
        let warnings = self.conn.query("SHOW WARNINGS").await;
        let warnings: Vec<(String, u16, String)> = warnings.map_err(|error| fault_of(self.server, error, doing))?;
        match warnings.into_iter().find(|(level, ..)| level == "Error") {
            Some((_, code, message)) => {
                Err(ServiceError::new(self.server, fault_said(self.server, code, &message, doing)).said(message))
            }
            None => Ok(()),
        }
    }

    async fn all<T, P>(&mut self, doing: &'static str, sql: &str, values: P) -> Result<Vec<T>, ServiceError>
    where
        T: mysql_async::prelude::FromRow + Send + 'static,
        P: Into<Params> + Send,
    {
        let values: Params = values.into();
        let rows = self.conn.exec(sql, values).await;
        rows.map_err(|error| fault_of(self.server, error, doing))
    }

    async fn first<T, P>(&mut self, doing: &'static str, sql: &str, values: P) -> Result<Option<T>, ServiceError>
    where
        T: mysql_async::prelude::FromRow + Send + 'static,
        P: Into<Params> + Send,
    {
        Ok(self.all(doing, sql, values).await?.into_iter().next())
    }

    async fn one<T, P>(&mut self, doing: &'static str, sql: &str, values: P) -> Result<T, ServiceError>
    where
        T: mysql_async::prelude::FromRow + Send + 'static,
        P: Into<Params> + Send,
    {
        let row = self.first(doing, sql, values).await?;
        row.ok_or_else(|| ServiceError::new(self.server, Fault::Other(doing)).said("it answered with nothing"))
    }
}

fn encryption(server: &Server) -> Result<SslOpts, ServiceError> {
    let roots = tls::named(server)?.unwrap_or_else(|| rustls_native_certs::load_native_certs().certs);
    let roots = roots.into_iter().map(|certificate| certificate.to_vec().into()).collect();
    Ok(SslOpts::default().with_root_certs(roots).with_disable_built_in_roots(true))
}

/// What an error means.
fn fault_of(server: &Server, error: Error, doing: &'static str) -> ServiceError {
    let fault = match &error {
        Error::Server(said) => fault_said(server, said.code, &said.message, doing),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => Fault::NoTls,
        Error::Driver(DriverError::ConnectionClosed) => Fault::Down,
        error => match tls::fault_of(error) {
            Some(fault) => fault,
            None if matches!(error, Error::Io(_)) => Fault::Down,
            None => Fault::Other(doing),
        },
    };
    let said = match &error {
        Error::Server(said) => said.message.clone(),
        error => {
            let mut innermost: &dyn std::error::Error = error;
            while let Some(source) = innermost.source() {
                innermost = source;
            }
            innermost.to_string()
        }
    };
    ServiceError::new(server, fault).said(said)
}

/// The numbers are from MariaDB's and MySQL's lists of errors, which have them in common.
fn fault_said(server: &Server, code: u16, message: &str, doing: &'static str) -> Fault {
    let user = || server.url.user.clone();
    match code {
        1045 | 1698 => Fault::Password { user: user() },
        1129 | 1130 => Fault::Barred,
        1049 => Fault::NoDatabase(server.url.database.clone()),
        1040 | 1203 | 1226 => Fault::Crowded,
        1021 | 1114 => Fault::Full,
        1290 | 1792 | 1836 => Fault::Replica,
        3159 => Fault::TlsWanted,
        1053 => Fault::Down,
        1044 | 1095 | 1142 | 1143 | 1227 | 1370 | 1410 => Fault::Forbidden { user: user(), what: doing },
        // The number is that of what was not made or written, and why is the system's (errno(3)).
        _ if FULL.iter().any(|why| message.contains(why)) => Fault::Full,
        _ => Fault::Other(doing),
    }
}

/// How they say that the system said ENOSPC, which is 28 with Linux.
const FULL: [&str; 4] = ["Errcode: 28 ", "errno: 28 ", "errno 28 ", "error 28 "];

#[cfg(test)]
mod tests;
