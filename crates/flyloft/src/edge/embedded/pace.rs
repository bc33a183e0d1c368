//! Whether clients keep up: with the bodies that they send, and with the answers that they take.
//!
//! ```text
//!   wait ──► slow for longer and longer ──┬─ LEAST bytes moved ──► slow no more
//!    ↑                │                   ├─ its limit ──────────► cut
//!    └── moved ◄──────┘                   └─ room is needed, and it is the slowest ─► cut
//! ```
//!
//! What must hold: only that time counts in which the edge waits for the client. An app may think for as long as it
//! likes, and a connection on which nobody has anything to say is not slow.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// What must move within each limit of waiting.
const LEAST: u64 = 4 << 10;

/// Who has been slow for a smaller part of its limit makes way for nobody.
const GRACE: u32 = 16;

/// A look for the slowest costs as much as there are slow ones, and is not repeated sooner.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// All for whom the edge waits, or has waited since they began.
pub struct Paces {
    /// For a client that sends, and for one that takes.
    send: Duration,
    take: Duration,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    next: u64,
    courses: HashMap<u64, Arc<Course>>,
    last_look: Option<Instant>,
}

/// How one body moves.
struct Course {
    limit: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The app that is kept busy meanwhile.
    app: Option<SocketAddr>,
    /// When the wait that goes on began.
    since: Option<Instant>,
    /// How long earlier waits took, since as much as [`LEAST`] moved.
    waited: Duration,
    moved: u64,
    late: bool,
    end: Option<End>,
}

/// How to make somebody notice that it is late.
enum End {
    Wake(Waker),
    Cancel(CancellationToken),
}

impl Course {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long, and for which app.
    fn slow_for(&self, now: Instant) -> (Duration, Option<SocketAddr>) {
        let state = self.lock();
        let waits = state.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        (state.waited + waits, state.app)
    }

    fn cut(&self) {
        let end = {
            let mut state = self.lock();
            state.late = true;
            state.end.take()
        };
        match end {
            Some(End::Wake(waker)) => waker.wake(),
            Some(End::Cancel(token)) => token.cancel(),
            None => {}
        }
    }
}

impl Paces {
    pub fn new(send: Duration, take: Duration) -> Arc<Self> {
        Arc::new(Self { send, take, known: Mutex::default() })
    }

    /// The pace of a body that a client sends to `app`.
    pub fn sender(self: &Arc<Self>, app: SocketAddr) -> Pace {
        let pace = self.pace(self.send);
        pace.course.lock().app = Some(app);
        pace
    }

    /// The pace of a client that takes what it is sent, by whichever app.
    pub fn taker(self: &Arc<Self>) -> Pace {
        self.pace(self.take)
    }

    fn pace(self: &Arc<Self>, limit: Duration) -> Pace {
        let course = Arc::new(Course { limit, state: Mutex::default() });
        Pace { paces: self.clone(), course, number: None }
    }

    /// Cuts all who have been slow for as long as they may be.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut known = self.lock();
        let late: Vec<_> = known.courses.extract_if(|_, course| course.slow_for(now).0 >= course.limit).collect();
        drop(known);
        late.iter().for_each(|(_, course)| course.cut());
    }

    /// Room is needed: cuts the slowest, of those who keep `app` busy where it is about that one. Says whether there
    /// was any.
    pub fn cut_slowest(&self, app: Option<SocketAddr>) -> bool {
        let now = Instant::now();
        let mut known = self.lock();
        if known.last_look.is_some_and(|last| now.saturating_duration_since(last) < LOOK_EVERY) {
            return false;
        }
        known.last_look = Some(now);
        let slow_for = |(number, course): (&u64, &Arc<Course>)| {
            let (slow_for, of) = course.slow_for(now);
            (slow_for >= course.limit / GRACE && (app.is_none() || app == of)).then_some((slow_for, *number))
        };
        let mut slow: Vec<_> = known.courses.iter().filter_map(slow_for).collect();
        slow.sort_unstable();
        // One look serves for many that come.
        let first = slow.len().saturating_sub(known.courses.len() / 32 + 1);
        let cut: Vec<_> = slow[first..].iter().filter_map(|(_, number)| known.courses.remove(number)).collect();
        drop(known);
        cut.iter().for_each(|course| course.cut());
        !cut.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says which app a client's connection keeps busy.
pub struct Busy(Arc<Course>);

impl Busy {
    pub fn with(&self, app: SocketAddr) {
        self.0.lock().app = Some(app);
    }
}

/// How one body moves, for whoever moves it.
pub struct Pace {
    paces: Arc<Paces>,
    course: Arc<Course>,
    /// By which all know it, from its first wait on. Most bodies never make anybody wait.
    number: Option<u64>,
}

impl Pace {
    pub fn busy(&self) -> Busy {
        Busy(self.course.clone())
    }

    /// The edge waits for the client from now on, in a task that is woken when that has taken too long.
    pub fn wait(&mut self, waker: &Waker) {
        self.begin(|end| match end {
            Some(End::Wake(known)) => known.clone_from(waker),
            end => *end = Some(End::Wake(waker.clone())),
        });
    }

    /// The same, where whoever waits cannot be told but by cancelling it.
    pub fn wait_or_cancel(&mut self, token: &CancellationToken) {
        self.begin(|end| *end = Some(End::Cancel(token.clone())));
    }

    fn begin(&mut self, end: impl FnOnce(&mut Option<End>)) {
        let mut state = self.course.lock();
        state.since.get_or_insert_with(Instant::now);
        end(&mut state.end);
        drop(state);
        if self.number.is_none() {
            let mut known = self.paces.lock();
            known.next += 1;
            self.number = Some(known.next);
            let number = known.next;
            known.courses.insert(number, self.course.clone());
        }
    }

    /// The client has done its part; the edge waits for it no more.
    pub fn moved(&mut self, bytes: usize) {
        if self.number.is_none() {
            return;
        }
        let mut state = self.course.lock();
        let waited = state.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        state.waited += waited;
        state.moved += bytes as u64;
        if state.moved >= LEAST {
            (state.moved, state.waited) = (0, Duration::ZERO);
        }
    }

    /// The client was too slow, and what it did is over.
    pub fn is_late(&self) -> bool {
        self.number.is_some() && self.course.lock().late
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if let Some(number) = &self.number {
            self.paces.lock().courses.remove(number);
        }
    }
}

/// What is small is written in one piece: copying it costs less than the kernel's way with several.
const SMALL: usize = 2 << 10;

/// A client's connection, which fails when the client takes nothing of what it is sent for too long.
pub struct Paced<S> {
    stream: S,
    pace: Pace,
}

impl<S> Paced<S> {
    pub fn new(stream: S, pace: Pace) -> Self {
        Self { stream, pace }
    }

    fn wrote(&mut self, wrote: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match &wrote {
            Poll::Pending if self.pace.is_late() => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => self.pace.wait(cx.waker()),
            Poll::Ready(Ok(count)) => self.pace.moved(*count),
            Poll::Ready(Err(_)) => {}
        }
        wrote
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(wrote, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let size: usize = slices.iter().map(|slice| slice.len()).sum();
        let wrote = if size <= SMALL {
            let (mut whole, mut end) = ([0; SMALL], 0);
            for slice in slices {
                whole[end..end + slice.len()].copy_from_slice(slice);
                end += slice.len();
            }
            Pin::new(&mut self.stream).poll_write(cx, &whole[..end])
        } else {
            Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
        };
        self.wrote(wrote, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn paces() -> Arc<Paces> {
        Paces::new(Duration::from_secs(30), Duration::from_secs(60))
    }

    fn app(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// One who sends, and for whom the edge has waited for so long.
    fn waiting(paces: &Arc<Paces>, seconds: u64) -> Pace {
        waiting_for(paces, 1, seconds)
    }

    fn waiting_for(paces: &Arc<Paces>, port: u16, seconds: u64) -> Pace {
        let mut pace = paces.sender(app(port));
        pace.wait(Waker::noop());
        pass(&pace, seconds);
        pace
    }

    fn pass(pace: &Pace, seconds: u64) {
        let mut state = pace.course.lock();
        state.since = state.since.map(|since| since.checked_sub(Duration::from_secs(seconds)).unwrap());
    }

    #[test]
    fn a_trickle_is_too_slow_and_a_body_that_moves_is_not() {
        for (piece, expected) in [(1, true), (LEAST as usize, false)] {
            let paces = paces();
            let mut pace = waiting(&paces, 5);
            for _ in 0..5 {
                paces.sweep();
                assert!(!pace.is_late(), "before its time");
                pace.moved(piece);
                pace.wait(Waker::noop());
                pass(&pace, 5);
            }
            paces.sweep();
            assert_eq!(pace.is_late(), expected, "{piece} bytes each 5 s");
        }
    }

    #[test]
    fn time_in_which_nobody_waits_for_the_client_does_not_count() {
        let paces = paces();
        let mut pace = waiting(&paces, 29);
        pace.moved(1);
        pass(&pace, 1000);
        paces.sweep();
        assert!(!pace.is_late());
    }

    #[test]
    fn the_slowest_makes_way_among_those_it_is_about() {
        let paces = paces();
        let slow = [(1, 20), (2, 10), (1, 15), (2, 1)].map(|(port, seconds)| waiting_for(&paces, port, seconds));
        let late = || slow.iter().map(Pace::is_late).collect::<Vec<_>>();
        let look = |app| {
            paces.lock().last_look = None;
            paces.cut_slowest(app)
        };
        assert!(look(Some(app(2))));
        assert_eq!(late(), [false, true, false, false]);
        assert!(!paces.cut_slowest(None), "it was looked again at once");
        assert!(look(None));
        assert_eq!(late(), [true, true, false, false]);
        assert!(!look(Some(app(2))), "one that was hardly slow had to go");
    }

    #[test]
    fn whoever_is_done_is_forgotten() {
        let paces = paces();
        drop(waiting(&paces, 5));
        assert!(paces.lock().courses.is_empty());
    }

    #[test]
    fn who_waits_is_woken_or_cancelled_when_it_is_late() {
        let paces = paces();
        let (mut woken, mut cancelled) = (waiting(&paces, 0), waiting(&paces, 0));
        let token = CancellationToken::new();
        let flag = Arc::<Flag>::default();
        woken.wait(&flag.clone().into());
        cancelled.wait_or_cancel(&token);
        [&woken, &cancelled].iter().for_each(|pace| pass(pace, 30));
        paces.sweep();
        assert!(flag.0.load(Ordering::SeqCst) && token.is_cancelled());
    }
}
