//! Room on the disk: what [`flyloft_core::disk`] says goes, goes here, and its people are told.
//!
//! What is there is looked at once; after each step the disk is asked whether that was enough. Nothing is believed for
//! longer than a step: a layer is looked for anew before it goes, and an environment's conductor has the last word.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flyloft_core::disk::{self, Cache, Given, Layer, Off, Ours, Release, Room, Shortage, Space, Unit, Victim};
use flyloft_core::lifecycle::{Deploying, Event, Live, Runs, State, Timestamp};
use flyloft_core::name::{CommitId, ReleaseNumber};
use flyloft_core::policy::Span;

use crate::build::{cache_owner, timestamp};
use crate::conductor::Told;
use crate::deploy::spec;
use crate::engine::{CacheId, LayerId};
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::store::{self, EnvId, EnvRow, EventKind, ImageRow};

type ReleaseId = (EnvId, ReleaseNumber);
type Stock = disk::Stock<CacheId, LayerId, ReleaseId, EnvId>;

/// Makes room if less than the floor is free, as far as something can go, and says what is wrong if that is not enough.
/// What hinders it is told in the log.
pub async fn make_room(parts: &Parts) -> Result<Option<Shortage>> {
    if !is_short(parts)? {
        return Ok(None);
    }
    let made = collect(parts).await;
    let made = made.inspect_err(|error| tracing::warn!(%error, "failed to make room on the disk")).unwrap_or_default();
    let shortage = |(space, floor): (Space, u64)| Shortage { space, floor, ours: made.get(&space.unit).copied() };
    Ok(short(parts)?.first().copied().map(shortage))
}

/// Whether less than the floor is free.
pub(super) fn is_short(parts: &Parts) -> Result<bool> {
    Ok(!short(parts)?.is_empty())
}

/// What there is too little of, and how much of it is kept free.
fn short(parts: &Parts) -> Result<Vec<(Space, u64)>> {
    let mut short = Vec::new();
    for unit in Unit::ALL {
        let space = parts.builder.space(unit)?;
        let floor = space.floor(parts.settings.disk.floor);
        if space.free < floor {
            short.push((space, floor));
        }
    }
    Ok(short)
}

/// Removes what there is no room for, and says what is left.
pub(super) async fn collect(parts: &Parts) -> Result<BTreeMap<Unit, Ours>> {
    let mut given = parts.making_room.lock().await;
    let short = short(parts)?;
    if short.is_empty() {
        let space = parts.builder.space(Unit::Bytes)?;
        let ours = collect_in(parts, &mut given, space, parts.settings.disk.floor).await?;
        return Ok([(Unit::Bytes, ours)].into());
    }
    let mut left = BTreeMap::new();
    for (space, floor) in short {
        // As it is by now.
        let space = parts.builder.space(space.unit)?;
        left.insert(space.unit, collect_in(parts, &mut given, space, floor).await?);
    }
    Ok(left)
}

async fn collect_in(parts: &Parts, given: &mut BTreeMap<Unit, Given>, space: Space, floor: u64) -> Result<Ours> {
    let (bounds, unit) = (&parts.settings.disk, space.unit);
    let room = Room::new(unit, (bounds.caches, bounds.layers), space.free, floor);
    let is_short = room.missing > 0;
    let seen = Seen::look(parts, unit, is_short).await?;
    let now = parts.clock.now();
    let is_lost = given.get(&unit).is_some_and(|given| given.is_lost(now, space.free, seen.own));
    let decision = disk::decide(&seen.stock, room, is_lost);
    let left = seen.own.saturating_sub(decision.freed);
    if decision.takes_environments() {
        // As it is to be: whoever takes it while it becomes free has taken it, too.
        given.insert(unit, Given { at: now, free: space.free.saturating_add(decision.freed), own: left });
    }
    let why = Why { space, floor, own: seen.own };
    for victim in decision.victims {
        // What was reckoned to become free may be more by now, and everything beyond is kept.
        if is_short && parts.builder.space(unit)?.free >= space.free.saturating_add(room.missing) {
            break;
        }
        why.remove(parts, &seen, victim).await?;
    }
    let most = decision.most.saturating_sub(decision.freed);
    let ours = Ours { own: left, most: Some(most), spared: decision.spared };
    if is_short {
        let after = parts.builder.space(unit)?;
        let [free, now, floor] = [space.free, after.free, floor].map(|amount| unit.about(amount));
        tracing::warn!(free, now, floor, "the disk was short of room; {}", ours.said(after));
    }
    Ok(ours)
}

/// What is on the disk, and whose it is.
struct Seen {
    stock: Stock,
    rows: BTreeMap<EnvId, EnvRow>,
    commits: BTreeMap<EnvId, CommitId>,
    /// The size of layers, of caches and, where the disk is short, of the disks of environments.
    own: u64,
}

impl Seen {
    /// Where the disk is not `short`, nothing is asked about old releases and what is off: they stay.
    async fn look(parts: &Parts, unit: Unit, short: bool) -> Result<Self> {
        let failed = || "failed to see what is kept on the disk";
        // In this order, or what goes on record meanwhile would be in neither.
        let mut needed = parts.builder.held();
        let images = images(parts).await?;
        let rows = parts.store.environments(None).await.or_failed(failed)?;
        let rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.id, row)).collect();
        let containers = parts.engine.observe().await.or_failed(failed)?;

        let (mut off, mut commits, mut releases) = (Vec::new(), BTreeMap::new(), Vec::new());
        if short {
            let old = images.iter().filter(|row| row.old);
            let old = old.map(|row| Release {
                id: (row.env, row.number),
                image: row.image.clone(),
                since: Timestamp(row.at as u64),
            });
            releases.extend(old);
            for row in rows.values() {
                let Some((since, commit)) = can_go(parts, row).await? else { continue };
                off.push(resting(parts, row, (since, unit), &images).await);
                commits.insert(row.id, commit);
            }
        }
        let goes = |row: &ImageRow| short && row.old || commits.contains_key(&row.env);
        needed.extend(images.iter().filter(|row| !goes(row)).flat_map(|row| row.image.clone()));
        let mut own = 0;
        if short {
            for container in &containers {
                own += parts.engine.stats(&container.id).await.map_or(0, |stats| unit.of(stats.disk, stats.inodes));
            }
        }
        let stay = containers.into_iter().filter(|container| {
            let owner = spec::owner(&container.id).map(EnvId);
            owner.is_none_or(|owner| !commits.contains_key(&owner))
        });
        needed.extend(stay.flat_map(|container| container.image));

        // Also those that could go are in use until then.
        let in_use: BTreeSet<_> = needed.iter().cloned().chain(images.into_iter().flat_map(|row| row.image)).collect();
        let layers: Vec<Layer<LayerId>> = parts.builder.layers(&in_use, unit).await?;
        let caches = parts.builder.caches().await?.into_iter().map(|cache| {
            let size = unit.of(cache.bytes, cache.inodes);
            Cache { id: cache.id, size, used: timestamp(cache.used) }
        });
        let caches: Vec<_> = caches.collect();
        own += caches.iter().map(|cache| cache.size).chain(layers.iter().map(|layer| layer.size)).sum::<u64>();
        let stock = Stock { caches, layers, needed, releases, off };
        Ok(Self { stock, rows, commits, own })
    }
}

/// Those that keep their layers: what was given up to make room does not.
async fn images(parts: &Parts) -> Result<Vec<ImageRow>> {
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

async fn resting(
    parts: &Parts,
    row: &EnvRow,
    (since, unit): (Timestamp, Unit),
    images: &[ImageRow],
) -> Off<EnvId, ReleaseId, LayerId> {
    let own = || images.iter().filter(|image| image.env == row.id);
    let serves = row.live.as_ref().map(|live| live.release);
    Off {
        id: row.id,
        image: own().find(|image| Some(image.number) == serves).map(|image| image.image.clone()).unwrap_or_default(),
        disk: parts.stats(row).await.map_or(0, |stats| unit.of(stats.disk, stats.inodes)),
        releases: own().filter(|image| image.old).map(|image| (image.env, image.number)).collect(),
        since,
    }
}

/// Why something goes: how much was free, how much is to be, and how much was ours.
struct Why {
    space: Space,
    floor: u64,
    own: u64,
}

impl Why {
    async fn remove(
        &self,
        parts: &Parts,
        seen: &Seen,
        victim: Victim<CacheId, LayerId, ReleaseId, EnvId>,
    ) -> Result<()> {
        match victim {
            Victim::Cache(cache) => self.remove_cache(parts, seen, &cache).await,
            Victim::Layer(layer) => self.remove_layer(parts, &layer).await,
            Victim::Release((env, number)) => self.remove_release(parts, seen, env, number).await,
            Victim::Environment(env) => self.clear(parts, seen, env).await,
        }
    }

    async fn remove_cache(&self, parts: &Parts, seen: &Seen, cache: &CacheId) -> Result<()> {
        if !parts.builder.forget_cache(cache).await? {
            return Ok(());
        }
        parts.tally.dropped("cache");
        tracing::info!(%cache, "removed a package cache that there is no room for");
        let Some(app) = cache_owner(cache) else { return Ok(()) };
        let size = seen.stock.caches.iter().find(|known| known.id == *cache).map_or(0, |known| known.size);
        let size = self.space.unit.about(size);
        let text = format!("package cache `{cache}` ({size}) was removed: {}", self.said());
        let told = parts.store.tell(&app, None, EventKind::CacheDropped, "flyloft", &text, store::now()).await;
        told.or_failed(|| "failed to record that a package cache was removed")
    }

    async fn remove_layer(&self, parts: &Parts, layer: &LayerId) -> Result<()> {
        let needed = async { Ok::<_, Error>(images(parts).await?.iter().any(|row| row.image.contains(layer))) };
        if parts.builder.forget(layer, needed).await? {
            parts.tally.dropped("layer");
            tracing::info!(%layer, "forgot a layer that nothing needs");
        }
        Ok(())
    }

    async fn remove_release(&self, parts: &Parts, seen: &Seen, env: EnvId, number: ReleaseNumber) -> Result<()> {
        let failed = || format!("failed to forget {number}");
        if !parts.store.forget_release(env, number).await.or_failed(failed)? {
            return Ok(());
        }
        parts.tally.dropped("release");
        let Some(row) = seen.rows.get(&env) else { return Ok(()) };
        let text = format!("{number} cannot be rolled back to any more: {}", self.said());
        self.tell(parts, row, EventKind::ReleaseDropped, &text).await
    }

    /// Takes what is off from the disk, if it can be built anew.
    async fn clear(&self, parts: &Parts, seen: &Seen, env: EnvId) -> Result<()> {
        let (Some(row), Some(commit)) = (seen.rows.get(&env), seen.commits.get(&env)) else { return Ok(()) };
        let Some(conductor) = parts.admission.conductor(env) else { return Ok(()) };
        if !parts.repositories.holds(&row.name.app, commit).await {
            tracing::info!(env = %row.name, %commit, "stays on the disk: its commit is in no repository any more");
            return Ok(());
        }
        let since = seen.stock.off.iter().find(|off| off.id == env).map_or(Timestamp(0), |off| off.since);
        match conductor.tell(Event::Clear).await {
            Ok(Told::Done) => conductor.at_rest().await?,
            // Somebody came.
            Ok(Told::AlreadySo) | Err(_) => return Ok(()),
        }
        parts.tally.dropped("environment");
        let minutes = parts.clock.now().since(since).as_secs() / 60;
        let off = Span(Some(Duration::from_secs(minutes * 60)));
        let why = self.said();
        let text = format!("its image and its disk are given up, it was off for {off}: {why}; a visit builds it anew");
        self.tell(parts, row, EventKind::Cleared, &text).await
    }

    async fn tell(&self, parts: &Parts, row: &EnvRow, kind: EventKind, text: &str) -> Result<()> {
        tracing::info!(env = %row.name, text, "made room on the disk");
        let told = parts.store.tell(&row.name.app, Some(&row.name.env), kind, "flyloft", text, store::now()).await;
        told.or_failed(|| format!("failed to record what room was made by for `{}`", row.name))
    }

    fn said(&self) -> String {
        if self.space.free >= self.floor {
            return "there is more than is kept".to_owned();
        }
        let [free, floor] = [self.space.free, self.floor].map(|amount| self.space.unit.about(amount));
        format!("the disk had {free} free, and {floor} are kept free; {}", self.space.filled(self.own))
    }
}
