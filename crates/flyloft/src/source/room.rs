//! How many gits take something in at a time: what each may hold in memory is bounded, and so the sum is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Clone, Debug)]
pub struct Room {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// Given back when it is dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit);

/// What is done when somebody has to wait for a place: a person who waits wants to know for what.
#[derive(Clone, Default)]
pub(super) struct Notice(Option<Arc<dyn Fn() + Send + Sync>>);

impl Notice {
    pub(super) fn by(tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Notice").field(&self.0.is_some()).finish()
    }
}

/// One of those who wait, for as long as they do.
struct Waits<'a>(&'a AtomicUsize);

impl Room {
    pub(super) fn of(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), waiting: Arc::default() }
    }

    /// A place, if there is one that nobody waits for.
    pub fn find(&self) -> Option<Place> {
        self.places.clone().try_acquire_owned().ok().map(Place)
    }

    /// The same as [`Room::enter`]. Where that takes waiting, it is noticed.
    pub(super) async fn enter_noticed(&self, notice: &Notice) -> Place {
        if let Some(place) = self.find() {
            return place;
        }
        if let Notice(Some(tell)) = notice {
            tell();
        }
        self.enter().await
    }

    /// Waits for a place. Who came first gets the first.
    pub async fn enter(&self) -> Place {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waits = Waits(&self.waiting);
        Place(self.places.clone().acquire_owned().await.expect("it is never closed"))
    }

    /// Whether somebody waits for a place.
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
