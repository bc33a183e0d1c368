//! The verbs of an engine, each put together from what this one has: it takes its turn, and brings to an end what it has
//! begun.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use flyloft_core::disk::{Space, Unit};
use flyloft_core::lifecycle::Depth;
use flyloft_core::port::Protocol;
use tokio::io::AsyncRead;

use super::container::{self, APP, Running};
use super::offload::Wanted;
use super::{LxcEngine, attach, blocking, console, sleep, space, to_the_end};
use crate::engine::{
    Abilities, Addresses, CacheFacts, CacheId, ContainerId, ContainerSpec, Derivation, Engine, EngineError, Exec,
    ExecSpec, Filling, Held, LayerFacts, LayerId, Observed, Published, Reach, Staging, Stats, Thawed, Usage, VolumeId,
};
use crate::machine::Memory;
use crate::transcript::Transcript;

/// Processes that there must be room for before a command can run.
const ATTACH: u32 = 2;

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

    async fn remake(&self, spec: &ContainerSpec) -> Result<Addresses, EngineError> {
        spec.volumes.iter().try_for_each(|volume| volume.id.check())?;
        let (engine, spec) = (self.clone(), spec.clone());
        to_the_end(async move {
            let _turn = engine.turns.take(&spec.id.0).await;
            engine.remake_container(spec).await
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

    async fn publish(&self, ports: &[Published]) -> Result<BTreeMap<ContainerId, u64>, EngineError> {
        let (engine, ports) = (self.clone(), ports.to_vec());
        to_the_end(async move { engine.publish_ports(ports).await }).await
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
        let listening = container::listening(running.init, Protocol::Tcp);
        listening.map_err(EngineError::io(format!("list what listens in container `{id}`")))
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
