//! Room on the disk: what [`flyloft_core::disk`] says goes, goes here, and its people are told.
//!
//! What is there is looked at once; after each step the disk is asked whether that was enough. Nothing is believed for
//! longer than a step: a layer is looked for anew before it goes, and an environment's conductor has the last word. What
//! does not go after all, or fails to, does not keep the rest: it is decided anew without it.

mod seen;

use std::collections::BTreeMap;
use std::time::Duration;

use flyloft_core::disk::{self, Given, Ours, Room, Shortage, Space, Unit, Victim};
use flyloft_core::lifecycle::Event;
use flyloft_core::name::ReleaseNumber;
use flyloft_core::policy::Span;

use self::seen::{Going, Seen, Stock};
use crate::build::cache_owner;
use crate::conductor::Told;
use crate::engine::{CacheId, LayerId};
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::store::{self, EnvId, EnvRow, EventKind, StoreError};

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

/// Removes what there is no room for, and says what is left. The bounds of caches and layers are kept in any case.
pub(super) async fn collect(parts: &Parts) -> Result<BTreeMap<Unit, Ours>> {
    let mut given = parts.making_room.lock().await;
    let mut seen = Seen::look(parts, is_short(parts)?).await?;
    let mut left = BTreeMap::new();
    for unit in Unit::ALL {
        // As it is by now.
        let space = parts.builder.space(unit)?;
        let floor = space.floor(parts.settings.disk.floor);
        if unit == Unit::Bytes || space.free < floor {
            let round = Round::begin(parts, &mut seen, space, floor);
            left.insert(unit, round.collect(&mut given).await);
        }
    }
    Ok(left)
}

/// Room made in one unit.
struct Round<'a> {
    parts: &'a Parts,
    seen: &'a mut Seen,
    why: Why,
    room: Room,
    /// What has gone, as it was reckoned, and how much of that was measured.
    freed: u64,
    known: u64,
    took_environments: bool,
}

impl<'a> Round<'a> {
    fn begin(parts: &'a Parts, seen: &'a mut Seen, space: Space, floor: u64) -> Self {
        let bounds = &parts.settings.disk;
        let room = Room::new(space.unit, (bounds.caches, bounds.layers), space.free, floor);
        let why = Why { space, floor, own: seen.own(space) };
        Self { parts, seen, why, room, freed: 0, known: 0, took_environments: false }
    }

    async fn collect(mut self, given: &mut BTreeMap<Unit, Given>) -> Ours {
        let Why { space, own, floor } = self.why;
        let now = self.parts.clock.now();
        let is_lost = given.get(&space.unit).is_some_and(|given| given.is_lost(now, space.free, own));
        let (most, spared) = loop {
            let before = self.freed;
            let stock = self.seen.stock(space);
            let decision = disk::decide(&stock, self.room.after(before), is_lost);
            let whole = self.remove(&stock, &decision.victims).await;
            let went = self.freed.saturating_sub(before);
            if whole {
                break (decision.most.saturating_sub(went), decision.spared);
            }
        };
        let left = own.saturating_sub(self.known);
        if self.took_environments {
            // As it is to be: whoever takes it while it becomes free has taken it, too.
            let free = space.free.saturating_add(self.known.min(space.taken));
            given.insert(space.unit, Given { at: now, free, own: left });
        }
        let ours = Ours { own: left, most: Some(most), spared };
        if self.room.missing > 0 {
            let after = self.parts.builder.space(space.unit).unwrap_or(space);
            let [free, now, floor] = [space.free, after.free, floor].map(|amount| space.unit.about(amount));
            tracing::warn!(free, now, floor, "the disk was short of room; {}", ours.said(after));
        }
        ours
    }

    /// Removes one after the other until that is enough, and says whether all went as it was planned. One that stays is
    /// not counted on any more, and what goes in its place is to be decided anew.
    async fn remove(&mut self, stock: &Stock, victims: &[Going]) -> bool {
        for victim in victims {
            if self.is_enough() {
                return true;
            }
            let removed = self.why.remove(self.parts, self.seen, stock, victim).await;
            let removed =
                removed.inspect_err(|error| tracing::warn!(?victim, %error, "failed to make room on the disk"));
            if !removed.unwrap_or(false) {
                self.seen.stays(victim);
                return false;
            }
            let size = stock.size(victim);
            self.freed = self.freed.saturating_add(size);
            self.known = self.known.saturating_add(seen::measured(self.why.space, size));
            self.took_environments |= matches!(victim, Victim::Environment(_));
            self.seen.gone(victim);
        }
        true
    }

    /// What was reckoned to become free may be more by now, and everything beyond is kept.
    fn is_enough(&self) -> bool {
        let Why { space, .. } = self.why;
        let wanted = space.free.saturating_add(self.room.missing);
        self.room.missing > 0 && self.parts.builder.space(space.unit).is_ok_and(|space| space.free >= wanted)
    }
}

/// Why something goes: how much was free, how much is to be, and how much was ours.
#[derive(Clone, Copy)]
struct Why {
    space: Space,
    floor: u64,
    own: u64,
}

impl Why {
    /// Says whether it is gone.
    async fn remove(&self, parts: &Parts, seen: &Seen, stock: &Stock, victim: &Going) -> Result<bool> {
        match victim {
            Victim::Cache(cache) => self.remove_cache(parts, cache, stock.size(victim)).await,
            Victim::Layer(layer) => remove_layer(parts, layer).await,
            Victim::Release((env, number)) => self.remove_release(parts, seen, *env, *number).await,
            Victim::Environment(env) => self.clear(parts, seen, *env).await,
        }
    }

    async fn remove_cache(&self, parts: &Parts, cache: &CacheId, size: u64) -> Result<bool> {
        if !parts.builder.forget_cache(cache).await? {
            return Ok(false);
        }
        parts.tally.dropped("cache");
        tracing::info!(%cache, "removed a package cache that there is no room for");
        let Some(app) = cache_owner(cache) else { return Ok(true) };
        let size = self.space.unit.about(size);
        let text = format!("package cache `{cache}` ({size}) was removed: {}", self.said());
        told(parts.store.tell(&app, None, EventKind::CacheDropped, "flyloft", &text, store::now()).await);
        Ok(true)
    }

    async fn remove_release(&self, parts: &Parts, seen: &Seen, env: EnvId, number: ReleaseNumber) -> Result<bool> {
        let failed = || format!("failed to forget {number}");
        if !parts.store.forget_release(env, number).await.or_failed(failed)? {
            return Ok(false);
        }
        parts.tally.dropped("release");
        if let Some(row) = seen.rows.get(&env) {
            let text = format!("{number} cannot be rolled back to any more: {}", self.said());
            tell(parts, row, EventKind::ReleaseDropped, &text).await;
        }
        Ok(true)
    }

    /// Takes what is off from the disk, if it can be built anew.
    async fn clear(&self, parts: &Parts, seen: &Seen, env: EnvId) -> Result<bool> {
        let (Some(row), Some(resting)) = (seen.rows.get(&env), seen.resting(env)) else { return Ok(false) };
        let Some(conductor) = parts.admission.conductor(env) else { return Ok(false) };
        if !parts.repositories.holds(&row.name.app, &resting.commit).await {
            let commit = &resting.commit;
            tracing::info!(env = %row.name, %commit, "stays on the disk: its commit is in no repository any more");
            return Ok(false);
        }
        match conductor.tell(Event::Clear).await {
            Ok(Told::Done) => conductor.at_rest().await.map(drop)?,
            // Somebody came.
            Ok(Told::AlreadySo) | Err(_) => return Ok(false),
        }
        parts.tally.dropped("environment");
        let minutes = parts.clock.now().since(resting.since).as_secs() / 60;
        let off = Span(Some(Duration::from_secs(minutes * 60)));
        let why = self.said();
        let text = format!("its image and its disk are given up, it was off for {off}: {why}; a visit builds it anew");
        tell(parts, row, EventKind::Cleared, &text).await;
        Ok(true)
    }

    fn said(&self) -> String {
        if self.space.free >= self.floor {
            return "there is more than is kept".to_owned();
        }
        let [free, floor] = [self.space.free, self.floor].map(|amount| self.space.unit.about(amount));
        format!("the disk had {free} free, and {floor} are kept free; {}", self.space.filled(self.own))
    }
}

async fn remove_layer(parts: &Parts, layer: &LayerId) -> Result<bool> {
    let needed = async { Ok::<_, Error>(seen::images(parts).await?.iter().any(|row| row.image.contains(layer))) };
    if !parts.builder.forget(layer, needed).await? {
        return Ok(false);
    }
    parts.tally.dropped("layer");
    tracing::info!(%layer, "forgot a layer that nothing needs");
    Ok(true)
}

async fn tell(parts: &Parts, row: &EnvRow, kind: EventKind, text: &str) {
    tracing::info!(env = %row.name, text, "made room on the disk");
    told(parts.store.tell(&row.name.app, Some(&row.name.env), kind, "flyloft", text, store::now()).await);
}

/// On a full disk there may be no room for that, and it has gone all the same.
fn told(told: Result<(), StoreError>) {
    if let Err(error) = told {
        tracing::warn!(%error, "failed to record what room was made by");
    }
}
