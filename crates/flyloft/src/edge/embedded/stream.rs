//! Streams of HTTP/2, each in a task of its own that can be ended alone.

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;

tokio::task_local! {
    static STREAM: CancellationToken;
}

/// Runs the streams of a connection. hyper resets a stream of which the task ends early, and drops what it holds.
#[derive(Clone)]
pub struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let end = CancellationToken::new();
        tokio::spawn(STREAM.scope(end.clone(), async move { end.run_until_cancelled(stream).await.is_some() }));
    }
}

/// What ends the stream that the calling task is for, where it is for one.
pub fn current() -> Option<CancellationToken> {
    STREAM.try_with(CancellationToken::clone).ok()
}
