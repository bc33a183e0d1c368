//! Ports of containers that the host publishes. See [`crate::engine::Published`].

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;

use flyloft_core::port::Protocol;

use super::container::{self, Running};
use super::net::Ways;
use super::{LxcEngine, blocking};
use crate::engine::{ContainerId, EngineError, Published};

impl LxcEngine {
    /// What is published of a container that is not there, or is being removed, is left out.
    pub(super) async fn publish_ports(&self, ports: Vec<Published>) -> Result<BTreeMap<ContainerId, u64>, EngineError> {
        let engine = self.clone();
        let looked = blocking("see what listens at the ports that are published".to_owned(), move || {
            let mut seen = Seen { engine: &engine, listening: HashMap::new() };
            let (mut ways, mut owners) = (BTreeMap::<String, Ways>::new(), BTreeMap::new());
            for port in &ports {
                let Ok((_, record)) = engine.known(&port.container) else { continue };
                let link = engine.network.link(record.slot);
                let straight = match port.straight {
                    true => seen.reached(port, &record.addresses.both())?,
                    false => Vec::new(),
                };
                ways.entry(link.clone()).or_default().lead(port.protocol, port.host, port.port, straight);
                owners.insert(link, port.container.clone());
            }
            Ok((ways, owners))
        });
        let (ways, owners) = looked.await?;
        if self.network.publish(ways.clone()).await.is_err() {
            // The table may have been flushed.
            self.network.install().await?;
            self.network.publish(ways).await?;
        }
        let counts = self.network.counts().await?;
        Ok(counts.into_iter().filter_map(|(link, count)| Some((owners.get(&link)?.clone(), count))).collect())
    }
}

/// What listens in the containers that have been looked at.
struct Seen<'a> {
    engine: &'a LxcEngine,
    listening: HashMap<(ContainerId, Protocol), Vec<std::net::SocketAddr>>,
}

impl Seen<'_> {
    /// Those of a container's addresses at which something listens at the port. A socket on `[::]` takes both families, as
    /// nearly all do; who has it take one as a rule has another for the other.
    fn reached(&mut self, port: &Published, addresses: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
        let key = (port.container.clone(), port.protocol);
        if !self.listening.contains_key(&key) {
            let running = Running::find(&self.engine.home(&port.container));
            let listening = running.map_or(Ok(Vec::new()), |running| container::listening(running.init, port.protocol));
            self.listening.insert(key.clone(), listening?);
        }
        let listening = self.listening[&key].iter().filter(|at| at.port() == port.port).map(|at| at.ip());
        let takes = |at: IpAddr, address: &IpAddr| match at {
            IpAddr::V4(at) => at.is_unspecified() && address.is_ipv4() || IpAddr::from(at) == *address,
            IpAddr::V6(at) => at.is_unspecified() || IpAddr::from(at).to_canonical() == *address,
        };
        let listening: Vec<IpAddr> = listening.collect();
        Ok(addresses.iter().filter(|address| listening.iter().any(|at| takes(*at, address))).copied().collect())
    }
}
