//! How many clients are inside at a time, and who has to go for the next one.
//!
//! What must hold: strangers never take so many descriptors or so much memory that the rest of the daemon goes without,
//! and no client address takes what is meant for all. Nobody is sent away while a request of his is under way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flyloft_core::address::of_one;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::clock;
use super::lines::Lines;
use super::pace::Paces;
use super::room::{MEMORY_OF_HTTP2, MEMORY_OF_ONE, MEMORY_OF_REQUEST, MEMORY_OF_TLS, Room};
use super::seldom::Seldom;

/// A look for idle connections that found none is not repeated sooner: it costs as much as there are connections.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Less is not worth giving back to the system.
const SHRUNK_BY: usize = 2 << 20;

/// How long a client that is sent away may take to read the answer it was sent last.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// All who are inside.
pub struct Crowd {
    pub room: Room,
    pub lines: Arc<Lines>,
    held: Arc<Semaphore>,
    pub paces: Arc<Paces>,
    /// Requests under way.
    visits: AtomicUsize,
    /// The most that clients may have held since memory was last given back.
    peak: AtomicUsize,
    inside: Mutex<Inside>,
    full: Seldom,
    pub troubled: Seldom,
}

#[derive(Default)]
struct Inside {
    next: u64,
    everybody: Group,
    households: HashMap<Household, Group>,
    /// Connections that were told to close and are not closed yet.
    leaving: usize,
}

/// What counts as one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Household {
    Address(IpAddr),
    /// Somebody who comes by way of a proxy. Who that is shows only in the request, so each connection is one.
    Proxied(u64),
}

impl Household {
    pub fn of(address: IpAddr) -> Self {
        Self::Address(of_one(address))
    }
}

/// Connections that share a bound.
#[derive(Default)]
struct Group {
    seats: HashMap<u64, Arc<Seat>>,
    /// What they may hold, in bytes.
    memory: usize,
    /// Requests under way.
    visits: Arc<AtomicUsize>,
    /// Some that were idle at the last look, and since when; the longest idle one on top.
    idle: Vec<(u64, Arc<Seat>)>,
    /// When a look found nobody.
    fruitless: Option<Instant>,
}

/// A client's connection, as the crowd knows it.
struct Seat {
    number: u64,
    household: Household,
    /// What it may hold, in bytes. Changed only while those inside are locked.
    memory: AtomicUsize,
    /// Requests under way of the whole household.
    of_household: Arc<AtomicUsize>,
    /// Requests under way, or [`EXPELLED`] when none may begin any more.
    visits: AtomicUsize,
    /// When the last request ended, or the client came, by [`clock`].
    idle_since: AtomicU64,
    served: AtomicBool,
    /// Its room is for somebody else.
    hurried: AtomicBool,
    leave: Notify,
}

const EXPELLED: usize = usize::MAX;

impl Seat {
    /// Counts one more request, unless none may begin any more.
    fn begin(&self) -> bool {
        let more = |visits| (visits != EXPELLED).then(|| visits + 1);
        self.visits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    fn idle(&self) -> Option<u64> {
        let since = self.idle_since.load(Ordering::SeqCst);
        (self.visits.load(Ordering::SeqCst) == 0).then_some(since)
    }

    /// Tells the client to leave if it has been idle since then.
    fn expel(&self, since: u64) -> bool {
        let idle = self.idle() == Some(since)
            && self.visits.compare_exchange(0, EXPELLED, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if idle {
            self.leave.notify_one();
        }
        idle
    }
}

impl Group {
    fn insert(&mut self, seat: Arc<Seat>) {
        self.memory += seat.memory.load(Ordering::Relaxed);
        self.seats.insert(seat.number, seat);
    }

    /// Says whether it was there.
    fn remove(&mut self, seat: &Seat) -> bool {
        let was = self.seats.remove(&seat.number).is_some();
        if was {
            self.memory -= seat.memory.load(Ordering::Relaxed);
        }
        was
    }

    /// Tells the client that has been idle for longest to leave. None where all have requests under way.
    fn expel(&mut self) -> Option<Arc<Seat>> {
        if let Some(seat) = self.expel_known() {
            return Some(seat);
        }
        if self.fruitless.is_some_and(|last| last.elapsed() < LOOK_EVERY) {
            return None;
        }
        let mut idle: Vec<_> = self.seats.values().filter_map(|seat| Some((seat.idle()?, seat.clone()))).collect();
        idle.sort_unstable_by_key(|(since, seat)| std::cmp::Reverse((*since, seat.number)));
        // One look serves for many that come, but not for so many that those who are left are not the longest idle.
        self.idle = idle.split_off(idle.len().saturating_sub(self.seats.len() / 32 + 1));
        let found = self.expel_known();
        self.fruitless = found.is_none().then(Instant::now);
        found
    }

    fn expel_known(&mut self) -> Option<Arc<Seat>> {
        while let Some((since, seat)) = self.idle.pop() {
            seat.hurried.store(true, Ordering::Relaxed);
            if seat.expel(since) {
                return Some(seat);
            }
            seat.hurried.store(false, Ordering::Relaxed);
        }
        None
    }
}

impl Inside {
    /// Takes a seat out of both of its groups, and says whether it was there.
    fn remove(&mut self, seat: &Seat) -> bool {
        if let Some(group) = self.households.get_mut(&seat.household) {
            group.remove(seat);
            if group.seats.is_empty() {
                self.households.remove(&seat.household);
            }
        }
        self.everybody.remove(seat)
    }

    /// Makes room for so many more seats of a household, and so many more bytes.
    fn make_room(&mut self, household: Household, (seats, memory): (usize, usize), room: &Room) -> Option<()> {
        let fits = |group: &Group, of_seats, of_memory| {
            group.seats.len() + seats <= of_seats && group.memory + memory <= of_memory
        };
        loop {
            let own = self.households.get_mut(&household).filter(|own| !fits(own, room.of_one, room.memory / 4));
            let group = match own {
                Some(own) => own,
                None if fits(&self.everybody, room.connections, room.memory) => return Some(()),
                None => &mut self.everybody,
            };
            if self.leaving >= room.leaving() {
                return None;
            }
            let seat = group.expel()?;
            self.remove(&seat);
            self.leaving += 1;
        }
    }
}

impl Crowd {
    pub fn new(room: Room, paces: Arc<Paces>) -> Self {
        Self {
            room,
            lines: Lines::new(room.lines, room.lines_of_one, room.lent),
            held: Arc::new(Semaphore::new(room.held)),
            paces,
            visits: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            inside: Mutex::default(),
            full: Seldom::default(),
            troubled: Seldom::default(),
        }
    }

    /// Lets a client in, if need be by sending away the one that has been idle for longest: of its own household where
    /// that has too many, of all where there are too many. None where nobody can go; then the slowest request is cut,
    /// so that there is room for the next one who comes.
    /// A proxy's have no address.
    pub fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Guest> {
        let mut inside = self.lock();
        let household = address.map_or(Household::Proxied(inside.next), Household::of);
        if inside.make_room(household, (1, MEMORY_OF_ONE), &self.room).is_none() {
            drop(inside);
            self.paces.cut_slowest(None);
            if self.full.now() {
                tracing::warn!(?household, room = ?self.room, "too many connections of clients, refused one");
            }
            return None;
        }
        inside.next += 1;
        let number = inside.next;
        let group = inside.households.entry(household).or_default();
        let seat = Arc::new(Seat {
            number,
            household,
            memory: AtomicUsize::new(MEMORY_OF_ONE),
            of_household: group.visits.clone(),
            visits: AtomicUsize::new(0),
            idle_since: AtomicU64::new(clock::now()),
            served: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            leave: Notify::new(),
        });
        group.insert(seat.clone());
        inside.everybody.insert(seat.clone());
        let held = inside.everybody.memory;
        drop(inside);
        self.peak.fetch_max(self.with(held), Ordering::Relaxed);
        Some(Guest { crowd: self.clone(), seat })
    }

    /// Tells all to leave who have asked for nothing for so long, heads that never end included.
    pub fn sweep(&self, limit: Duration) {
        let now = clock::now();
        let is_over = |since| u128::from(now.saturating_sub(since)) >= limit.as_millis();
        let mut inside = self.lock();
        let idle = |seat: &Arc<Seat>| Some((seat.idle().filter(|since| is_over(*since))?, seat.clone()));
        let idle: Vec<_> = inside.everybody.seats.values().filter_map(idle).collect();
        for (since, seat) in idle {
            if seat.expel(since) {
                inside.remove(&seat);
                inside.leaving += 1;
            }
        }
    }

    /// What clients may hold, in bytes, where their connections may hold so much.
    fn with(&self, connections: usize) -> usize {
        connections + self.visits.load(Ordering::Relaxed) * MEMORY_OF_REQUEST + self.lines.lent()
    }

    /// Says whether clients have let go of so much that it is worth giving it back to the system.
    pub fn has_shrunk(&self) -> bool {
        let held = self.with(self.lock().everybody.memory);
        let peak = self.peak.fetch_max(held, Ordering::Relaxed);
        let shrunk = held < peak / 2 && peak - held >= SHRUNK_BY;
        if shrunk {
            self.peak.store(held, Ordering::Relaxed);
        }
        shrunk
    }

    /// Leave to wait until an environment is awake, which takes so many spots.
    pub fn spots(&self, count: u32) -> Option<OwnedSemaphorePermit> {
        self.held.clone().try_acquire_many_owned(count).ok()
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that was let in. It has gone when this is dropped.
pub struct Guest {
    crowd: Arc<Crowd>,
    seat: Arc<Seat>,
}

impl Guest {
    /// Resolves when the client has to go.
    pub async fn expelled(&self) {
        self.seat.leave.notified().await;
    }

    /// How long it may take to go: the end of an answer may still be on its way, and is given up only for somebody who
    /// needs the room.
    pub fn farewell(&self) -> Duration {
        match self.seat.served.load(Ordering::Relaxed) {
            true if self.seat.hurried.load(Ordering::Relaxed) => FAREWELL,
            true => Duration::MAX,
            false => Duration::ZERO,
        }
    }

    /// Whether a request of his is under way.
    pub fn is_asking(&self) -> bool {
        !matches!(self.seat.visits.load(Ordering::SeqCst), 0 | EXPELLED)
    }

    /// Begins a request. None where its household or all together have too many under way, or the client is on its way
    /// out.
    pub fn visit(self: &Arc<Self>) -> Option<Visit> {
        let Self { crowd, seat } = &**self;
        if !seat.begin() {
            return None;
        }
        let of_household = seat.of_household.fetch_add(1, Ordering::SeqCst);
        let of_all = crowd.visits.fetch_add(1, Ordering::Relaxed);
        // From here on dropping it undoes all of that.
        let visit = Visit(self.clone());
        if of_all >= crowd.room.connections {
            crowd.paces.cut_slowest(None);
            return None;
        }
        (of_household < crowd.room.of_one).then_some(visit)
    }

    /// The client speaks HTTP/2, which takes more. Says whether there is room for it.
    pub fn speaks_http2(&self) -> bool {
        self.takes(MEMORY_OF_HTTP2 - MEMORY_OF_ONE)
    }

    /// The client speaks TLS, which takes more as well.
    pub fn speaks_tls(&self) -> bool {
        self.takes(MEMORY_OF_TLS)
    }

    fn takes(&self, more: usize) -> bool {
        // It is not to make way for itself.
        if !self.seat.begin() {
            return false;
        }
        let mut inside = self.crowd.lock();
        let has_room = inside.make_room(self.seat.household, (0, more), &self.crowd.room).is_some();
        if has_room {
            self.seat.memory.fetch_add(more, Ordering::Relaxed);
            inside.everybody.memory += more;
            if let Some(group) = inside.households.get_mut(&self.seat.household) {
                group.memory += more;
            }
        }
        drop(inside);
        self.seat.visits.fetch_sub(1, Ordering::SeqCst);
        has_room
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut inside = self.crowd.lock();
        if !inside.remove(&self.seat) {
            inside.leaving -= 1;
        }
    }
}

/// A request under way; dropped when the last of its answer is on its way back.
pub struct Visit(Arc<Guest>);

impl Drop for Visit {
    fn drop(&mut self) {
        let Guest { crowd, seat } = &*self.0;
        seat.served.store(true, Ordering::Relaxed);
        seat.idle_since.store(clock::now(), Ordering::SeqCst);
        crowd.visits.fetch_sub(1, Ordering::Relaxed);
        seat.of_household.fetch_sub(1, Ordering::SeqCst);
        seat.visits.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
