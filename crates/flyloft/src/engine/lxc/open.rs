//! What an engine does first: it takes over what an earlier one has left.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::caches::Caches;
use super::cgroup::Layout;
use super::container::{self, APP, Record};
use super::layers::Layers;
use super::net::Network;
use super::places::Places;
use super::slots::{self, Slot, Slots};
use super::volumes::Volumes;
use super::watch::Bounds;
use super::{Background, LxcConfig, LxcEngine, blocking, machine, mounts, seccomp, tree, zswap};
use crate::engine::{EngineError, LayerId};

impl LxcEngine {
    /// Checks that the machine has what is needed, and takes over what an earlier daemon left in `state`.
    pub async fn open(config: LxcConfig) -> Result<Self, EngineError> {
        Self::open_within(config, Bounds::default()).await
    }

    /// The same, with bounds of its own for the disk.
    pub async fn open_within(config: LxcConfig, bounds: Bounds) -> Result<Self, EngineError> {
        let layout = machine::check(&config)?;
        let network = Network::new(&config.instance, config.network.clone());
        let engine =
            blocking("open the engine's state".to_owned(), move || Self::take_over(config, bounds, layout, network));
        let mut engine = engine.await?;
        engine.renew_network(None).await?;
        engine.take_stock().await?;
        engine._watch = Some(Arc::new(Background(tokio::spawn(engine.clone().watch()))));
        Ok(engine)
    }

    fn take_over(config: LxcConfig, bounds: Bounds, layout: Layout, network: Network) -> io::Result<Self> {
        let places = Places::open(&config.state)?;
        let slots = Slots::open(slots::REGISTRY.as_ref())?;
        fs::write(&places.seccomp, seccomp::profile())?;
        // Not these directories themselves, nor the others: an administrator may have given any of them a disk of its own.
        for dir in [&places.builds, &places.containers, &places.staging, &places.tmp] {
            for point in mounts::mounted_below(dir)?.iter().filter(|point| *point != dir) {
                mounts::unmount(point)?;
            }
        }
        // Whoever put it there has gone down with the last daemon.
        for entry in fs::read_dir(&places.staging)? {
            tree::purge(&entry?.path())?;
        }
        let (layers, unsynced) = Layers::open(&places)?;
        unsynced.into_iter().for_each(|id| layers.sync_soon(id));
        let keeper = keeper(&places, &slots)?;
        let engine = Self {
            instance: config.instance,
            init: std::path::absolute(config.init)?,
            layout,
            slots,
            caches: Caches::new(&places, keeper),
            volumes: Volumes::new(&places, keeper),
            keeper,
            layers,
            network: Arc::new(network),
            addressing: config.network,
            turns: Arc::default(),
            bounds,
            sizes: Arc::default(),
            excess: Arc::default(),
            ends: Arc::default(),
            frozen: Arc::default(),
            reads: Arc::default(),
            waking: TaskTracker::new(),
            _watch: None,
            places,
        };
        engine.drop_half_made()?;
        // Until somebody fell asleep, everything on the machine would be swapped to the disk as it is.
        match zswap::mend() {
            Ok(false) => {}
            Ok(true) => tracing::warn!("a daemon had ended while zswap was switched off for it; it is on again"),
            Err(error) => tracing::error!(%error, "failed to switch zswap on again, which a daemon that ended had off"),
        }
        Ok(engine)
    }

    /// Removes builds that were under way and containers that were not made to the end, and renews the others' claims.
    fn drop_half_made(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.places.builds)? {
            if let Some(id) = entry?.file_name().into_string().ok().map(LayerId).filter(|id| id.check().is_ok()) {
                container::erase(&self.build_home(&id))?;
            }
        }
        for id in self.ids()? {
            let home = self.home(&id);
            match Record::read(&home)? {
                None => container::erase(&home)?,
                Some(record) if self.slots.hold(record.slot, &home.dir)? => container::renew_init(&home, &self.init)?,
                Some(record) => {
                    tracing::error!(container = home.name, slot = record.slot.index(), "its slot was given to another");
                }
            }
        }
        Ok(())
    }
}

/// The slot of staged trees and caches, the same for as long as the state directory lives.
fn keeper(places: &Places, slots: &Slots) -> io::Result<Slot> {
    let file = places.engine.join("keeper");
    let known: Option<Slot> = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let slot = match known {
        Some(slot) if slots.hold(slot, &places.staging)? => slot,
        Some(_) => return Err(io::Error::other("the slot of its staged files was given to another daemon")),
        None => {
            let slot = slots.take(&places.staging)?;
            fs::write(&file, serde_json::to_vec(&slot)?)?;
            slot
        }
    };
    let user = slot.uid_base() + APP;
    chown(&places.staging, Some(user), Some(user))?;
    Ok(slot)
}
