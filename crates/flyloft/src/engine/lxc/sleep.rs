//! Sleep: a container is frozen, and then its memory is moved out of the way.
//!
//! Only while it is frozen, since nothing brings a page back then. What it shares with its siblings, the files of the
//! layers, is left alone: another that is awake would have to read it from the disk again.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use flyloft_core::harmless::{self, Colours};
use flyloft_core::lifecycle::Depth;
use tokio_util::sync::CancellationToken;

use super::cgroup::Groups;
use super::doomed::is_doomed;
use super::offload::{Past, Wanted, offload};
use super::parents::{self, HeldBack};
use super::places::Home;
use super::stat::Stat;
use super::{LxcEngine, blocking, container, notes, touched};
use crate::engine::{ContainerId, EngineError, Held, Kept, Thawed};
use crate::machine::Memory;

/// How long a container that is to be frozen may keep the kernel waiting. Whoever visits it meanwhile waits too.
const PATIENCE: Duration = Duration::from_secs(1);

impl LxcEngine {
    pub(super) async fn freeze_container(&self, id: &ContainerId) -> Result<(), EngineError> {
        let turn = self.turns.take(&id.0).await;
        self.read_no_more(id);
        let (home, running) = self.running(id)?;
        let (engine, frozen) = (self.clone(), id.clone());
        let stuck = blocking(format!("freeze container `{id}`"), move || {
            let _turn = turn;
            let groups = running.groups(engine.layout)?;
            if !groups.frozen()? {
                // It has woken since it was offloaded.
                notes::rename(&home.asleep(), &home.slept())?;
                // Whoever waits since the last wake is not stopped by the app.
                parents::let_go(&home)?;
                // A full disk keeps nobody awake.
                if let Err(error) = parents::note(&home, &groups) {
                    tracing::warn!(container = home.name, %error, "failed to note what is about to be frozen");
                }
                if !groups.freeze(PATIENCE)? {
                    return Ok(Some(stuck(&groups)?));
                }
            }
            engine.frozen().insert(frozen, Instant::now());
            Ok(None)
        });
        match stuck.await? {
            None => Ok(()),
            Some((pid, name)) => Err(EngineError::Unfreezable { id: id.clone(), pid, name }),
        }
    }

    pub(super) async fn thaw_container(&self, id: &ContainerId) -> Result<Thawed, EngineError> {
        let turn = self.turns.take(&id.0).await;
        let (home, running) = self.running(id)?;
        let (engine, thawing, waking, thawed) = (self.clone(), id.clone(), self.waking.token(), Thawed::begin());
        // Beside the thawing, so that neither waits for the other.
        let prefetched = tokio::task::spawn_blocking({
            let (home, reads, thawed) = (home.clone(), self.read(id), thawed.clone());
            move || {
                if let Some(held) = notes::read::<Held>(&home.asleep())?
                    && touched::prefetch(&home, &held, &reads)?
                {
                    thawed.has_prefetched();
                }
                Ok::<_, io::Error>(())
            }
        });
        let groups = blocking(format!("thaw container `{id}`"), {
            let home = home.clone();
            move || {
                let _turn = turn;
                engine.frozen().remove(&thawing);
                if is_doomed(running.init) {
                    container::halt(&home, engine.layout, Duration::ZERO)?;
                    return Ok(None);
                }
                let groups = running.groups(engine.layout)?;
                let on_disk = notes::read::<Held>(&home.asleep())?.is_some_and(|held| held.disk > 0);
                let held_back = parents::hold_back(&home, &groups, running.init, on_disk).unwrap_or_else(|error| {
                    tracing::warn!(container = home.name, %error, "failed to have children wake before their parents");
                    HeldBack::default()
                });
                groups.thaw()?;
                if !held_back.is_empty() {
                    crate::fault::point("thaw.held");
                }
                Ok(Some((groups, held_back)))
            }
        });
        let Some((groups, held_back)) = groups.await? else { return Err(EngineError::NotRunning(id.clone())) };
        tokio::task::spawn_blocking({
            let thawed = thawed.clone();
            move || {
                let _waking = waking;
                if !held_back.is_empty() {
                    held_back.release();
                    thawed.has_released();
                }
            }
        });
        tokio::spawn(async move {
            if let Ok(Err(error)) = prefetched.await {
                tracing::debug!(container = home.name, %error, "what it touched when it last woke was not brought in");
            }
            tokio::time::sleep(touched::SETTLED).await;
            let noting = tokio::task::spawn_blocking(move || {
                // Without this it was frozen, and kept its memory.
                if home.asleep().exists() { touched::note(&home, &groups) } else { Ok(()) }
            });
            if let Ok(Err(error)) = noting.await {
                tracing::debug!(%error, "what a container touched when it woke was not noted");
            }
        });
        Ok(thawed)
    }

    pub(super) async fn offload_container(
        &self,
        id: &ContainerId,
        depth: Depth,
        wanted: Wanted,
    ) -> Result<Held, EngineError> {
        let turn = self.turns.take(&id.0).await;
        let (home, running) = self.running(id)?;
        let layout = self.layout;
        let offloaded = blocking(format!("move the memory of container `{id}`"), move || {
            let _turn = turn;
            let groups = running.groups(layout)?;
            if !groups.frozen()? {
                return Ok(None);
            }
            let past = Past { before: notes::read(&home.asleep())?, slept: notes::read(&home.slept())? };
            let held = offload(&groups, running.monitor, depth, past, &wanted)?;
            // It is out of the way all the same.
            if let Err(error) = notes::write(&home.asleep(), &held) {
                tracing::warn!(container = home.name, %error, "failed to note where its memory is");
                notes::remove(&home.asleep())?;
            }
            Ok(Some(held))
        });
        offloaded.await?.ok_or_else(|| EngineError::NotFrozen(id.clone()))
    }

    /// Of what is awake memory may be brought in until this is cancelled.
    fn read(&self, id: &ContainerId) -> CancellationToken {
        self.read_no_more(id);
        let reads = CancellationToken::new();
        self.reads().insert(id.clone(), reads.clone());
        reads
    }

    pub(super) fn read_no_more(&self, id: &ContainerId) {
        self.reads().remove(id).inspect(CancellationToken::cancel);
    }

    fn reads(&self) -> MutexGuard<'_, HashMap<ContainerId, CancellationToken>> {
        self.reads.lock().expect("nothing panics while it notes")
    }
}

/// The process that kept the others from being frozen: of those that are let go again, it waits for the kernel still.
fn stuck(groups: &Groups) -> io::Result<(i32, String)> {
    let waiting = |pid: i32| Some((pid, Stat::of(pid).filter(|stat| stat.state == 'D')?.name));
    let (pid, name) = groups.processes()?.into_iter().find_map(waiting).unwrap_or_default();
    Ok((pid, harmless::line(&name, Colours::Dropped)))
}

/// Of processes that are gone nothing is true any more.
pub fn forget(home: &Home) -> io::Result<()> {
    let noted = [home.asleep(), home.slept(), home.touched(), home.before(), home.held_back()];
    noted.iter().try_for_each(|file| notes::remove(file))
}

/// What a container holds that has been offloaded and is frozen since then.
pub fn asleep(home: &Home, groups: &Groups) -> io::Result<Option<Held>> {
    let Some(before) = notes::read::<Held>(&home.asleep())? else { return Ok(None) };
    if !groups.frozen()? {
        return Ok(None);
    }
    // Swap may have been turned off, and what was in it is back.
    let machine = Memory::look();
    let held = Held::reckon(groups, &machine, before.compressed)?;
    let kept = if machine.swaps.is_empty() { Some(Kept::NoSwap) } else { before.kept };
    Ok(Some(Held { kept, ..held }))
}
