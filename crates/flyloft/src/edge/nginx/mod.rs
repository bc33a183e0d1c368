//! nginx as the edge, on servers that run it already.
//!
//! ```text
//!                            straight, where an app is awake
//!   clients ══► nginx ══════════════════════════════════════════════► app
//!                 ║  ▲ reads anew                                      ▲
//!   all the rest: ║  └─ keeper ◄── plan ◄── set, remove, drained       ║
//!                 ╚══► edge.sock ══► the embedded edge: holds, wakes ══╝
//!                 log.sock ──► uses, and the host's sockets ──► when it was last used
//! ```
//!
//! The embedded edge knows every route and stays right at any moment; nginx is told afterwards, of what may go straight.
//! A host name that nginx does not know goes to the embedded edge. What must hold: an app is not put to rest before nginx
//! sends it nobody any more, and whoever slips through all the same, on a connection that one of nginx's old processes
//! had open before, is found and wakes it: a frozen app's kernel accepts connections, so nobody is lost.

mod barrier;
mod certificates;
pub mod files;
mod keeper;
mod master;
mod snippets;
mod sockets;
#[cfg(test)]
mod tests;
mod tongue;
mod trial;
mod uses;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flyloft_core::gate::Guard;
use flyloft_core::host::HostName;
use flyloft_core::name::EnvRef;
use flyloft_core::nginx::{Haste, KEPT, Plan};
use nix::unistd::Uid;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub use self::barrier::Barrier;
pub use self::certificates::SecurePlace;
pub use self::keeper::Place;
use self::keeper::{Desk, Keeper};
pub use self::master::{Master, Trouble};
use self::snippets::Snippets;
pub use self::snippets::{Refusals, would_begin};
use self::sockets::Sockets;
use self::uses::Uses;
use super::{Edge, EdgeError, Route, SharedEdge, Target, Visit, Visits};

/// How often one looks who is still connected to an app.
const LOOK: Duration = Duration::from_millis(20);

/// The same, to an app that rests.
const WATCH: Duration = Duration::from_millis(250);

/// After this much time without any request that ended, whatever is connected has one under way.
const SURELY_BUSY: Duration = Duration::from_secs(KEPT.as_secs() + 2);

/// How to open an [`Nginx`].
pub struct NginxConfig {
    pub place: Place,
    /// Whom nginx's workers run as.
    pub workers: Uid,
    /// Where nginx logs, in the directory of the place.
    pub log: UnixDatagram,
    pub quiet_agents: Vec<String>,
    /// Where the administrator has lines for single apps, `APP.conf`.
    pub snippets: PathBuf,
    /// Where certificates may be that nginx is to read no more.
    pub leftover: Option<PathBuf>,
    /// What is routed already in the edge that takes what does not go straight.
    pub routes: Vec<(String, Route)>,
    /// Who is told of those that slip through.
    pub visits: Visits,
}

pub struct Nginx {
    /// Takes what does not go straight, in the directory of the place.
    inner: SharedEdge,
    desk: Arc<Desk>,
    uses: Arc<Uses>,
    sockets: Sockets,
    apps: Arc<Mutex<Apps>>,
    barrier: Arc<Barrier>,
    refusals: watch::Receiver<Refusals>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// Who is behind an address.
#[derive(Default)]
struct Apps {
    known: HashMap<SocketAddr, (EnvRef, HostName)>,
    /// Those that nobody is to be connected to any more.
    resting: HashMap<SocketAddr, (EnvRef, HostName)>,
    /// Those that have a gate, at rest or not.
    guarded: BTreeSet<HostName>,
    /// Those that go straight no more because something else will soon, and where they went.
    expected: HashMap<HostName, SocketAddr>,
    /// Those that would go straight if they had no gate, at which flyloft asks, and where to.
    gated: BTreeMap<HostName, SocketAddr>,
}

impl Apps {
    fn is_at(&mut self, env: EnvRef, host: HostName, address: SocketAddr) {
        self.resting.retain(|_, (resting, _)| *resting != env);
        self.known.retain(|_, (known, _)| *known != env);
        self.known.insert(address, (env, host));
    }

    fn has_gate(&mut self, host: &HostName, has_gate: bool) {
        match has_gate {
            true => drop(self.guarded.insert(host.clone())),
            false => drop(self.guarded.remove(host)),
        }
    }

    fn rests(&mut self, address: SocketAddr) {
        if let Some(known) = self.known.remove(&address) {
            self.resting.insert(address, known);
        }
    }
}

impl Nginx {
    /// Begins to keep nginx at what is wanted, whether it runs or not. Must be called in a runtime.
    pub fn open(inner: SharedEdge, config: NginxConfig) -> std::io::Result<Arc<Self>> {
        let NginxConfig { place, workers, log, quiet_agents, snippets, leftover, routes, visits } = config;
        let mut apps = Apps::default();
        let (mut straight, mut gated, mut hosts) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for (host, Route { env, target, guard }) in routes {
            let Ok(host) = HostName::parse(&host) else { continue };
            hosts.push((host.clone(), env.app.clone()));
            apps.has_gate(&host, guard.is_some());
            if let Target::Upstream(address) = target {
                apps.known.insert(address, (env, host.clone()));
                let goes = if guard.is_none() { &mut straight } else { &mut gated };
                goes.insert(host, address);
            }
        }
        apps.gated = gated;
        let mut plan = Plan::new(straight);
        for (host, app) in hosts {
            plan.belongs(&host, &app);
        }
        let (desk, apps) = (Arc::new(Desk::new(plan)), Arc::new(Mutex::new(apps)));
        let barrier = Arc::new(Barrier::new(&place.instance, workers));
        let (place, troubles) = (Arc::new(place), desk.troubles());
        let snippets = Snippets::new(snippets, &place.dir);
        let refusals = snippets.refusals();
        log.set_nonblocking(true)?;
        let log = tokio::net::UnixDatagram::from_std(log)?;
        let uses = Arc::new(Uses::new(&quiet_agents));
        let asked = desk.clone();
        let is_straight =
            move |host: &str| HostName::parse(host).is_ok_and(|host| asked.with(|plan| plan.may_go_straight(&host)));
        let tasks = vec![
            tokio::spawn(Keeper::new(desk.clone(), place.clone(), snippets, leftover).run()),
            tokio::spawn(uses.clone().listen(log, is_straight)),
            tokio::spawn(watch_those_at_rest(apps.clone(), place, visits)),
            tokio::spawn(keep_to_gates(troubles, desk.clone(), apps.clone(), barrier.clone())),
        ];
        let tasks = tasks.into_iter().map(AbortOnDropHandle::new).collect();
        let sockets = Sockets::default();
        Ok(Arc::new(Self { inner, desk, uses, sockets, apps, barrier, refusals, _tasks: tasks }))
    }

    /// What is wrong with nginx, each time that this changes.
    pub fn troubles(&self) -> watch::Receiver<Option<Trouble>> {
        self.desk.troubles()
    }

    /// Which apps' snippets are not used, and why, each time that this changes.
    pub fn refusals(&self) -> watch::Receiver<Refusals> {
        self.refusals.clone()
    }

    /// Has all requests for a host name come here, and waits until they do, and until nginx knows of its app's snippet.
    async fn ask_here(&self, name: &HostName) -> Result<(), EdgeError> {
        self.desk.with(|plan| {
            plan.come_here(name);
            if plan.may_go_straight(name) {
                plan.hurry(Haste::Now);
            }
        });
        Ok(self.desk.until(|plan| !plan.may_go_straight(name) && !plan.may_miss_snippet(name)).await?)
    }

    /// The same of one that has a gate. An nginx that goes on as it was told before is kept from what has one.
    async fn ask_at_gate(&self, name: &HostName) -> Result<(), EdgeError> {
        let asked = self.ask_here(name).await;
        if !self.desk.is_stuck() {
            return asked;
        }
        if let Err(error) = self.barrier.bar(past_gates(&self.desk, &self.apps)).await {
            tracing::error!(%error, "failed to keep nginx from what has a gate");
            return asked;
        }
        let is_kept = self.apps().gated.contains_key(name) && !self.desk.with(|plan| plan.may_miss_snippet(name));
        if is_kept { Ok(()) } else { asked }
    }

    fn apps(&self) -> MutexGuard<'_, Apps> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Edge for Nginx {
    async fn set(&self, host: &str, route: Route) -> Result<(), EdgeError> {
        let Ok(name) = HostName::parse(host) else { return self.inner.set(host, route).await };
        let (env, target, has_gate) = (route.env.clone(), route.target.clone(), route.guard.is_some());
        // Whoever nginx brings here finds the way at once.
        self.inner.set(host, route).await?;
        {
            let mut apps = self.apps();
            apps.expected.remove(&name);
            apps.gated.remove(&name);
            apps.has_gate(&name, has_gate);
        }
        let Target::Upstream(address) = target else {
            self.desk.with(|plan| {
                plan.belongs(&name, &env.app);
                plan.come_here(&name);
            });
            return Ok(self.desk.until(|plan| !plan.may_miss_snippet(&name)).await?);
        };
        let app = env.app.clone();
        self.apps().is_at(env, name.clone(), address);
        self.desk.with(|plan| plan.belongs(&name, &app));
        if has_gate {
            self.apps().gated.insert(name.clone(), address);
            return self.ask_at_gate(&name).await;
        }
        self.desk.with(|plan| plan.go_straight(name.clone(), address));
        let is_so = |plan: &Plan| !plan.may_mislead(&name, address) && !plan.may_miss_snippet(&name);
        Ok(self.desk.until(is_so).await?)
    }

    async fn remove(&self, host: &str) -> Result<(), EdgeError> {
        self.inner.remove(host).await?;
        let Ok(name) = HostName::parse(host) else { return Ok(()) };
        self.uses.forget(host);
        {
            let mut apps = self.apps();
            apps.gated.remove(&name);
            apps.has_gate(&name, false);
        }
        self.desk.with(|plan| plan.forget(&name));
        self.ask_here(&name).await
    }

    async fn guard(&self, host: &str, guard: Option<Arc<Guard>>) -> Result<(), EdgeError> {
        let has_gate = guard.is_some();
        self.inner.guard(host, guard).await?;
        let Ok(name) = HostName::parse(host) else { return Ok(()) };
        {
            let mut apps = self.apps();
            apps.has_gate(&name, has_gate);
            if has_gate {
                let expected = apps.expected.remove(&name);
                if let Some(address) = self.desk.with(|plan| plan.straight(&name)).or(expected) {
                    apps.gated.insert(name.clone(), address);
                }
            } else if let Some(address) = apps.gated.remove(&name) {
                self.desk.with(|plan| plan.go_straight(name.clone(), address));
            }
        }
        match has_gate {
            true => self.ask_at_gate(&name).await,
            false => Ok(()),
        }
    }

    fn expect(&self, host: &str, change: bool) {
        let Ok(name) = HostName::parse(host) else { return };
        let mut apps = self.apps();
        self.desk.with(|plan| match (change, plan.straight(&name)) {
            (true, Some(address)) => {
                apps.expected.insert(name.clone(), address);
                plan.come_here(&name);
            }
            (false, None) => {
                if let Some(address) = apps.expected.remove(&name) {
                    plan.go_straight(name.clone(), address);
                }
            }
            _ => {}
        });
    }

    fn explain(&self, host: &str, doing: &str) {
        self.inner.explain(host, doing);
    }

    fn unused_for(&self, host: &str) -> Option<Duration> {
        let inner = self.inner.unused_for(host);
        let Ok(name) = HostName::parse(host) else { return inner };
        let its = self.uses.of(name.as_str());
        let seen = its.visited.map(|at| at.elapsed());
        // nginx tells of a request when it has ended.
        let is_quiet = its.asked.is_none_or(|at| at.elapsed() > SURELY_BUSY);
        let straight = self.desk.with(|plan| plan.straight(&name)).filter(|_| is_quiet);
        let long_ago = Instant::now() - 5 * LOOK;
        let is_busy = straight.is_some_and(|address| self.sockets.open_to(address, long_ago));
        [inner, seen, is_busy.then_some(Duration::ZERO)].into_iter().flatten().min()
    }

    fn last_user(&self, host: &str) -> Option<Arc<str>> {
        // nginx's lines have no clients in them.
        let straight = HostName::parse(host).ok().and_then(|name| self.uses.of(name.as_str()).visited);
        let is_newer =
            straight.is_some_and(|at| self.inner.unused_for(host).is_none_or(|unused| at.elapsed() < unused));
        if is_newer { Some("a visitor by way of nginx".into()) } else { self.inner.last_user(host) }
    }

    fn answers(&self, host: &str) -> [u64; 5] {
        let (inner, straight) = (self.inner.answers(host), self.uses.of(host).answers);
        std::array::from_fn(|class| inner[class] + straight[class])
    }

    async fn drained(&self, upstream: SocketAddr, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.desk.with(|plan| {
            if plan.may_reach(upstream) {
                plan.hurry(Haste::Soon);
            }
        });
        let left = async {
            // While nginx does not take its configuration, somebody may come at any time.
            while self.desk.until(|plan| !plan.may_reach(upstream)).await.is_err() {
                tokio::time::sleep(WATCH).await;
            }
            let since = Instant::now();
            while self.sockets.open_to(upstream, since) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(limit, left).await.is_err() {
            return false;
        }
        let drained = self.inner.drained(upstream, deadline.saturating_duration_since(Instant::now())).await;
        if drained {
            self.apps().rests(upstream);
        }
        drained
    }
}

/// Where nginx may send people past a gate.
fn past_gates(desk: &Desk, apps: &Mutex<Apps>) -> BTreeSet<SocketAddr> {
    let apps = apps.lock().unwrap_or_else(PoisonError::into_inner);
    desk.with(|plan| {
        let plan = &*plan;
        // By its own host name, or by another one that had its address before.
        let gated = apps.gated.iter();
        let ways = gated.flat_map(|(host, to)| plan.ways(host).chain(plan.may_reach(*to).then_some(*to)));
        ways.collect()
    })
}

/// Keeps nginx from what has a gate for as long as it goes on as it was told before, which may have been by another daemon.
async fn keep_to_gates(
    mut troubles: watch::Receiver<Option<Trouble>>,
    desk: Arc<Desk>,
    apps: Arc<Mutex<Apps>>,
    barrier: Arc<Barrier>,
) {
    while troubles.changed().await.is_ok() {
        let kept = match desk.is_stuck() {
            true => barrier.bar(past_gates(&desk, &apps)).await,
            false => barrier.lift().await,
        };
        if let Err(error) = kept {
            tracing::error!(%error, "failed to keep nginx to gates");
        }
    }
}

/// Tells of those who are connected to an app that rests, for as long as nginx has processes that may have let them in.
async fn watch_those_at_rest(apps: Arc<Mutex<Apps>>, place: Arc<Place>, visits: Visits) {
    let lock = || apps.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        tokio::time::sleep(WATCH).await;
        let at_rest: Vec<SocketAddr> = lock().resting.keys().copied().collect();
        if at_rest.is_empty() {
            continue;
        }
        let open = sockets::open();
        let has_leaving = place.master.has_leaving();
        let mut apps = lock();
        for address in at_rest {
            // Who has no process left that knew of it needs no eye any more.
            // Whoever was let in past a gate that is shut since wakes nobody.
            let is_let_in = apps.resting.get(&address).is_some_and(|(_, host)| !apps.guarded.contains(host));
            if open.contains(&address)
                && is_let_in
                && let Some((env, _)) = apps.resting.remove(&address)
            {
                let by = "a connection that nginx had open".to_owned();
                let _ = visits.send(Visit { env, by, at: Instant::now(), passage: None });
            } else if !has_leaving {
                apps.resting.remove(&address);
            }
        }
    }
}

/// Whether a configuration, as `nginx -T` prints it, has this file in it.
pub fn includes(dump: &str, file: &Path) -> bool {
    let marked = format!("# configuration file {}:", file.display());
    dump.lines().any(|line| line == marked)
}
