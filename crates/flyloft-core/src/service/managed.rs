//! Servers that flyloft runs itself: what each kind is made of and started with, and how much of a machine it takes.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{Kind, ServerUrl};
use crate::plan::Stack;
use crate::policy::{Limits, Size};

/// Where a server finds its volume.
pub const DATA: &str = "/data";

/// The file in a new volume that has the administrator's password. It goes when that is set.
pub const PASSWORD: &str = "password";

/// The variable with which [`Recipe::script`] finds what depends on the machine.
const SETTINGS: &str = "SETTINGS";

const MIB: u64 = 1 << 20;

/// How a kind of server is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Of Debian's.
    pub packages: &'static [&'static str],
    /// What `sh -c` runs, as the app's user of a container. All data are below [`DATA`].
    pub script: &'static str,
    /// Its administrator, and what it connects to.
    user: &'static str,
    database: &'static str,
    /// Whether a newer version reads what an older one of Debian's has written.
    reads_older: bool,
    /// Bytes of memory below which it does not work well.
    least: u64,
}

/// What one server is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outfit {
    pub stack: Stack,
    /// The day since 1970 on which its packages were taken from Debian; 0 for those that the stack's other layers have.
    pub edition: u32,
    pub share: Share,
}

/// How much of the machine a server may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Bytes of memory that it may take.
    pub memory: u64,
    /// Bytes that its data may take.
    pub disk: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManagedError {
    #[error("flyloft runs no {0} itself")]
    Kind(Kind),
    #[error("{kind} needs {least} of memory at least, and {asked} is less", least = Size(*.least), asked = Size(*.asked))]
    Memory { kind: Kind, least: u64, asked: u64 },
    #[error("{have} is newer than {asked}, which could not read what it has written")]
    Older { have: Stack, asked: Stack },
    #[error("{asked} has another major version of {kind} than {have}, which does not read the same files")]
    Major { kind: Kind, have: Stack, asked: Stack },
}

impl Recipe {
    pub fn of(kind: Kind) -> Result<Self, ManagedError> {
        match kind {
            Kind::Postgres => Ok(Self {
                packages: &["postgresql"],
                script: include_str!("managed/postgres.sh"),
                user: "postgres",
                database: "postgres",
                reads_older: false,
                least: 128 * MIB,
            }),
            Kind::Redis => Ok(Self {
                packages: &["redis-server"],
                script: include_str!("managed/redis.sh"),
                user: "default",
                // Those with numbers of their own share 0.
                database: "1",
                reads_older: true,
                least: 64 * MIB,
            }),
            Kind::Mysql => Ok(Self {
                packages: &["mariadb-server"],
                script: include_str!("managed/mysql.sh"),
                user: "flyloft",
                database: "",
                reads_older: false,
                least: 160 * MIB,
            }),
            Kind::Rabbitmq => Err(ManagedError::Kind(kind)),
        }
    }

    /// Where such a server is, at that host.
    pub fn url(self, kind: Kind, host: &str) -> ServerUrl {
        let (user, database) = (self.user.to_owned(), self.database.to_owned());
        ServerUrl { kind, user, host: host.to_owned(), port: kind.port(false), database, tls: false, management: None }
    }
}

impl Share {
    /// What there is for a server on a machine with so much memory: an eighth of it, which is a bound and not what it takes.
    pub fn on(machine: u64) -> Self {
        Self { memory: (machine / 8).clamp(192 * MIB, 1024 * MIB), disk: 10 << 30 }
    }

    pub fn check(self, kind: Kind) -> Result<(), ManagedError> {
        let least = Recipe::of(kind)?.least;
        if self.memory < least {
            return Err(ManagedError::Memory { kind, least, asked: self.memory });
        }
        Ok(())
    }

    pub fn limits(self) -> Limits {
        Limits { memory: self.memory, swap: self.memory, disk: 1 << 30, ..Limits::default() }
    }

    /// What its process finds in its variables. Numbers alone.
    pub fn env(self, kind: Kind) -> BTreeMap<String, String> {
        let mib = |bytes: u64| (bytes / MIB).max(1);
        let settings = match kind {
            // What PostgreSQL's documentation says of a server that is not alone on its machine, in its chapter 19.4:
            // much less than a quarter of the memory, since files are cached by the kernel as well.
            Kind::Postgres => {
                let connections = (self.memory / (4 * MIB)).clamp(40, 200);
                let shared = mib(self.memory / 8).max(16);
                let maintenance = mib(self.memory / 16).clamp(8, 64);
                let wal = mib(self.disk / 20).clamp(64, 1024);
                format!(
                    "-c max_connections={connections} -c shared_buffers={shared}MB -c maintenance_work_mem={maintenance}MB \
                     -c max_wal_size={wal}MB -c wal_level=minimal -c max_wal_senders=0 -c jit=off"
                )
            }
            // A copy of itself writes the data out, and shares its memory but for what changes meanwhile.
            Kind::Redis => format!("--maxmemory {}mb", mib(self.memory / 3 * 2)),
            // A connection of MariaDB's is a thread.
            Kind::Mysql => {
                let connections = (self.memory / (4 * MIB)).clamp(40, 200);
                let pool = mib(self.memory / 4).max(16);
                format!("--max-connections={connections} --innodb-buffer-pool-size={pool}M --performance-schema=OFF")
            }
            Kind::Rabbitmq => String::new(),
        };
        BTreeMap::from([(SETTINGS.to_owned(), settings)])
    }
}

/// Whether a server may go from one stack to the other with its data.
pub fn check_move(kind: Kind, have: Stack, asked: Stack) -> Result<(), ManagedError> {
    let age = |stack| Stack::ALL.iter().rev().position(|there| *there == stack);
    if age(asked) < age(have) {
        return Err(ManagedError::Older { have, asked });
    }
    match have == asked || Recipe::of(kind)?.reads_older {
        true => Ok(()),
        false => Err(ManagedError::Major { kind, have, asked }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_machine_gives_a_server_little_and_a_large_one_not_all_that_it_has() {
        let mib = |machine: u64| Share::on(machine * MIB).memory / MIB;
        assert_eq!([512, 2048, 24 << 10].map(mib), [192, 256, 1024]);
        let small = &Share::on(512 * MIB).env(Kind::Postgres)[SETTINGS];
        assert!(small.starts_with("-c max_connections=48 -c shared_buffers=24MB "), "{small}");
        assert_eq!(Share::on(512 * MIB).env(Kind::Redis)[SETTINGS], "--maxmemory 128mb");
        let least = Share { memory: 127 * MIB, disk: 0 }.check(Kind::Postgres).unwrap_err();
        assert_eq!(least.to_string(), "postgres needs 128MiB of memory at least, and 127MiB is less");
    }

    #[test]
    fn what_a_server_is_started_with_is_words_and_numbers() {
        for (kind, disk) in [(Kind::Postgres, 0), (Kind::Redis, u64::MAX), (Kind::Mysql, 1)] {
            let env = Share { memory: 1 << 40, disk }.env(kind);
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_= ".contains(c);
            assert!(env.values().all(|value| value.chars().all(plain)), "{env:?}");
        }
    }

    #[test]
    fn data_go_to_a_newer_stack_only_where_that_can_read_them_and_never_back() {
        let [new, old] = Stack::ALL;
        for kind in [Kind::Postgres, Kind::Redis] {
            assert_eq!(check_move(kind, old, old), Ok(()));
            assert_eq!(check_move(kind, new, old), Err(ManagedError::Older { have: new, asked: old }));
        }
        assert_eq!(check_move(Kind::Redis, old, new), Ok(()));
        let refused = check_move(Kind::Postgres, old, new);
        assert_eq!(refused, Err(ManagedError::Major { kind: Kind::Postgres, have: old, asked: new }));
    }

    #[test]
    fn the_url_of_a_server_reads_as_it_is_written() {
        for kind in [Kind::Postgres, Kind::Redis, Kind::Mysql] {
            let url = Recipe::of(kind).unwrap().url(kind, "pg");
            assert_eq!(ServerUrl::parse(kind, &url.to_string()).unwrap().0, url);
        }
    }
}
