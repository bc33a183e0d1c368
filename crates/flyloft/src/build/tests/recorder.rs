//! An engine that records what it is asked for.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use flyloft_core::disk::{Space, Unit};
use flyloft_core::lifecycle::Depth;
use tokio::io::AsyncRead;

use super::super::*;
use crate::engine::{
    Abilities, Addresses, CacheFacts, CacheId, ContainerId, ContainerSpec, Engine, EngineError, Exec, ExecSpec,
    Filling, Held, LayerFacts, Observed, Published, Staging, Stats, Thawed, Usage, VolumeId,
};

/// Has every layer that it was asked to make, and remembers how.
pub struct Recorder {
    pub staging: tempfile::TempDir,
    pub made: Mutex<Vec<Derivation>>,
    pub caches: Mutex<Vec<CacheId>>,
    /// A step whose title has this in it fails so.
    pub fails: Mutex<Option<(&'static str, EngineError)>>,
    /// Says that there are no layers, as before another build made them.
    pub blind: AtomicBool,
}

impl Recorder {
    pub fn take(&self) -> Vec<Derivation> {
        std::mem::take(&mut *self.made.lock().unwrap())
    }
}

#[async_trait]
impl Engine for Recorder {
    fn staging(&self) -> Staging {
        Staging { dir: self.staging.path().to_owned(), user: nix::unistd::getuid().as_raw() }
    }

    async fn derive(&self, derivation: Derivation, transcript: &Transcript) -> Result<(), EngineError> {
        let mut fails = self.fails.lock().unwrap();
        if let Some((_, error)) = fails.take_if(|(title, _)| derivation.title.contains(*title)) {
            transcript.detail("ERROR: No matching distribution found for flaskk");
            return Err(error);
        }
        let mut made = self.made.lock().unwrap();
        // As when another build was quicker: nothing is taken then.
        if made.iter().any(|other| other.id == derivation.id) {
            return Ok(());
        }
        if let Recipe::Tree { from, .. } = &derivation.recipe {
            std::fs::remove_dir_all(from).expect("the tree is there");
        }
        made.push(derivation);
        Ok(())
    }

    async fn layers(&self) -> Result<Vec<LayerId>, EngineError> {
        let made = self.made.lock().unwrap();
        let seen = made.iter().filter(|_| !self.blind.load(Ordering::Relaxed));
        Ok(seen.map(|derivation| derivation.id.clone()).collect())
    }

    async fn layer(&self, id: &LayerId) -> Result<LayerFacts, EngineError> {
        let made = self.made.lock().unwrap();
        let on = made.iter().find(|derivation| derivation.id == *id).expect("it was made").on.clone();
        Ok(LayerFacts { on, bytes: 100, inodes: 1, made: SystemTime::UNIX_EPOCH })
    }

    async fn forget(&self, id: &LayerId) -> Result<(), EngineError> {
        self.made.lock().unwrap().retain(|derivation| derivation.id != *id);
        Ok(())
    }

    fn space(&self, _: Unit) -> Result<Space, EngineError> {
        unreachable!("a build does not ask")
    }

    async fn excess(&self) {
        unreachable!("builds do not ask")
    }

    async fn ended(&self) -> ContainerId {
        unreachable!("builds do not ask")
    }

    async fn observe(&self) -> Result<Vec<Observed>, EngineError> {
        Ok(Vec::new())
    }

    async fn containers(&self) -> Result<Vec<ContainerId>, EngineError> {
        Ok(Vec::new())
    }

    async fn find(&self, _id: &ContainerId) -> Result<Option<Observed>, EngineError> {
        Ok(None)
    }

    fn abilities(&self) -> Abilities {
        unreachable!("a build asks for none")
    }
    async fn caches(&self) -> Result<Vec<CacheFacts>, EngineError> {
        let facts = |id: &CacheId| CacheFacts { id: id.clone(), bytes: 100, inodes: 1, used: SystemTime::UNIX_EPOCH };
        Ok(self.caches.lock().unwrap().iter().map(facts).collect())
    }
    async fn forget_cache(&self, cache: &CacheId) -> Result<(), EngineError> {
        self.caches.lock().unwrap().retain(|id| id != cache);
        Ok(())
    }
    async fn volumes(&self) -> Result<Vec<VolumeId>, EngineError> {
        unreachable!("a build has no volumes")
    }
    async fn volume(&self, _: &VolumeId) -> Result<Usage, EngineError> {
        unreachable!("a build has no volumes")
    }
    async fn fill_volume(&self, _: &VolumeId, _: Filling) -> Result<(), EngineError> {
        unreachable!("a build has no volumes")
    }
    async fn forget_volume(&self, _: &VolumeId) -> Result<(), EngineError> {
        unreachable!("a build has no volumes")
    }
    async fn create(&self, _: &ContainerSpec) -> Result<Addresses, EngineError> {
        unreachable!("a build has no containers")
    }
    async fn remake(&self, _: &ContainerSpec) -> Result<Addresses, EngineError> {
        unreachable!("a build has no containers")
    }
    async fn start(&self, _: &ContainerId) -> Result<(), EngineError> {
        unreachable!("a build has no containers")
    }
    async fn stop(&self, _: &ContainerId, _: Duration) -> Result<(), EngineError> {
        unreachable!("a build has no containers")
    }
    async fn freeze(&self, _: &ContainerId) -> Result<(), EngineError> {
        unreachable!("a build has no containers")
    }
    async fn offload(&self, _: &ContainerId, _: Depth) -> Result<Held, EngineError> {
        unreachable!("a build has no containers")
    }
    async fn thaw(&self, _: &ContainerId) -> Result<Thawed, EngineError> {
        unreachable!("a build has no containers")
    }
    async fn is_doomed(&self, _: &ContainerId) -> Result<bool, EngineError> {
        unreachable!("a build has no containers")
    }
    async fn allow(&self, _: &ContainerId, _: &Reach) -> Result<(), EngineError> {
        unreachable!("a build has no containers")
    }
    async fn publish(&self, _: &[Published]) -> Result<BTreeMap<ContainerId, u64>, EngineError> {
        unreachable!("a build has no containers")
    }
    async fn exec(&self, _: &ContainerId, _: ExecSpec) -> Result<Exec, EngineError> {
        unreachable!("a build has no containers")
    }
    async fn stats(&self, _: &ContainerId) -> Result<Stats, EngineError> {
        unreachable!("a build has no containers")
    }
    async fn sizes(&self) -> Result<BTreeMap<ContainerId, Usage>, EngineError> {
        unreachable!("a build has no containers")
    }
    async fn listening(&self, _: &ContainerId) -> Result<Vec<SocketAddr>, EngineError> {
        unreachable!("a build has no containers")
    }
    async fn logs(&self, _: &ContainerId, _: usize, _: bool) -> Result<Box<dyn AsyncRead + Send + Unpin>, EngineError> {
        unreachable!("a build has no containers")
    }
    async fn remove(&self, _: &ContainerId) -> Result<(), EngineError> {
        unreachable!("a build has no containers")
    }
}
