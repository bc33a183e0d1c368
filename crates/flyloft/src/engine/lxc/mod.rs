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

mod attach;
#[cfg(test)]
mod bench;
mod beneath;
mod cgroup;
mod config;
mod console;
mod container;
mod debian;
mod derive;
#[cfg(test)]
mod hostile;
mod idmap;
mod layers;
pub mod machine;
mod mounts;
pub mod net;
mod places;
mod seccomp;
pub mod slots;
mod sources;
mod step;
mod terminal;
#[cfg(test)]
mod tests;
mod tree;
mod upkeep;
mod watch;

#[cfg(test)]
pub use self::bench::Bench;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::io::AsyncRead;
use tokio::sync::OwnedMutexGuard;

use self::cgroup::Layout;
use self::config::Config;
use self::container::{APP, GRACE, InitSpec, Record, Running};
use self::idmap::Access;
use self::layers::Layers;
use self::mounts::{Bind, Lower};
use self::net::{NetConfig, Network};
use self::places::Home;
use self::places::Places;
use self::slots::{Slot, Slots};
pub use self::watch::Bounds;
use super::{
    Abilities, Addresses, ContainerId, ContainerSpec, Derivation, Engine, EngineError, Exec, ExecSpec, Image,
    LayerFacts, LayerId, Observed, Staging, Stats,
};
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
    network: Arc<Network>,
    addressing: NetConfig,
    /// One verb at a time for each container and each layer.
    turns: Arc<Turns>,
    bounds: Bounds,
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
        engine.renew_network().await?;
        engine.dismiss_the_gone().await?;
        engine._watch = Some(Arc::new(Background(tokio::spawn(engine.clone().watch()))));
        Ok(engine)
    }

    /// Takes the rules of the network away, when all containers are gone and none will follow.
    pub async fn uninstall(&self) -> Result<(), EngineError> {
        Ok(self.network.uninstall().await?)
    }

    fn take_over(config: LxcConfig, bounds: Bounds, layout: Layout, network: Network) -> io::Result<Self> {
        let places = Places::open(&config.state)?;
        let slots = Slots::open(slots::REGISTRY.as_ref())?;
        fs::write(&places.seccomp, seccomp::profile())?;
        for point in mounts::mounted_below(&places.engine)? {
            mounts::unmount(&point)?;
        }
        let (layers, unsynced) = Layers::open(&places)?;
        unsynced.into_iter().for_each(|id| layers.sync_soon(id));
        let keeper = keeper(&places, &slots)?;
        let engine = Self {
            instance: config.instance,
            init: std::path::absolute(config.init)?,
            layout,
            slots,
            keeper,
            layers,
            network: Arc::new(network),
            addressing: config.network,
            turns: Arc::default(),
            bounds,
            _watch: None,
            places,
        };
        engine.drop_half_made()?;
        Ok(engine)
    }

    /// Removes builds that were under way and containers that were not made to the end, and renews the others' claims.
    fn drop_half_made(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.places.builds)? {
            if let Ok(id) = entry?.file_name().into_string() {
                container::erase(&self.build_home(&LayerId(id)))?;
            }
        }
        for entry in fs::read_dir(&self.places.containers)? {
            let Ok(id) = entry?.file_name().into_string() else { continue };
            let home = self.home(&ContainerId(id));
            match Record::read(&home)? {
                None => container::erase(&home)?,
                Some(record) if self.slots.hold(record.slot, &home.dir)? => {}
                Some(record) => {
                    tracing::error!(container = home.name, slot = record.slot.index(), "its slot was given to another");
                }
            }
        }
        Ok(())
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

    fn running(&self, id: &ContainerId) -> Result<(Home, Running), EngineError> {
        let (home, _) = self.known(id)?;
        let running = Running::find(&home).ok_or_else(|| EngineError::NotRunning(id.clone()))?;
        Ok((home, running))
    }

    fn lower(&self, image: &[LayerId]) -> Result<Vec<Lower>, EngineError> {
        self.layers.lower(&image.to_vec()).map_err(|(layer, error)| match error.kind() {
            io::ErrorKind::NotFound => EngineError::NoLayer(layer),
            _ => EngineError::io(format!("read what layer `{layer}` is"))(error),
        })
    }

    fn images_in_use(&self) -> io::Result<Vec<Image>> {
        let mut images = Vec::new();
        for dir in [&self.places.containers, &self.places.builds] {
            for entry in fs::read_dir(dir)? {
                let home = Home { dir: entry?.path(), name: String::new() };
                images.extend(Record::read(&home)?.map(|record| record.spec.image));
            }
        }
        Ok(images)
    }

    /// Makes a home with everything but the mounts. Its record comes last: without it nothing was made.
    fn make(&self, home: &Home, spec: &ContainerSpec) -> io::Result<Record> {
        let slot = container::settle(home, &self.slots)?;
        let addresses = slot.addresses(&self.addressing);
        let init = InitSpec {
            hostname: &spec.id.0,
            uid: APP,
            gid: APP,
            dir: "/app",
            grace_seconds: GRACE.as_secs(),
            env: &spec.env,
            processes: &spec.processes,
            addresses: addresses.both(),
        };
        container::furnish(home, &self.init, slot, &init)?;
        let config = Config {
            home,
            hostname: &spec.id.0,
            slot,
            limits: &spec.limits,
            log_bytes: self.bounds.logs,
            cgroups: self.layout,
            seccomp: &self.places.seccomp,
            apparmor: machine::apparmor(),
            network: &self.network.lxc_lines(slot, &addresses),
        };
        fs::write(home.config(), config.render())?;
        let record = Record { spec: spec.clone(), slot, addresses };
        record.write(home)?;
        Ok(record)
    }

    /// Mounts, opens the network and starts LXC. Undoes all of it when one fails.
    async fn launch(&self, home: &Home, record: &Record, caches: Vec<Bind>) -> Result<(), EngineError> {
        let launched = self.try_launch(home, record, caches).await;
        if launched.is_err() {
            let _ = self.halt(home, record, Duration::ZERO).await;
        }
        launched
    }

    async fn try_launch(&self, home: &Home, record: &Record, mut binds: Vec<Bind>) -> Result<(), EngineError> {
        let lower = self.lower(&record.spec.image)?;
        binds.push(Bind { source: home.init(), target: "flyloft".into(), access: Access::ReadOnly, uid_base: None });
        let uid_base = record.slot.uid_base();
        let mounted = blocking(format!("mount the file system of container `{}`", home.name), {
            let home = home.clone();
            move || {
                // A cgroup that was left behind would make LXC choose another name.
                cgroup::clean(&home.name)?;
                mounts::compose(&home, &lower, &binds, uid_base)
            }
        });
        let admitted = self.admit(record);
        let (mounted, admitted) = tokio::join!(mounted, admitted);
        mounted?;
        admitted?;
        let started = attach::tool("lxc-start", home)
            .arg("--daemon")
            .args(["--logpriority", "WARN", "--logfile"])
            .arg(home.lxc_log())
            .arg("--rcfile")
            .arg(home.config())
            .arg("--pidfile")
            .arg(home.pid_file())
            .timeout(Duration::from_secs(60))
            .run()
            .await;
        started.map(drop).map_err(|source| {
            let log = fs::read_to_string(home.lxc_log()).unwrap_or_default();
            let reasons: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).take(3).collect();
            tracing::error!(container = home.name, log = reasons.join("; "), "LXC did not start it");
            EngineError::Exec { doing: format!("start container `{}`", record.spec.id), source }
        })
    }

    /// Ends what runs, and takes mounts and rules away.
    async fn halt(&self, home: &Home, record: &Record, grace: Duration) -> Result<(), EngineError> {
        let layout = self.layout;
        let halted = blocking(format!("stop container `{}`", record.spec.id), {
            let home = home.clone();
            move || {
                container::halt(&home, layout, grace)?;
                mounts::dissolve(&home)
            }
        });
        halted.await?;
        self.dismiss(record.slot).await
    }

    /// Takes every trace away and frees the slot.
    async fn destroy(&self, home: &Home) -> Result<(), EngineError> {
        // The slot may be another's as soon as the directory is gone: the rules go first.
        if let Some(record) = Record::read(home).ok().flatten() {
            self.dismiss(record.slot).await?;
        }
        let (slots, home) = (self.slots.clone(), home.clone());
        blocking(format!("remove container `{}`", home.name), move || {
            container::erase(&home)?;
            slots.give_back(&home.dir)
        })
        .await
    }
}

#[async_trait]
impl Engine for LxcEngine {
    fn abilities(&self) -> Abilities {
        Abilities { name: "lxc", freeze: true, disk_quota: false }
    }

    fn staging(&self) -> Staging {
        Staging { dir: self.places.staging.clone(), user: self.keeper.uid_base() + APP }
    }

    async fn observe(&self) -> Result<Vec<Observed>, EngineError> {
        let (places, instance, layout) = (self.places.clone(), self.instance.clone(), self.layout);
        blocking("look at the containers".to_owned(), move || {
            let mut found = Vec::new();
            for entry in fs::read_dir(&places.containers)? {
                let Ok(id) = entry?.file_name().into_string() else { continue };
                let home = Home { dir: places.containers.join(&id), name: format!("fl-{instance}-{id}.c") };
                if let Some(Record { spec, addresses, .. }) = Record::read(&home)? {
                    let state = container::state(&home, layout);
                    found.push(Observed { id: spec.id, state, addresses, image: spec.image });
                }
            }
            found.sort_by(|a, b| a.id.cmp(&b.id));
            Ok(found)
        })
        .await
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
        Ok(LayerFacts { on: meta.on, bytes: meta.bytes, made: UNIX_EPOCH + Duration::from_secs(meta.made_at) })
    }

    async fn derive(&self, derivation: Derivation, transcript: &Transcript) -> Result<(), EngineError> {
        self.derive_layer(derivation, transcript).await
    }

    async fn forget(&self, layer: &LayerId) -> Result<(), EngineError> {
        layer.check()?;
        let (engine, id) = (self.clone(), layer.clone());
        let gone = blocking(format!("remove layer `{layer}`"), move || {
            engine.layers.remove_unused(&id, || Ok(engine.images_in_use()?.iter().any(|image| image.contains(&id))))
        });
        if gone.await? { Ok(()) } else { Err(EngineError::LayerInUse(layer.clone())) }
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<Addresses, EngineError> {
        spec.id.check()?;
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
            match Running::find(&home) {
                Some(_) => Ok(()),
                None => engine.launch(&home, &record, Vec::new()).await,
            }
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
        self.set_frozen(id, true).await
    }

    async fn thaw(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.set_frozen(id, false).await
    }

    async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<Exec, EngineError> {
        let (home, record) = self.known(id)?;
        let (_, running) = self.running(id)?;
        attach::start(&home, running.init, record.slot.uid_base() + APP, &spec)
    }

    async fn stats(&self, id: &ContainerId) -> Result<Stats, EngineError> {
        let (home, _) = self.known(id)?;
        let layout = self.layout;
        blocking(format!("measure container `{id}`"), move || {
            let disk = tree::measure(&home.upper()).map_or(0, |usage| usage.bytes);
            let running = Running::find(&home).map(|running| running.groups(layout)?.stats()).transpose()?;
            Ok(Stats { disk, ..running.unwrap_or_default() })
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
            engine.destroy(&engine.home(&id)).await
        })
        .await
    }
}

impl LxcEngine {
    async fn create_container(&self, spec: ContainerSpec) -> Result<Addresses, EngineError> {
        let home = self.home(&spec.id);
        let doing = format!("make container `{}`", spec.id);
        if let Some(record) = Record::read(&home).map_err(EngineError::io(&doing))? {
            return if record.spec == spec { Ok(record.addresses) } else { Err(EngineError::Exists(spec.id)) };
        }
        let _hold = self.layers.hold(&spec.image);
        self.lower(&spec.image)?;
        let made = self.make_home(&home, spec, doing).await;
        if made.is_err() {
            let _ = self.destroy(&home).await;
        }
        made.map(|record| record.addresses)
    }

    async fn make_home(&self, home: &Home, spec: ContainerSpec, doing: String) -> Result<Record, EngineError> {
        let (engine, home) = (self.clone(), home.clone());
        blocking(doing, move || engine.make(&home, &spec)).await
    }

    async fn set_frozen(&self, id: &ContainerId, frozen: bool) -> Result<(), EngineError> {
        let turn = self.turns.take(&id.0).await;
        let (_, running) = self.running(id)?;
        let layout = self.layout;
        let doing = format!("{} container `{id}`", if frozen { "freeze" } else { "thaw" });
        blocking(doing, move || {
            let _turn = turn;
            running.groups(layout)?.set_frozen(frozen)
        })
        .await
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

/// Whose turn it is, by name. Waiting for one's turn is what makes two callers share one piece of work: the second
/// finds it done.
#[derive(Default)]
struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    async fn take(&self, name: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().expect("not poisoned");
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(name.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
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
