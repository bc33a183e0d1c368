//! Places of those whom the daemon relays: so many in all, and so many to one environment. Where there is none left, the one
//! of whom nothing has been heard for longest makes way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flyloft_core::port::Port;
use tokio::sync::Notify;

/// For so many at a time.
pub(super) struct Room {
    most: usize,
    /// Of whom something was heard a shorter time ago makes way for nobody.
    quiet: Duration,
    inside: Mutex<BTreeMap<u64, Arc<Seat>>>,
}

struct Seat {
    port: Port,
    heard: Mutex<Instant>,
    leave: Notify,
}

/// A place of somebody's, for as long as this is held.
pub(super) struct Place {
    number: u64,
    seat: Arc<Seat>,
    rooms: [Arc<Room>; 2],
}

impl Room {
    pub fn new(most: usize, quiet: Duration) -> Arc<Self> {
        Arc::new(Self { most, quiet, inside: Mutex::default() })
    }

    /// How many are relayed to this port.
    pub fn count(&self, port: Port) -> usize {
        self.lock().values().filter(|seat| seat.port == port).count()
    }

    /// Who has to go for the next one, if anybody has; none where nobody can.
    fn in_the_way(&self, inside: &BTreeMap<u64, Arc<Seat>>) -> Option<Option<u64>> {
        if inside.len() < self.most {
            return Some(None);
        }
        let (heard, number) = inside.iter().map(|(number, seat)| (seat.heard(), *number)).min()?;
        (heard.elapsed() >= self.quiet).then_some(Some(number))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Seat>>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    fn heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// In the room of the environment, and in that of all.
    pub fn take(port: Port, of_one: &Arc<Room>, of_all: &Arc<Room>) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Nobody locks them the other way round.
        let (mut one, mut all) = (of_one.lock(), of_all.lock());
        let leaves = match of_one.in_the_way(&one)? {
            // It makes way in both.
            Some(number) => Some(number),
            None => of_all.in_the_way(&all)?,
        };
        if let Some(leaves) = leaves {
            let of_one = one.remove(&leaves);
            if let Some(seat) = all.remove(&leaves).or(of_one) {
                seat.leave.notify_one();
            }
        }
        let seat = Arc::new(Seat { port, heard: Mutex::new(Instant::now()), leave: Notify::new() });
        one.insert(number, seat.clone());
        all.insert(number, seat.clone());
        drop((one, all));
        Some(Self { number, seat, rooms: [of_one.clone(), of_all.clone()] })
    }

    /// Something was said by it, or to it.
    pub fn note(&self) {
        *self.seat.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// For how long nothing was.
    pub fn quiet_for(&self) -> Duration {
        self.seat.heard().elapsed()
    }

    /// Comes back when it is somebody else's.
    pub async fn lost(&self) {
        self.seat.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for room in &self.rooms {
            room.lock().remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use flyloft_core::port::Protocol;
    use futures_util::FutureExt;

    use super::*;

    const PORT: Port = Port { protocol: Protocol::Tcp, host: 1, port: 1 };

    #[test]
    fn whoever_was_quiet_for_longest_makes_way_and_nobody_who_has_just_said_something() {
        let (all, one, other) =
            (Room::new(3, Duration::ZERO), Room::new(2, Duration::ZERO), Room::new(2, Duration::ZERO));
        let take = |of_one| Place::take(PORT, of_one, &all).unwrap();
        let (first, second, third) = (take(&one), take(&one), take(&other));
        first.note();
        // Of its own environment.
        let fourth = take(&one);
        assert!(second.lost().now_or_never().is_some() && first.lost().now_or_never().is_none());
        assert_eq!((one.count(PORT), other.count(PORT), all.count(PORT)), (2, 1, 3));
        // Of all, though its own has room.
        let fifth = take(&other);
        assert!(third.lost().now_or_never().is_some());
        drop((second, third));
        assert_eq!((one.count(PORT), other.count(PORT), all.count(PORT)), (2, 1, 3));
        drop((first, fourth, fifth));
        assert_eq!((one.count(PORT), other.count(PORT), all.count(PORT)), (0, 0, 0));

        let (all, one) = (Room::new(3, Duration::MAX), Room::new(1, Duration::MAX));
        let kept = Place::take(PORT, &one, &all).unwrap();
        assert!(Place::take(PORT, &one, &all).is_none());
        assert!(kept.lost().now_or_never().is_none());
        drop(kept);
        assert!(Place::take(PORT, &one, &all).is_some());
    }
}
