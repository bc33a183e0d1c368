//! What takes its time with the container that serves: one piece of work after the other, beside the conductor.
//!
//! The order matters, since a container that is put to sleep while its requests end may be woken meanwhile: it must be
//! frozen first and thawed then.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

pub struct Hands(mpsc::UnboundedSender<BoxFuture<'static, ()>>);

impl Default for Hands {
    fn default() -> Self {
        let (give, mut queue) = mpsc::unbounded_channel::<BoxFuture<'static, ()>>();
        tokio::spawn(async move {
            while let Some(work) = queue.recv().await {
                // A bug in one piece must not keep the next ones from being done.
                let _ = AssertUnwindSafe(work).catch_unwind().await;
            }
        });
        Self(give)
    }
}

impl Hands {
    pub fn give(&self, work: impl Future<Output = ()> + Send + 'static) {
        // They are there as long as this is.
        let _ = self.0.send(work.boxed());
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn one_piece_after_the_other_is_done_and_a_bug_in_one_stops_none() {
        let hands = Hands::default();
        let (go, wait) = oneshot::channel::<()>();
        let (done, mut order) = mpsc::unbounded_channel();
        let (first, second) = (done.clone(), done);
        hands.give(async move {
            let _ = wait.await;
            first.send(1).unwrap();
        });
        hands.give(async { panic!("a bug") });
        hands.give(async move { second.send(2).unwrap() });
        go.send(()).unwrap();
        assert_eq!((order.recv().await, order.recv().await, order.recv().await), (Some(1), Some(2), None));
    }
}
