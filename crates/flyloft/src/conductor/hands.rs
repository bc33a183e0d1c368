//! What takes its time with the container that serves: one piece of work after the other, beside the conductor.
//!
//! The order matters, since a container that is put to sleep while its requests end may be woken meanwhile: it must be
//! frozen first and thawed then.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

pub struct Hands(mpsc::UnboundedSender<BoxFuture<'static, ()>>);

impl Default for Hands {
    fn default() -> Self {
        let (give, mut queue) = mpsc::unbounded_channel::<BoxFuture<'static, ()>>();
        tokio::spawn(async move {
            while let Some(work) = queue.recv().await {
                work.await;
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
