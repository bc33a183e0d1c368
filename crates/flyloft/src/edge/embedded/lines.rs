//! Leave to have connections to apps, and to read much at a time over them.
//!
//! What must hold: one app never takes what is meant for all, and what is read and has not been taken by clients yet is
//! bounded as a whole, however many they are.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

/// How long a request waits for the connection of one that was cut for it.
const MAKE_WAY: Duration = Duration::from_millis(500);

/// Nobody borrows more than this part of what is left, so that there is always some.
const PART: usize = 16;

/// Less is not worth a loan.
const LOAN_MIN: usize = 16 << 10;

/// All connections to apps.
pub struct Lines {
    room: usize,
    /// For those of one app.
    of_one: usize,
    taken: Mutex<Taken>,
    freed: Notify,
    loans: Arc<Loans>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    of_each: HashMap<SocketAddr, usize>,
}

/// What is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Everything,
    /// One app has as many connections as it may.
    Share,
}

impl Lines {
    pub fn new(room: usize, of_one: usize, lent: usize) -> Arc<Self> {
        let loans = Arc::new(Loans { total: lent, left: AtomicUsize::new(lent) });
        Arc::new(Self { room, of_one, taken: Mutex::default(), freed: Notify::new(), loans })
    }

    /// Leave to open a connection to `app`.
    pub fn permit(self: &Arc<Self>, app: SocketAddr) -> Result<Permit, Full> {
        let mut taken = self.lock();
        if taken.all >= self.room {
            return Err(Full::Everything);
        }
        let of_app = taken.of_each.entry(app).or_default();
        if *of_app >= self.of_one {
            return Err(Full::Share);
        }
        *of_app += 1;
        taken.all += 1;
        Ok(Permit { lines: self.clone(), app })
    }

    /// The same, once another connection has been closed, which was told to.
    pub async fn permit_soon(self: &Arc<Self>, app: SocketAddr) -> Result<Permit, Full> {
        let deadline = tokio::time::Instant::now() + MAKE_WAY;
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            let full = match self.permit(app) {
                Ok(permit) => return Ok(permit),
                Err(full) => full,
            };
            tokio::time::timeout_at(deadline, freed).await.map_err(|_| full)?;
        }
    }

    /// Bytes that are lent now.
    pub fn lent(&self) -> usize {
        self.loans.total - self.loans.left.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to have one connection.
pub struct Permit {
    lines: Arc<Lines>,
    app: SocketAddr,
}

impl Permit {
    /// Leave to read so many bytes at a time, or somewhat less.
    pub fn lend(&self, wanted: usize) -> Option<Loan> {
        self.lines.loans.lend(wanted)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.lines.lock();
        taken.all -= 1;
        if let Some(of_app) = taken.of_each.get_mut(&self.app) {
            *of_app -= 1;
            if *of_app == 0 {
                taken.of_each.remove(&self.app);
            }
        }
        drop(taken);
        self.lines.freed.notify_waiters();
    }
}

/// Memory for large pieces of answers.
struct Loans {
    total: usize,
    left: AtomicUsize,
}

impl Loans {
    fn lend(self: &Arc<Self>, wanted: usize) -> Option<Loan> {
        let part = |left: usize| wanted.min(left / PART);
        let take = |left| Some(left - part(left)).filter(|_| part(left) >= LOAN_MIN);
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Loan { loans: self.clone(), bytes: part(before) })
    }
}

/// So many bytes, until it is dropped.
pub struct Loan {
    loans: Arc<Loans>,
    pub bytes: usize,
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.loans.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes together with what they are there by leave of.
pub fn held<T: Send + 'static>(bytes: Bytes, leave: T) -> Bytes {
    struct Held<T>(Bytes, T);

    impl<T> AsRef<[u8]> for Held<T> {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    Bytes::from_owner(Held(bytes, leave))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn one_app_does_not_take_the_connections_of_another() {
        let lines = Lines::new(8, 2, 0);
        let mut of_one: Vec<_> = (0..2).map(|_| lines.permit(app(1)).ok().unwrap()).collect();
        assert_eq!(lines.permit(app(1)).err(), Some(Full::Share));
        let of_others: Vec<_> = (0..6).map(|turn| lines.permit(app(2 + turn / 2)).ok().unwrap()).collect();
        assert_eq!(lines.permit(app(9)).err(), Some(Full::Everything));
        of_one.pop();
        assert!(lines.permit(app(1)).is_ok());
        drop((of_one, of_others));
        let taken = lines.lock();
        assert_eq!((taken.all, taken.of_each.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_connection_that_closes_is_followed_by_the_one_that_waits() {
        let lines = Lines::new(1, 1, 0);
        let first = lines.permit(app(1)).ok().unwrap();
        let second = tokio::spawn({
            let lines = lines.clone();
            async move { lines.permit_soon(app(2)).await.is_ok() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(second.await.unwrap());
    }

    #[test]
    fn what_is_lent_never_runs_out_at_once_and_comes_back_with_the_last_of_its_bytes() {
        let lines = Lines::new(1, 1, 1 << 20);
        let permit = lines.permit(app(1)).ok().unwrap();
        let loans: Vec<_> = std::iter::from_fn(|| permit.lend(usize::MAX)).collect();
        assert!(loans.len() > PART && loans.windows(2).all(|pair| pair[0].bytes >= pair[1].bytes));
        assert!(lines.lent() <= 1 << 20 && loans.iter().all(|loan| loan.bytes >= LOAN_MIN));
        drop(loans);
        let loan = Arc::new(permit.lend(LOAN_MIN).unwrap());
        let (bytes, more) = (held("a".into(), loan.clone()), held("b".into(), loan));
        drop(bytes);
        assert_eq!(lines.lent(), LOAN_MIN);
        drop(more);
        assert_eq!(lines.lent(), 0);
    }
}
