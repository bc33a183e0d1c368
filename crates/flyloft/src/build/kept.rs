//! What builds have left: layers, package caches, and the space that there is for more. What of it goes is not decided
//! here, see [`crate::retention`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use flyloft_core::disk::{Space, Unit};
use flyloft_core::lifecycle::Timestamp;
use flyloft_core::name::AppName;

use super::{BuildError, Builder, layering};
use crate::engine::{CacheFacts, CacheId, EngineError, LayerFacts, LayerId};

/// When layers were last seen in use, as far as this process knows.
#[derive(Default)]
pub(super) struct Seen(Mutex<BTreeMap<LayerId, SystemTime>>);

/// A layer that is there.
#[derive(Clone, Debug)]
pub struct Stored {
    pub id: LayerId,
    pub facts: LayerFacts,
    /// When this process last saw it in use, or when it was made.
    pub used: SystemTime,
}

impl Builder {
    pub async fn caches(&self) -> Result<Vec<CacheFacts>, BuildError> {
        self.engine.caches().await.map_err(|source| BuildError::engine("look at the package caches", source))
    }

    /// Removes a package cache, unless a build step has it. Says whether it is gone.
    pub async fn forget_cache(&self, cache: &CacheId) -> Result<bool, BuildError> {
        match self.engine.forget_cache(cache).await {
            Err(EngineError::CacheInUse(_)) => Ok(false),
            Err(source) => Err(BuildError::engine("remove a package cache", source)),
            Ok(()) => Ok(true),
        }
    }

    /// Removes an app's package caches, which nobody else's builds may find. None of its builds goes on.
    pub async fn forget_caches_of(&self, app: &AppName) -> Result<(), BuildError> {
        for CacheFacts { id, .. } in self.caches().await? {
            if layering::owner(&id).as_ref() == Some(app) {
                let forgot = self.engine.forget_cache(&id).await;
                forgot.map_err(|source| BuildError::engine("remove a package cache", source))?;
            }
        }
        Ok(())
    }

    /// The layers of builds that are under way, and of images that are not on record yet. Whoever asks what is on
    /// record does so afterwards, or what goes on record meanwhile would be in neither.
    pub fn held(&self) -> BTreeSet<LayerId> {
        self.holds.held()
    }

    /// All layers. Those `in_use` are used now.
    pub async fn layers(&self, in_use: &BTreeSet<LayerId>) -> Result<Vec<Stored>, BuildError> {
        let now = SystemTime::now();
        let mut layers = Vec::new();
        for id in self.engine.layers().await.map_err(|source| BuildError::engine("list the layers", source))? {
            let facts = match self.engine.layer(&id).await {
                Err(EngineError::NoLayer(_)) => continue,
                facts => facts.map_err(|source| BuildError::engine("look at a layer", source))?,
            };
            let mut seen = self.used.0.lock().expect("nothing panics while it notes");
            if in_use.contains(&id) {
                seen.insert(id.clone(), now);
            }
            let used = seen.get(&id).copied().unwrap_or(facts.made).max(facts.made);
            layers.push(Stored { id, facts, used });
        }
        Ok(layers)
    }

    /// Forgets a layer, unless somebody uses it; `needed` looks whether a release on record does. Says whether it is
    /// gone. No build begins to count on it meanwhile.
    pub async fn forget<E: From<BuildError>>(
        &self,
        layer: &LayerId,
        needed: impl Future<Output = Result<bool, E>>,
    ) -> Result<bool, E> {
        let _looking = self.looking.write().await;
        if self.holds.held().contains(layer) || needed.await? {
            return Ok(false);
        }
        match self.engine.forget(layer).await {
            // A container is made of it.
            Err(EngineError::LayerInUse(_)) => return Ok(false),
            forgot => forgot.map_err(|source| BuildError::engine("forget a layer", source))?,
        }
        self.used.0.lock().expect("nothing panics while it notes").remove(layer);
        Ok(true)
    }

    /// What is free where the layers are.
    pub fn space(&self, unit: Unit) -> Result<Space, BuildError> {
        self.engine.space(unit).map_err(|source| BuildError::engine("look at the disk", source))
    }
}

pub fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}
