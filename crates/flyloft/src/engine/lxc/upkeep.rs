//! What the engine does unasked while it runs: it watches the disk, and keeps its rules in the firewall.
//!
//! Whoever reloads `/etc/nftables.conf` flushes everybody's tables. Until ours is back, containers reach what they like:
//! so the kernel is asked to tell of it, and the table is back within milliseconds.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use super::attach::PATH;
use super::container::{Record, Running};
use super::net::{LINKS, Removals};
use super::slots::Slot;
use super::watch::Watch;
use super::{LxcEngine, parents};
use crate::engine::{ContainerId, ContainerState, Engine, EngineError, Reach};
use crate::exec::Cmd;

/// How often the free space is looked at: a system call.
const PACE: Duration = Duration::from_secs(1);

/// How often the firewall is looked at, and whether the host's own addresses and resolvers are others by now.
const ROUND: Duration = Duration::from_secs(60);

/// How long a container has to end that nobody can reach any more.
const CUT_OFF: Duration = Duration::from_secs(2);

impl LxcEngine {
    /// Never returns.
    pub(super) async fn watch(self) {
        tokio::join!(self.watch_disk(), self.watch_firewall());
    }

    async fn watch_disk(&self) {
        let mut disk = Watch::begin(self);
        loop {
            tokio::time::sleep(PACE).await;
            if let Err(error) = disk.look(self).await {
                tracing::error!(%error, "failed to watch the disk");
            }
        }
    }

    async fn watch_firewall(&self) {
        let removals = Removals::listen();
        let removals =
            removals.inspect_err(|error| tracing::error!(%error, "cannot hear of changes of the firewall")).ok();
        loop {
            let removed = async {
                match &removals {
                    Some(removals) => self.network.removed(removals).await,
                    None => std::future::pending().await,
                }
            };
            match tokio::time::timeout(ROUND, removed).await {
                Ok(Ok(())) => tracing::warn!("somebody removed the firewall's table; putting it back"),
                Ok(Err(error)) => {
                    tracing::error!(%error, "failed to watch the firewall");
                    tokio::time::sleep(PACE).await;
                }
                Err(_round) => {}
            }
            if let Err(error) = self.renew_network(removals.as_ref()).await {
                tracing::error!(%error, "failed to renew the firewall's table");
            }
        }
    }

    /// Puts the table in place, with the containers in it that run and no others.
    pub(super) async fn renew_network(&self, removals: Option<&Removals>) -> Result<(), EngineError> {
        let (admitted, introduced) = self.network.renew(removals).await?;
        let links = self.network.links().map_err(EngineError::io("list the links of containers"))?;
        // As a rule. LXC makes a link when a container starts, and the kernel takes it away with the last process.
        if links == admitted && links.is_subset(&introduced) {
            return Ok(());
        }
        for container in self.observe().await? {
            // The others are seen to all the same.
            if let Err(error) = self.renew_way(&container.id, &admitted, &introduced).await {
                tracing::error!(container = %container.id, %error, "failed to put right how a container is reached");
            }
        }
        Ok(())
    }

    /// Puts right how one is reached, where its link is not among those that are `admitted` and `introduced` as it should be.
    async fn renew_way(
        &self,
        id: &ContainerId,
        admitted: &BTreeSet<String>,
        introduced: &BTreeSet<String>,
    ) -> Result<(), EngineError> {
        // Nobody starts or stops it meanwhile.
        let _turn = self.turns.take(&id.0).await;
        let Ok((home, record)) = self.known(id) else { return Ok(()) };
        let link = self.network.link(record.slot);
        let known = admitted.contains(&link);
        match Running::find(&home) {
            Some(_) if !is_there(&link) => {
                tracing::warn!(container = %id, link, "its link is gone; ending it, so that it gets another");
                self.halt(&home, &record, CUT_OFF).await
            }
            Some(_) if !introduced.contains(&link) => {
                tracing::warn!(container = %id, link, "putting its routes and neighbours back");
                self.network.introduce(record.slot, &record.addresses).await?;
                Ok(self.network.admit(record.slot, &record.addresses, &record.spec.reach).await?)
            }
            Some(_) if !known => Ok(self.network.admit(record.slot, &record.addresses, &record.spec.reach).await?),
            None if known => Ok(self.network.dismiss(record.slot).await?),
            _ => Ok(()),
        }
    }

    /// Takes out of the table whoever does not run, watches who does, notes who is frozen, and has who was left in the
    /// middle of a wake go on. Not while there are builds, which are not observed, or anybody who could thaw what was found
    /// frozen.
    pub(super) async fn take_stock(&self) -> Result<(), EngineError> {
        let mut running = BTreeSet::new();
        for container in self.observe().await? {
            let Ok((home, record)) = self.known(&container.id) else { continue };
            if container.state == ContainerState::Stopped {
                continue;
            }
            running.insert(record.slot);
            self.watch_end(&home, &container.id);
            if let Err(error) = parents::let_go(&home) {
                tracing::warn!(container = %container.id, %error, "failed to let those go on that were held back");
            }
            if container.state == ContainerState::Frozen {
                self.frozen().insert(container.id, Instant::now());
            }
        }
        Ok(self.network.dismiss_all_but(&running).await?)
    }

    /// See [`crate::engine::Engine::allow`]. What is on record counts from the next start on, and the link's rules now.
    pub(super) async fn open_way(&self, id: &ContainerId, reach: Reach) -> Result<(), EngineError> {
        let _turn = self.turns.take(&id.0).await;
        let (home, mut record) = self.known(id)?;
        if record.spec.reach == reach {
            return Ok(());
        }
        record.spec.reach = reach;
        record.write(&home).map_err(EngineError::io(format!("note what container `{id}` may reach")))?;
        match Running::find(&home) {
            Some(_) => self.admit(&record).await,
            None => Ok(()),
        }
    }

    pub(super) async fn admit(&self, record: &Record) -> Result<(), EngineError> {
        let admit = || self.network.admit(record.slot, &record.addresses, &record.spec.reach);
        if admit().await.is_err() {
            // The table may have been flushed.
            self.network.install().await?;
            admit().await?;
        }
        Ok(())
    }

    /// Takes the link and its rules away.
    pub(super) async fn dismiss(&self, slot: Slot) -> Result<(), EngineError> {
        self.unlink(slot).await?;
        if self.network.dismiss(slot).await.is_err() {
            self.network.install().await?;
            self.network.dismiss(slot).await?;
        }
        Ok(())
    }

    /// LXC takes the link away itself, unless its monitor was killed. The route of one that stayed would lead astray
    /// whoever has the slot next.
    async fn unlink(&self, slot: Slot) -> Result<(), EngineError> {
        let link = self.network.link(slot);
        if !is_there(&link) {
            return Ok(());
        }
        let deleted = Cmd::new("ip").clear_env().env("PATH", PATH).args(["link", "delete", "dev", &link]).run().await;
        match deleted {
            // It may have gone by itself just now.
            Err(source) if is_there(&link) => {
                Err(EngineError::Exec { doing: format!("remove the link `{link}`"), source })
            }
            _ => Ok(()),
        }
    }
}

fn is_there(link: &str) -> bool {
    Path::new(LINKS).join(link).exists()
}
