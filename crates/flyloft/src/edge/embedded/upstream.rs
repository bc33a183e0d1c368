//! Addresses that answer requests, and what is under way to each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use super::line::Pool;

/// One address that answers requests, and what is under way to it.
pub struct Upstream {
    pub address: SocketAddr,
    /// Idle connections, one pool for each thread of the edge.
    pub pools: Box<[Pool]>,
    in_flight: AtomicUsize,
    left: Notify,
}

impl Upstream {
    pub fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    pub fn leave(&self) {
        if self.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.left.notify_waiters();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) == 0
    }

    /// Waits until nothing is under way.
    pub async fn empty(&self) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if self.is_empty() {
                return;
            }
            left.await;
        }
    }
}

/// The one [`Upstream`] of each address, so that two host names with the same target count together.
#[derive(Default)]
pub struct Upstreams {
    known: HashMap<SocketAddr, Weak<Upstream>>,
    /// How many there may be before those that are gone are looked for.
    enough: usize,
}

impl Upstreams {
    pub fn at(&mut self, address: SocketAddr, threads: usize) -> Arc<Upstream> {
        if let Some(upstream) = self.get(address) {
            return upstream;
        }
        if self.known.len() >= self.enough {
            // Half of them at least come anew between two looks, so that a change costs the same with a thousand.
            self.known.retain(|_, upstream| upstream.strong_count() > 0);
            self.enough = 2 * self.known.len() + 16;
        }
        let upstream = Arc::new(Upstream {
            address,
            pools: (0..threads).map(|_| Pool::default()).collect(),
            in_flight: AtomicUsize::new(0),
            left: Notify::new(),
        });
        self.known.insert(address, Arc::downgrade(&upstream));
        upstream
    }

    pub fn get(&self, address: SocketAddr) -> Option<Arc<Upstream>> {
        self.known.get(&address)?.upgrade()
    }

    pub fn all(&self) -> impl Iterator<Item = Arc<Upstream>> {
        self.known.values().filter_map(Weak::upgrade)
    }
}
