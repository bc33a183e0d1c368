//! Who may be awake: bounded by the memory that the machine has.
//!
//! Before an environment wakes, or a container is launched, there must be room for what it needs. If there is none, the
//! longest idle fall asleep first, and where that is not enough the longest asleep are written out, as they are when
//! compressed memory is full. What is decided is decided by [`flyloft_core::admission`]. Whoever has to wait does so
//! in the order of arrival, but whoever does not fit lets those behind have their turn for half of the time that it
//! waits; whoever is let in has a [`Place`], which counts what it needs as taken until the kernel sees that it is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flyloft_core::admission::{self, Decision, Idler, Memory, Pool, Sleeper, admit};
use flyloft_core::lifecycle::{Deploying, Depth, Event, Live, Runs, State, Timestamp};

use crate::clock::Clock;
use crate::conductor::Conductor;
use crate::edge::SharedEdge;
use crate::error::{Error, Result};
use crate::machine::load::Load;
use crate::store::EnvId;

/// How long somebody waits for room. A request is held for 30 s, and a wake has to follow.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);

/// What an environment needs of which nothing is known yet, in bytes.
const UNKNOWN: u64 = 96 << 20;

/// Per cent of time in which somebody waited for memory, from where on it is short.
const PRESSED: f32 = 20.0;

type Look = Box<dyn Fn() -> Seen + Send + Sync>;

/// The machine's memory as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Bytes.
    pub available: u64,
    /// Whether somebody waits for it.
    pub pressed: bool,
    /// None where nothing leads from compressed memory to a disk.
    pub pool: Option<Pool>,
    /// Bytes of swap.
    pub swap_free: u64,
}

impl Seen {
    fn of(load: &Load) -> Self {
        let pool = Pool { taken: load.zswap.taken, most: load.zswap_most };
        Self {
            available: load.available,
            pressed: load.pressure.is_some_and(|pressure| pressure.some > PRESSED),
            pool: (pool.most > 0 && load.zram == Default::default()).then_some(pool),
            swap_free: load.swap_free,
        }
    }
}

pub struct Admission {
    clock: Clock,
    edge: SharedEdge,
    look: Look,
    /// Bytes that stay free.
    reserve: u64,
    patience: Duration,
    promised: Arc<AtomicU64>,
    turn: tokio::sync::Mutex<()>,
    /// Held by whoever has others written out.
    relieving: tokio::sync::Mutex<()>,
    known: Mutex<HashMap<EnvId, Known>>,
}

/// An environment that may be awake.
struct Known {
    conductor: Conductor,
    host: String,
    memory: Weight,
}

/// Bytes that an environment holds when it is awake. Clones are the same.
#[derive(Clone)]
pub struct Weight(Arc<AtomicU64>);

/// Memory that somebody was promised, for as long as they have this.
pub struct Place {
    bytes: u64,
    promised: Arc<AtomicU64>,
}

impl Weight {
    pub fn new(bytes: Option<u64>) -> Self {
        Self(Arc::new(bytes.unwrap_or(UNKNOWN).into()))
    }

    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Place {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.promised.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

impl Admission {
    /// For this machine, of which `reserve` bytes stay free: a twentieth where nobody says how many.
    pub fn new(clock: Clock, edge: SharedEdge, reserve: Option<u64>) -> Self {
        let reserve = reserve.unwrap_or_else(|| (crate::machine::Memory::look().total / 20).max(64 << 20));
        Self::with(clock, edge, Box::new(|| Seen::of(&Load::look())), reserve, PATIENCE)
    }

    pub fn with(clock: Clock, edge: SharedEdge, look: Look, reserve: u64, patience: Duration) -> Self {
        let (promised, turn, relieving, known) = Default::default();
        Self { clock, edge, look, reserve, patience, promised, turn, relieving, known }
    }

    /// Makes an environment known, which may be asked to make room from then on.
    pub fn know(&self, id: EnvId, conductor: Conductor, host: String, memory: Weight) {
        self.lock().insert(id, Known { conductor, host, memory });
    }

    /// Forgets those that have been destroyed. Now and then is enough: they are nothing but in the way.
    pub fn forget_the_gone(&self) {
        self.lock().retain(|_, known| !known.conductor.is_gone());
    }

    /// Who speaks for an environment.
    pub fn conductor(&self, id: EnvId) -> Option<Conductor> {
        self.lock().get(&id).map(|known| known.conductor.clone())
    }

    /// Lets somebody in at once, if there is room and nobody waits.
    pub fn enter_now(&self, id: EnvId, need: u64) -> Option<Place> {
        let _turn = self.turn.try_lock().ok()?;
        matches!(self.decide(id, need).0, Decision::Enter).then(|| self.place(need))
    }

    /// Waits for room, and has others make it. Whatever these do with their time: whoever waits is told in time, and is in
    /// nobody's way after that.
    pub async fn enter(&self, id: EnvId, need: u64) -> Result<Place> {
        tokio::time::timeout(self.patience, self.wait_for_room(id, need)).await.unwrap_or_else(|_| Err(full(need)))
    }

    async fn wait_for_room(&self, id: EnvId, need: u64) -> Result<Place> {
        let begun = Instant::now();
        let mut turn = None;
        let mut asked = false;
        loop {
            if turn.is_none() {
                turn = Some(self.turn.lock().await);
            }
            let (decision, known) = self.decide(id, need);
            match decision {
                Decision::Enter => return Ok(self.place(need)),
                // Under pressure each who comes sends one to sleep, and not all.
                Decision::After(_) if asked && self.memory().free() >= need => return Ok(self.place(need)),
                Decision::After(idlers) => {
                    asked = true;
                    for conductor in idlers.iter().filter_map(|id| known.get(id)) {
                        // Whoever is used just now stays awake.
                        if conductor.make_room().await {
                            conductor.at_rest().await.ok();
                        }
                    }
                }
                Decision::Full => {
                    // Those behind may fit. But not all the time, or what they take is never enough for this one.
                    if begun.elapsed() < self.patience / 2 {
                        turn = None;
                    }
                    self.write_out(|| need.saturating_sub(self.memory().free()), Some(id)).await;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Has the longest asleep written out where compressed memory is full. For whoever has just filled it: those who are
    /// at it already have not seen that.
    pub async fn relieve(&self) {
        let _alone = self.relieving.lock().await;
        self.write_out(|| 0, None).await;
    }

    /// Has others written out, for as many bytes as are wanted by then.
    async fn write_out(&self, wanted: impl Fn() -> u64, spared: Option<EnvId>) {
        let Some(pool) = (self.look)().pool else { return };
        let known: HashMap<EnvId, Conductor> =
            self.lock().iter().map(|(id, known)| (*id, known.conductor.clone())).collect();
        let sleepers = known.iter().filter_map(|(id, conductor)| match conductor.state() {
            State::Live(Live { runs: Runs::Asleep { since, depth: Depth::Shallow, .. }, .. }) => {
                (spared != Some(*id)).then_some(Sleeper { id: *id, since })
            }
            _ => None,
        });
        let at_first = wanted();
        for id in admission::write_out(pool, at_first, sleepers.collect()) {
            // Those before it may have been enough.
            if at_first > 0 && wanted() == 0 {
                return;
            }
            // Whoever is visited just now stays where it is.
            if known[&id].tell(Event::Deepen).await.is_ok() {
                known[&id].at_rest().await.ok();
            }
        }
    }

    /// Bytes of the machine's swap that nobody has.
    pub fn swap_free(&self) -> u64 {
        (self.look)().swap_free
    }

    /// Counts somebody who is let in whatever there is.
    pub fn count(&self, need: u64) -> Place {
        self.place(need)
    }

    fn place(&self, bytes: u64) -> Place {
        self.promised.fetch_add(bytes, Ordering::SeqCst);
        Place { bytes, promised: self.promised.clone() }
    }

    fn memory(&self) -> Memory {
        let Seen { available, pressed, .. } = (self.look)();
        Memory { available, promised: self.promised.load(Ordering::SeqCst), reserve: self.reserve, pressed }
    }

    /// What is to be done, and by whom.
    fn decide(&self, newcomer: EnvId, need: u64) -> (Decision<EnvId>, HashMap<EnvId, Conductor>) {
        let memory = self.memory();
        // Most often that is all there is to see.
        if memory.free() >= need && !memory.pressed {
            return (Decision::Enter, HashMap::new());
        }
        let known = self.lock();
        let others = || known.iter().filter(|(id, known)| **id != newcomer && is_awake(&known.conductor.state()));
        let idlers = others().filter_map(|(id, known)| {
            Some(Idler { id: *id, last_used: self.idle_since(known)?, memory: known.memory.bytes() })
        });
        let alone = others().next().is_none() && memory.promised == 0;
        let decision = admit(memory, need, alone, idlers.collect(), self.clock.now());
        (decision, known.iter().map(|(id, known)| (*id, known.conductor.clone())).collect())
    }

    /// Since when nobody uses what is awake; `None` while somebody does, or will when it has woken.
    fn idle_since(&self, known: &Known) -> Option<Timestamp> {
        let State::Live(live @ Live { runs: Runs::Awake { .. }, .. }) = known.conductor.state() else { return None };
        if known.conductor.commands() > 0 || live.deploying != Deploying::No {
            return None;
        }
        // Whoever could not fall asleep a moment ago cannot make room, either.
        let idle_since = live.idle_since();
        let last_used = known.conductor.last_command().map_or(idle_since, |last| idle_since.max(last));
        match self.edge.unused_for(&known.host) {
            Some(Duration::ZERO) => None,
            Some(unused) => Some(last_used.max(self.clock.now().minus(unused))),
            None => Some(last_used),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EnvId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_awake(state: &State) -> bool {
    matches!(state, State::Live(live) if matches!(live.runs, Runs::Awake { .. } | Runs::Waking { .. }))
}

fn full(need: u64) -> Error {
    let need = need.div_ceil(1 << 20);
    Error::failed(format!("the machine has no {need} MiB of memory free, and nobody who is awake can make room"))
        .hint("try again in a moment, or destroy what nobody needs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loft::stage::Doorman;

    /// A machine that has so many MiB free, and one who was let in already.
    fn machine(free: u64, patience: Duration) -> (Arc<Admission>, Arc<AtomicU64>, Place) {
        let available = Arc::new(AtomicU64::new((free << 20) + 1));
        let look = available.clone();
        let look = move || Seen { available: look.load(Ordering::SeqCst), pressed: false, pool: None, swap_free: 0 };
        let admission =
            Admission::with(Clock::of_the_wall(), Arc::new(Doorman::default()), Box::new(look), 0, patience);
        // Or whoever comes is alone, and let in in any case.
        let place = admission.enter_now(EnvId(1), 1).unwrap();
        (Arc::new(admission), available, place)
    }

    fn enter(admission: &Arc<Admission>, id: i64, mib: u64) -> tokio::task::JoinHandle<Result<Place>> {
        let admission = admission.clone();
        tokio::spawn(async move { admission.enter(EnvId(id), mib << 20).await })
    }

    #[tokio::test]
    async fn whoever_does_not_fit_lets_those_behind_pass_who_do() {
        let (admission, _, _place) = machine(40, Duration::from_secs(20));
        let big = enter(&admission, 2, 100);
        tokio::time::sleep(PAUSE / 4).await;
        let small = tokio::time::timeout(Duration::from_secs(5), enter(&admission, 3, 30)).await;
        assert!(small.expect("it waits for the big one").unwrap().is_ok());
        assert!(!big.is_finished());
        big.abort();
    }

    #[tokio::test]
    async fn whoever_is_big_is_not_passed_for_ever() {
        let patience = Duration::from_secs(4);
        let (admission, available, _place) = machine(40, patience);
        let big = enter(&admission, 2, 100);
        tokio::time::sleep(patience / 2 + 2 * PAUSE).await;
        assert!(admission.enter_now(EnvId(3), 1 << 20).is_none(), "it passes to the end");
        let small = enter(&admission, 3, 1);
        available.store(120 << 20, Ordering::SeqCst);
        assert!(big.await.unwrap().is_ok());
        assert!(small.await.unwrap().is_ok());
    }
}
