//! An engine in memory, for tests of what is above the engine. It passes the same suite as the real one.
//!
//! Nothing runs in it. A process whose command is `echo TEXT` has printed that once it is started, a command `true`,
//! `false` or `echo …` ends as one expects, by itself or by `sh -c`, and any other ends with status 0 and no output. What
//! somebody starts in a container may be `yes` as well, which prints for as long as it is read.

mod control;
mod verbs;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::SystemTime;

use flyloft_core::disk::{Space, Unit};
use flyloft_core::policy::Excess;
use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::sync::{Notify, watch};

use super::{
    Addresses, CacheId, ContainerId, ContainerSpec, ContainerState, EngineError, Held, Kept, LayerFacts, LayerId,
    Observed, Published, Usage, VolumeId,
};

#[derive(Default)]
pub struct Fake {
    memory: Mutex<Memory>,
    excess: Notify,
    ended: (Notify, Mutex<VecDeque<ContainerId>>),
    stalled: watch::Sender<bool>,
    /// Whether moves of memory do not come to their end.
    unmoved: watch::Sender<bool>,
    staging: OnceLock<TempDir>,
}

#[derive(Default)]
struct Memory {
    layers: BTreeMap<LayerId, LayerFacts>,
    caches: BTreeMap<CacheId, SystemTime>,
    volumes: BTreeMap<VolumeId, Usage>,
    containers: BTreeMap<ContainerId, Container>,
    /// What the writable layers of some take; those of the others take nothing.
    sizes: HashMap<ContainerId, Usage>,
    /// Verbs as they were called: `start web-1`.
    calls: Vec<String>,
    /// How often a verb is to fail from now on.
    failures: HashMap<&'static str, usize>,
    /// Programs that do not go well, with their status.
    ill: HashMap<&'static str, i32>,
    next_address: u16,
    listening: Vec<SocketAddr>,
    /// Ports as they were last published, and how much has been said over them to each container.
    published: Vec<Published>,
    said: BTreeMap<ContainerId, u64>,
    /// Why offloading moves nothing.
    kept: Option<Kept>,
    /// How often a container was looked at: what it is, or what it holds.
    looks: usize,
    /// Whether containers have a process that the kernel cannot hold.
    unfreezable: bool,
    disk: Disk,
}

/// What a running container holds.
const MEMORY: u64 = 32 << 20;

/// What each layer and each cache takes of the disk.
const LAYER: u64 = 2 << 20;
const CACHE: u64 = 4096;

/// And the files of each layer.
const FILES: u64 = 1000;

/// A disk that grows emptier as things go.
struct Disk {
    bytes: Space,
    inodes: Space,
    /// Whether somebody else takes what becomes free.
    is_lost: bool,
}

impl Default for Disk {
    fn default() -> Self {
        let [bytes, inodes] = Unit::ALL.map(|unit| Space { unit, free: 1 << 40, taken: 1 << 40 });
        Self { bytes, inodes, is_lost: false }
    }
}

impl Disk {
    fn give_back(&mut self, bytes: u64, inodes: u64) {
        if !self.is_lost {
            for (space, amount) in [(&mut self.bytes, bytes), (&mut self.inodes, inodes)] {
                space.free += amount;
                space.taken = space.taken.saturating_sub(amount);
            }
        }
    }
}

struct Container {
    spec: ContainerSpec,
    state: ContainerState,
    excess: Option<Excess>,
    /// Whether its app has been killed while it was frozen.
    doomed: bool,
    /// What it holds since it was offloaded.
    asleep: Option<Held>,
    addresses: Addresses,
    log: String,
    /// Whoever follows the log reads to its end, which comes with that of the container.
    followers: Vec<DuplexStream>,
}

impl Container {
    fn observed(&self) -> Observed {
        Observed {
            id: self.spec.id.clone(),
            state: self.state,
            addresses: self.addresses,
            image: self.spec.image.clone(),
            excess: self.excess,
        }
    }
}

impl Fake {
    pub fn new() -> Self {
        Self::default()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }

    fn begin(&self, verb: &'static str, name: &str) -> Result<MutexGuard<'_, Memory>, EngineError> {
        let mut memory = self.memory();
        memory.calls.push(format!("{verb} {name}"));
        memory.may_fail(verb, name)?;
        Ok(memory)
    }
}

impl Memory {
    fn may_fail(&mut self, verb: &'static str, name: &str) -> Result<(), EngineError> {
        match self.failures.get_mut(verb) {
            Some(times) if *times > 0 => {
                *times -= 1;
                Err(EngineError::io(format!("{verb} `{name}`"))(std::io::Error::other("the test wants it to fail")))
            }
            _ => Ok(()),
        }
    }

    fn container(&mut self, id: &ContainerId) -> Result<&mut Container, EngineError> {
        id.check()?;
        self.containers.get_mut(id).ok_or_else(|| EngineError::NoContainer(id.clone()))
    }

    fn running(&mut self, id: &ContainerId) -> Result<&mut Container, EngineError> {
        let container = self.container(id)?;
        match container.state {
            ContainerState::Stopped => Err(EngineError::NotRunning(id.clone())),
            _ => Ok(container),
        }
    }

    fn check_image(&self, image: &[LayerId]) -> Result<(), EngineError> {
        match image.iter().find(|layer| !self.layers.contains_key(layer)) {
            Some(layer) => Err(EngineError::NoLayer(layer.clone())),
            None => Ok(()),
        }
    }
}

/// As the daemon holds an engine, with a handle for the test.
pub fn shared() -> (Arc<Fake>, super::SharedEngine) {
    let fake = Arc::new(Fake::new());
    (fake.clone(), fake)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;

    #[tokio::test]
    async fn a_verb_fails_as_often_as_a_test_wants() {
        let fake = Fake::new();
        fake.fail("remove", 1);
        let id = ContainerId("web".to_owned());
        assert!(fake.remove(&id).await.is_err());
        assert!(fake.remove(&id).await.is_ok());
        assert_eq!(fake.calls(), ["remove web", "remove web"]);
    }
}
