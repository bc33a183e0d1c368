//! Turns at something of which few go on at a time. Each address has some of them at most, so that nobody has them all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use flyloft_core::gate::source;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub struct Turns {
    all: Arc<Semaphore>,
    of_each: usize,
    /// Of addresses that have one, or wait for one.
    own: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
}

/// Over when it is dropped.
pub struct Turn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Turns {
    /// So many at a time, of which each address has so many.
    pub fn new(all: usize, of_each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), of_each, own: Mutex::default() }
    }

    /// Waits for one. Who waits for its own address's keeps nobody else waiting.
    pub async fn take(&self, from: IpAddr) -> Turn {
        let own = self.of(source(from)).acquire_owned().await.expect("it is never closed");
        let all = self.all.clone().acquire_owned().await.expect("it is never closed");
        Turn { _own: own, _all: all }
    }

    fn of(&self, from: IpAddr) -> Arc<Semaphore> {
        let mut all = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get(&from).and_then(Weak::upgrade) {
            return own;
        }
        all.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(self.of_each));
        all.insert(from, Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn an_address_has_its_share_and_leaves_the_rest_to_others() {
        let turns = Turns::new(3, 2);
        let take = |from: &str| turns.take(from.parse().unwrap()).now_or_never();
        let both = (take("2001:db8::1").unwrap(), take("2001:db8::2").unwrap());
        assert!(take("2001:db8::3").is_none(), "its subnet has as many as it may");
        let other = take("203.0.113.8").unwrap();
        assert!(take("203.0.113.9").is_none(), "all are taken");
        drop(other);
        assert!(take("203.0.113.9").is_some() && take("2001:db8::3").is_none());
        drop(both);
        assert!(take("2001:db8::3").is_some());
        assert_eq!(turns.own.lock().unwrap().len(), 1, "who has none is forgotten");
    }
}
