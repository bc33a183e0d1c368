//! What goes when the disk is short of room, or when more is kept than is wanted, and in which order.
//!
//! ```text
//!   package caches ─► layers that nothing needs ─► releases kept for a rollback ─► environments that are off
//!        the longest unused first, and no more than has to
//! ```
//!
//! Bytes and inodes are made room for in the same way, each on its own.
//!
//! What must hold: nothing goes that something needs which stays; what costs its people most goes last; who would give
//! back next to nothing keeps what it has; and what somebody else fills the disk with does not cost one environment after
//! the other.

mod shortage;
mod unit;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::shortage::{Ours, Shortage, Space};
pub use self::unit::{Unit, inode_floor};
use crate::lifecycle::Timestamp;

/// How long environments stay after others were given up for what somebody else has written since.
const PAUSE: Duration = Duration::from_secs(24 * 3600);

/// What is kept and could go.
#[derive(Clone, Debug)]
pub struct Stock<C, L, R, E> {
    pub caches: Vec<Cache<C>>,
    pub layers: Vec<Layer<L>>,
    /// The layers of all that stays in any case.
    pub needed: BTreeSet<L>,
    pub releases: Vec<Release<R, L>>,
    pub off: Vec<Off<E, R, L>>,
}

impl<C: PartialEq, L: PartialEq, R, E: PartialEq> Stock<C, L, R, E> {
    /// What one gives back by itself.
    pub fn size(&self, victim: &Victim<C, L, R, E>) -> u64 {
        let size = match victim {
            Victim::Cache(id) => self.caches.iter().find(|cache| cache.id == *id).map(|cache| cache.size),
            Victim::Layer(id) => self.layers.iter().find(|layer| layer.id == *id).map(|layer| layer.size),
            Victim::Environment(id) => self.off.iter().find(|off| off.id == *id).map(|off| off.disk),
            Victim::Release(_) => None,
        };
        size.unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
pub struct Cache<C> {
    pub id: C,
    pub size: u64,
    pub used: Timestamp,
}

#[derive(Clone, Debug)]
pub struct Layer<L> {
    pub id: L,
    /// What it was made on.
    pub on: Vec<L>,
    pub size: u64,
    /// When something last used it, or when it was made.
    pub used: Timestamp,
}

/// One that does not serve any more.
#[derive(Clone, Debug)]
pub struct Release<R, L> {
    pub id: R,
    pub image: Vec<L>,
    pub since: Timestamp,
}

/// An environment that can be built anew.
#[derive(Clone, Debug)]
pub struct Off<E, R, L> {
    pub id: E,
    pub image: Vec<L>,
    /// What its writable layer takes.
    pub disk: u64,
    /// Its releases that do not serve any more: without it they are not kept either.
    pub releases: Vec<R>,
    pub since: Timestamp,
}

/// As many of the unit as all sizes are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub unit: Unit,
    /// For package caches, and for layers that nothing needs.
    pub caches: u64,
    pub layers: u64,
    /// That have to become free, whatever there is room for.
    pub missing: u64,
    /// With fewer than that nothing can be built either, and environments would be given up in vain.
    pub least: u64,
}

impl Room {
    /// Room for so many bytes of these. Once less than `floor` of the unit is free, it is to be a quarter more than that,
    /// or the next build would begin it anew.
    pub fn new(unit: Unit, (caches, layers): (u64, u64), free: u64, floor: u64) -> Self {
        let least = floor.saturating_sub(free);
        let missing = if least > 0 { floor.saturating_add(floor / 4) - free } else { 0 };
        let [caches, layers] = [caches, layers].map(|bytes| unit.of(bytes, u64::MAX));
        Self { unit, caches, layers, missing, least }
    }

    /// What is left of this to do once so much is free.
    pub fn after(self, freed: u64) -> Self {
        Self { missing: self.missing.saturating_sub(freed), least: self.least.saturating_sub(freed), ..self }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Victim<C, L, R, E> {
    Cache(C),
    Layer(L),
    Release(R),
    Environment(E),
}

/// What goes, and why not more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<C, L, R, E> {
    /// In the order in which to do it. No layer goes before what was made on it.
    pub victims: Vec<Victim<C, L, R, E>>,
    /// What these give back, as far as one can reckon.
    pub freed: u64,
    /// What everything would give back that could go.
    pub most: u64,
    /// Why what is off stays where something is missing.
    pub spared: Option<Spared>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spared {
    /// All that could go is too little for anything to be built.
    InVain,
    /// What was given up last went to somebody else.
    Lost,
}

impl<C, L, R, E> Decision<C, L, R, E> {
    #[cfg(test)]
    fn takes_environments(&self) -> bool {
        self.victims.iter().any(|victim| matches!(victim, Victim::Environment(_)))
    }
}

/// What there was to be when environments had been given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    pub at: Timestamp,
    /// What was free then.
    pub free: u64,
    /// All that could be measured of ours.
    pub own: u64,
}

impl Given {
    /// Whether that went to somebody else, who would have what is given up next as well: not long ago, and we have not
    /// grown by half of what is free no more.
    pub fn is_lost(self, now: Timestamp, free: u64, own: u64) -> bool {
        let (gone, grown) = (self.free.saturating_sub(free), own.saturating_sub(self.own));
        now.since(self.at) < PAUSE && grown < gone.div_ceil(2)
    }
}

/// What goes. Where what was given up last `is_lost`, that is nothing of what is off.
pub fn decide<C: Clone, L: Clone + Ord, R: Clone + Ord, E: Clone>(
    stock: &Stock<C, L, R, E>,
    room: Room,
    is_lost: bool,
) -> Decision<C, L, R, E> {
    let mut all = Plan::of(stock, Room { missing: u64::MAX, ..room });
    all.whatever_is_cheaper();
    all.environments();
    let most = all.freed;

    let mut plan = Plan::of(stock, room);
    plan.whatever_is_cheaper();
    let spared = match plan.is_short() && !stock.off.is_empty() {
        true if most < room.least => Some(Spared::InVain),
        true if is_lost => Some(Spared::Lost),
        _ => None,
    };
    if spared.is_none() {
        plan.environments();
    }
    Decision { victims: plan.victims, freed: plan.freed, most, spared }
}

struct Plan<'a, C, L, R, E> {
    stock: &'a Stock<C, L, R, E>,
    room: Room,
    layers: BTreeMap<&'a L, &'a Layer<L>>,
    /// How many of those that could go use each layer.
    uses: BTreeMap<&'a L, usize>,
    gone: BTreeSet<&'a R>,
    freed: u64,
    victims: Vec<Victim<C, L, R, E>>,
}

impl<'a, C: Clone, L: Clone + Ord, R: Clone + Ord, E: Clone> Plan<'a, C, L, R, E> {
    fn of(stock: &'a Stock<C, L, R, E>, room: Room) -> Self {
        let mut uses = BTreeMap::new();
        let images = stock.releases.iter().map(|old| &old.image).chain(stock.off.iter().map(|off| &off.image));
        for layer in images.flatten() {
            *uses.entry(layer).or_default() += 1;
        }
        let layers = stock.layers.iter().map(|layer| (&layer.id, layer)).collect();
        Self { stock, room, layers, uses, gone: BTreeSet::new(), freed: 0, victims: Vec::new() }
    }

    fn is_short(&self) -> bool {
        self.freed < self.room.missing
    }

    fn whatever_is_cheaper(&mut self) {
        self.caches();
        self.unused_layers();
        self.releases();
    }

    fn caches(&mut self) {
        let mut caches: Vec<_> = self.stock.caches.iter().collect();
        caches.sort_by_key(|cache| cache.used);
        let mut kept = sum(caches.iter().map(|cache| cache.size));
        for cache in caches {
            if kept <= self.room.caches && !self.is_short() {
                return;
            }
            kept = kept.saturating_sub(cache.size);
            self.free(cache.size);
            self.victims.push(Victim::Cache(cache.id.clone()));
        }
    }

    fn unused_layers(&mut self) {
        let used = self.effective_use();
        let is_used = |layer: &Layer<L>| self.stock.needed.contains(&layer.id) || self.uses.contains_key(&layer.id);
        let mut unused: Vec<_> = self.stock.layers.iter().filter(|layer| !is_used(layer)).collect();
        // Among those of the same age the highest go first.
        unused.sort_by_key(|layer| (used[&layer.id], std::cmp::Reverse(layer.on.len())));
        let mut kept = sum(unused.iter().map(|layer| layer.size));
        for layer in unused {
            if kept <= self.room.layers && !self.is_short() {
                return;
            }
            kept = kept.saturating_sub(layer.size);
            self.remove(layer);
        }
    }

    /// A layer counts as used whenever one that was made on it is: without it, that could not be made again.
    fn effective_use(&self) -> BTreeMap<&'a L, Timestamp> {
        let mut used: BTreeMap<_, _> = self.stock.layers.iter().map(|layer| (&layer.id, layer.used)).collect();
        for layer in &self.stock.layers {
            for below in &layer.on {
                if let Some(time) = used.get_mut(below) {
                    *time = (*time).max(layer.used);
                }
            }
        }
        used
    }

    fn releases(&mut self) {
        let mut releases: Vec<_> = self.stock.releases.iter().collect();
        releases.sort_by_key(|old| old.since);
        for old in releases {
            if !self.is_short() {
                return;
            }
            // Of one that shares everything with what stays nothing would be gained.
            if self.held_by(&old.image) > 0 {
                self.victims.push(Victim::Release(old.id.clone()));
                self.forget(old);
            }
        }
    }

    fn environments(&mut self) {
        let mut off: Vec<_> = self.stock.off.iter().collect();
        off.sort_by_key(|off| off.since);
        for off in off {
            if !self.is_short() {
                return;
            }
            if off.disk.saturating_add(self.held_by(&off.image)) < self.room.unit.least() {
                continue;
            }
            self.victims.push(Victim::Environment(off.id.clone()));
            self.free(off.disk);
            for old in self.stock.releases.iter().filter(|old| off.releases.contains(&old.id)) {
                self.forget(old);
            }
            self.drop_image(&off.image);
        }
    }

    /// The size of the layers that are there only for those that could go.
    fn held_by(&self, image: &[L]) -> u64 {
        let own = image.iter().filter(|layer| !self.stock.needed.contains(layer));
        sum(own.filter_map(|layer| Some(self.layers.get(layer)?.size)))
    }

    fn forget(&mut self, old: &'a Release<R, L>) {
        if self.gone.insert(&old.id) {
            self.drop_image(&old.image);
        }
    }

    /// The layers that nobody else uses go, the highest first.
    fn drop_image(&mut self, image: &'a [L]) {
        let mut unused = Vec::new();
        for layer in image {
            let Some(uses) = self.uses.get_mut(layer) else { continue };
            *uses -= 1;
            if *uses == 0 && !self.stock.needed.contains(layer) {
                unused.extend(self.layers.get(layer).copied());
            }
        }
        unused.sort_by_key(|layer| std::cmp::Reverse(layer.on.len()));
        unused.into_iter().for_each(|layer| self.remove(layer));
    }

    fn remove(&mut self, layer: &'a Layer<L>) {
        self.free(layer.size);
        self.victims.push(Victim::Layer(layer.id.clone()));
    }

    fn free(&mut self, size: u64) {
        self.freed = self.freed.saturating_add(size);
    }
}

/// Where somebody hides what a directory takes, its size is as large as a number can be.
pub fn sum(sizes: impl IntoIterator<Item = u64>) -> u64 {
    sizes.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests;
