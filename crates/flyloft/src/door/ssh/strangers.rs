//! Connections of clients that have not shown a key yet. Anybody can open some; nobody can shut the door with them: where
//! there are too many, whoever has been silent for longest at the address with most of them makes way.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How often it is told that there are too many.
const SELDOM: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Strangers(Arc<Crowd>);

#[derive(Debug)]
struct Crowd {
    most: usize,
    most_of_one: usize,
    /// The longest here first.
    present: Mutex<Vec<(IpAddr, CancellationToken)>>,
    warned: Mutex<Option<Instant>>,
}

/// One of them, until it is dropped.
pub struct Stranger {
    crowd: Arc<Crowd>,
    made_way: CancellationToken,
}

impl Strangers {
    pub fn new(most: usize, most_of_one: usize) -> Self {
        Self(Arc::new(Crowd { most, most_of_one, present: Mutex::default(), warned: Mutex::default() }))
    }

    /// Never refuses: somebody else makes way.
    pub fn enter(&self, address: IpAddr) -> Stranger {
        let (network, made_way) = (network(address), CancellationToken::new());
        let mut present = self.0.present.lock().expect("not poisoned");
        while let Some(goes) = self.0.goes(&present, network) {
            present.remove(goes).1.cancel();
        }
        present.push((network, made_way.clone()));
        Stranger { crowd: self.0.clone(), made_way }
    }

    /// Once a minute at most: who floods the door is not to flood the log.
    pub fn warn(&self, peer: SocketAddr, what: &str) {
        let mut warned = self.0.warned.lock().expect("not poisoned");
        if warned.is_none_or(|last| last.elapsed() > SELDOM) {
            *warned = Some(Instant::now());
            tracing::warn!(%peer, "{what}");
        }
    }
}

impl Crowd {
    /// Who makes way for one more from this network.
    fn goes(&self, present: &[(IpAddr, CancellationToken)], comes: IpAddr) -> Option<usize> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (network, _) in present {
            *counts.entry(*network).or_default() += 1;
        }
        let first_of = |wanted: IpAddr| present.iter().position(|(network, _)| *network == wanted);
        if counts.get(&comes).is_some_and(|count| *count >= self.most_of_one) {
            return first_of(comes);
        }
        let largest = counts.values().copied().max().filter(|_| present.len() >= self.most)?;
        present.iter().position(|(network, _)| counts[network] == largest)
    }
}

impl Stranger {
    /// Cancelled when it has to go.
    pub fn made_way(&self) -> &CancellationToken {
        &self.made_way
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut present = self.crowd.present.lock().expect("not poisoned");
        // Marked, so that it can be told from the others.
        self.made_way.cancel();
        present.retain(|(_, token)| !token.is_cancelled());
    }
}

/// What one client has: an address, or the half of IPv6 that anybody gets a whole of.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    fn gone(strangers: &[Stranger]) -> Vec<bool> {
        strangers.iter().map(|stranger| stranger.made_way().is_cancelled()).collect()
    }

    #[test]
    fn the_oldest_of_an_address_makes_way_for_its_next_and_nobody_elses_does() {
        let strangers = Strangers::new(10, 2);
        let other = strangers.enter(at("192.0.2.1"));
        let same = ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|address| strangers.enter(at(address)));
        assert_eq!(gone(&same), [true, false, false]);
        assert!(!other.made_way().is_cancelled());
        drop(same);
        let same = ["192.0.2.1", "::ffff:192.0.2.1"].map(|address| strangers.enter(at(address)));
        assert!(other.made_way().is_cancelled(), "it is the same address");
        assert_eq!(gone(&same), [false, false]);
    }

    #[test]
    fn where_all_places_are_taken_the_address_with_most_of_them_gives_one_up() {
        let strangers = Strangers::new(4, 3);
        let honest = strangers.enter(at("192.0.2.1"));
        let flood = [(); 3].map(|()| strangers.enter(at("198.51.100.1")));
        let late = strangers.enter(at("203.0.113.1"));
        assert_eq!(gone(&flood), [true, false, false]);
        assert!(!honest.made_way().is_cancelled() && !late.made_way().is_cancelled());
        drop(flood);
        assert_eq!(strangers.0.present.lock().unwrap().len(), 2, "who is gone takes no place");
    }
}
