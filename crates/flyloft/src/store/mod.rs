//! What should be: apps, environments, releases, keys, variables and events, in one SQLite file.
//!
//! One thread owns the connection; everybody else sends it closures and waits for their result. So there is one
//! writer, no lock is held across an `await`, and what a closure does is one transaction. What somebody was told is
//! so, a power cut does not undo.
//!
//! The types here are the store's own: a change of the domain's or the wire's types does not change the file.

mod acme;
mod apps;
mod ballast;
mod environments;
mod events;
mod follows;
mod keys;
mod ports;
mod releases;
mod servers;
mod services;
mod templates;
mod variables;
mod volumes;
mod wakes;

use std::fs::{File, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags, Transaction};
use thiserror::Error;
use tokio::sync::oneshot;

pub use acme::OrderRow;
pub use apps::{AppRow, CredentialKind, CredentialRow};
pub use ballast::Ballast;
pub use environments::{EnvId, EnvRow, LiveRow, MemoryRow, is_deploying};
pub use events::{EventKind, EventRow};
pub use follows::{FollowRow, MissingRow};
pub use keys::KeyRow;
pub use ports::PortRow;
pub use releases::{BuildInputs, Content, ImageRow, NewRelease, ReleaseRow, ReleaseStatus, StepRow};
pub use servers::{ManagedRow, ServerRow, servers_in};
pub use services::{Forgotten, NewService, ServiceRow, ServiceState};
pub use templates::{NewTemplate, TemplateRow};
pub use variables::Scope;
pub use volumes::{NewVolume, VolumeRow, VolumeTemplateRow};
pub use wakes::{KEPT as LAST_WAKES, SeenRow, WakeId, WakeRow};

/// What makes each version of the schema out of the one before it, the first out of an empty file. What has been
/// released is never changed: a change is one more at the end.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
    include_str!("migrations/4.sql"),
    include_str!("migrations/5.sql"),
    include_str!("migrations/6.sql"),
    include_str!("migrations/7.sql"),
    include_str!("migrations/8.sql"),
    include_str!("migrations/9.sql"),
    include_str!("migrations/10.sql"),
    include_str!("migrations/11.sql"),
    include_str!("migrations/12.sql"),
    include_str!("migrations/13.sql"),
    include_str!("migrations/14.sql"),
    include_str!("migrations/15.sql"),
    include_str!("migrations/16.sql"),
    include_str!("migrations/17.sql"),
];

/// Its file in the state directory.
pub const FILE: &str = "store.db";

/// The version of the schema that this program writes.
pub const VERSION: u32 = MIGRATIONS.len() as u32;

#[derive(Clone)]
pub struct Store {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
    ballast: Ballast,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("failed to open the store `{}`", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("failed to open the file `{}`", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("the store `{}` has version {found}, this program knows versions up to {VERSION}", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("the store failed")]
    Sql(#[source] rusqlite::Error),
    #[error("the disk is full; `flyloft destroy` what nobody needs")]
    Full,
    #[error("the store holds something that it should not: {0}")]
    Corrupt(String),
    #[error("the store's thread has ended")]
    Gone,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            _ => Self::Sql(error),
        }
    }
}

impl Store {
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open { path: path.to_owned(), source };
        // It holds secrets. What SQLite puts beside it takes its mode.
        make_private(path).map_err(|source| StoreError::File { path: path.to_owned(), source })?;
        let mut connection = Connection::open(path).map_err(open)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(open)?;
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON;").map_err(open)?;
        migrate(&mut connection, path)?;
        let ballast = Ballast::of(path.parent().unwrap_or(Path::new("/")));
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || queue.into_iter().for_each(|job| job(&mut connection)))
            .expect("a thread can be started");
        Ok(Self { path: path.to_owned(), jobs, ballast })
    }

    /// Whether this program can open it. A store that is not there yet can be made. Nothing is written, and whoever has
    /// it open is not disturbed.
    pub fn check(path: &Path) -> Result<(), StoreError> {
        if !path.exists() {
            return Ok(());
        }
        version(&read_only(path)?, path).map(drop)
    }

    /// The same for a file that came from elsewhere: all of it is looked at, and it must be a store already.
    pub fn check_whole(path: &Path) -> Result<(), StoreError> {
        let connection = read_only(path)?;
        if version(&connection, path)? == 0 {
            return Err(StoreError::Corrupt("nothing at all".to_owned()));
        }
        let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        match found.map_err(|source| StoreError::Open { path: path.to_owned(), source })?.as_str() {
            "ok" => Ok(()),
            fault => Err(StoreError::Corrupt(fault.to_owned())),
        }
    }

    /// Copies all that has been committed into a new file, for its owner alone. Nobody who works with the store waits for
    /// it. Gives how many apps and environments there are in the copy.
    pub async fn snapshot(&self, to: &Path) -> Result<(usize, usize), StoreError> {
        let (path, to) = (self.path.clone(), to.to_owned());
        let copy = move || {
            // SQLite takes an empty file, and would make one for everybody to read.
            make_private(&to).map_err(|source| StoreError::File { path: to.clone(), source })?;
            let target = to.to_str().ok_or_else(|| StoreError::Corrupt("the name of a directory".to_owned()))?;
            read_only(&path)?.execute("VACUUM INTO ?1", [target])?;
            let copied = read_only(&to)?;
            let count = |sql| copied.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|count| count as usize);
            Ok((count("SELECT count(*) FROM apps")?, count("SELECT count(*) FROM environments")?))
        };
        tokio::task::spawn_blocking(copy).await.map_err(|_| StoreError::Gone)?
    }

    /// What is thrown off where the disk is full, so that what frees it can still be written down.
    pub fn ballast(&self) -> &Ballast {
        &self.ballast
    }

    /// Runs `work` in a transaction, which is committed if it succeeds. What it wrote outlives a power cut.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.commit("FULL", work).await
    }

    /// The same for what a deploy notes down on its way, of which a power cut may take the last: the deploy is over
    /// then in any case. What [`Store::call`] commits next takes it to the disk as well.
    ///
    /// It is most of what is written. A commit that waits for the disk took 4 ms at the median where it was measured,
    /// one that does not took 0.013 ms, and a deploy has twenty: two of them wait, which is 8 ms instead of 80.
    async fn note<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.commit("NORMAL", work).await
    }

    /// `synchronous` as in SQLite's documentation of that pragma: with a write-ahead log, `FULL` waits for the disk at
    /// each commit, and `NORMAL` does so when the log is moved into the file.
    async fn commit<T: Send + 'static>(
        &self,
        synchronous: &'static str,
        work: impl FnOnce(&Transaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ballast.make_way();
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let commit = || {
                connection.pragma_update(None, "synchronous", synchronous)?;
                let transaction = connection.transaction()?;
                let value = work(&transaction)?;
                transaction.commit()?;
                Ok(value)
            };
            // Whoever asked may have gone; what was asked is done all the same.
            let _ = answer.send(commit());
        });
        self.jobs.send(job).map_err(|_| StoreError::Gone)?;
        wait.await.map_err(|_| StoreError::Gone)?
    }
}

fn make_private(path: &Path) -> std::io::Result<()> {
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

/// Nothing is written there, and whoever else has it open is not disturbed.
fn read_only(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|connection| connection.busy_timeout(Duration::from_secs(5)).map(|()| connection));
    connection.map_err(|source| StoreError::Open { path: path.to_owned(), source })
}

/// The version of the schema that the file has.
fn version(connection: &Connection, path: &Path) -> Result<u32, StoreError> {
    let found = connection.query_row("PRAGMA user_version", [], |row| row.get(0));
    match found.map_err(|source| StoreError::Open { path: path.to_owned(), source })? {
        found if found > VERSION => Err(StoreError::Newer { path: path.to_owned(), found }),
        found => Ok(found),
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let open = |source| StoreError::Open { path: path.to_owned(), source };
    let found = version(connection, path)?;
    // Each whole or not at all: a daemon that is killed in between goes on with the next one.
    for (version, migration) in (1_u32..).zip(MIGRATIONS).skip(found as usize) {
        let transaction = connection.transaction().map_err(open)?;
        transaction.execute_batch(migration).map_err(open)?;
        transaction.pragma_update(None, "user_version", version).map_err(open)?;
        transaction.commit().map_err(open)?;
    }
    Ok(())
}

/// Milliseconds since the Unix epoch, as the store keeps times.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Text of the store, back into what it was made from.
fn parse<T: serde::de::DeserializeOwned>(column: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(format!("{column}: {error}")))
}

fn print<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the store's types have only string keys")
}

/// A name that was checked when it was written.
fn name<T: std::str::FromStr<Err = flyloft_core::name::NameError>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error| StoreError::Corrupt(format!("{error}")))
}

#[cfg(test)]
mod tests;
