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
mod volumes;
mod watch;
mod zswap;

#[cfg(test)]
pub use self::bench::Bench;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, UNIX_EPOCH};

use async_trait::async_trait;
use flyloft_core::disk::{Space, Unit};
use flyloft_core::lifecycle::Depth;
use tokio::io::AsyncRead;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::caches::Caches;
use self::cgroup::Layout;
use self::container::{APP, Record, Running};
use self::ends::Ends;
use self::excess::Excesses;
use self::layers::Layers;
use self::mounts::Lower;
use self::net::{NetConfig, Network};
use self::offload::Wanted;
use self::places::Home;
use self::places::Places;
use self::sizes::Sizes;
use self::slots::{Slot, Slots};
use self::turns::Turns;
use self::volumes::Volumes;
pub use self::watch::{Bounds, space};
use super::{
    Abilities, Addresses, CacheFacts, CacheId, ContainerId, ContainerSpec, Derivation, Engine, EngineError, Exec,
    ExecSpec, Filling, Held, LayerFacts, LayerId, Observed, Reach, Staging, Stats, Thawed, Usage,
    VolumeId,
};
use crate::machine::Memory;
use crate::transcript::Transcript;

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

    /// The names of all containers, in their order.
    fn ids(&self) -> io::Result<Vec<ContainerId>> {
        let names = fs::read_dir(&self.places.containers)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        let ids = names.filter_map(|name| name.transpose()).map(|name| name.map(ContainerId));
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
        let _turn = self.turns.take(&id.0).await;
        let done = blocking(doing, move || {
            let specs = engine.specs()?;
            let is_used = specs.iter().flat_map(|spec| &spec.volumes).any(|used| used.id == volume);
            if is_used { Ok(false) } else { act(&engine.volumes, &volume).map(|()| true) }
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

#[async_trait]
impl Engine for LxcEngine {
    fn abilities(&self) -> Abilities {
        let memory = Memory::look();
        Abilities {
            name: "lxc",
            freeze: true,
            compress: memory.compresses(),
            // Nothing leads from zram to a disk.
            write_out: memory.on_disk() > 0 && memory.compressed() == 0,
            disk_quota: false,
        }
    }

    fn staging(&self) -> Staging {
        Staging { dir: self.places.staging.clone(), user: self.keeper.uid_base() + APP }
    }

    fn space(&self, unit: Unit) -> Result<Space, EngineError> {
        space(&self.places.engine, unit).map_err(EngineError::io("ask for the free space"))
    }

    async fn observe(&self) -> Result<Vec<Observed>, EngineError> {
        let engine = self.clone();
        blocking("look at the containers".to_owned(), move || {
            let homes = engine.ids()?.into_iter().map(|id| engine.home(&id));
            homes.filter_map(|home| engine.observed(&home).transpose()).collect()
        })
        .await
    }

    async fn containers(&self) -> Result<Vec<ContainerId>, EngineError> {
        self.ids().map_err(EngineError::io("list the containers"))
    }

    async fn find(&self, id: &ContainerId) -> Result<Option<Observed>, EngineError> {
        id.check()?;
        let (engine, home) = (self.clone(), self.home(id));
        blocking(format!("look at container `{id}`"), move || engine.observed(&home)).await
    }

    async fn excess(&self) {
        self.excess.told().await;
    }

    async fn ended(&self) -> ContainerId {
        self.ends.next().await
    }

    async fn layers(&self) -> Result<Vec<LayerId>, EngineError> {
        self.layers.list().map_err(EngineError::io("list the layers"))
    }

    async fn layer(&self, id: &LayerId) -> Result<LayerFacts, EngineError> {
        id.check()?;
        let meta = self.layers.meta(id).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => EngineError::NoLayer(id.clone()),
            _ => EngineError::io(format!("read what layer `{id}` is"))(error),
        })?;
        let made = UNIX_EPOCH + Duration::from_secs(meta.made_at);
        Ok(LayerFacts { on: meta.on, bytes: meta.bytes, inodes: meta.inodes, made })
    }

    async fn derive(&self, derivation: Derivation, transcript: &Transcript) -> Result<(), EngineError> {
        self.derive_layer(derivation, transcript).await
    }

    async fn forget(&self, layer: &LayerId) -> Result<(), EngineError> {
        layer.check()?;
        let (engine, id) = (self.clone(), layer.clone());
        let gone = blocking(format!("remove layer `{layer}`"), move || {
            engine.layers.remove_unused(&id, || Ok(engine.specs()?.iter().any(|spec| spec.image.contains(&id))))
        });
        if gone.await? { Ok(()) } else { Err(EngineError::LayerInUse(layer.clone())) }
    }

    async fn caches(&self) -> Result<Vec<CacheFacts>, EngineError> {
        let caches = self.caches.clone();
        blocking("look at the package caches".to_owned(), move || caches.list()).await
    }

    async fn forget_cache(&self, cache: &CacheId) -> Result<(), EngineError> {
        cache.check()?;
        let (caches, id) = (self.caches.clone(), cache.clone());
        let gone = blocking(format!("remove cache `{cache}`"), move || caches.remove(&id));
        if gone.await? { Ok(()) } else { Err(EngineError::CacheInUse(cache.clone())) }
    }

    async fn volumes(&self) -> Result<Vec<VolumeId>, EngineError> {
        self.volumes.list().map_err(EngineError::io("list the volumes"))
    }

    async fn volume(&self, id: &VolumeId) -> Result<Usage, EngineError> {
        id.check()?;
        let (volumes, volume) = (self.volumes.clone(), id.clone());
        blocking(format!("measure volume `{id}`"), move || volumes.measure(&volume)).await
    }

    async fn forget_volume(&self, id: &VolumeId) -> Result<(), EngineError> {
        self.unused(id, format!("remove volume `{id}`"), |volumes, id| volumes.remove(id)).await
    }

    async fn fill_volume(&self, id: &VolumeId, with: Filling) -> Result<(), EngineError> {
        self.check_space()?;
        self.unused(id, format!("fill volume `{id}`"), move |volumes, id| volumes.fill(id, &with)).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<Addresses, EngineError> {
        spec.id.check()?;
        spec.volumes.iter().try_for_each(|volume| volume.id.check())?;
        let (engine, spec) = (self.clone(), spec.clone());
        to_the_end(async move {
            let _turn = engine.turns.take(&spec.id.0).await;
            engine.create_container(spec).await
        })
        .await
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let (engine, id) = (self.clone(), id.clone());
        to_the_end(async move {
            let _turn = engine.turns.take(&id.0).await;
            let (home, record) = engine.known(&id)?;
            if Running::find(&home).is_none() {
                engine.launch(&home, &record, Vec::new()).await?;
            }
            // What runs already may have come up after this engine had looked at all that runs: an earlier daemon had
            // begun to start it.
            engine.watch_end(&home, &id);
            Ok(())
        })
        .await
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        let (engine, id) = (self.clone(), id.clone());
        to_the_end(async move {
            let _turn = engine.turns.take(&id.0).await;
            let (home, record) = engine.known(&id)?;
            engine.halt(&home, &record, grace).await
        })
        .await
    }

    async fn freeze(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.freeze_container(id).await
    }

    async fn offload(&self, id: &ContainerId, depth: Depth) -> Result<Held, EngineError> {
        let (engine, id, wanted) = (self.clone(), id.clone(), Wanted::default());
        let _wanting = wanted.by_whoever_holds();
        to_the_end(async move { engine.offload_container(&id, depth, wanted).await }).await
    }

    async fn thaw(&self, id: &ContainerId) -> Result<Thawed, EngineError> {
        self.thaw_container(id).await
    }

    async fn is_doomed(&self, id: &ContainerId) -> Result<bool, EngineError> {
        self.has_doomed(id).await
    }

    async fn allow(&self, id: &ContainerId, reach: &Reach) -> Result<(), EngineError> {
        let (engine, id, reach) = (self.clone(), id.clone(), reach.clone());
        to_the_end(async move { engine.open_way(&id, reach).await }).await
    }

    async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<Exec, EngineError> {
        let (home, record) = self.known(id)?;
        let (_, running) = self.running(id)?;
        let stats = running.groups(self.layout).and_then(|groups| groups.stats());
        let count = stats.map_err(EngineError::io(format!("measure container `{id}`")))?.pids;
        let limit = record.spec.limits.pids;
        // `lxc-attach` would say so in words that are not for the caller.
        if count + ATTACH > limit {
            return Err(EngineError::Crowded { id: id.clone(), count, limit });
        }
        attach::start(&home, running.init, record.slot.uid_base() + APP, &spec)
    }

    async fn stats(&self, id: &ContainerId) -> Result<Stats, EngineError> {
        let (home, _) = self.known(id)?;
        let (layout, sizes, known) = (self.layout, self.sizes.clone(), id.clone());
        blocking(format!("measure container `{id}`"), move || {
            let Usage { bytes: disk, inodes } = sizes.look(&known, &home);
            let Some(running) = Running::find(&home) else { return Ok(Stats { disk, inodes, ..Stats::default() }) };
            let groups = running.groups(layout)?;
            Ok(Stats { disk, inodes, asleep: sleep::asleep(&home, &groups)?, ..groups.stats()? })
        })
        .await
    }

    async fn sizes(&self) -> Result<BTreeMap<ContainerId, Usage>, EngineError> {
        let engine = self.clone();
        blocking("measure the containers".to_owned(), move || {
            let look = |id: ContainerId| {
                let usage = engine.sizes.look(&id, &engine.home(&id));
                (id, usage)
            };
            Ok(engine.ids()?.into_iter().map(look).collect())
        })
        .await
    }

    async fn listening(&self, id: &ContainerId) -> Result<Vec<SocketAddr>, EngineError> {
        let (_, running) = self.running(id)?;
        container::listening(running.init).map_err(EngineError::io(format!("list what listens in container `{id}`")))
    }

    async fn logs(
        &self,
        id: &ContainerId,
        lines: usize,
        follow: bool,
    ) -> Result<Box<dyn AsyncRead + Send + Unpin>, EngineError> {
        let (home, _) = self.known(id)?;
        Ok(Box::new(console::open(home, lines, follow)))
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        id.check()?;
        let (engine, id) = (self.clone(), id.clone());
        to_the_end(async move {
            let _turn = engine.turns.take(&id.0).await;
            let destroyed = engine.destroy(&engine.home(&id)).await;
            engine.sizes.forget(&id);
            engine.excess.forget(&id);
            destroyed
        })
        .await
    }
}

/// Processes that there must be room for before a command can run.
const ATTACH: u32 = 2;

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
