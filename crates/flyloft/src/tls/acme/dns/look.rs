//! Whether the world sees a record: every name server of its zone is asked itself. One that others keep what they have seen
//! in would keep for a while, too, that there was nothing, and it is not asked of the record.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use hickory_client::proto::rr::{Name, RData, Record, RecordType};
use tokio::time::Instant;

use super::link::{absolute, query};
use crate::machine::network;

/// How often one looks.
const EVERY: Duration = Duration::from_secs(2);

/// So many name servers of a zone are asked.
const SERVERS: usize = 8;

/// So many names may stand for each other in turn.
const ALIASES: usize = 8;

/// The port of DNS.
const PORT: u16 = 53;

/// Who tells which name servers there are. Empty: those of the machine.
pub struct Eyes {
    pub resolvers: Vec<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    Seen,
    /// This server does not have it.
    Missing {
        server: SocketAddr,
    },
    /// Nobody could be asked.
    Blind(String),
}

impl Eyes {
    /// Comes back when every name server has the record. It is an error if one of them still does not when the time is
    /// over. Where nobody can be asked from here, all of it goes by: others may see more.
    pub async fn wait(&self, record: &str, value: &str, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        loop {
            let looked = tokio::time::timeout_at(end, self.look(record, value)).await;
            let sight = looked.unwrap_or_else(|_| Sight::Blind("no name server answers in time".to_owned()));
            let is_over = Instant::now() + EVERY >= end;
            match sight {
                Sight::Seen => return Ok(()),
                Sight::Missing { server } if is_over => {
                    return Err(format!("`{}` still does not have it after {} s", server.ip(), limit.as_secs()));
                }
                Sight::Blind(why) if is_over => {
                    tracing::warn!(record, why, "nobody could be asked for a TXT record; the server looks for itself");
                    tokio::time::sleep_until(end).await;
                    return Ok(());
                }
                Sight::Missing { .. } | Sight::Blind(_) => tokio::time::sleep(EVERY).await,
            }
        }
    }

    /// What is to be seen of it now.
    pub async fn look(&self, record: &str, value: &str) -> Sight {
        let mut name = match absolute(record) {
            Ok(name) => name,
            Err(why) => return Sight::Blind(why),
        };
        for _ in 0..ALIASES {
            let servers = match self.servers(&name).await {
                Ok(servers) => servers,
                Err(why) => return Sight::Blind(why),
            };
            let asked = join_all(servers.iter().map(|server| query(*server, &name, RecordType::TXT))).await;
            let (mut alias, mut answered, mut why) = (None, false, String::new());
            for (server, answer) in servers.iter().zip(asked) {
                match answer {
                    Ok(records) if records.iter().any(|record| has(record, value)) => answered = true,
                    Ok(records) => match records.iter().find_map(|record| stands_for(record, &name)) {
                        Some(other) => alias = Some(other),
                        None => return Sight::Missing { server: *server },
                    },
                    Err(error) => why = error,
                }
            }
            match alias {
                Some(other) => name = other,
                None if answered => return Sight::Seen,
                None => return Sight::Blind(why),
            }
        }
        Sight::Blind(format!("`{record}` stands for one name after the other"))
    }

    /// The name servers of the zone that a name is in.
    async fn servers(&self, name: &Name) -> Result<Vec<SocketAddr>, String> {
        let mut zone = name.clone();
        while !zone.is_root() {
            let records = self.ask(&zone, RecordType::NS).await?;
            let servers: Vec<Name> = records.iter().filter_map(|record| serves(record, &zone)).take(SERVERS).collect();
            if !servers.is_empty() {
                return self.addresses(&servers).await;
            }
            zone = zone.base_name();
        }
        Err(format!("nobody knows a name server of `{name}`"))
    }

    async fn addresses(&self, servers: &[Name]) -> Result<Vec<SocketAddr>, String> {
        let mut addresses = Vec::new();
        for server in servers {
            for kind in [RecordType::A, RecordType::AAAA] {
                let records = self.ask(server, kind).await?;
                addresses.extend(records.iter().filter_map(address).map(|ip| SocketAddr::new(ip, PORT)));
            }
        }
        match addresses.is_empty() {
            true => Err("nobody knows where its name servers are".to_owned()),
            false => Ok(addresses),
        }
    }

    /// What the first of the resolvers says that answers.
    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Vec<Record>, String> {
        let own = || network::upstream_resolvers().into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect();
        let resolvers: Vec<SocketAddr> = if self.resolvers.is_empty() { own() } else { self.resolvers.clone() };
        let mut failed = "the machine knows no resolver".to_owned();
        for resolver in resolvers {
            match query(resolver, name, kind).await {
                Ok(records) => return Ok(records),
                Err(why) => failed = why,
            }
        }
        Err(failed)
    }
}

fn has(record: &Record, value: &str) -> bool {
    matches!(record.data(), RData::TXT(text) if text.txt_data().concat() == value.as_bytes())
}

/// The name that this one stands for.
fn stands_for(record: &Record, name: &Name) -> Option<Name> {
    match record.data() {
        RData::CNAME(other) if record.name() == name => Some(other.0.clone()),
        _ => None,
    }
}

fn serves(record: &Record, zone: &Name) -> Option<Name> {
    match record.data() {
        RData::NS(server) if record.name() == zone => Some(server.0.clone()),
        _ => None,
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    match record.data() {
        RData::A(ip) => Some(ip.0.into()),
        RData::AAAA(ip) => Some(ip.0.into()),
        _ => None,
    }
}
