//! All environments of this daemon: finds or starts the conductor of each, and keeps what is in line with what should
//! be.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::host::HostName;
use flyloft_core::lifecycle::{Event, Runs, State, Timestamp};
use flyloft_core::name::{AppName, EnvRef, Origin};
use futures_util::{StreamExt, stream};
use tokio::sync::{Mutex, mpsc};

use crate::conductor::{self, Conductor};
use crate::deploy::spec;
use crate::edge::{Route, Target, Visit};
use crate::engine::ContainerId;
use crate::error::{Error, OrFailed, Result};
use crate::follow;
use crate::gates::Gates;
use crate::machine::SwapWatch;
use crate::managed;
use crate::parts::Parts;
use crate::store::{self, EnvId, EnvRow, Store};

/// How often what is gets compared with what should be.
const RECONCILE: Duration = Duration::from_secs(60);

/// How many of those that rest are looked at each time, so that many of them cost no more than some. Nothing happens to
/// one by itself, and whoever visits it finds out what has.
const SHARE: usize = 100;

/// How long those that have come to rest are looked at like those that are awake: what was to be done for it may have
/// failed.
const SETTLING: Duration = Duration::from_secs(120);

/// How many are taken up at once.
const AT_ONCE: usize = 64;

/// How long the end of a daemon waits for what there is to be noted.
pub const NOTING: Duration = Duration::from_secs(5);

pub struct Loft {
    pub parts: Arc<Parts>,
    pub follows: follow::Memory,
    conductors: Mutex<HashMap<EnvId, Conductor>>,
    /// The last of those that rest that was looked at.
    looked_at: std::sync::Mutex<EnvId>,
    /// What swap the machine had when that was last looked at.
    swaps: std::sync::Mutex<Option<Vec<PathBuf>>>,
}

impl Loft {
    pub fn new(parts: Arc<Parts>) -> Self {
        Self {
            parts,
            follows: follow::Memory::default(),
            conductors: Mutex::default(),
            looked_at: EnvId(0).into(),
            swaps: std::sync::Mutex::default(),
        }
    }

    /// Takes up every environment where the last daemon left it. `rebooted` when nothing can run any more.
    pub async fn start(&self, rebooted: bool) -> Result<()> {
        let failed = || "failed to list environments";
        let newest = self.parts.store.newest_use().await.or_failed(failed)?;
        newest.map_or(Ok(()), |at| self.parts.clock.catch_up(at)).or_failed(|| "failed to set the clock")?;
        let envs = self.parts.store.environment_ids().await.or_failed(failed)?;
        // What was being destroyed goes now, which may take its time, and not one after the other.
        let taken_up = stream::iter(envs).for_each_concurrent(AT_ONCE, async |id| {
            if let Some(conductor) = self.taken_up(id).await {
                conductor.tell(Event::DaemonStarted { rebooted }).await.ok();
            }
        });
        taken_up.await;
        self.reconcile_on(crate::machine::memory::swaps_now(), usize::MAX).await
    }

    /// Serves the ports that are on record, and no others, with sockets that were handed over.
    pub async fn keep_ports(&self, inherited: Vec<OwnedFd>) -> Result<()> {
        let _turn = self.parts.ports.turn().await;
        let rows = self.parts.store.ports().await.or_failed(|| "failed to list the ports that are published")?;
        let recorded: Vec<_> = rows.iter().map(|row| (row.env, row.name.clone(), row.port())).collect();
        self.parts.ports.keep(&recorded, inherited);
        Ok(())
    }

    /// Comes back when no deploy is under way.
    pub async fn deployed(&self) {
        let conductors: Vec<Conductor> = self.conductors.lock().await.values().cloned().collect();
        for conductor in conductors {
            conductor.deployed().await;
        }
    }

    /// Has on record what time it is, and when each was last used that is awake, which the edge forgets when the daemon
    /// ends.
    pub async fn note_uses(&self) {
        if let Err(error) = self.parts.clock.note() {
            tracing::warn!(%error, "failed to note what the clock says");
        }
        let conductors: Vec<Conductor> = self.conductors.lock().await.values().cloned().collect();
        let awake = conductors.iter().filter(|conductor| conductor.is_awake());
        let noted = futures_util::future::join_all(awake.map(Conductor::note_use));
        if tokio::time::timeout(NOTING, noted).await.is_err() {
            tracing::warn!("failed to note in time when each was last used");
        }
    }

    /// Wakes what is visited, for as long as there is an edge.
    pub async fn answer(self: Arc<Self>, mut visits: mpsc::UnboundedReceiver<Visit>) {
        while let Some(visit) = visits.recv().await {
            let env = &visit.env;
            // One that is gone may have had the same name.
            let speaks = |conductor: &&Conductor| conductor.env() == env && !conductor.is_gone();
            let known = self.conductors.lock().await.values().find(speaks).cloned();
            let visited = match known {
                Some(conductor) => Ok(conductor),
                // The edge listens before everything is taken up.
                None => self.find(env).await.map(|(_, conductor)| conductor),
            };
            match visited {
                // One that is busy keeps nobody else's visitors waiting.
                Ok(conductor) => drop(tokio::spawn(async move { conductor.visit(visit).await })),
                Err(error) => tracing::debug!(%env, %error, "a visit to what is not there"),
            }
        }
    }

    pub async fn reconcile_for_ever(&self) {
        tokio::join!(self.hear_of_ends(), self.compare_for_ever());
    }

    /// Tells whoever's container has ended, so that visitors of what is awake do not find that out.
    async fn hear_of_ends(&self) {
        loop {
            let container = self.parts.engine.ended().await;
            let Some(owner) = spec::owner(&container).map(EnvId) else {
                tokio::spawn(managed::ended(self.parts.clone(), container));
                continue;
            };
            let conductor = self.conductors.lock().await.get(&owner).cloned();
            if let Some(conductor) = conductor {
                tokio::spawn(async move { conductor.ended(container).await });
            }
        }
    }

    async fn compare_for_ever(&self) {
        let swap = SwapWatch::open();
        loop {
            if let Err(error) = self.parts.store.ballast().renew() {
                tracing::warn!(%error, "failed to keep a reserve on the disk");
            }
            if let Err(error) = self.parts.clock.note_hourly() {
                tracing::warn!(%error, "failed to note what the clock says");
            }
            let share = tokio::select! {
                () = tokio::time::sleep(RECONCILE) => SHARE,
                // Whoever visits what the engine has just stopped is told so, and not that nobody answers.
                () = self.parts.engine.excess() => usize::MAX,
                () = swap.changed() => usize::MAX,
            };
            if let Err(error) = self.reconcile_on(crate::machine::memory::swaps_now(), share).await {
                tracing::warn!(%error, "failed to compare what is with what should be");
            }
            if let Err(error) = self.keep_ports(Vec::new()).await {
                tracing::warn!(%error, "failed to compare the ports that are published with what should be");
            }
        }
    }

    /// Compares what the engine has with what the store says, both ways. Those that rest take turns.
    #[cfg(test)]
    pub async fn reconcile(&self) -> Result<()> {
        self.reconcile_on(crate::machine::memory::swaps_now(), SHARE).await
    }

    /// The same, where the machine has these swaps, with so many of those that rest.
    async fn reconcile_on(&self, swaps: Vec<PathBuf>, share: usize) -> Result<()> {
        self.conductors.lock().await.retain(|_, conductor| !conductor.is_gone());
        self.parts.admission.forget_the_gone();
        let before = self.swaps.lock().expect("not poisoned").replace(swaps.clone());
        // What was in one that was turned off is in memory again, and what stayed there has a place to go to now.
        let swap_changed = before.is_some_and(|before| before != swaps);
        let share = if swap_changed { usize::MAX } else { share };
        let failed = || "failed to list what there is";
        // Listed first: what is made after that is in nobody's list of leftovers.
        let listed = self.parts.engine.containers().await.or_failed(failed)?;
        let envs = self.parts.store.environment_ids().await.or_failed(failed)?;
        let servers = self.parts.store.servers().await.or_failed(failed)?;
        let servers: BTreeSet<ContainerId> = servers.iter().filter_map(managed::container_of).collect();
        let mut listed = by_owner(listed);
        let mut resting = BTreeMap::new();
        for env in envs {
            let own = listed.remove(&Some(env)).unwrap_or_default();
            // It may have been destroyed since the list was made.
            let Some(conductor) = self.taken_up(env).await else { continue };
            // Of several one is left over.
            if self.has_settled(&conductor) && own.len() < 2 {
                resting.insert(env, (conductor, own));
            } else {
                self.look_at(&conductor, &own, swap_changed).await;
            }
        }
        let last = *self.looked_at.lock().expect("not poisoned");
        for env in turn(resting.keys().copied().collect(), last, share) {
            let (conductor, own) = &resting[&env];
            self.look_at(conductor, own, swap_changed).await;
            *self.looked_at.lock().expect("not poisoned") = env;
        }
        for (owner, orphans) in listed {
            // It may be an environment that was made after the list.
            if let Some(owner) = owner
                && self.parts.store.environment_of(owner).await.or_failed(failed)?.is_some()
            {
                continue;
            }
            for id in orphans.into_iter().filter(|id| !self.parts.clients.has(id) && !servers.contains(id)) {
                tracing::info!(container = %id, "removing a container that no environment has");
                if let Err(error) = self.parts.engine.remove(&id).await {
                    tracing::warn!(container = %id, %error, "failed to remove a container that no environment has");
                }
            }
        }
        Ok(())
    }

    /// Whether it rests, and has done so for a while.
    fn has_settled(&self, conductor: &Conductor) -> bool {
        let for_long = |since: Timestamp| self.parts.clock.now().since(since) >= SETTLING;
        conductor.rests_since().is_some_and(for_long)
    }

    /// Hands over what the engine has of an environment.
    async fn look_at(&self, conductor: &Conductor, own: &[ContainerId], swap_changed: bool) {
        let mut observed = Vec::new();
        for id in own {
            match self.parts.engine.find(id).await {
                Ok(found) => observed.extend(found),
                Err(error) => return tracing::warn!(container = %id, %error, "failed to look at a container"),
            }
        }
        conductor.reconcile(observed, swap_changed).await;
    }

    /// The conductor of one that is on record.
    async fn taken_up(&self, env: EnvId) -> Option<Conductor> {
        let conductor = self.conductor(env).await;
        conductor.inspect_err(|error| tracing::error!(env = env.0, %error, "failed to take up an environment")).ok()?
    }

    /// The environment and its conductor.
    pub async fn find(&self, name: &EnvRef) -> Result<(EnvRow, Conductor)> {
        let row = self.parts.store.environment(name).await.or_failed(|| format!("failed to look up `{name}`"))?;
        let found = match row {
            Some(env) => self.conductor(env.id).await?.map(|conductor| (env, conductor)),
            None => None,
        };
        found.ok_or_else(|| {
            Error::not_found(format!("there is no environment `{name}`")).hint("`flyloft ls` lists what there is")
        })
    }

    /// What is set for an app, or for one of its environments, has changed.
    pub async fn reload(&self, app: &AppName, env: Option<&EnvRef>) -> Result<()> {
        let ours = |conductor: &&Conductor| match env {
            Some(env) => conductor.env() == env,
            None => conductor.env().app == *app,
        };
        // Those that have no conductor yet will read it when they get one.
        let conductors: Vec<_> = self.conductors.lock().await.values().filter(ours).cloned().collect();
        // At once, since each may have to wait for the edge, which is told of all together then.
        let reloads = conductors.iter().filter(|conductor| !conductor.is_gone()).map(Conductor::reload);
        futures_util::future::join_all(reloads).await.into_iter().collect()
    }

    /// Finds the environment, or makes it. The app is there.
    pub async fn ensure(&self, name: &EnvRef, origin: &Origin) -> Result<(EnvRow, Conductor)> {
        let failed = || format!("failed to make environment `{name}`");
        let host = HostName::of(name, &self.parts.settings.domain);
        loop {
            let state = State::new(self.parts.clock.now());
            let state = serde_json::to_string(&state).or_failed(failed)?;
            let made = self.parts.store.ensure_environment(name, host.as_str(), origin, &state, store::now()).await;
            let env = made.or_failed(failed)?.map_err(|taken| collision(name, host.as_str(), &taken))?;
            // If it has none, what was found has just been destroyed, and the next round makes it anew.
            if let Some(conductor) = self.conductor(env.id).await? {
                return Ok((env, conductor));
            }
        }
    }

    /// The conductor of an environment; none if it has been destroyed.
    ///
    /// It starts with what the store says now, whatever the caller has read before. Nobody is gone before the store has
    /// forgotten the environment, and its id is never given again: so a destroyed one does not get another conductor.
    async fn conductor(&self, id: EnvId) -> Result<Option<Conductor>> {
        let mut conductors = self.conductors.lock().await;
        if let Some(conductor) = conductors.get(&id).filter(|conductor| !conductor.is_gone()) {
            return Ok(Some(conductor.clone()));
        }
        let env = self.parts.store.environment_of(id).await.or_failed(|| "failed to look up an environment")?;
        let Some(env) = env else { return Ok(None) };
        let conductor = Conductor::start(self.parts.clone(), env)?;
        conductors.insert(id, conductor.clone());
        Ok(Some(conductor))
    }
}

/// Where each host name leads, as the last daemon left it, or if the machine has started since: nothing runs then. What
/// is not so any more is put right by [`Loft::start`].
pub async fn routes(store: &Store, gates: &Gates, rebooted: bool) -> Result<Vec<(String, Route)>> {
    let envs = store.environments(None).await.or_failed(|| "failed to list environments")?;
    let route = |env: EnvRow| {
        let target = match env.live.as_ref().and_then(|live| live.upstream).filter(|_| !rebooted && was_awake(&env)) {
            Some(upstream) => Target::Upstream(upstream),
            None => conductor::closed(&state_of(&env)),
        };
        let guard = gates.guard(&env);
        (env.host, Route { env: env.name, target, guard })
    };
    Ok(envs.into_iter().map(route).collect())
}

/// The containers of each environment, and those of none.
fn by_owner(listed: Vec<ContainerId>) -> HashMap<Option<EnvId>, Vec<ContainerId>> {
    let mut owners = HashMap::<_, Vec<_>>::new();
    for id in listed {
        owners.entry(spec::owner(&id).map(EnvId)).or_default().push(id);
    }
    owners
}

/// Whose turn it is: those that come after the last one, from the front again after the end, but nobody twice.
fn turn(mut resting: Vec<EnvId>, last: EnvId, share: usize) -> Vec<EnvId> {
    resting.sort();
    let next = resting.partition_point(|env| *env <= last);
    resting.rotate_left(next);
    resting.truncate(share);
    resting
}

fn collision(name: &EnvRef, host: &str, taken: &EnvRow) -> Error {
    if taken.name == *name {
        let origin = match &taken.origin {
            Origin::Branch(branch) => format!("branch `{branch}`"),
            Origin::PullRequest(number) => format!("pull request {number}"),
            Origin::Commit(commit) => format!("commit {}", commit.short()),
            Origin::Directory => "a directory".to_owned(),
        };
        return Error::conflict(format!("environment `{name}` stages {origin} already"))
            .hint("rename the branch, or destroy the environment first")
            .hint(format!("flyloft destroy {name}"));
    }
    Error::conflict(format!("`{name}` would answer at `{host}`, where `{}` answers already", taken.name))
        .hint("rename the branch, or destroy the other environment first")
}

/// What cannot be read is as good as gone.
fn state_of(env: &EnvRow) -> State {
    serde_json::from_str(&env.state).unwrap_or(State::Destroyed { ending: None })
}

fn was_awake(env: &EnvRow) -> bool {
    matches!(state_of(env), State::Live(live) if matches!(live.runs, Runs::Awake { .. }))
}

#[cfg(test)]
mod ended;
#[cfg(test)]
mod hooks;
#[cfg(test)]
mod resting;
#[cfg(test)]
pub mod stage;
#[cfg(test)]
mod tests;
