//! All environments of this daemon: finds or starts the conductor of each, and keeps what is in line with what should
//! be.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::host::HostName;
use flyloft_core::lifecycle::{Event, Runs, State};
use flyloft_core::name::{AppName, EnvRef, Origin};
use tokio::sync::{Mutex, mpsc};

use crate::conductor::{self, Conductor};
use crate::deploy::spec;
use crate::edge::{Route, Target, Visit};
use crate::engine::Observed;
use crate::error::{Error, OrFailed, Result};
use crate::follow;
use crate::machine::SwapWatch;
use crate::parts::Parts;
use crate::store::{self, EnvId, EnvRow, Store};

/// How often what is gets compared with what should be.
const RECONCILE: Duration = Duration::from_secs(60);

pub struct Loft {
    pub parts: Arc<Parts>,
    pub follows: follow::Memory,
    conductors: Mutex<HashMap<EnvId, Conductor>>,
    /// What swap the machine had when that was last looked at.
    swaps: std::sync::Mutex<Option<Vec<PathBuf>>>,
}

impl Loft {
    pub fn new(parts: Arc<Parts>) -> Self {
        Self {
            parts,
            follows: follow::Memory::default(),
            conductors: Mutex::default(),
            swaps: std::sync::Mutex::default(),
        }
    }

    /// Takes up every environment where the last daemon left it. `rebooted` when nothing can run any more.
    pub async fn start(&self, rebooted: bool) -> Result<()> {
        for env in self.parts.store.environments(None).await.or_failed(|| "failed to list environments")? {
            let conductor = match self.conductor(env.id).await {
                Ok(Some(conductor)) => conductor,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(env = %env.name, %error, "failed to take up an environment");
                    continue;
                }
            };
            conductor.tell(Event::DaemonStarted { rebooted }).await.ok();
        }
        self.reconcile().await
    }

    /// Comes back when no deploy is under way.
    pub async fn deployed(&self) {
        let conductors: Vec<Conductor> = self.conductors.lock().await.values().cloned().collect();
        for conductor in conductors {
            conductor.deployed().await;
        }
    }

    /// Wakes what is visited, for as long as there is an edge.
    pub async fn answer(self: Arc<Self>, mut visits: mpsc::UnboundedReceiver<Visit>) {
        while let Some(Visit { env, by }) = visits.recv().await {
            let known = self.conductors.lock().await.values().find(|conductor| conductor.env() == &env).cloned();
            let visited = match known {
                Some(conductor) => Ok(conductor),
                // The edge listens before everything is taken up.
                None => self.find(&env).await.map(|(_, conductor)| conductor),
            };
            match visited {
                Ok(conductor) => conductor.visit(by).await,
                Err(error) => tracing::debug!(%env, %error, "a visit to what is not there"),
            }
        }
    }

    pub async fn reconcile_for_ever(&self) {
        let swap = SwapWatch::open();
        loop {
            if let Err(error) = self.parts.store.ballast().renew() {
                tracing::warn!(%error, "failed to keep a reserve on the disk");
            }
            tokio::select! {
                () = tokio::time::sleep(RECONCILE) => {}
                // Whoever visits what the engine has just stopped is told so, and not that nobody answers.
                () = self.parts.engine.excess() => {}
                () = swap.changed() => {}
            }
            if let Err(error) = self.reconcile().await {
                tracing::warn!(%error, "failed to compare what is with what should be");
            }
        }
    }

    /// Compares what the engine has with what the store says, both ways.
    pub async fn reconcile(&self) -> Result<()> {
        self.reconcile_on(crate::machine::memory::swaps_now()).await
    }

    /// The same, where the machine has these swaps.
    async fn reconcile_on(&self, swaps: Vec<PathBuf>) -> Result<()> {
        let before = self.swaps.lock().expect("not poisoned").replace(swaps.clone());
        // What was in one that was turned off is in memory again, and what stayed there has a place to go to now.
        let swap_changed = before.is_some_and(|before| before != swaps);
        let failed = || "failed to list what there is";
        // Observed first: what is made after that is in nobody's list of leftovers.
        let observed = self.parts.engine.observe().await.or_failed(failed)?;
        let envs = self.parts.store.environments(None).await.or_failed(failed)?;
        let mut observed = by_owner(observed);
        for env in &envs {
            let own = observed.remove(&Some(env.id)).unwrap_or_default();
            match self.conductor(env.id).await {
                Ok(Some(conductor)) => conductor.reconcile(own, swap_changed).await,
                // It was destroyed since the list was made.
                Ok(None) => {}
                Err(error) => tracing::error!(env = %env.name, %error, "failed to take up an environment"),
            }
        }
        for (owner, orphans) in observed {
            // It may be an environment that was made after the list.
            if let Some(owner) = owner
                && self.parts.store.environment_of(owner).await.or_failed(failed)?.is_some()
            {
                continue;
            }
            for Observed { id, .. } in orphans {
                tracing::info!(container = %id, "removing a container that no environment has");
                if let Err(error) = self.parts.engine.remove(&id).await {
                    tracing::warn!(container = %id, %error, "failed to remove a container that no environment has");
                }
            }
        }
        Ok(())
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
        for conductor in conductors.iter().filter(|conductor| !conductor.is_gone()) {
            conductor.reload().await?;
        }
        Ok(())
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
        conductors.retain(|_, conductor| !conductor.is_gone());
        if let Some(conductor) = conductors.get(&id) {
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
pub async fn routes(store: &Store, rebooted: bool) -> Result<Vec<(String, Route)>> {
    let envs = store.environments(None).await.or_failed(|| "failed to list environments")?;
    let route = |env: EnvRow| {
        let target = match env.live.as_ref().and_then(|live| live.upstream).filter(|_| !rebooted && was_awake(&env)) {
            Some(upstream) => Target::Upstream(upstream),
            None => conductor::closed(&state_of(&env)),
        };
        (env.host, Route { env: env.name, target })
    };
    Ok(envs.into_iter().map(route).collect())
}

/// The containers of each environment, and those of none.
fn by_owner(observed: Vec<Observed>) -> HashMap<Option<EnvId>, Vec<Observed>> {
    let mut owners = HashMap::<_, Vec<_>>::new();
    for container in observed {
        owners.entry(spec::owner(&container.id).map(EnvId)).or_default().push(container);
    }
    owners
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
pub mod stage;
#[cfg(test)]
mod tests;
