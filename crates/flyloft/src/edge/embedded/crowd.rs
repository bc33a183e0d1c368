//! How many clients are inside at a time, and who has to go for the next one.
//!
//! What must hold: strangers never take so many descriptors or so much memory that the rest of the daemon goes without,
//! and no client address takes what is meant for all. Nobody is sent away while a request of his is under way.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// What a client's connection takes, while its head is read and while its request waits.
pub const SPOT: usize = 16 << 10;

/// A look for idle connections that found none is not repeated sooner: it costs as much as there are connections.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A trouble that strangers can make at any rate is not logged more often.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// How long a client that is sent away may take to read the answer it was sent last.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// What there is for all threads of the edge together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Connections of clients.
    pub connections: usize,
    /// Those of one client address, and requests of its that are under way.
    pub of_one: usize,
    /// Connections to apps, idle ones included.
    pub lines: usize,
    /// Spots for requests that wait until an environment is awake, each of [`SPOT`] bytes: a request takes one, and as
    /// many more as the edge may have to keep of it meanwhile.
    pub held: usize,
    /// Those for one host name.
    pub held_for_one: usize,
}

/// What waits for one host name goes on at once when it wakes. More than this many do not fit into the queue in which a
/// server keeps new connections (listen(2)).
const HELD_FOR_ONE: usize = 1024;

impl Room {
    /// Of the descriptors that this process may have and the memory of this machine.
    pub fn here() -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let memory = nix::sys::sysinfo::sysinfo().map_or(512 << 20, |info| info.ram_total());
        Self::of(descriptors, memory)
    }

    /// A quarter of the descriptors for clients and one for apps, so that half of them is left to the rest of the
    /// daemon; and no more than a sixteenth of the memory.
    fn of(descriptors: u64, memory: u64) -> Self {
        let lines = (descriptors / 4).max(16) as usize;
        let connections = lines.min((memory / 16 / SPOT as u64) as usize).max(16);
        let (held, held_for_one) = (connections / 2, (connections / 8).clamp(2, HELD_FOR_ONE));
        Self { connections, of_one: connections / 4, lines, held, held_for_one }
    }

    /// Connections that may still be closing beside those that are open.
    fn leaving(&self) -> usize {
        self.connections / 8 + 1
    }
}

/// All who are inside.
pub struct Crowd {
    pub room: Room,
    lines: Arc<Semaphore>,
    held: Arc<Semaphore>,
    since: Instant,
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

/// What counts as one client: an IPv4 address, or the network of an IPv6 one, which is all its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Household(IpAddr);

impl Household {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
            address => Self(address),
        }
    }
}

/// Connections that share a bound.
#[derive(Default)]
struct Group {
    seats: HashMap<u64, Arc<Seat>>,
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
    /// Requests under way of the whole household.
    of_household: Arc<AtomicUsize>,
    /// Requests under way, or [`EXPELLED`] when none may begin any more.
    visits: AtomicUsize,
    /// When the last request ended, or the client came: milliseconds since the crowd's beginning.
    idle_since: AtomicU64,
    served: AtomicBool,
    leave: Notify,
}

const EXPELLED: usize = usize::MAX;

impl Seat {
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
            if seat.expel(since) {
                return Some(seat);
            }
        }
        None
    }
}

impl Inside {
    /// Takes a seat out of both of its groups, and says whether it was there.
    fn remove(&mut self, seat: &Seat) -> bool {
        if let Some(group) = self.households.get_mut(&seat.household) {
            group.seats.remove(&seat.number);
            if group.seats.is_empty() {
                self.households.remove(&seat.household);
            }
        }
        self.everybody.seats.remove(&seat.number).is_some()
    }

    fn make_room(&mut self, household: Household, room: &Room) -> Option<()> {
        if self.leaving >= room.leaving() {
            return None;
        }
        if let Some(group) = self.households.get_mut(&household).filter(|group| group.seats.len() >= room.of_one) {
            let seat = group.expel()?;
            self.dismiss(&seat);
        }
        if self.everybody.seats.len() >= room.connections {
            let seat = self.everybody.expel()?;
            self.dismiss(&seat);
        }
        Some(())
    }

    fn dismiss(&mut self, seat: &Seat) {
        self.remove(seat);
        self.leaving += 1;
    }
}

impl Crowd {
    pub fn new(room: Room) -> Self {
        Self {
            room,
            lines: Arc::new(Semaphore::new(room.lines)),
            held: Arc::new(Semaphore::new(room.held)),
            since: Instant::now(),
            inside: Mutex::default(),
            full: Seldom::default(),
            troubled: Seldom::default(),
        }
    }

    /// Lets a client in, if need be by sending away the one that has been idle for longest: of its own household where
    /// that has too many, of all where there are too many. None where nobody can go.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Guest> {
        let household = Household::of(address);
        let mut inside = self.lock();
        if inside.make_room(household, &self.room).is_none() {
            drop(inside);
            if self.full.now() {
                tracing::warn!(%address, room = ?self.room, "too many connections of clients, refused one");
            }
            return None;
        }
        inside.next += 1;
        let number = inside.next;
        let group = inside.households.entry(household).or_default();
        let seat = Arc::new(Seat {
            number,
            household,
            of_household: group.visits.clone(),
            visits: AtomicUsize::new(0),
            idle_since: AtomicU64::new(self.now()),
            served: AtomicBool::new(false),
            leave: Notify::new(),
        });
        group.seats.insert(number, seat.clone());
        inside.everybody.seats.insert(number, seat.clone());
        Some(Guest { crowd: self.clone(), seat })
    }

    /// Leave to open a connection to an app.
    pub fn line(&self) -> Option<OwnedSemaphorePermit> {
        self.lines.clone().try_acquire_owned().ok()
    }

    /// Leave to wait until an environment is awake, which takes so many spots.
    pub fn spots(&self, count: u32) -> Option<OwnedSemaphorePermit> {
        self.held.clone().try_acquire_many_owned(count).ok()
    }

    fn now(&self) -> u64 {
        self.since.elapsed().as_millis() as u64
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

    /// How long it may take to go: the end of an answer may still be on its way.
    pub fn farewell(&self) -> Duration {
        if self.seat.served.load(Ordering::Relaxed) { FAREWELL } else { Duration::ZERO }
    }

    /// Begins a request. None where its household has too many under way, or the client is on its way out.
    pub fn visit(self: &Arc<Self>) -> Option<Visit> {
        let more = |visits| (visits != EXPELLED).then(|| visits + 1);
        self.seat.visits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        let before = self.seat.of_household.fetch_add(1, Ordering::SeqCst);
        // From here on dropping it undoes both.
        let visit = Visit(self.clone());
        (before < self.crowd.room.of_one).then_some(visit)
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
        seat.idle_since.store(crowd.now(), Ordering::SeqCst);
        seat.of_household.fetch_sub(1, Ordering::SeqCst);
        seat.visits.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Says when it is time to log something again.
#[derive(Default)]
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    pub fn now(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= LOG_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(connections: usize, of_one: usize) -> Arc<Crowd> {
        let since = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        Arc::new(Crowd { since, ..Crowd::new(Room { connections, of_one, lines: 1, held: 1, held_for_one: 1 }) })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn is_expelled(guest: &Guest) -> bool {
        guest.seat.visits.load(Ordering::SeqCst) == EXPELLED
    }

    #[test]
    fn half_of_the_descriptors_and_most_of_the_memory_are_left_to_others() {
        let gib = 1 << 30;
        let room =
            |connections, of_one, lines, held, held_for_one| Room { connections, of_one, lines, held, held_for_one };
        assert_eq!(Room::of(20_000, 64 * gib), room(5_000, 1_250, 5_000, 2_500, 625));
        assert_eq!(Room::of(1_048_576, gib / 2), room(2_048, 512, 262_144, 1_024, 256));
        assert_eq!(Room::of(1_048_576, 24 * gib), room(98_304, 24_576, 262_144, 49_152, 1_024));
        for descriptors in [256, 1_024, 65_536, 1_048_576] {
            let room = Room::of(descriptors, 64 * gib);
            // One that waits may need a second descriptor.
            let taken = room.connections + room.leaving() + room.lines + room.held;
            assert!(taken as u64 <= descriptors * 2 / 3, "{descriptors}: {room:?}");
        }
    }

    #[test]
    fn the_one_that_has_been_idle_for_longest_makes_way() {
        let crowd = crowd(3, 3);
        let guests: Vec<_> = (1..=3).map(|last| Arc::new(crowd.admit(address(last)).unwrap())).collect();
        for (guest, since) in guests.iter().zip([0, 1, 2]) {
            guest.seat.idle_since.store(since, Ordering::SeqCst);
        }
        // The first asks something, and has been idle for a shorter time than the others from then on.
        drop(guests[0].visit().unwrap());
        let newcomer = crowd.admit(address(4)).unwrap();
        assert_eq!(guests.iter().map(|guest| is_expelled(guest)).collect::<Vec<_>>(), [false, true, false]);
        assert!(guests[1].visit().is_none(), "a request began on a connection that closes");
        assert!(!is_expelled(&newcomer));
    }

    #[test]
    fn nobody_is_sent_away_during_a_request() {
        let crowd = crowd(2, 2);
        let busy: Vec<_> = (1..=2).map(|last| Arc::new(crowd.admit(address(last)).unwrap())).collect();
        let mut visits: Vec<_> = busy.iter().map(|guest| guest.visit().unwrap()).collect();
        assert!(crowd.admit(address(3)).is_none());
        assert!(!busy.iter().any(|guest| is_expelled(guest)));
        visits.pop();
        assert!(crowd.admit(address(3)).is_none(), "it was looked again at once");
        crowd.lock().everybody.fruitless = Instant::now().checked_sub(LOOK_EVERY);
        assert!(crowd.admit(address(3)).is_some());
        assert!(is_expelled(&busy[1]) && !is_expelled(&busy[0]));
    }

    #[test]
    fn one_address_makes_way_for_itself_before_anybody_else_does() {
        let crowd = crowd(40, 2);
        let other = crowd.admit(address(1)).unwrap();
        let greedy: Vec<_> = (0..6).map(|_| crowd.admit(address(2)).unwrap()).collect();
        assert_eq!(greedy.iter().filter(|guest| !is_expelled(guest)).count(), 2);
        assert!(!is_expelled(&other));
        let inside = crowd.lock();
        assert_eq!((inside.everybody.seats.len(), inside.households.len(), inside.leaving), (3, 2, 4));
        drop(inside);
        drop((other, greedy));
        let inside = crowd.lock();
        assert_eq!((inside.everybody.seats.len(), inside.households.len(), inside.leaving), (0, 0, 0));
    }

    #[test]
    fn those_who_are_told_to_go_and_do_not_are_bounded_too() {
        let crowd = crowd(8, 8);
        let guests: Vec<_> = (0..100).filter_map(|last| crowd.admit(address(last))).collect();
        assert_eq!(guests.len(), 8 + crowd.room.leaving());
    }

    #[test]
    fn requests_of_one_address_are_bounded_over_all_its_connections() {
        let crowd = crowd(10, 2);
        let [one, two] = [1, 1].map(|last| Arc::new(crowd.admit(address(last)).unwrap()));
        let visits = (one.visit().unwrap(), two.visit().unwrap());
        assert!(one.visit().is_none());
        drop(visits);
        assert!(one.visit().is_some());
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        let of = |text: &str| Household::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::3"), of("2001:db8:1:3::3"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("::ffff:192.0.2.1"), of("::ffff:192.0.2.2"));
    }

    #[test]
    fn a_trouble_is_logged_once_a_minute() {
        let seldom = Seldom::default();
        assert_eq!([seldom.now(), seldom.now()], [true, false]);
        *seldom.0.lock().unwrap() = Instant::now().checked_sub(LOG_EVERY);
        assert!(seldom.now());
    }
}
