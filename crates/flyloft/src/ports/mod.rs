//! Ports of environments that the host publishes beside HTTP, on IPv4 and IPv6.
//!
//! ```text
//!   outside ══► firewall ═╤═ awake ════════════════════════► container      the client's own address
//!                         └─ at rest ─┐                        ▲
//!   the host itself ──────────────────┴► this ── wakes, then ──╯            the host's address
//!                                         │
//!             conductor ── where it goes ─┤
//!             engine ◄──── what is straight, ──► what was said
//! ```
//!
//! The daemon has a socket on each published port all the time. While an environment is awake the firewall leads newcomers
//! past it, as far as something in the container listens in their family; everybody else ends up here, and is relayed. What
//! must hold: a port without a socket of ours is somebody else's, and nothing is led past it; and what is told to stay shut
//! is so in the firewall before its container is frozen (see [`Ports::settled`]).

mod door;
mod places;
mod socket;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flyloft_core::name::EnvRef;
use flyloft_core::port::{Port, Protocol};
use tokio::sync::watch;

pub use self::door::Way;
use self::door::{Door, Opening};
use self::places::Room;
pub use self::socket::Claim;
use crate::conductor::Uses;
use crate::edge::Visits;
use crate::engine::{ContainerId, EngineError, Published, SharedEngine};
use crate::error::{Error, Result};
use crate::store::EnvId;

/// How often one looks whether something is said to an environment that rests.
const WATCH: Duration = Duration::from_secs(2);

/// The same for those that are awake, and whether other ports of theirs listen by now.
const LOOK: Duration = Duration::from_secs(20);

/// What the engine is told with, if that failed.
const RETRY: Duration = Duration::from_secs(5);

/// How long anybody waits until the engine has been told.
const SETTLED: Duration = Duration::from_secs(3);

const UNTOLD: &str = "failed to have the firewall changed for ports that are published";

/// Connections that are relayed at a time, in all and for one environment; and as many clients of datagrams. Each takes two
/// descriptors, or one.
const MOST: usize = 1024;
const MOST_OF_ONE: usize = 256;

/// Whoever has said and heard nothing for so long makes way for somebody who comes, where there is no place left.
fn quiet(protocol: Protocol) -> Duration {
    match protocol {
        // Longer than anybody waits for a wake.
        Protocol::Tcp => Duration::from_secs(60),
        Protocol::Udp => Duration::from_secs(40),
    }
}

/// Clones are the same.
#[derive(Clone)]
pub struct Ports(Arc<Shared>);

struct Shared {
    engine: SharedEngine,
    visits: Visits,
    /// The lock of the state directory, by which the daemon's own sockets are known.
    lock: PathBuf,
    doors: Mutex<HashMap<EnvId, Arc<Door>>>,
    tcp: Arc<Room>,
    udp: Arc<Room>,
    /// How often the engine was to be told, and what of that has been done.
    asked: watch::Sender<u64>,
    done: watch::Sender<Done>,
    turn: tokio::sync::Mutex<()>,
}

/// What came of telling the engine.
#[derive(Clone, Default)]
struct Done {
    turn: u64,
    /// It does not know.
    trouble: Option<Error>,
}

impl Ports {
    pub fn new(engine: SharedEngine, visits: Visits, lock: PathBuf) -> Self {
        let [tcp, udp] = [Protocol::Tcp, Protocol::Udp].map(|protocol| Room::new(MOST, quiet(protocol)));
        Self(Arc::new(Shared {
            engine,
            visits,
            lock,
            doors: Mutex::default(),
            tcp,
            udp,
            asked: watch::Sender::new(0),
            done: watch::Sender::default(),
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// Held from a look at what is on record, or a change of that, until what is served is so, too.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.turn.lock().await
    }

    /// Takes a port of the host, which nobody else has from here on, unless somebody has it already: the error says who.
    pub fn claim(&self, protocol: Protocol, host: u16) -> Result<Claim> {
        Claim::take(protocol, host).map_err(|error| socket::taken(protocol, host, error, &self.0.lock))
    }

    /// Serves a port that is on record. Where it leads, [`Ports::set`] says.
    pub fn open(&self, env: EnvId, name: &EnvRef, port: Port, claim: Claim) -> Result<()> {
        let door = self.0.door_of(env, name);
        let room = match port.protocol {
            Protocol::Tcp => &self.0.tcp,
            Protocol::Udp => &self.0.udp,
        };
        let opening = Opening { room: room.clone(), engine: self.0.engine.clone() };
        door.open(port, claim, opening)?;
        self.0.ask();
        Ok(())
    }

    /// From here on nobody comes by this port, and who is connected by it is not any more.
    pub fn close(&self, env: EnvId, port: Port) {
        let mut doors = self.0.doors();
        if let Some(door) = doors.get(&env)
            && door.close(port)
        {
            doors.remove(&env);
        }
        drop(doors);
        self.0.ask();
    }

    /// The environment is gone.
    pub fn remove(&self, env: EnvId) {
        let door = self.0.doors().remove(&env);
        if let Some(door) = door {
            door.end();
            self.0.ask();
        }
    }

    /// Makes what is served what is on record, with sockets that the daemon before has handed over. Ports that somebody
    /// else has by now are tried again each time.
    pub fn keep(&self, recorded: &[(EnvId, EnvRef, Port)], inherited: Vec<OwnedFd>) {
        let inherited = inherited.into_iter().filter_map(Claim::adopt);
        let mut inherited: HashMap<_, _> = inherited.map(|(protocol, port, claim)| ((protocol, port), claim)).collect();
        let wanted: HashSet<(EnvId, Port)> = recorded.iter().map(|(env, _, port)| (*env, *port)).collect();
        let known =
            |door: (&EnvId, &Arc<Door>)| door.1.ports().into_iter().map(|port| (*door.0, port)).collect::<Vec<_>>();
        let served: HashSet<(EnvId, Port)> = self.0.doors().iter().flat_map(known).collect();
        for (env, port) in served.difference(&wanted) {
            self.close(*env, *port);
        }
        for (env, name, port) in recorded.iter().filter(|(env, _, port)| !served.contains(&(*env, *port))) {
            let claim = inherited.remove(&(port.protocol, port.host));
            let claim = claim.map_or_else(|| self.claim(port.protocol, port.host), Ok);
            let opened = claim.and_then(|claim| self.open(*env, name, *port, claim));
            if let Err(error) = opened {
                tracing::warn!(env = %name, %error, "failed to publish a port; trying again in a minute");
            }
        }
    }

    /// Serves nothing any more. Whoever comes from here on waits in these sockets for the next daemon.
    pub fn hand_over(&self) -> Vec<OwnedFd> {
        self.0.doors().values().flat_map(|door| door.end()).collect()
    }

    /// Whether this port is served.
    pub fn serves(&self, env: EnvId, port: Port) -> bool {
        self.0.doors().get(&env).is_some_and(|door| door.ports().contains(&port))
    }

    /// How many connections, and clients of datagrams, are relayed at the moment, port by port.
    pub fn relayed(&self) -> Vec<(EnvRef, Port, usize)> {
        let mut all: Vec<_> = self.0.doors().values().flat_map(|door| door.relayed()).collect();
        all.sort();
        all
    }

    /// Where what comes for an environment goes from now on, and what is to know of it.
    pub fn set(&self, env: EnvId, container: Option<&ContainerId>, way: Way, uses: &Uses) {
        if let Some(door) = self.0.door(env) {
            door.set(container, way, uses);
            self.0.ask();
        }
    }

    /// Those who wait for it wait in vain.
    pub fn turn_away(&self, env: EnvId) {
        if let Some(door) = self.0.door(env) {
            door.turn_away();
        }
    }

    /// Waits until the firewall is as this was told, and what was said before is known.
    pub async fn settled(&self, env: EnvId) {
        if self.0.door(env).is_some()
            && let Err(error) = self.begun().await
        {
            tracing::warn!(%error, "the firewall may lead to a published port of what comes to rest");
        }
    }

    /// The same for all that are published.
    pub async fn begun(&self) -> Result<()> {
        let turn = self.0.ask();
        let mut done = self.0.done.subscribe();
        match tokio::time::timeout(SETTLED, done.wait_for(|done| done.turn >= turn)).await {
            Ok(Ok(done)) => done.trouble.clone().map_or(Ok(()), Err),
            Ok(Err(_)) => Err(Error::ending()),
            Err(_) => Err(Error::failed(format!("{UNTOLD}: it takes longer than {} s", SETTLED.as_secs()))),
        }
    }

    /// Keeps the engine at what is wanted, and hears from it what is said.
    pub async fn keep_for_ever(self) {
        let mut asked = self.0.asked.subscribe();
        loop {
            let turn = *asked.borrow_and_update();
            let told = self.0.tell().await;
            let pace = match &told {
                Ok(()) => self.0.pace(),
                Err(_) => RETRY,
            };
            let trouble = told.err().map(|error| {
                tracing::warn!(%error, "{UNTOLD}");
                Error::because(UNTOLD, error)
            });
            self.0.done.send_replace(Done { turn, trouble });
            let _ = tokio::time::timeout(pace, asked.changed()).await;
        }
    }
}

impl Shared {
    /// Has the engine told soon. Gives the number of that turn.
    fn ask(&self) -> u64 {
        let mut turn = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            turn = *asked;
        });
        turn
    }

    async fn tell(&self) -> Result<(), EngineError> {
        let doors: Vec<Arc<Door>> = self.doors().values().cloned().collect();
        let published: Vec<Published> = doors.iter().flat_map(|door| door.published()).collect();
        let said: BTreeMap<ContainerId, u64> = self.engine.publish(&published).await?;
        doors.iter().for_each(|door| door.hear(&said));
        Ok(())
    }

    fn pace(&self) -> Duration {
        if self.doors().values().any(|door| door.is_watched()) { WATCH } else { LOOK }
    }

    fn door(&self, env: EnvId) -> Option<Arc<Door>> {
        self.doors().get(&env).cloned()
    }

    fn door_of(&self, env: EnvId, name: &EnvRef) -> Arc<Door> {
        let new = || Arc::new(Door::new(name.clone(), self.visits.clone()));
        self.doors().entry(env).or_insert_with(new).clone()
    }

    fn doors(&self) -> MutexGuard<'_, HashMap<EnvId, Arc<Door>>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
