//! PostgreSQL, from version 10 on: an environment gets a role and a database that it owns.

mod copy;
mod idle;
mod made;

use std::error::Error as _;
use std::time::Duration;

use async_trait::async_trait;
use flyloft_core::service::ServerUrl;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use super::{
    COPYING, Client as Programs, Copies, Driver, Dumps, Fault, Health, Label, PATIENCE, Server, ServiceError, Wanted,
    in_time, tls, within,
};

const CONNECT: Duration = Duration::from_secs(8);

/// The first with SCRAM, without which a password would have to be sent as it is.
const LEAST: i32 = 100_000;

pub struct Postgres;

/// A connection, which ends when it is dropped.
struct Session<'a> {
    server: &'a Server,
    client: Client,
    _connection: AbortOnDropHandle<()>,
}

#[async_trait]
impl Driver for Postgres {
    async fn check(&self, server: &Server) -> Result<Health, ServiceError> {
        in_time(server, async { Session::open(server).await?.check().await }).await
    }

    async fn provide(&self, server: &Server, wanted: &Wanted) -> Result<Option<u16>, ServiceError> {
        let patience = if wanted.seed.is_some() { COPYING } else { PATIENCE };
        within(patience, server, async { Session::open(server).await?.provide(wanted).await }).await?;
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
        Copies::Itself
    }

    async fn renew(&self, server: &Server, wanted: &Wanted) -> Result<(), ServiceError> {
        within(COPYING, server, async { Session::open(server).await?.renew(wanted).await }).await
    }

    async fn open_aside(&self, server: &Server, wanted: &Wanted) -> Result<Programs, ServiceError> {
        let empty = Wanted { seed: None, ..wanted.clone() };
        in_time(server, async { Session::open(server).await?.open_aside(&empty).await }).await?;
        Ok(programs(server, wanted, &copy::aside(&wanted.label).name))
    }

    async fn put_in_place(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        in_time(server, async { Session::open(server).await?.put_in_place(label).await }).await
    }

    async fn drop_aside(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        in_time(server, async { Session::open(server).await?.drop_aside(label).await }).await
    }

    async fn seal(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        in_time(server, async { Session::open(server).await?.seal(label).await }).await
    }

    async fn remove_template(&self, server: &Server, label: &Label) -> Result<(), ServiceError> {
        in_time(server, async { Session::open(server).await?.remove_template(label).await }).await
    }

    fn client(&self, server: &Server, wanted: &Wanted) -> Result<Programs, ServiceError> {
        Ok(programs(server, wanted, &wanted.label.name))
    }

    fn variables(&self, server: &Server, wanted: &Wanted, alias: Option<&str>) -> Vec<(String, String)> {
        let (name, password) = (&wanted.label.name, &wanted.password.0);
        let tls = encryption(server);
        let url = ServerUrl { user: name.clone(), database: name.clone(), tls: false, ..server.url.clone() };
        let asked: Vec<String> = tls.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mark = if asked.is_empty() { "" } else { "?" };
        let url = url.with_password(password) + mark + &asked.join("&");
        let Some(alias) = alias else {
            let parts = [
                ("DATABASE_URL", url),
                ("PGHOST", server.url.host.clone()),
                ("PGPORT", server.url.port.to_string()),
                ("PGUSER", name.clone()),
                ("PGPASSWORD", password.clone()),
                ("PGDATABASE", name.clone()),
            ];
            let parts = parts.into_iter().map(|(name, value)| (name.to_owned(), value));
            return parts.chain(tls.into_iter().map(in_environment)).collect();
        };
        vec![(format!("{alias}_URL"), url)]
    }
}

/// As libpq has it in URLs ("Database Connection Control Functions" of its documentation): with whoever was named the
/// server is checked, as the daemon does it. Without, apps may not know whom they could believe.
fn encryption(server: &Server) -> Vec<(&'static str, String)> {
    match server.authority_file() {
        Some(file) => vec![("sslmode", "verify-full".to_owned()), ("sslrootcert", file)],
        None if server.url.tls => vec![("sslmode", "require".to_owned())],
        None => Vec::new(),
    }
}

/// The variables of these, by which libpq goes for whatever a URL does not say, wherever that leads.
pub const OF_ALL_CONNECTIONS: [&str; 2] = ["PGSSLMODE", "PGSSLROOTCERT"];

/// The same as a variable.
fn in_environment((name, value): (&str, String)) -> (String, String) {
    (format!("PG{}", name.to_uppercase()), value)
}

/// Reads a dump from standard input, of either kind: `pg_restore` writes its own as SQL. That of newer versions begins
/// with a setting that older servers do not know. One that connects elsewhere would be read into what is in use. All or
/// nothing is up to who asks, who fills what nobody uses yet.
const RESTORE: &str = r#"set -o pipefail
sql() {
    sed -e '1,40{/^SET transaction_timeout = 0;$/d}' \
        -e '/^\\c\(onnect\)\?\([[:space:]]\|$\)/{s/.*/the dump connects to a database of its own: take it of one database, without `--create`/w /dev/stderr' \
        -e 'Q1' -e '}' |
        psql --no-psqlrc --quiet --single-transaction --set=ON_ERROR_STOP=1 --output=/dev/null --file=-
}
IFS= read -r -N 5 begin
[ -n "$begin" ] || { echo 'the dump is empty' >&2; exit 1; }
case $begin in
    PGDMP) { printf %s "$begin"; cat; } | pg_restore --no-owner --no-privileges --file=- | sql ;;
    *) { printf %s "$begin"; cat; } | sql ;;
esac"#;

/// What works with a database of that name.
fn programs(server: &Server, wanted: &Wanted, database: &str) -> Programs {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let env = [
        ("PGHOST", server.url.host.clone()),
        ("PGPORT", server.url.port.to_string()),
        ("PGUSER", wanted.label.name.clone()),
        ("PGPASSWORD", wanted.password.0.clone()),
        ("PGDATABASE", database.to_owned()),
        // Before what else is said of that.
        ("PGSSLMODE", "prefer".to_owned()),
        ("PGCONNECT_TIMEOUT", CONNECT.as_secs().to_string()),
        ("PSQL_HISTORY", "/dev/null".to_owned()),
    ];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value));
    let env = env.chain(encryption(server).into_iter().map(in_environment)).collect();
    Programs {
        packages: &["postgresql-client"],
        user: wanted.label.name.clone(),
        env,
        shell: words(&["psql"]),
        dumps: Some(Dumps {
            dump: words(&["pg_dump", "--format=custom", "--no-owner", "--no-privileges"]),
            restore: words(&["bash", "-c", RESTORE]),
        }),
    }
}

impl<'a> Session<'a> {
    async fn open(server: &'a Server) -> Result<Self, ServiceError> {
        Self::open_in(server, &server.url.database).await
    }

    async fn open_in(server: &'a Server, database: &str) -> Result<Self, ServiceError> {
        let url = &server.url;
        let mut config = Config::new();
        config.user(&url.user).host(&url.host).port(url.port).dbname(database);
        config.application_name("flyloft").connect_timeout(CONNECT);
        if !server.password.0.is_empty() {
            config.password(&server.password.0);
        }
        let failed = |error| fault_of(server, error, "connect");
        let (client, connection) = match server.is_encrypted() {
            true => {
                config.ssl_mode(SslMode::Require);
                let tls = MakeRustlsConnect::new(tls::config(server)?);
                let (client, connection) = config.connect(tls).await.map_err(failed)?;
                (client, tokio::spawn(until_it_ends(connection)))
            }
            false => {
                config.ssl_mode(SslMode::Disable);
                let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
                (client, tokio::spawn(until_it_ends(connection)))
            }
        };
        Ok(Self { server, client, _connection: AbortOnDropHandle::new(connection) })
    }

    async fn check(&self) -> Result<Health, ServiceError> {
        let row = self
            .client
            .query_one(
                "SELECT current_setting('server_version'), current_setting('server_version_num')::int4,
                    rolsuper, rolcreaterole, rolcreatedb, pg_is_in_recovery(),
                    current_setting('max_connections')::int4,
                    (SELECT count(*)::int4 FROM pg_stat_activity WHERE backend_type = 'client backend')
                 FROM pg_roles WHERE rolname = current_user",
                &[],
            )
            .await
            .map_err(|error| fault_of(self.server, error, "say what it is"))?;
        let version: String = row.get(0);
        // What packagers add: `15.8 (Debian 15.8-1)`.
        let version = version.split(' ').next().unwrap_or_default().to_owned();
        let (number, is_super, roles, databases): (i32, bool, bool, bool) =
            (row.get(1), row.get(2), row.get(3), row.get(4));
        let user = || self.server.url.user.clone();
        let fault = match () {
            () if number < LEAST => Some(Fault::Old { found: version.clone(), least: "10" }),
            () if row.get::<_, bool>(5) => Some(Fault::Replica),
            () if !is_super && !roles => Some(Fault::Forbidden { user: user(), what: "create roles" }),
            () if !is_super && !databases => Some(Fault::Forbidden { user: user(), what: "create databases" }),
            () => None,
        };
        match fault {
            Some(fault) => Err(ServiceError::new(self.server, fault)),
            None => Ok(Health {
                version,
                max_connections: Some(row.get::<_, i32>(6).unsigned_abs()),
                connections: row.get::<_, i32>(7).unsigned_abs(),
            }),
        }
    }
}

/// What goes wrong on the way is told to whoever asks something.
async fn until_it_ends(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to a server of PostgreSQL has ended");
    }
}

/// What an error means. The names of conditions are from PostgreSQL's appendix "Error Codes".
fn fault_of(server: &Server, error: tokio_postgres::Error, doing: &'static str) -> ServiceError {
    let user = || server.url.user.clone();
    let fault = match error.as_db_error() {
        Some(said) => match said.code() {
            code if *code == SqlState::INVALID_PASSWORD => Fault::Password { user: user() },
            code if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => match said.message() {
                text if !text.contains("pg_hba.conf") => Fault::Password { user: user() },
                text if text.contains("no encryption") || text.contains("SSL off") => Fault::TlsWanted,
                _ => Fault::Barred,
            },
            code if *code == SqlState::INVALID_CATALOG_NAME => Fault::NoDatabase(server.url.database.clone()),
            code if *code == SqlState::TOO_MANY_CONNECTIONS => Fault::Crowded,
            code if *code == SqlState::DISK_FULL => Fault::Full,
            code if DOWN.contains(code) => Fault::Down,
            code if *code == SqlState::INSUFFICIENT_PRIVILEGE => Fault::Forbidden { user: user(), what: doing },
            _ => Fault::Other(doing),
        },
        None => match of_connection(&error) {
            Some(fault) => fault,
            // Without a password it does not ask for one in vain.
            None if error.to_string().starts_with("invalid configuration") => Fault::Password { user: user() },
            None if doing == "connect" || error.is_closed() || is_lost(&error) => Fault::Down,
            None => Fault::Other(doing),
        },
    };
    let said = match error.as_db_error() {
        Some(said) => said.message().to_owned(),
        None => error.source().map_or_else(|| error.to_string(), ToString::to_string),
    };
    ServiceError::new(server, fault).said(said)
}

/// It is starting or ending, or one of its processes has crashed.
const DOWN: [SqlState; 3] = [SqlState::CANNOT_CONNECT_NOW, SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN];

fn is_lost(error: &tokio_postgres::Error) -> bool {
    error.source().is_some_and(|source| source.is::<std::io::Error>())
}

/// What there is to say of a connection that was not made.
fn of_connection(error: &tokio_postgres::Error) -> Option<Fault> {
    match error.source() {
        Some(source) if source.to_string() == "server does not support TLS" => Some(Fault::NoTls),
        _ => tls::fault_of(error),
    }
}

#[cfg(test)]
mod tests;
