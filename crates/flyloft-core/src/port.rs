//! Ports of environments other than that of HTTP, which the host publishes: which of the host's they may be.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::name::{EnvRef, excerpt};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// A port that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    pub protocol: Protocol,
    /// Of the host.
    pub host: u16,
    /// Of the environment's container.
    pub port: u16,
}

/// Ports of the host that are given out where nobody names one: from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pool {
    first: u16,
    last: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortError {
    #[error("`{0}` is no range of ports such as 20000-29999, from 1024 on")]
    Range(String),
    #[error("`{0}` is no protocol: tcp and udp are")]
    Protocol(String),
    #[error("port {0} of this machine is not in {1}, out of which keys that are no admin's get theirs")]
    Outside(u16, Pool),
    #[error("ports below {PRIVILEGED} are the system's")]
    Privileged,
    #[error(
        "ports {}-{} are those by which connections from this machine to elsewhere leave", OUTGOING.start(), OUTGOING.end()
    )]
    Outgoing,
    #[error("{MOST} ports are published for it, and no more are")]
    TooMany,
}

/// Of an environment.
pub const MOST: usize = 10;

/// Where the kernel lets everybody listen (ip(7), `ip_unprivileged_port_start`).
const PRIVILEGED: u16 = 1024;

/// Of the host, by which what containers send elsewhere leaves. They are nobody's to publish: whoever a container talks to
/// would come to it by a port that is another's.
pub const OUTGOING: RangeInclusive<u16> = 32_768..=60_999;

/// Who asks for a port of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    Deployer,
    /// Forced or not.
    Admin {
        force: bool,
    },
}

impl Pool {
    pub const DEFAULT: Self = Self { first: 20_000, last: 29_999 };

    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port) && !OUTGOING.contains(&port)
    }

    /// Whether somebody may have this port of the host, if it is free.
    pub fn check(self, port: u16, asker: Asker) -> Result<(), PortError> {
        match asker {
            _ if self.contains(port) => Ok(()),
            Asker::Deployer => Err(PortError::Outside(port, self)),
            Asker::Admin { force: false } if port < PRIVILEGED => Err(PortError::Privileged),
            Asker::Admin { .. } => Ok(()),
        }
    }

    /// Those that are not taken, in the order in which they are tried. For the same port of the same environment it
    /// begins at the same place: who comes back finds it where it was, and a port that somebody has given back is not
    /// the next one's at once, whose clients would find another database there.
    pub fn candidates(self, env: &EnvRef, port: u16, taken: &BTreeSet<u16>) -> impl Iterator<Item = u16> {
        let count = u32::from(self.last - self.first) + 1;
        let start = hash(&format!("{env}:{port}")) % count;
        let all = (0..count).map(move |n| self.first + ((start + n) % count) as u16);
        all.filter(move |port| !taken.contains(port) && !OUTGOING.contains(port))
    }
}

/// Whether a port of the host that is free can be published.
pub fn must_stay(port: u16) -> Result<(), PortError> {
    if OUTGOING.contains(&port) { Err(PortError::Outgoing) } else { Ok(()) }
}

/// FNV-1a.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl FromStr for Pool {
    type Err = PortError;
    fn from_str(text: &str) -> Result<Self, PortError> {
        let ends = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match ends {
            Some((first, last)) if (PRIVILEGED..=last).contains(&first) => Ok(Self { first, last }),
            _ => Err(PortError::Range(excerpt(text))),
        }
    }
}

impl TryFrom<String> for Pool {
    type Error = PortError;
    fn try_from(text: String) -> Result<Self, PortError> {
        text.parse()
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl FromStr for Protocol {
    type Err = PortError;
    fn from_str(text: &str) -> Result<Self, PortError> {
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            _ => Err(PortError::Protocol(excerpt(text))),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> EnvRef {
        name.parse().unwrap()
    }

    #[test]
    fn a_range_has_a_first_and_a_last_port_and_none_of_the_systems() {
        let pool: Pool = "20000-20003".parse().unwrap();
        assert_eq!(pool.to_string(), "20000-20003");
        assert!(pool.contains(20_000) && pool.contains(20_003) && !pool.contains(20_004) && !pool.contains(19_999));
        for text in ["", "20000", "20003-20000", "80-90", "1023-2000", "20000-70000", "a-b", "-1-2"] {
            assert!(text.parse::<Pool>().is_err(), "{text}");
        }
    }

    #[test]
    fn deployers_have_ports_of_the_pool_and_admins_others_that_are_not_the_systems_unless_they_insist() {
        let check = |port, asker| Pool::DEFAULT.check(port, asker);
        let admin = |force| Asker::Admin { force };
        for asker in [Asker::Deployer, admin(false), admin(true)] {
            assert_eq!(check(20_000, asker), Ok(()));
        }
        assert_eq!(check(5432, Asker::Deployer), Err(PortError::Outside(5432, Pool::DEFAULT)));
        assert_eq!(check(5432, admin(false)), Ok(()));
        assert_eq!(check(25, Asker::Deployer), Err(PortError::Outside(25, Pool::DEFAULT)));
        assert_eq!(check(25, admin(false)), Err(PortError::Privileged));
        assert_eq!(check(25, admin(true)), Ok(()));
        let wide: Pool = "30000-40000".parse().unwrap();
        assert_eq!(wide.check(32_767, Asker::Deployer), Ok(()));
        assert_eq!(wide.check(32_768, Asker::Deployer), Err(PortError::Outside(32_768, wide)));
        assert_eq!((must_stay(32_767), must_stay(32_768)), (Ok(()), Err(PortError::Outgoing)));
    }

    #[test]
    fn every_free_port_of_the_pool_is_tried_once_and_the_same_one_first_each_time() {
        let pool: Pool = "20000-20003".parse().unwrap();
        let taken = [20_001].into();
        let tried: Vec<u16> = pool.candidates(&env("shop/main"), 5432, &taken).collect();
        assert_eq!(tried, pool.candidates(&env("shop/main"), 5432, &taken).collect::<Vec<_>>());
        assert_eq!(tried.iter().copied().collect::<BTreeSet<_>>(), [20_000, 20_002, 20_003].into());
        assert_eq!(tried.len(), 3);
        let first = |name, port| Pool::DEFAULT.candidates(&env(name), port, &BTreeSet::new()).next();
        assert_ne!(first("shop/main", 5432), first("shop/pr-1", 5432));
        assert_ne!(first("shop/main", 5432), first("shop/main", 6379));
        let all: Pool = "1024-65535".parse().unwrap();
        assert_eq!(all.candidates(&env("shop/main"), 1, &BTreeSet::new()).count(), 64_512 - OUTGOING.count());
    }
}
