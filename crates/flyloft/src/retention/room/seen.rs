//! What is on the disk, whose it is, and what could go: looked at once in a round, for bytes and for inodes.

use std::collections::{BTreeMap, BTreeSet};

use flyloft_core::disk::{self, Cache, Layer, Off, Release, Space, Victim};
use flyloft_core::lifecycle::{Deploying, Live, Runs, State, Timestamp};
use flyloft_core::name::{CommitId, ReleaseNumber};

use crate::build::{Stored, timestamp};
use crate::deploy::spec;
use crate::engine::{CacheFacts, CacheId, ContainerId, Image, LayerId, Usage};
use crate::error::{OrFailed, Result};
use crate::machine::storage;
use crate::parts::Parts;
use crate::store::{EnvId, EnvRow, ImageRow};

pub type ReleaseId = (EnvId, ReleaseNumber);
pub type Stock = disk::Stock<CacheId, LayerId, ReleaseId, EnvId>;
pub type Going = Victim<CacheId, LayerId, ReleaseId, EnvId>;

/// As it is left by whatever has gone since.
pub struct Seen {
    pub rows: BTreeMap<EnvId, EnvRow>,
    caches: Vec<CacheFacts>,
    layers: Vec<Stored>,
    needed: BTreeSet<LayerId>,
    releases: Vec<Release<ReleaseId, LayerId>>,
    off: BTreeMap<EnvId, Resting>,
    /// What the writable layers take, and what else is ours, each on its own.
    others: Vec<Usage>,
}

/// What is off and can be built anew.
pub struct Resting {
    pub since: Timestamp,
    pub commit: CommitId,
    image: Image,
    disk: Usage,
    releases: Vec<ReleaseId>,
}

impl Seen {
    /// Where the disk is not `short`, nothing is asked about old releases and what is off: they stay.
    pub async fn look(parts: &Parts, short: bool) -> Result<Self> {
        let failed = || "failed to see what is kept on the disk";
        // In this order, or what goes on record meanwhile would be in neither.
        let mut needed = parts.builder.held();
        let images = images(parts).await?;
        let rows = parts.store.environments(None).await.or_failed(failed)?;
        let rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.id, row)).collect();
        let containers = parts.engine.observe().await.or_failed(failed)?;

        let (mut off, mut releases, mut others) = (BTreeMap::new(), Vec::new(), Vec::new());
        if short {
            let sizes = parts.engine.sizes().await.or_failed(failed)?;
            others.extend(sizes.values().copied());
            others.extend(beside(parts).await);
            let old = images.iter().filter(|row| row.old);
            let old = old.map(|row| Release {
                id: (row.env, row.number),
                image: row.image.clone(),
                since: Timestamp(row.at as u64),
            });
            releases.extend(old);
            for row in rows.values() {
                let Some(can_go) = can_go(parts, row).await? else { continue };
                off.insert(row.id, resting(row, can_go, &sizes, &images));
            }
        }
        let goes = |row: &ImageRow| short && row.old || off.contains_key(&row.env);
        needed.extend(images.iter().filter(|row| !goes(row)).flat_map(|row| row.image.clone()));
        let stay = containers.into_iter().filter(|container| {
            let owner = spec::owner(&container.id).map(EnvId);
            owner.is_none_or(|owner| !off.contains_key(&owner))
        });
        needed.extend(stay.flat_map(|container| container.image));

        // Also those that could go are in use until then.
        let in_use: BTreeSet<_> = needed.iter().cloned().chain(images.into_iter().flat_map(|row| row.image)).collect();
        let layers = parts.builder.layers(&in_use).await?;
        let caches = parts.builder.caches().await?;
        Ok(Self { rows, caches, layers, needed, releases, off, others })
    }

    /// All of it in the unit of the space. No size is larger than what is taken: what nobody can measure, since it is
    /// nested beyond all reason, counts as that.
    pub fn stock(&self, space: Space) -> Stock {
        let size = |bytes, inodes| space.unit.of(bytes, inodes).min(space.taken);
        let cache = |cache: &CacheFacts| Cache {
            id: cache.id.clone(),
            size: size(cache.bytes, cache.inodes),
            used: timestamp(cache.used),
        };
        let layer = |layer: &Stored| Layer {
            id: layer.id.clone(),
            on: layer.facts.on.clone(),
            size: size(layer.facts.bytes, layer.facts.inodes),
            used: timestamp(layer.used),
        };
        let off = |(id, resting): (&EnvId, &Resting)| Off {
            id: *id,
            image: resting.image.clone(),
            disk: size(resting.disk.bytes, resting.disk.inodes),
            releases: resting.releases.clone(),
            since: resting.since,
        };
        Stock {
            caches: self.caches.iter().map(cache).collect(),
            layers: self.layers.iter().map(layer).collect(),
            needed: self.needed.clone(),
            releases: self.releases.clone(),
            off: self.off.iter().map(off).collect(),
        }
    }

    /// The size of layers, of caches and, where the disk is short, of all else that is ours.
    pub fn own(&self, space: Space) -> u64 {
        let caches = self.caches.iter().map(|cache| space.unit.of(cache.bytes, cache.inodes));
        let layers = self.layers.iter().map(|layer| space.unit.of(layer.facts.bytes, layer.facts.inodes));
        let others = self.others.iter().map(|usage| space.unit.of(usage.bytes, usage.inodes));
        disk::sum(caches.chain(layers).chain(others).map(|size| measured(space, size))).min(space.taken)
    }

    pub fn resting(&self, env: EnvId) -> Option<&Resting> {
        self.off.get(&env)
    }

    /// It has gone.
    pub fn gone(&mut self, victim: &Going) {
        match victim {
            Victim::Cache(id) => self.caches.retain(|cache| cache.id != *id),
            Victim::Layer(id) => self.layers.retain(|layer| layer.id != *id),
            Victim::Release(id) => self.releases.retain(|old| old.id != *id),
            Victim::Environment(id) => {
                let releases = self.off.remove(id).map(|resting| resting.releases).unwrap_or_default();
                self.releases.retain(|old| !releases.contains(&old.id));
            }
        }
    }

    /// It cannot go, and nobody is to count on it in this round.
    pub fn stays(&mut self, victim: &Going) {
        match victim {
            Victim::Cache(id) => self.caches.retain(|cache| cache.id != *id),
            Victim::Layer(id) => {
                // Nor does what it was made on.
                let on = self.layers.iter().find(|layer| layer.id == *id).map(|layer| layer.facts.on.clone());
                self.needed.extend(on.into_iter().flatten().chain([id.clone()]));
            }
            Victim::Release(id) => {
                let image = self.releases.iter().find(|old| old.id == *id).map(|old| old.image.clone());
                self.needed.extend(image.into_iter().flatten());
                self.releases.retain(|old| old.id != *id);
            }
            Victim::Environment(id) => self.needed.extend(self.off.remove(id).into_iter().flat_map(|off| off.image)),
        }
    }
}

/// How much of the size is known. What nobody can measure is not waited for, and hides nothing that grows.
pub fn measured(space: Space, size: u64) -> u64 {
    if size < space.taken { size } else { 0 }
}

/// What is ours beside layers, package caches and containers.
async fn beside(parts: &Parts) -> Option<Usage> {
    let dir = parts.settings.state_dir.clone();
    let beside = tokio::task::spawn_blocking(move || storage::beside(&dir)).await;
    beside.inspect_err(|error| tracing::warn!(%error, "failed to measure what is kept beside environments")).ok()
}

/// Those that keep their layers: what was given up to make room does not.
pub async fn images(parts: &Parts) -> Result<Vec<ImageRow>> {
    let failed = || "failed to see which layers are in use";
    let rows = parts.store.environments(None).await.or_failed(failed)?;
    let is_cleared = |row: &EnvRow| matches!(serde_json::from_str(&row.state), Ok(State::Live(Live { runs, .. })) if runs.is_cleared());
    let cleared: BTreeSet<_> = rows.iter().filter(|row| is_cleared(row)).map(|row| row.id).collect();
    // After that: what has been built anew since then keeps them as well.
    let mut images = parts.store.images().await.or_failed(failed)?;
    images.retain(|row| !cleared.contains(&row.env));
    Ok(images)
}

/// Since when an environment has been off that can be built anew, and from which commit. Its conductor looks again
/// before it goes.
async fn can_go(parts: &Parts, row: &EnvRow) -> Result<Option<(Timestamp, CommitId)>> {
    let Ok(State::Live(live)) = serde_json::from_str(&row.state) else { return Ok(None) };
    let kept = live.pinned || live.kept_until.is_some_and(|until| parts.clock.now() < until);
    let Runs::Off { since, cleared: false, .. } = live.runs else { return Ok(None) };
    if kept || live.deploying != Deploying::No {
        return Ok(None);
    }
    let release = parts.store.live_release(row).await.or_failed(|| format!("failed to look up `{}`", row.name))?;
    Ok(release.and_then(|release| release.commit).map(|commit| (since, commit)))
}

fn resting(
    row: &EnvRow,
    (since, commit): (Timestamp, CommitId),
    sizes: &BTreeMap<ContainerId, Usage>,
    images: &[ImageRow],
) -> Resting {
    let own = || images.iter().filter(|image| image.env == row.id);
    let live = row.live.as_ref();
    let serves = live.map(|live| live.release);
    Resting {
        since,
        commit,
        image: own().find(|image| Some(image.number) == serves).map(|image| image.image.clone()).unwrap_or_default(),
        disk: live.and_then(|live| sizes.get(&live.container)).copied().unwrap_or_default(),
        releases: own().filter(|image| image.old).map(|image| (image.env, image.number)).collect(),
    }
}
