//! The published ports of one environment: where they lead, who waits there, and what is said by them.
//!
//! ```text
//!   Shut ◄──► Held ──── a visit, for the first who comes ───► Open(container)
//!               ▲    who waits goes on, in the order of arrival     │
//!               └───────────────────── it rests ◄───────────────────┘
//! ```

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flyloft_core::name::EnvRef;
use flyloft_core::port::{Port, Protocol};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::places::{Place, Room};
use super::{Claim, MOST_OF_ONE, quiet, tcp, udp};
use crate::conductor::Uses;
use crate::edge::{Visit, Visits};
use crate::engine::{ContainerId, Published, SharedEngine};
use crate::error::{OrFailed, Result};

/// Something that nobody has heard is told of again after this.
const AGAIN: Duration = Duration::from_secs(15);

/// How long those who are connected to what has served before are let go on. It is stopped long before that.
const LEAVING: Duration = Duration::from_secs(60);

/// Where what comes for an environment goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To its container, which runs.
    Open(ContainerId),
    /// It wakes when somebody comes. It has just `failed` to, or has not.
    Held { failed: bool },
    /// Nothing is there that could be woken.
    Shut,
}

/// What serves a port.
#[derive(Clone)]
pub(super) struct Opening {
    pub room: Arc<Room>,
    pub engine: SharedEngine,
}

/// A port that is served, which ends with this.
struct Served {
    _task: AbortOnDropHandle<()>,
    socket: OwnedFd,
}

pub(super) struct Door {
    env: EnvRef,
    visits: Visits,
    way: watch::Sender<Way>,
    tcp: Arc<Room>,
    udp: Arc<Room>,
    facts: Mutex<Facts>,
}

#[derive(Default)]
struct Facts {
    ports: HashMap<Port, Served>,
    /// What serves, whether it runs or not, and what did so before.
    container: Option<ContainerId>,
    leaving: Option<(ContainerId, Instant)>,
    uses: Option<Uses>,
    /// How much had been said to what serves when that was last looked at.
    said: Option<(ContainerId, u64)>,
    /// It has just been closed: what is found to have been said may have been so before, and is no visit.
    closing: bool,
    /// When somebody was last told of as a visit, and who has said something that nobody has heard yet.
    told: Option<Instant>,
    unheard: Option<String>,
}

impl Door {
    pub fn new(env: EnvRef, visits: Visits) -> Self {
        // Who comes before its conductor has said more waits until it does.
        let way = watch::Sender::new(Way::Held { failed: false });
        let [tcp, udp] = [Protocol::Tcp, Protocol::Udp].map(|protocol| Room::new(MOST_OF_ONE, quiet(protocol)));
        Self { env, visits, way, tcp, udp, facts: Mutex::default() }
    }

    pub fn open(self: &Arc<Self>, port: Port, claim: Claim, opening: Opening) -> Result<()> {
        let failed = || format!("failed to serve port {} of `{}`", port.port, self.env);
        let socket = claim.copy().or_failed(failed)?;
        let task = match claim {
            Claim::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener).or_failed(failed)?;
                tokio::spawn(tcp::serve(listener, port, self.clone(), opening))
            }
            Claim::Udp(socket) => {
                let socket = tokio::net::UdpSocket::from_std(socket).or_failed(failed)?;
                tokio::spawn(udp::serve(socket, port, self.clone(), opening))
            }
        };
        self.facts().ports.insert(port, Served { _task: AbortOnDropHandle::new(task), socket });
        Ok(())
    }

    /// Says whether it was the last one.
    pub fn close(&self, port: Port) -> bool {
        let mut facts = self.facts();
        facts.ports.remove(&port);
        facts.ports.is_empty()
    }

    /// Ends all that serves it. Gives the sockets, which take in whoever comes.
    pub fn end(&self) -> Vec<OwnedFd> {
        self.facts().ports.drain().map(|(_, served)| served.socket).collect()
    }

    pub fn ports(&self) -> Vec<Port> {
        self.facts().ports.keys().copied().collect()
    }

    pub fn set(&self, container: Option<&ContainerId>, way: Way, uses: &Uses) {
        let mut facts = self.facts();
        facts.uses = Some(uses.clone());
        if facts.container.as_ref() != container {
            let before = std::mem::replace(&mut facts.container, container.cloned());
            facts.leaving = before.map(|before| (before, Instant::now()));
        }
        if matches!(way, Way::Open(_)) {
            facts.unheard = None;
        }
        // Under the lock, so that nobody is told of who is let through, and nobody is let through untold.
        facts.closing |= self.is_open();
        facts.closing &= !matches!(way, Way::Open(_));
        let turns = self.way.send_if_modified(|known| {
            let turns = *known != way;
            *known = way;
            turns
        });
        if turns {
            facts.told = None;
        }
    }

    /// Whoever comes next is told of again.
    pub fn turn_away(&self) {
        self.facts().told = None;
        self.way.send_replace(Way::Held { failed: true });
    }

    /// What the engine is to know.
    pub fn published(&self) -> Vec<Published> {
        let mut facts = self.facts();
        facts.leaving.take_if(|(_, since)| since.elapsed() > LEAVING);
        let straight = matches!(&*self.way.borrow(), Way::Open(_));
        let serving = facts.container.iter().map(|container| (container, straight));
        let containers = serving.chain(facts.leaving.iter().map(|(container, _)| (container, false)));
        let of = |(container, straight): (&ContainerId, bool)| {
            let published = |Port { protocol, host, port }: &Port| Published {
                container: container.clone(),
                protocol: *protocol,
                host: *host,
                port: *port,
                straight,
            };
            facts.ports.keys().map(published).collect::<Vec<_>>()
        };
        containers.flat_map(of).collect()
    }

    /// Takes note of how much has been said to each container by those who came straight.
    pub fn hear(&self, said: &BTreeMap<ContainerId, u64>) {
        let mut facts = self.facts();
        let now = facts.container.clone().and_then(|container| Some((container.clone(), *said.get(&container)?)));
        let before = std::mem::replace(&mut facts.said, now.clone());
        let news = match (before, now) {
            // Counted anew, if it is less: the firewall's table was.
            (Some((before, much)), Some((container, more))) if before == container => {
                more > much || (more < much && more > 0)
            }
            _ => false,
        };
        let closing = std::mem::take(&mut facts.closing);
        match (news, &facts.uses) {
            // Whether it may be frozen is asked after this.
            (true, Some(uses)) if closing => uses.note(),
            (true, _) => {
                drop(facts);
                self.said("a message over a connection to a published port");
            }
            (false, _) => {
                drop(facts);
                self.remind();
            }
        }
    }

    /// Whether something may be said to it of which nobody hears but by looking.
    pub fn is_watched(&self) -> bool {
        let facts = self.facts();
        !matches!(&*self.way.borrow(), Way::Open(_)) && (facts.said.is_some() || facts.unheard.is_some())
    }

    /// Somebody who is connected has said something.
    pub fn said(&self, by: &str) {
        self.note(by, true);
    }

    /// Somebody has come, or has said something of which nobody hears yet.
    pub fn note(&self, by: &str, unheard: bool) {
        let mut facts = self.facts();
        if let Some(uses) = &facts.uses {
            uses.note();
        }
        if !matches!(&*self.way.borrow(), Way::Held { .. }) {
            return;
        }
        if unheard {
            facts.unheard.get_or_insert_with(|| by.to_owned());
        }
        self.tell(&mut facts, by);
    }

    /// Nobody there could be told that it did not wake.
    fn remind(&self) {
        let mut facts = self.facts();
        if let Some(by) = facts.unheard.clone()
            && matches!(&*self.way.borrow(), Way::Held { .. })
        {
            self.tell(&mut facts, &by);
        }
    }

    fn tell(&self, facts: &mut Facts, by: &str) {
        if facts.told.is_none_or(|told| told.elapsed() > AGAIN) {
            let at = Instant::now();
            facts.told = Some(at);
            // Without a daemon there is nobody to wake it.
            let _ = self.visits.send(Visit { env: self.env.clone(), by: by.to_owned(), at, passage: None });
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(&*self.way.borrow(), Way::Open(_))
    }

    /// Waits until it is open, if it wakes at all, and in time.
    pub async fn opened(&self, by: &str, patience: Duration) -> Option<ContainerId> {
        let mut way = self.way.subscribe();
        let now = way.borrow_and_update().clone();
        self.note(by, false);
        match now {
            Way::Open(container) => return Some(container),
            Way::Shut => return None,
            // That it failed before somebody came is no answer to them.
            Way::Held { .. } => {}
        }
        let opened = async {
            loop {
                way.changed().await.ok()?;
                match way.borrow_and_update().clone() {
                    Way::Open(container) => return Some(container),
                    Way::Held { failed: true } | Way::Shut => return None,
                    Way::Held { failed: false } => {}
                }
            }
        };
        tokio::time::timeout(patience, opened).await.ok().flatten()
    }

    /// A place for somebody who comes by a port, if there is one.
    pub fn place(&self, port: Port, room: &Arc<Room>) -> Option<Place> {
        Place::take(port, self.room(port), room)
    }

    /// How many are relayed at the moment, port by port.
    pub fn relayed(&self) -> Vec<(EnvRef, Port, usize)> {
        let count = |port: Port| (self.env.clone(), port, self.room(port).count(port));
        self.ports().into_iter().map(count).collect()
    }

    fn room(&self, port: Port) -> &Arc<Room> {
        match port.protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
