//! Those who wait for one host name, in order of arrival.
//!
//! What must hold: nobody is forgotten, whoever goes away frees its spots at once, and they never take more room than
//! there is for one host name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// What ends a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Requests for the host name go another way now.
    LookAgain,
    /// It did not wake, and this is why.
    Failed(Arc<str>),
}

pub enum Joined {
    Waits(Ticket),
    /// There is no room.
    Full,
    /// It is too late: things have changed.
    Moved,
}

#[derive(Default)]
pub struct Waiting(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    next: u64,
    /// By number, which is the order of arrival.
    waiters: BTreeMap<u64, oneshot::Sender<Verdict>>,
    spots: usize,
}

impl Waiting {
    /// Waits behind all others, where fewer than `room` spots are taken and it is `still` so.
    pub fn join(self: &Arc<Self>, spots: u32, room: usize, still: impl FnOnce() -> bool) -> Joined {
        let mut queue = self.lock();
        if !still() {
            return Joined::Moved;
        }
        if queue.spots + spots as usize > room {
            return Joined::Full;
        }
        let (tell, verdict) = oneshot::channel();
        let number = queue.next;
        queue.next += 1;
        queue.spots += spots as usize;
        queue.waiters.insert(number, tell);
        Joined::Waits(Ticket { waiting: self.clone(), number, spots, verdict })
    }

    /// Does `change`, and tells all who wait, the first one first. Nobody joins in between.
    ///
    /// Those of one thread of the edge go on in that order. Threads go on side by side, each with its own.
    pub fn release(&self, verdict: Verdict, change: impl FnOnce()) {
        let mut queue = self.lock();
        change();
        let waiters = std::mem::take(&mut queue.waiters);
        drop(queue);
        for (_, waiter) in waiters {
            // Whoever has gone meanwhile need not know.
            let _ = waiter.send(verdict.clone());
        }
    }

    pub fn count(&self) -> usize {
        self.lock().waiters.len()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to be told. The spots are free again when it is dropped.
pub struct Ticket {
    waiting: Arc<Waiting>,
    number: u64,
    spots: u32,
    verdict: oneshot::Receiver<Verdict>,
}

impl Ticket {
    pub async fn verdict(&mut self) -> Verdict {
        // Nobody lets a waiter go without a word; if it were so, looking again would be right.
        (&mut self.verdict).await.unwrap_or(Verdict::LookAgain)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queue = self.waiting.lock();
        queue.waiters.remove(&self.number);
        queue.spots -= self.spots as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(waiting: &Arc<Waiting>, spots: u32) -> Ticket {
        match waiting.join(spots, 10, || true) {
            Joined::Waits(ticket) => ticket,
            Joined::Full | Joined::Moved => panic!("not let in"),
        }
    }

    #[test]
    fn there_is_room_again_once_somebody_has_gone() {
        let waiting = Arc::<Waiting>::default();
        let (one, _two) = (joined(&waiting, 6), joined(&waiting, 4));
        assert!(matches!(waiting.join(1, 10, || true), Joined::Full));
        drop(one);
        assert_eq!(waiting.count(), 1);
        assert!(matches!(waiting.join(7, 10, || true), Joined::Full));
        joined(&waiting, 6);
    }

    #[tokio::test]
    async fn all_are_told_in_order_of_arrival_and_whoever_comes_later_is_not() {
        let waiting = Arc::<Waiting>::default();
        let order = Arc::<Mutex<Vec<usize>>>::default();
        let mut tasks = tokio::task::JoinSet::new();
        for turn in 0..5 {
            let (mut ticket, order) = (joined(&waiting, 1), order.clone());
            tasks.spawn(async move {
                assert_eq!(ticket.verdict().await, Verdict::Failed("so".into()));
                order.lock().unwrap().push(turn);
            });
        }
        // They are waiting before they are told, the last one first as far as the runtime goes.
        tokio::task::yield_now().await;
        waiting.release(Verdict::Failed("so".into()), || {});
        let mut late = joined(&waiting, 1);
        while tasks.join_next().await.is_some() {}
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert!(late.verdict.try_recv().is_err());
    }
}
