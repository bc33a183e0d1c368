//! One host name: where its requests go now, how it is used, and who waits for it.
//!
//! What must hold: once [`Host::change`] has returned, no request enters the old place any more, and nobody who waits
//! has missed it.

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use flyloft_core::gate::Guard;
use flyloft_core::name::EnvRef;
use hyper::StatusCode;

use super::page::Notice;
use super::upstream::Upstream;
use super::usage::{Counters, Usage};
use super::waiting::{Joined, Verdict, Waiting};
use super::witness::Witness;

/// A browser that has not come back by then for what became of its page will not.
const OWED_FOR: Duration = Duration::from_secs(60);

pub struct Host {
    current: ArcSwap<Place>,
    guard: ArcSwapOption<Guard>,
    usage: Arc<Counters>,
    waiting: Arc<Waiting>,
}

/// Where the requests for one host name go.
pub struct Place {
    pub env: EnvRef,
    pub aim: Aim,
    usage: Arc<Counters>,
    host: Weak<Host>,
}

pub enum Aim {
    Upstream(Arc<Upstream>),
    Held(Sleep),
    Unavailable {
        why: String,
    },
    /// The host name is not routed any more. Whoever finds this looks for the name again.
    Gone,
}

/// A place that wakes when somebody visits.
#[derive(Default)]
pub struct Sleep {
    failure: Option<Failure>,
    told: OnceLock<Told>,
    /// What it takes so long for, as was last said.
    doing: Mutex<Option<Arc<str>>>,
    /// Browsers that show the page which says that it wakes, as far as is known.
    pages: AtomicUsize,
}

/// Its daemon knows that somebody has come.
#[derive(Clone)]
pub struct Told {
    pub at: Instant,
    /// For all who wait, where the first one does.
    pub witness: Option<Witness>,
}

/// Why the last wake came to nothing.
struct Failure {
    why: Arc<str>,
    at: Instant,
    /// Browsers that have a page and do not know yet.
    owed: AtomicUsize,
}

impl Sleep {
    pub fn new(failure: Option<String>, before: Option<&Sleep>) -> Self {
        let owed = before.map_or(0, |before| before.pages.load(Ordering::Relaxed));
        let failure = failure.map(|why| Failure { why: why.into(), at: Instant::now(), owed: owed.into() });
        Self { failure, ..Self::default() }
    }

    /// To the first who says that somebody has come it gives what the daemon is to know. `waits` for an answer?
    pub fn tell(&self, waits: bool) -> Option<Told> {
        if self.is_told() {
            return None;
        }
        let told = Told { at: Instant::now(), witness: waits.then(Witness::default) };
        self.told.set(told.clone()).ok().map(|()| told)
    }

    pub fn is_told(&self) -> bool {
        self.told.get().is_some()
    }

    /// Whether it sleeps on because its last wake came to nothing.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub fn witness(&self) -> Option<Witness> {
        self.told.get()?.witness.clone()
    }

    pub fn explain(&self, doing: &str) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = Some(doing.into());
    }

    pub fn doing(&self) -> Option<Arc<str>> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long it has been waking.
    pub fn waking_for(&self) -> Duration {
        self.told.get().map_or(Duration::ZERO, |told| told.at.elapsed())
    }

    /// A browser comes. Where it may be one whose page waits for a wake that has failed, it gets to know that.
    pub fn browser_comes(&self) -> Option<Arc<str>> {
        let one_less = |count: &AtomicUsize| {
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok()
        };
        if self.is_told() {
            one_less(&self.pages);
            return None;
        }
        let failure = self.failure.as_ref().filter(|failure| failure.at.elapsed() < OWED_FOR)?;
        one_less(&failure.owed).then(|| failure.why.clone())
    }

    /// A browser is sent away with a page that comes back by itself.
    pub fn browser_gets_page(&self) {
        self.pages.fetch_add(1, Ordering::Relaxed);
    }
}

impl Host {
    pub fn new(env: EnvRef, aim: Aim, guard: Option<Arc<Guard>>) -> Arc<Self> {
        Arc::new_cyclic(|host| {
            let usage = Arc::<Counters>::default();
            let place = Place { env, aim, usage: usage.clone(), host: host.clone() };
            let (current, guard) = (ArcSwap::from_pointee(place), ArcSwapOption::new(guard));
            Self { current, guard, usage, waiting: Arc::default() }
        })
    }

    /// From the return of this call on, requests go by `aim`, those that wait included.
    pub fn change(self: &Arc<Self>, env: EnvRef, aim: impl FnOnce(&Place) -> Aim) {
        let aim = aim(&self.current.load());
        let verdict = match &aim {
            Aim::Held(Sleep { failure: Some(failure), .. }) => Verdict::Failed(failure.why.clone()),
            _ => Verdict::LookAgain,
        };
        let place = Arc::new(Place { env, aim, usage: self.usage.clone(), host: Arc::downgrade(self) });
        self.waiting.release(verdict, || {
            self.current.store(place);
            fence(Ordering::SeqCst);
        });
    }

    /// Keeps its gate, if it is not for everybody.
    pub fn guard(&self) -> Option<Arc<Guard>> {
        self.guard.load_full()
    }

    pub fn keep(&self, guard: Option<Arc<Guard>>) {
        let before = self.guard.load();
        let is_like_it = before.as_ref().zip(guard.as_ref()).is_some_and(|(before, guard)| before.is_like(guard));
        if !is_like_it {
            self.guard.store(guard);
        }
    }

    pub fn place(&self) -> arc_swap::Guard<Arc<Place>> {
        self.current.load()
    }

    /// Enters a place of this host that has an upstream, unless it has been changed meanwhile.
    ///
    /// Whoever changes it publishes first and counts then; this counts first and looks again. With a fence on each side
    /// at least one of the two sees the other, so nobody enters what has been found empty.
    pub fn enter(&self, place: &Arc<Place>, quiet: bool) -> Option<Pass> {
        let pass = Pass::new(place.clone(), quiet);
        fence(Ordering::SeqCst);
        Arc::ptr_eq(place, &self.current.load()).then_some(pass)
    }

    /// Takes `spots` of the room for those who wait, behind all others, unless it is no longer `place` that holds here.
    pub fn wait(&self, place: &Arc<Place>, spots: u32, room: usize) -> Joined {
        self.waiting.join(spots, room, || Arc::ptr_eq(place, &self.current.load()))
    }

    pub fn usage(&self) -> Usage {
        Usage { answers: self.usage.answers(), waiting: self.waiting.count() }
    }

    pub fn unused_for(&self) -> Option<Duration> {
        self.usage.unused_for()
    }

    pub fn last_user(&self) -> Option<Arc<str>> {
        self.usage.last_user()
    }
}

impl Place {
    pub fn count(&self, status: u16) {
        self.usage.count(status);
    }

    /// It is used this moment.
    pub fn touch(&self) {
        self.usage.touch();
    }

    /// In words for people, who uses it.
    pub fn note(&self, by: impl FnOnce() -> String) {
        self.usage.note(by);
    }

    /// What a request gets where nothing runs and nothing will.
    pub fn refusal(&self) -> Notice {
        self.count(StatusCode::SERVICE_UNAVAILABLE.as_u16());
        let why = match &self.aim {
            Aim::Unavailable { why } => why.clone(),
            Aim::Upstream(_) | Aim::Held(_) | Aim::Gone => "It is changing just now.".to_owned(),
        };
        Notice::Unavailable { env: self.env.clone(), why }
    }

    /// A request that counts as use begins to wait.
    pub fn begin(&self) -> Wait {
        self.usage.begin();
        Wait(self.usage.clone())
    }

    /// Where requests for the same host name go now.
    pub fn now(&self) -> Option<Arc<Place>> {
        Some(self.host.upgrade()?.current.load_full())
    }
}

/// A request that waits, which is use. It ends when this is dropped.
pub struct Wait(Arc<Counters>);

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A request on its way to an upstream; dropped when the last byte of its answer is on its way back.
pub struct Pass {
    place: Arc<Place>,
    /// It does not count as use.
    quiet: bool,
    /// It is no longer under way, although it goes on.
    detached: bool,
}

impl Pass {
    fn new(place: Arc<Place>, quiet: bool) -> Self {
        let pass = Self { place, quiet, detached: false };
        pass.upstream().enter();
        if !quiet {
            pass.place.usage.begin();
        }
        pass
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub fn upstream(&self) -> &Upstream {
        match &self.place.aim {
            Aim::Upstream(upstream) => upstream,
            Aim::Held(_) | Aim::Unavailable { .. } | Aim::Gone => {
                unreachable!("a pass is only given out for an upstream")
            }
        }
    }

    /// From now on it goes on for as long as both sides like, so that nobody waits for its end and only what comes to
    /// pass on it is use.
    pub fn detach(&mut self) {
        if std::mem::replace(&mut self.detached, true) {
            return;
        }
        if !self.quiet {
            self.place.usage.end();
        }
        self.upstream().leave();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> EnvRef {
        EnvRef::parse("shop/main").unwrap()
    }

    fn failed(before: &Sleep) -> Sleep {
        Sleep::new(Some("It did not answer.".into()), Some(before))
    }

    #[test]
    fn a_page_that_comes_back_learns_of_the_failure_once() {
        let asleep = Sleep::default();
        assert!(asleep.tell(true).is_some() && asleep.tell(true).is_none());
        asleep.browser_comes();
        asleep.browser_gets_page();
        asleep.browser_comes();
        asleep.browser_gets_page();
        let failed = failed(&asleep);
        assert_eq!(failed.browser_comes().as_deref(), Some("It did not answer."));
        assert_eq!(failed.browser_comes(), None, "the next visit tries again");
    }

    #[test]
    fn nobody_learns_of_an_old_failure_or_of_one_that_is_being_tried_again() {
        let asleep = Sleep::default();
        asleep.browser_gets_page();
        let mut old = failed(&asleep);
        old.failure.as_mut().unwrap().at = Instant::now().checked_sub(OWED_FOR).unwrap();
        assert_eq!(old.browser_comes(), None);
        let again = failed(&asleep);
        again.tell(true);
        assert_eq!(again.browser_comes(), None);
    }

    #[test]
    fn a_place_that_has_changed_meanwhile_is_neither_entered_nor_waited_for() {
        let host = Host::new(env(), Aim::Held(Sleep::default()), None);
        let place = host.place().clone();
        host.change(env(), |_| Aim::Held(Sleep::default()));
        assert!(matches!(host.wait(&place, 1, 10), Joined::Moved));
        assert!(matches!(host.wait(&host.place(), 1, 10), Joined::Waits(_)));
    }
}
