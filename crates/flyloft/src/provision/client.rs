//! Programs for people that work with a server: `psql`, `pg_dump`. They run in a container of their own, made of Debian's
//! packages, that may reach that server and nothing else of what is private. Not on the host, where `psql` is a shell for
//! whoever may open it, and not in the environment's container, which may sleep and need not have them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use flyloft_core::policy::Limits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::addresses;
use crate::build::{Hold, Tools};
use crate::engine::{ContainerId, ContainerSpec, Exec, ExecSpec, Reach, SharedEngine};
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::service::{Client as Programs, Server, tls};

/// As many as run at once for people.
const MOST: usize = 8;

/// As many as copy data at once: each is as busy as a disk lets it be.
const COPYING: usize = 4;

/// Of memory for each: a dump goes through piece by piece.
const MEMORY: u64 = 512 << 20;

/// Which users of servers each has that runs now.
type Running = Arc<Mutex<HashMap<ContainerId, Vec<String>>>>;

/// Those that run now.
pub struct Clients {
    running: Running,
    turns: Arc<Semaphore>,
    copying: Arc<Semaphore>,
}

/// One of them. Its container goes with it.
pub struct Client {
    engine: SharedEngine,
    id: ContainerId,
    env: BTreeMap<String, String>,
    running: Running,
    _image: Hold,
    _turn: OwnedSemaphorePermit,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            running: Arc::default(),
            turns: Arc::new(Semaphore::new(MOST)),
            copying: Arc::new(Semaphore::new(COPYING)),
        }
    }
}

impl Clients {
    /// Whether a container that no environment has is one of them.
    pub fn has(&self, id: &ContainerId) -> bool {
        self.running.lock().expect("not poisoned").contains_key(id)
    }

    /// Whether one of them is that user.
    pub fn are(&self, user: &str) -> bool {
        self.running.lock().expect("not poisoned").values().flatten().any(|other| other == user)
    }
}

impl Client {
    /// Starts a container in which these programs run. The first one has to make its image before that.
    pub async fn open(parts: &Parts, server: &Server, programs: &Programs) -> Result<Self> {
        let turn = parts.clients.turns.clone().try_acquire_owned().map_err(|_| {
            Error::conflict(format!("{MOST} clients of databases run already")).hint("wait until one of them has ended")
        })?;
        Self::open_with(turn, parts, server, programs).await
    }

    /// The same for what copies data, without people. It waits for those before it.
    pub async fn open_in_turn(parts: &Parts, server: &Server, programs: &Programs) -> Result<Self> {
        let turn = parts.clients.copying.clone().acquire_owned().await.expect("nobody closes it");
        Self::open_with(turn, parts, server, programs).await
    }

    async fn open_with(
        turn: OwnedSemaphorePermit,
        parts: &Parts,
        server: &Server,
        programs: &Programs,
    ) -> Result<Self> {
        let failed = || format!("failed to start a client of server `{}`", server.name);
        let (image, hold) = parts.builder.tools(&Tools::newest(programs.packages)).await?;
        let reach = Reach { allow: addresses(server).await? };
        let id = ContainerId(format!("client-{}", crate::random::hex(12)));
        let running = parts.clients.running.clone();
        running.lock().expect("not poisoned").insert(id.clone(), vec![programs.user.clone()]);
        let env = programs.env.iter().cloned().collect();
        let client = Self { engine: parts.engine.clone(), id: id.clone(), env, running, _image: hold, _turn: turn };
        let limits = Limits { memory: MEMORY, ..Limits::default() };
        let spec = ContainerSpec {
            id,
            image,
            processes: Vec::new(),
            env: BTreeMap::new(),
            limits,
            reach,
            volumes: Vec::new(),
            files: tls::files(server)?,
        };
        client.engine.create(&spec).await.or_failed(failed)?;
        client.engine.start(&client.id).await.or_failed(failed)?;
        Ok(client)
    }

    /// Starts one of its programs, which finds the database in its variables.
    pub async fn start(&self, argv: &[String], terminal: Option<(u16, u16)>, term: Option<&str>) -> Result<Exec> {
        let mut env = self.env.clone();
        env.extend(term.map(|term| ("TERM".to_owned(), term.to_owned())));
        self.exec(ExecSpec { argv: argv.to_vec(), env, terminal }).await
    }

    /// Starts one that finds another database on the same server.
    pub async fn start_as(&self, programs: &Programs, argv: &[String]) -> Result<Exec> {
        let env = programs.env.iter().cloned().collect();
        if let Some(users) = self.running.lock().expect("not poisoned").get_mut(&self.id) {
            users.push(programs.user.clone());
        }
        self.exec(ExecSpec { argv: argv.to_vec(), env, terminal: None }).await
    }

    async fn exec(&self, spec: ExecSpec) -> Result<Exec> {
        let argv = spec.argv.clone();
        self.engine.exec(&self.id, spec).await.or_failed(|| format!("failed to start `{}`", argv[0]))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let (engine, id, running) = (self.engine.clone(), self.id.clone(), self.running.clone());
        tokio::spawn(async move {
            if let Err(error) = engine.remove(&id).await {
                tracing::warn!(container = %id, %error, "failed to remove a client's container");
            }
            // What is left of it is found by the reconciliation.
            running.lock().expect("not poisoned").remove(&id);
        });
    }
}
