//! Layers that builds under way need, and images that are not on record yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::engine::LayerId;

/// How many hold each layer.
#[derive(Clone, Debug, Default)]
pub struct Holds(Arc<Mutex<BTreeMap<LayerId, usize>>>);

/// Keeps layers from being collected for as long as it lives.
#[derive(Debug)]
pub struct Hold {
    layers: Vec<LayerId>,
    holds: Holds,
}

impl Holds {
    pub fn hold(&self, layers: Vec<LayerId>) -> Hold {
        let mut counts = self.counts();
        for layer in &layers {
            *counts.entry(layer.clone()).or_default() += 1;
        }
        drop(counts);
        Hold { layers, holds: self.clone() }
    }

    pub fn held(&self) -> BTreeSet<LayerId> {
        self.counts().keys().cloned().collect()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<LayerId, usize>> {
        self.0.lock().expect("nothing panics while it counts")
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut counts = self.holds.counts();
        for layer in &self.layers {
            if let Some(count) = counts.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(layer);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_held_until_the_last_of_its_holders_is_gone() {
        let holds = Holds::default();
        let layer = LayerId("a".to_owned());
        let first = holds.hold(vec![layer.clone()]);
        let second = holds.hold(vec![layer.clone()]);
        drop(first);
        assert!(holds.held().contains(&layer));
        drop(second);
        assert!(holds.held().is_empty());
    }
}
