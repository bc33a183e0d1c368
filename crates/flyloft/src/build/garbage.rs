//! Which layers and package caches go when there are too many. Pure decisions; [`super::Builder`] acts on them.
//!
//! What a container, a release or a build that is under way uses stays, whatever it takes. The rest stays too, since
//! the next branch may need it, as long as there is room: the longest unused go first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use crate::engine::{CacheFacts, CacheId, Image, LayerId};

/// What is known about a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub id: LayerId,
    /// What it was made on.
    pub on: Image,
    pub bytes: u64,
    /// When something last used it, or when it was made.
    pub used: SystemTime,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes of what nothing uses.
    pub unused: u64,
    /// Bytes that are missing on the disk, for which even these have to go.
    pub missing: u64,
}

/// The layers to forget, in the order in which to do it: nothing goes before what was made on it.
pub fn surplus(layers: &[Known], in_use: &BTreeSet<LayerId>, room: Room) -> Vec<LayerId> {
    let used = effective_use(layers);
    let mut unused: Vec<&Known> = layers.iter().filter(|layer| !in_use.contains(&layer.id)).collect();
    // Among those of the same age the highest go first.
    unused.sort_by_key(|layer| (used[&layer.id], std::cmp::Reverse(layer.on.len())));
    let unused: Vec<_> = unused.into_iter().map(|layer| (layer.id.clone(), layer.bytes)).collect();
    until_there_is(room, unused)
}

/// The caches to remove. One that is in use may be among them: the engine keeps it, and the next round finds it again.
pub fn surplus_caches(mut caches: Vec<CacheFacts>, room: Room) -> Vec<CacheId> {
    caches.sort_by_key(|cache| cache.used);
    until_there_is(room, caches.into_iter().map(|cache| (cache.id, cache.bytes)).collect())
}

/// The first of these, until there is room.
fn until_there_is<T>(room: Room, unused: Vec<(T, u64)>) -> Vec<T> {
    let total: u64 = unused.iter().map(|(_, bytes)| bytes).sum();
    let mut left_to_free = total.saturating_sub(room.unused).max(room.missing);
    let mut surplus = Vec::new();
    for (what, bytes) in unused {
        if left_to_free == 0 {
            break;
        }
        left_to_free = left_to_free.saturating_sub(bytes);
        surplus.push(what);
    }
    surplus
}

/// A layer counts as used whenever one that was made on it is: without it, that could not be made again.
fn effective_use(layers: &[Known]) -> BTreeMap<&LayerId, SystemTime> {
    let mut used: BTreeMap<&LayerId, SystemTime> = layers.iter().map(|layer| (&layer.id, layer.used)).collect();
    for layer in layers {
        for below in &layer.on {
            if let Some(time) = used.get_mut(below) {
                *time = (*time).max(layer.used);
            }
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn known(id: &str, on: &[&str], bytes: u64, used: u64) -> Known {
        let layer = |id: &&str| LayerId((*id).to_owned());
        Known {
            id: layer(&id),
            on: on.iter().map(layer).collect(),
            bytes,
            used: UNIX_EPOCH + Duration::from_secs(used),
        }
    }

    fn check(layers: &[Known], in_use: &[&str], unused: u64, missing: u64, expected: &[&str]) {
        let in_use = in_use.iter().map(|id| LayerId((*id).to_owned())).collect();
        let surplus = surplus(layers, &in_use, Room { unused, missing });
        assert_eq!(surplus.iter().map(|id| id.0.as_str()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_in_use_stays_even_when_the_disk_is_full() {
        let layers = [known("base", &[], 100, 0), known("app", &["base"], 10, 0)];
        check(&layers, &["base", "app"], 0, u64::MAX, &[]);
    }

    #[test]
    fn what_nothing_uses_stays_while_there_is_room() {
        let layers = [known("a", &[], 100, 0), known("b", &[], 100, 5)];
        check(&layers, &[], 200, 0, &[]);
    }

    #[test]
    fn the_longest_unused_goes_first_and_no_more_than_has_to() {
        let layers = [known("new", &[], 100, 9), known("old", &[], 100, 1), known("middle", &[], 100, 5)];
        check(&layers, &[], 250, 0, &["old"]);
        check(&layers, &[], 150, 0, &["old", "middle"]);
    }

    #[test]
    fn a_full_disk_takes_layers_that_there_would_be_room_for() {
        let layers = [known("new", &[], 100, 9), known("old", &[], 100, 1)];
        check(&layers, &[], 1000, 50, &["old"]);
    }

    #[test]
    fn a_layer_goes_after_those_that_were_made_on_it() {
        let layers =
            [known("base", &[], 10, 1), known("build", &["base"], 10, 1), known("deps", &["base", "build"], 10, 7)];
        check(&layers, &[], 0, 0, &["deps", "build", "base"]);
    }

    #[test]
    fn what_layers_in_use_were_made_on_counts_as_just_used() {
        let layers = [known("compilers", &[], 10, 1), known("deps", &["compilers"], 10, 9), known("old", &[], 10, 5)];
        check(&layers, &["deps"], 10, 0, &["old"]);
    }

    #[test]
    fn the_cache_that_was_used_longest_ago_goes_first_and_no_more_than_has_to() {
        let cache = |id: &str, used| CacheFacts {
            id: CacheId(id.to_owned()),
            bytes: 100,
            used: UNIX_EPOCH + Duration::from_secs(used),
        };
        let caches = [cache("new", 9), cache("old", 1), cache("middle", 5)];
        let surplus = |unused, missing| {
            let surplus = surplus_caches(caches.to_vec(), Room { unused, missing });
            surplus.into_iter().map(|id| id.0).collect::<Vec<_>>()
        };
        assert_eq!(surplus(300, 0), [""; 0]);
        assert_eq!(surplus(250, 0), ["old"]);
        assert_eq!(surplus(300, 150), ["old", "middle"]);
    }
}
