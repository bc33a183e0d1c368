//! Which host name goes where, read by every request and changed by few.
//!
//! The table of host names is swapped as a whole when one comes or goes. Where one of them goes is its own business
//! ([`Host`]), so that a change costs the same however many there are.
//!
//! What must hold: once [`Routes::set`] has returned, no request enters the old target any more, so that a target
//! that has no request under way stays without one and may be taken down.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use flyloft_core::gate::Guard;
use flyloft_core::name::EnvRef;
use hyper::StatusCode;

use super::host::{Aim, Host, Pass, Place, Sleep};
use super::upstream::Upstreams;
use super::usage::Usage;
use crate::edge::{Route, Target};

type Table = HashMap<Arc<str>, Arc<Host>>;

pub struct Routes {
    table: ArcSwap<Table>,
    /// Held by whoever changes something, and the only way from an address to what is under way there.
    upstreams: Mutex<Upstreams>,
    threads: usize,
}

/// What a request meets.
pub enum Admission {
    Entered(Pass),
    /// It has to wait until this place is another one.
    Held(Arc<Host>, Arc<Place>),
    Refused(Arc<Place>),
}

impl Routes {
    pub fn new(threads: usize) -> Self {
        Self { table: ArcSwap::default(), upstreams: Mutex::default(), threads }
    }

    pub fn set(&self, host: &str, route: Route) {
        let mut upstreams = self.lock();
        let aim = |before: Option<&Place>| match route.target {
            Target::Upstream(address) => Aim::Upstream(upstreams.at(address, self.threads)),
            Target::Held { failure } => {
                let before = before.and_then(|place| match &place.aim {
                    Aim::Held(sleep) => Some(sleep),
                    Aim::Upstream(_) | Aim::Unavailable { .. } | Aim::Gone => None,
                });
                Aim::Held(Sleep::new(failure, before))
            }
            Target::Unavailable { why } => Aim::Unavailable { why },
        };
        let name = host.to_ascii_lowercase();
        let table = self.table.load();
        if let Some(host) = table.get(name.as_str()) {
            host.keep(route.guard);
            return host.change(route.env, |before| aim(Some(before)));
        }
        let mut next = Table::clone(&table);
        next.insert(name.into(), Host::new(route.env, aim(None), route.guard));
        self.table.store(Arc::new(next));
    }

    /// From the return of this call on, newcomers are asked by this guard.
    pub fn keep(&self, host: &str, guard: Option<Arc<Guard>>) {
        self.of(host, |host| host.keep(guard.clone()));
    }

    /// Who keeps the gate of `host` (lower case), if somebody does.
    pub fn guard(&self, host: &str) -> Option<Arc<Guard>> {
        self.table.load().get(host)?.guard()
    }

    /// Counts the answer to a request that was turned away at the gate of `host`, and gives whose that is.
    pub fn turned(&self, host: &str, status: StatusCode) -> Option<EnvRef> {
        self.of(host, |host| {
            host.place().count(status.as_u16());
            host.place().env.clone()
        })
    }

    pub fn explain(&self, host: &str, doing: &str) {
        self.of(host, |host| {
            if let Aim::Held(sleep) = &host.place().aim {
                sleep.explain(doing);
            }
        });
    }

    pub fn remove(&self, host: &str) {
        let _writer = self.lock();
        let mut next = Table::clone(&self.table.load());
        let removed = next.remove(host.to_ascii_lowercase().as_str());
        self.table.store(Arc::new(next));
        // Whoever has found it in the old table turns back to the new one from here on.
        if let Some(host) = removed {
            let env = host.place().env.clone();
            host.change(env, |_| Aim::Gone);
        }
    }

    /// The way for a request for `host` (lower case), entered where there is an upstream. A `quiet` one is no use of it.
    pub fn admit(&self, host: &str, quiet: bool) -> Option<Admission> {
        loop {
            let table = self.table.load();
            let host = table.get(host)?;
            let place = host.place();
            match &place.aim {
                Aim::Upstream(_) => match host.enter(&place, quiet) {
                    Some(pass) => return Some(Admission::Entered(pass)),
                    None => continue,
                },
                Aim::Held(_) => return Some(Admission::Held(host.clone(), place.clone())),
                Aim::Unavailable { .. } => return Some(Admission::Refused(place.clone())),
                Aim::Gone => continue,
            }
        }
    }

    pub fn knows(&self, host: &str) -> bool {
        self.table.load().contains_key(host)
    }

    pub fn usage(&self, host: &str) -> Option<Usage> {
        self.of(host, Host::usage)
    }

    pub fn unused_for(&self, host: &str) -> Option<Duration> {
        self.of(host, Host::unused_for)?
    }

    pub fn last_user(&self, host: &str) -> Option<Arc<str>> {
        self.of(host, Host::last_user)?
    }

    fn of<T>(&self, host: &str, what: impl Fn(&Host) -> T) -> Option<T> {
        self.table.load().get(host.to_ascii_lowercase().as_str()).map(|host| what(host))
    }

    /// Waits until nothing is under way to `address`, for `limit` at most, and says whether it is so.
    pub async fn drained(&self, address: SocketAddr, limit: Duration) -> bool {
        let Some(upstream) = self.lock().get(address) else { return true };
        tokio::time::timeout(limit, upstream.empty()).await.is_ok()
    }

    /// Closes idle connections that nobody has used for `limit`, or that their app has closed, of one thread.
    pub fn sweep(&self, thread: usize, limit: Duration) {
        let upstreams: Vec<_> = self.lock().all().collect();
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

    fn lock(&self) -> MutexGuard<'_, Upstreams> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn route(port: u16) -> Route {
        let upstream = SocketAddr::from(([127, 0, 0, 1], port));
        Route::public(EnvRef::parse("shop/main").unwrap(), Target::Upstream(upstream))
    }

    fn entered(routes: &Routes) -> Option<Pass> {
        match routes.admit("shop.test", false)? {
            Admission::Entered(pass) => Some(pass),
            Admission::Held(..) | Admission::Refused(_) => panic!("not let in"),
        }
    }

    #[test]
    fn whoever_looked_before_a_swap_does_not_enter_after_it() {
        let routes = Routes::new(1);
        routes.set("shop.test", route(1));
        let host = routes.table.load()["shop.test"].clone();
        let place = host.place().clone();
        assert!(host.enter(&place, false).is_some());
        routes.set("shop.test", route(2));
        assert!(host.enter(&place, false).is_none());
        assert_eq!(entered(&routes).unwrap().upstream().address.port(), 2);
        let Aim::Upstream(old) = &place.aim else { panic!("it has an upstream") };
        assert!(old.is_empty());
    }

    #[test]
    fn whoever_looked_before_a_removal_does_not_enter_after_it() {
        let routes = Routes::new(1);
        routes.set("shop.test", route(1));
        let host = routes.table.load()["shop.test"].clone();
        let place = host.place().clone();
        routes.remove("shop.test");
        assert!(host.enter(&place, false).is_none());
        assert!(entered(&routes).is_none());
        routes.set("shop.test", route(2));
        assert_eq!(entered(&routes).unwrap().upstream().address.port(), 2);
        assert!(routes.unused_for("shop.test").is_some());
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
                let pass = entered(&routes).expect("the route is gone");
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
        let (one, two) = (routes.admit("one.test", false), routes.admit("two.test", false));
        let (Some(Admission::Entered(one)), Some(Admission::Entered(two))) = (one, two) else { panic!("not let in") };
        assert!(std::ptr::eq(one.upstream(), two.upstream()));
        drop(one);
        assert!(!two.upstream().is_empty());
    }

    #[test]
    fn a_quiet_request_is_under_way_and_no_use() {
        let routes = Routes::new(1);
        routes.set("shop.test", route(1));
        let Some(Admission::Entered(pass)) = routes.admit("shop.test", true) else { panic!("not let in") };
        assert!(!pass.upstream().is_empty());
        drop(pass);
        assert_eq!(routes.unused_for("shop.test"), None);
    }
}
