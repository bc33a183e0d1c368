//! What writable layers took when they were last measured. To measure one is to walk it, and whoever asks for the numbers
//! of a thousand containers must not walk a thousand trees: the watch measures all that run once a minute anyway, and those that are
//! frozen once.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::places::Home;
use super::tree::{self, Usage};
use crate::engine::ContainerId;

/// Longer than between two measurements of the watch.
const FRESH: Duration = Duration::from_secs(150);

#[derive(Debug, Default)]
pub struct Sizes(Mutex<HashMap<ContainerId, (Instant, Usage)>>);

impl Sizes {
    pub fn note<'a>(&self, measured: impl IntoIterator<Item = (&'a ContainerId, Usage)>, now: Instant) {
        let mut sizes = self.0.lock().expect("not poisoned");
        // Those that are gone go from here, too.
        sizes.retain(|_, (at, _)| now.duration_since(*at) < FRESH);
        sizes.extend(measured.into_iter().map(|(id, usage)| (id.clone(), (now, usage))));
    }

    /// What it takes, if it was measured not long ago.
    pub fn known(&self, id: &ContainerId, now: Instant) -> Option<Usage> {
        let (at, usage) = self.0.lock().expect("not poisoned").get(id).copied()?;
        (now.duration_since(at) < FRESH).then_some(usage)
    }

    /// The same, measured now if it was not.
    pub fn look(&self, id: &ContainerId, home: &Home) -> Usage {
        self.known(id, Instant::now()).unwrap_or_else(|| {
            let usage = tree::measure(&home.upper()).unwrap_or_default();
            self.note([(id, usage)], Instant::now());
            usage
        })
    }

    /// It is another one from now on.
    pub fn forget(&self, id: &ContainerId) {
        self.0.lock().expect("not poisoned").remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_known_until_it_is_old_or_the_container_is_removed() {
        let (sizes, now) = (Sizes::default(), Instant::now());
        let [web, worker] = ["web", "worker"].map(|id| ContainerId(id.to_owned()));
        let usage = Usage { bytes: 4096, inodes: 1 };
        sizes.note([(&web, usage)], now);
        assert_eq!((sizes.known(&web, now), sizes.known(&worker, now)), (Some(usage), None));
        assert_eq!(sizes.known(&web, now + FRESH), None);
        sizes.note([(&worker, usage)], now + FRESH);
        assert_eq!(sizes.0.lock().unwrap().len(), 1, "what is old is not kept");
        sizes.forget(&worker);
        assert_eq!(sizes.known(&worker, now + FRESH), None);
    }
}
