//! Which host name goes where, read by every request and swapped as a whole by the few that write.
//!
//! What must hold: once [`Routes::set`] has returned, no request enters the old target any more, so that a target
//! that has no request under way stays without one and may be taken down.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use flyloft_core::name::EnvRef;
use tokio::sync::Notify;

use super::line::Pool;
use crate::edge::{Route, Target};

type Table = HashMap<Arc<str>, Arc<Place>>;

pub struct Routes {
    table: ArcSwap<Table>,
    /// Held by whoever changes the table, and the only way from an address to what is under way there.
    upstreams: Mutex<HashMap<SocketAddr, Weak<Upstream>>>,
    threads: usize,
}

/// Where the requests for one host name go.
pub struct Place {
    pub env: EnvRef,
    pub aim: Aim,
    usage: Arc<Counters>,
}

pub enum Aim {
    Upstream(Arc<Upstream>),
    /// `told` once its daemon knows that somebody waits.
    Held {
        failure: Option<String>,
        told: AtomicBool,
    },
    Unavailable {
        why: String,
    },
}

/// One address that answers requests, and what is under way to it.
pub struct Upstream {
    pub address: SocketAddr,
    /// Idle connections, one pool for each thread of the edge.
    pub pools: Box<[Pool]>,
    in_flight: AtomicUsize,
    left: Notify,
}

/// A request on its way to an upstream; dropped when the last byte of its answer is on its way back.
pub struct Pass {
    place: Arc<Place>,
}

/// How a host name has been used since it was first routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// When a request for it last came in or ended.
    pub last: Option<SystemTime>,
    /// Answers by the hundreds of their status: `[1xx, 2xx, 3xx, 4xx, 5xx]`.
    pub answers: [u64; 5],
}

#[derive(Default)]
struct Counters {
    /// Milliseconds since the epoch; 0 before the first request.
    last: AtomicU64,
    answers: [AtomicU64; 5],
}

impl Routes {
    pub fn new(threads: usize) -> Self {
        Self { table: ArcSwap::default(), upstreams: Mutex::default(), threads }
    }

    pub fn set(&self, host: &str, route: Route) {
        let mut upstreams = self.lock();
        let table = self.table.load();
        let host: Arc<str> = host.to_ascii_lowercase().into();
        let usage = table.get(&host).map(|place| place.usage.clone()).unwrap_or_default();
        let aim = match route.target {
            Target::Upstream(address) => Aim::Upstream(self.upstream(&mut upstreams, address)),
            Target::Held { failure } => Aim::Held { failure, told: AtomicBool::new(false) },
            Target::Unavailable { why } => Aim::Unavailable { why },
        };
        let mut next = Table::clone(&table);
        next.insert(host, Arc::new(Place { env: route.env, aim, usage }));
        self.publish(next);
    }

    pub fn remove(&self, host: &str) {
        let _writer = self.lock();
        let mut next = Table::clone(&self.table.load());
        next.remove(host.to_ascii_lowercase().as_str());
        self.publish(next);
    }

    /// The place for `host` (lower case), entered where it has an upstream.
    pub fn admit(&self, host: &str) -> Option<Admission> {
        loop {
            let table = self.table.load();
            let place = table.get(host)?;
            place.usage.touch();
            if let Aim::Held { .. } | Aim::Unavailable { .. } = place.aim {
                return Some(Admission::Refused(place.clone()));
            }
            if let Some(pass) = self.enter(&table, place) {
                return Some(Admission::Entered(pass));
            }
        }
    }

    /// Enters a place that was found in `table`, unless the table has been swapped meanwhile.
    ///
    /// Whoever swaps the table publishes first and counts then; this counts first and looks at the table again. With a
    /// fence on each side at least one of the two sees the other, so nobody enters what has been found empty.
    fn enter(&self, table: &Arc<Table>, place: &Arc<Place>) -> Option<Pass> {
        let pass = Pass { place: place.clone() };
        pass.upstream().in_flight.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Arc::ptr_eq(table, &self.table.load()).then_some(pass)
    }

    pub fn usage(&self, host: &str) -> Option<Usage> {
        Some(self.table.load().get(host.to_ascii_lowercase().as_str())?.usage.read())
    }

    /// Waits until nothing is under way to `address`, for `limit` at most, and says whether it is so.
    pub async fn drained(&self, address: SocketAddr, limit: Duration) -> bool {
        let Some(upstream) = self.lock().get(&address).and_then(Weak::upgrade) else { return true };
        tokio::time::timeout(limit, upstream.empty()).await.is_ok()
    }

    /// Closes idle connections that nobody has used for `limit`, or that their app has closed, of one thread.
    pub fn sweep(&self, thread: usize, limit: Duration) {
        let upstreams: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        for upstream in upstreams {
            upstream.pools[thread].sweep(limit);
        }
    }

    /// Closes all idle connections.
    pub fn close_idle(&self) {
        for thread in 0..self.threads {
            self.sweep(thread, Duration::ZERO);
        }
    }

    fn publish(&self, table: Table) {
        self.table.store(Arc::new(table));
        fence(Ordering::SeqCst);
    }

    /// The one [`Upstream`] of an address, so that two host names with the same target count together.
    fn upstream(&self, known: &mut HashMap<SocketAddr, Weak<Upstream>>, address: SocketAddr) -> Arc<Upstream> {
        known.retain(|_, upstream| upstream.strong_count() > 0);
        if let Some(upstream) = known.get(&address).and_then(Weak::upgrade) {
            return upstream;
        }
        let upstream = Arc::new(Upstream {
            address,
            pools: (0..self.threads).map(|_| Pool::default()).collect(),
            in_flight: AtomicUsize::new(0),
            left: Notify::new(),
        });
        known.insert(address, Arc::downgrade(&upstream));
        upstream
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Weak<Upstream>>> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request meets at the table.
pub enum Admission {
    Entered(Pass),
    Refused(Arc<Place>),
}

impl Upstream {
    async fn empty(&self) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if self.in_flight.load(Ordering::SeqCst) == 0 {
                return;
            }
            left.await;
        }
    }
}

impl Place {
    pub fn count(&self, status: u16) {
        if let Some(answers) = self.usage.answers.get(usize::from(status / 100).wrapping_sub(1)) {
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Pass {
    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn upstream(&self) -> &Upstream {
        match &self.place.aim {
            Aim::Upstream(upstream) => upstream,
            Aim::Held { .. } | Aim::Unavailable { .. } => unreachable!("a pass is only given out for an upstream"),
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.place.usage.touch();
        let upstream = self.upstream();
        if upstream.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            upstream.left.notify_waiters();
        }
    }
}

impl Counters {
    fn touch(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last.store(now.as_millis() as u64, Ordering::Relaxed);
    }

    fn read(&self) -> Usage {
        let last = self.last.load(Ordering::Relaxed);
        Usage {
            last: (last > 0).then(|| UNIX_EPOCH + Duration::from_millis(last)),
            answers: std::array::from_fn(|class| self.answers[class].load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(port: u16) -> Route {
        let upstream = SocketAddr::from(([127, 0, 0, 1], port));
        Route { env: EnvRef::parse("shop/main").unwrap(), target: Target::Upstream(upstream) }
    }

    #[test]
    fn whoever_looked_before_a_swap_does_not_enter_after_it() {
        let routes = Routes::new(1);
        routes.set("shop.test", route(1));
        let table = routes.table.load();
        let place = &table["shop.test"];
        assert!(routes.enter(&table, place).is_some());
        routes.set("shop.test", route(2));
        assert!(routes.enter(&table, place).is_none());
        let Some(Admission::Entered(pass)) = routes.admit("shop.test") else { panic!("not let in") };
        assert_eq!(pass.upstream().address.port(), 2);
        let Aim::Upstream(old) = &place.aim else { panic!("it has an upstream") };
        assert_eq!(old.in_flight.load(Ordering::SeqCst), 0);
    }

    /// Two threads enter and leave without pause; a third swaps two targets, and closes each once it is drained.
    #[test]
    fn nobody_is_let_in_where_everybody_has_left() {
        let open = [AtomicBool::new(true), AtomicBool::new(false)];
        let (routes, done) = (Routes::new(1), AtomicBool::new(false));
        routes.set("shop.test", route(0));
        let visit = || {
            let mut visits = 0_u64;
            while !done.load(Ordering::SeqCst) {
                let Some(Admission::Entered(pass)) = routes.admit("shop.test") else { panic!("the route is gone") };
                let at = pass.upstream().address.port();
                assert!(open[usize::from(at)].load(Ordering::SeqCst), "let in after it was drained");
                visits += 1;
            }
            visits
        };
        let swap = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            for turn in 0..2_000 {
                let (old, new) = (turn % 2, (turn + 1) % 2);
                open[usize::from(new)].store(true, Ordering::SeqCst);
                routes.set("shop.test", route(new));
                assert!(runtime.block_on(routes.drained(([127, 0, 0, 1], old).into(), Duration::from_secs(20))));
                open[usize::from(old)].store(false, Ordering::SeqCst);
            }
        };
        std::thread::scope(|scope| {
            let visitors = [scope.spawn(visit), scope.spawn(visit)];
            let swapped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(swap));
            done.store(true, Ordering::SeqCst);
            for visitor in visitors {
                assert!(visitor.join().unwrap() > 0);
            }
            swapped.unwrap();
        });
    }

    #[test]
    fn two_hosts_with_one_target_count_together() {
        let routes = Routes::new(1);
        routes.set("one.test", route(1));
        routes.set("two.test", route(1));
        let (one, two) = (routes.admit("one.test"), routes.admit("two.test"));
        let (Some(Admission::Entered(one)), Some(Admission::Entered(two))) = (one, two) else { panic!("not let in") };
        assert!(std::ptr::eq(one.upstream(), two.upstream()));
        assert_eq!(one.upstream().in_flight.load(Ordering::SeqCst), 2);
    }
}
