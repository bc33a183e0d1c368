//! Containers on this machine, through the `lxc-*` tools.
//!
//! ```text
//!   create   a home below the state directory, a slot: files only
//!   start    layers idmapped, overlayfs over them, rules of the network, lxc-start
//!   stop     PID 1 ended, mounts gone; the writable layer stays
//!   remove   nothing of it left
//! ```
//!
//! What must hold: nothing from outside gets into a configuration of LXC; every container is unprivileged, with ids of
//! its own; the state of the engine is what is on disk and in `/proc`, so that a daemon can be killed at any moment.

mod advice;
mod attach;
#[cfg(test)]
mod bench;
mod beneath;
mod caches;
mod cgroup;
mod config;
mod console;
mod container;
mod debian;
mod derive;
mod doomed;
mod ends;
mod excess;
mod held;
#[cfg(test)]
mod hostile;
mod idmap;
mod journal;
mod layers;
mod life;
pub mod machine;
mod mounts;
pub mod net;
mod notes;
mod offload;
mod open;
mod pagemap;
mod pages;
mod parents;
mod places;
mod published;
mod seccomp;
mod sizes;
mod sleep;
pub mod slots;
mod sources;
mod stat;
mod step;
mod terminal;
#[cfg(test)]
mod tests;
mod touched;
pub mod tree;
mod turns;
mod upkeep;
mod variables;
mod verbs;
mod volumes;
mod watch;
mod zswap;

#[cfg(test)]
pub use self::bench::Bench;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::caches::Caches;
use self::cgroup::Layout;
use self::container::{Record, Running};
use self::ends::Ends;
use self::excess::Excesses;
use self::layers::Layers;
use self::mounts::Lower;
use self::net::{NetConfig, Network};
use self::places::{Home, Places};
use self::sizes::Sizes;
use self::slots::{Slot, Slots};
use self::turns::Turns;
use self::volumes::Volumes;
pub use self::watch::{Bounds, space};
use super::{ContainerId, ContainerSpec, EngineError, LayerId, Observed, VolumeId};

/// What the engine must be told.
#[derive(Clone, Debug)]
pub struct LxcConfig {
    /// The daemon's state directory; the engine's part of it is `engine/`.
    pub state: PathBuf,
    /// Tells this daemon's containers from another's: six lower-case hexadecimal digits.
    pub instance: String,
    /// The static `flyloft-init`.
    pub init: PathBuf,
    pub network: NetConfig,
}

/// A cheap handle: clones share everything that changes.
#[derive(Clone)]
pub struct LxcEngine {
    places: Places,
    instance: String,
    init: PathBuf,
    layout: Layout,
    slots: Slots,
    /// The slot whose ids own staged trees and caches.
    keeper: Slot,
    layers: Layers,
    caches: Caches,
    volumes: Volumes,
    network: Arc<Network>,
    addressing: NetConfig,
    /// One verb at a time for each container and each layer.
    turns: Arc<Turns>,
    bounds: Bounds,
    sizes: Arc<Sizes>,
    excess: Arc<Excesses>,
    ends: Arc<Ends>,
    /// Those that were frozen and have not been thawed, since when: what they take of the disk changes no more.
    frozen: Arc<Mutex<HashMap<ContainerId, Instant>>>,
    /// Those of which memory may be brought in, and what ends that.
    reads: Arc<Mutex<HashMap<ContainerId, CancellationToken>>>,
    /// Wakes whose parents wait for their children still.
    waking: TaskTracker,
    /// Ends with the last handle that users of the engine have.
    _watch: Option<Arc<Background>>,
}

/// A task that ends when this is dropped.
struct Background(tokio::task::JoinHandle<()>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl LxcEngine {
    /// Whether the machine has what is needed. Nothing is changed.
    pub fn check(config: &LxcConfig) -> Result<(), EngineError> {
        machine::check(config).map(drop)
    }

    /// Waits until nobody is held back any more who has woken, which does not take long.
    pub async fn settle(&self) {
        self.waking.close();
        self.waking.wait().await;
    }

    /// Takes the rules of the network away, when all containers are gone and none will follow.
    pub async fn uninstall(&self) -> Result<(), EngineError> {
        Ok(self.network.uninstall().await?)
    }

    fn home(&self, id: &ContainerId) -> Home {
        Home { dir: self.places.containers.join(&id.0), name: format!("fl-{}-{id}.c", self.instance) }
    }

    fn build_home(&self, id: &LayerId) -> Home {
        Home { dir: self.places.builds.join(&id.0), name: format!("fl-{}-{id}.b", self.instance) }
    }

    /// The home of a container that exists, and its record.
    fn known(&self, id: &ContainerId) -> Result<(Home, Record), EngineError> {
        id.check()?;
        let home = self.home(id);
        match Record::read(&home).map_err(EngineError::io(format!("read what container `{id}` is")))? {
            Some(record) => Ok((home, record)),
            None => Err(EngineError::NoContainer(id.clone())),
        }
    }

    /// What there is of a container.
    fn observed(&self, home: &Home) -> io::Result<Option<Observed>> {
        let found = container::observe(home, self.layout)?;
        Ok(found.map(|found| self.excess.remembered(found)))
    }

    /// The names of all containers, in their order. What has another name, as `lost+found`, is none.
    fn ids(&self) -> io::Result<Vec<ContainerId>> {
        let names = fs::read_dir(&self.places.containers)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        let ids = names.filter_map(|name| name.transpose()).map(|name| name.map(ContainerId));
        let ids = ids.filter(|id| id.as_ref().map_or(true, |id| id.check().is_ok()));
        let mut ids = ids.collect::<io::Result<Vec<_>>>()?;
        ids.sort();
        Ok(ids)
    }

    fn frozen(&self) -> MutexGuard<'_, HashMap<ContainerId, Instant>> {
        self.frozen.lock().expect("nothing panics while it notes")
    }

    fn running(&self, id: &ContainerId) -> Result<(Home, Running), EngineError> {
        let (home, _) = self.known(id)?;
        let running = Running::find(&home).ok_or_else(|| EngineError::NotRunning(id.clone()))?;
        Ok((home, running))
    }

    /// Has the end of what runs told.
    fn watch_end(&self, home: &Home, id: &ContainerId) {
        if let Some(running) = Running::find(home) {
            self.ends.watch(id, running);
        }
    }

    fn lower(&self, image: &[LayerId]) -> Result<Vec<Lower>, EngineError> {
        self.layers.lower(&image.to_vec()).map_err(|(layer, error)| match error.kind() {
            io::ErrorKind::NotFound => EngineError::NoLayer(layer),
            _ => EngineError::io(format!("read what layer `{layer}` is"))(error),
        })
    }

    /// Does something with a volume that no container has.
    async fn unused(
        &self,
        id: &VolumeId,
        doing: String,
        act: impl FnOnce(&Volumes, &VolumeId) -> io::Result<()> + Send + 'static,
    ) -> Result<(), EngineError> {
        id.check()?;
        let (engine, volume) = (self.clone(), id.clone());
        // A copy goes on that nobody waits for any more, and so does its turn.
        let done = to_the_end(async move {
            let _turn = engine.turns.take(&volume.0).await;
            let engine = engine.clone();
            let act = move || {
                let specs = engine.specs()?;
                let is_used = specs.iter().flat_map(|spec| &spec.volumes).any(|used| used.id == volume);
                if is_used { Ok(false) } else { act(&engine.volumes, &volume).map(|()| true) }
            };
            blocking(doing, act).await
        });
        if done.await? { Ok(()) } else { Err(EngineError::VolumeInUse(id.clone())) }
    }

    /// What each container is made of, and each build.
    fn specs(&self) -> io::Result<Vec<ContainerSpec>> {
        let mut specs = Vec::new();
        for dir in [&self.places.containers, &self.places.builds] {
            for entry in fs::read_dir(dir)? {
                let home = Home { dir: entry?.path(), name: String::new() };
                specs.extend(Record::read(&home)?.map(|record| record.spec));
            }
        }
        Ok(specs)
    }
}

/// A verb that has begun is brought to its end, whether the caller still waits or not.
async fn to_the_end<T: Send + 'static>(
    verb: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::spawn(verb).await.unwrap_or_else(|error| Err(EngineError::io("finish a verb")(io::Error::other(error))))
}

/// Runs blocking work to its end, even if nobody waits for it any more.
async fn blocking<T: Send + 'static>(
    doing: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, EngineError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(EngineError::io(doing))
}
